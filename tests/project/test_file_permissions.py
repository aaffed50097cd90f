"""Files are readable as the umask says, and a cache can be used by every user who may read it."""

import gzip
import hashlib
import os
import stat
import tempfile
import traceback
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from helpers.small import kernel
from reproduce import files
from reproduce.data import data_dir, datasets, mirrors, verified_cache
from reproduce.errors import UserError
from reproduce.training.fused import library

NOBODY = 65534
UMASKS = {0o022: (0o644, 0o755), 0o002: (0o664, 0o775), 0o077: (0o600, 0o700)}
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")


@pytest.fixture(params=UMASKS, ids=oct)
def rights(request):
    """The rights of files and of folders that a umask leaves, while it is in force."""
    before = os.umask(request.param)
    yield UMASKS[request.param]
    os.umask(before)


@pytest.fixture
def open_folder():
    """A folder that every user may read; pytest's own are private."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="rights-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def few(monkeypatch):
    """A data set of three images, which its only source hands out."""
    arrays = [np.zeros((3, 28, 28), np.uint8), np.arange(3, dtype=np.uint8)]
    arrays += [array[:1] for array in arrays]
    files = dict(zip(datasets.FILES, map(datasets.encode_idx, arrays), strict=True))
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setitem(datasets.SHA256, "mnist", hashes)
    monkeypatch.setattr(data_dir, "SIZES", {name: len(content) for name, content in files.items()})
    source = mirrors.Source(lambda attempt: ((name, files[name]) for name in attempt.files))
    monkeypatch.setitem(mirrors.SOURCES, "mnist", {"the test's source": source})
    return files


def modes(folder):
    """The rights of all that is below, by kind."""
    found = [path.lstat().st_mode for path in folder.rglob("*")]
    return {stat.S_IMODE(mode) for mode in found if stat.S_ISREG(mode)}, {
        stat.S_IMODE(mode) for mode in found if stat.S_ISDIR(mode)
    }


def test_the_datas_cache_has_the_rights_that_the_umask_leaves(tmp_path, rights, few):
    verified_cache.prepare("mnist", tmp_path / "home", say=lambda line: None)
    of_files, of_folders = rights
    assert modes(tmp_path / "home") == ({of_files}, {of_folders})


def test_a_checkpoint_has_the_rights_that_the_umask_leaves(tmp_path, rights, small_trial, whole_mnist):
    from reproduce.training import loop

    list(loop.train(small_trial, whole_mnist, tmp_path / "trial", 0, kernel()))
    of_files, of_folders = rights
    assert modes(tmp_path / "trial") == ({of_files}, {of_folders})


def test_what_is_written_over_has_them_too(tmp_path, rights):
    (tmp_path / "id").write_bytes(b"before")
    (tmp_path / "id").chmod(0o600)
    files.write_atomically(tmp_path / "id", b"after")
    assert modes(tmp_path) == ({rights[0]}, set())


def test_the_compiled_kernel_can_be_read_by_those_whom_the_umask_lets(tmp_path, rights):
    built = library.compile_kernel(tmp_path / "fused", library.best_target())
    readable = 0o444 & rights[0]
    for path in (built, library._hash_path(built)):
        assert stat.S_IMODE(path.stat().st_mode) & 0o444 == readable
    assert stat.S_IMODE(built.parent.stat().st_mode) == rights[1]


def in_a_child(work, user):
    """What the work returns as text, done by that user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            told = work()
        except BaseException:
            told = traceback.format_exc()
        os.write(writing, str(told).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as opened:
        told = opened.read()
    os.waitpid(child, 0)
    return told


@contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def prepared(home, brought=None):
    """What is said while the data set is prepared; or the error."""
    said = []
    try:
        verified_cache.prepare("mnist", home, brought, said.append)
    except UserError as error:
        said.append(f"error: {error}")
    return "\n".join(said)


@as_root
def test_anothers_whole_cache_is_used_as_it_is_and_one_that_is_not_whole_is_told(open_folder, few):
    home = open_folder / "home"
    with umask(0o022):
        prepared(home)
    assert in_a_child(lambda: prepared(home), NOBODY) == ""
    (home / "data" / "mnist" / ".fetch-left-by-a-kill").mkdir()
    assert in_a_child(lambda: prepared(home), NOBODY) == ""
    (home / "data" / "mnist" / datasets.RESIZED[datasets.TEST_IMAGES]).unlink()
    assert in_a_child(lambda: prepared(home), NOBODY) == (
        f"error: {home}/data/mnist/lock, in the cache of mnist, cannot be used (Permission denied): "
        "correct that, or set REPRODUCE_HOME to another directory"
    )


@as_root
def test_a_cache_of_a_group_is_made_whole_by_each_of_its_members(open_folder, few):
    home = open_folder / "home"
    home.mkdir()
    os.chown(home, -1, NOBODY)
    home.chmod(0o2775)
    target = home / "data" / "mnist" / datasets.RESIZED[datasets.TEST_IMAGES]
    with umask(0o002):
        prepared(home)
        target.unlink()
        assert in_a_child(lambda: prepared(home), NOBODY) == f"making {target}, once"
    assert target.stat().st_uid == NOBODY
    assert target.stat().st_mode & 0o664 == 0o664


@as_root
def test_a_named_directory_may_be_anothers_cache_or_read_only(open_folder, few):
    theirs, ours = open_folder / "theirs", open_folder / "ours"
    with umask(0o022):
        prepared(theirs)
    ours.mkdir()
    os.chown(ours, NOBODY, NOBODY)
    before = sorted(theirs.rglob("*"))
    for place in (theirs, theirs / "data" / "mnist"):
        told = in_a_child(lambda place=place: prepared(ours / place.name, place), NOBODY)
        assert [line for line in told.splitlines() if "once" not in line] == []
    assert sorted(theirs.rglob("*")) == before


@as_root
def test_what_one_may_not_read_is_named_with_the_remedy(open_folder, few):
    place, ours = open_folder / "place", open_folder / "ours"
    for folder in (place, ours):
        folder.mkdir()
    os.chown(ours, NOBODY, NOBODY)
    for name, content in few.items():
        (place / name).write_bytes(content)
    (place / datasets.TEST_LABELS).chmod(0o600)
    sha256 = datasets.SHA256["mnist"][datasets.TEST_LABELS]
    assert in_a_child(lambda: prepared(ours, place), NOBODY) == (
        f"error: {place / datasets.TEST_LABELS} cannot be read (there is no permission to read it); expected SHA-256 "
        f"{sha256}: ask for permission to read what is in {place}, or set --data-dir to a copy of your own, or "
        "name no data directory, to fetch them"
    )

    inner = place / "inner"
    inner.mkdir(0o700)
    (inner / "mnist.gz").write_bytes(gzip.compress(b"x"))
    told = in_a_child(lambda: prepared(ours, inner / "mnist.gz"), NOBODY)
    assert told == (
        f"error: the data directory is {inner}/mnist.gz, but there is no permission to look into {inner}; "
        "expected a directory, or a zip or tar, that exists: correct it"
    )
    told = in_a_child(lambda: prepared(ours, inner), NOBODY)
    assert told == (
        f"error: the data directory is {inner}, but there is no permission to read it; "
        "expected a directory, or a zip or tar, that exists: correct it"
    )
    (place / datasets.TEST_LABELS).unlink()
    told = in_a_child(lambda: prepared(ours, place), NOBODY).splitlines()
    assert f"{inner} cannot be read (there is no permission to read it); trying other sources" in told
