"""Damaged files of data, wherever they lie, are never taken. A set of a few images is held to its own hashes."""

import gzip
import os
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.few_images import FILES
from helpers.fuzzing import fuzzed
from reproduce.data import data_dir, datasets, mirrors, verified_cache
from reproduce.errors import UserError


@pytest.fixture
def few(monkeypatch):
    """The data set `mnist` is those few images, and its only source hands them out and counts how often."""
    import hashlib

    asked = []

    def fetch(attempt):
        asked.append(attempt.files)
        return FILES.items()

    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setitem(datasets.SHA256, "mnist", hashes)
    sizes = {name: len(content) for name, content in FILES.items()}
    monkeypatch.setattr(data_dir, "SIZES", sizes)
    monkeypatch.setattr(data_dir, "MAX_FILE_BYTES", max(sizes.values()) + 1)
    monkeypatch.setitem(mirrors.SOURCES, "mnist", {"the test's source": mirrors.Source(fetch)})
    return asked


def prepared(home, brought=None):
    """What `prepare` leaves in the cache, without what it set aside; and what it said."""
    said = []
    verified_cache.prepare("mnist", home, brought, said.append)
    cache = home / "data" / "mnist"
    return {path.name: path.read_bytes() for path in cache.iterdir() if ".wrong-" not in path.name}, said


def fresh(tmp_path, name="home"):
    """A directory of that name with nothing in it."""
    shutil.rmtree(tmp_path / name, ignore_errors=True)
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_whatever_bit_of_the_cache_flips_the_next_preparation_leaves_it_as_it_should_be(few, tmp_path):
    right, _ = prepared(fresh(tmp_path, "right"))
    assert {*FILES, *datasets.RESIZED.values()} < right.keys()
    assert len(right) == 9  # with two notes and the lock

    @given(st.sampled_from(sorted(right.keys() - {"lock"})), st.data())
    @fuzzed
    def flipped(name, data):
        home = fresh(tmp_path)
        shutil.copytree(tmp_path / "right", home, dirs_exist_ok=True)
        content = bytearray(right[name])
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        (home / "data" / "mnist" / name).write_bytes(content)
        left, said = prepared(home)
        assert left == right
        assert said

    flipped()


def damaged(content, name):
    """Every kind of damage to a file, one after the other."""
    yield from (
        content[:length] for length in {0, 1, 3, 4, 5, 7, 8, 15, 16, 17, len(content) - 1} if length < len(content)
    )
    yield content + b"\0"
    yield b"\0\0\x0d" + content[3:]  # of floats
    yield content[:3] + b"\xff" + content[4:]  # of 255 dimensions
    yield content[:4] + b"\xff\xff\xff\xff" + content[8:]  # of four thousand million
    yield content[:4] + b"\0\0\0\0" + content[8:]
    yield content[:-1] + b"\x0a"  # a label of ten
    yield FILES[datasets.TRAIN_LABELS if name != datasets.TRAIN_LABELS else datasets.TRAIN_IMAGES]  # swapped


def test_no_damaged_file_is_ever_taken_wherever_it_lies(few, tmp_path):
    right, _ = prepared(fresh(tmp_path, "right"))
    for name in FILES:
        for content in damaged(FILES[name], name):
            named, home = fresh(tmp_path, "named"), fresh(tmp_path)
            (named / name).write_bytes(content)
            told = rf"^{re.escape(str(named / name))} (is not the right file: |holds )"
            with pytest.raises(UserError, match=told):
                prepared(home, named)
            prepared(home)
            (home / "data" / "mnist" / name).write_bytes(content)
            left, said = prepared(home)
            assert left == right
            assert said[0].startswith(f"{home / 'data' / 'mnist' / name} is not the right file: SHA-256 ")


@given(st.binary(max_size=200), st.integers(0, 60), st.booleans())
@fuzzed
def test_a_gz_that_is_damaged_anywhere_is_never_taken(few, tmp_path, junk, at, cut):
    name = datasets.TEST_LABELS
    packed = gzip.compress(FILES[name], mtime=0)
    named = fresh(tmp_path, "named")
    (named / f"{name}.gz").write_bytes(packed[:at] + (b"" if cut else junk + packed[at + len(junk) :]))
    home = fresh(tmp_path)
    if data_dir.find_files("mnist", named).files:  # the damage changed nothing that counts
        assert prepared(home, named)[0][name] == FILES[name]
        return
    with pytest.raises(UserError) as refused:
        prepared(home, named)
    told = str(refused.value)
    assert re.match(rf"{re.escape(str(named / name))}.gz (is not the right file|cannot be read)", told)
    assert "\n" not in told
    assert list(home.iterdir()) == []


def test_a_gz_is_unpacked_no_further_than_a_right_one_goes(few, tmp_path, monkeypatch):
    name, unpacked = datasets.TEST_LABELS, []
    named = fresh(tmp_path, "named")
    (named / f"{name}.gz").write_bytes(gzip.compress(FILES[name] + bytes(10**8), 1))
    read = gzip.GzipFile.read1

    def counted(self, size=-1):
        content = read(self, size)
        unpacked.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read1", counted)
    with pytest.raises(UserError, match=rf"{name}.gz is not the right file: it holds more than 10 bytes"):
        prepared(fresh(tmp_path), named)
    assert sum(unpacked) == data_dir.MAX_FILE_BYTES


def no_file(path, kind):
    """Put there what is no file: a directory that holds something, a loop of links, a pipe."""
    path.unlink(missing_ok=True)
    if kind == "directory":
        (path / "inside").mkdir(parents=True)
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        os.mkfifo(path)


@pytest.mark.parametrize("kind", ["directory", "loop", "pipe"])
def test_what_is_no_file_in_the_place_of_one_is_told_and_got_elsewhere(few, tmp_path, kind):
    right, _ = prepared(fresh(tmp_path, "right"))
    for name in right.keys() - {"lock"}:
        home = fresh(tmp_path)
        prepared(home)
        for _ in range(2):  # also where one was set aside before
            no_file(home / "data" / "mnist" / name, kind)
            left, _ = prepared(home)
            assert left == right
    named = fresh(tmp_path, "named")
    no_file(named / datasets.TEST_LABELS, kind)
    if kind == "directory":
        left, said = prepared(fresh(tmp_path), named)
        assert left == right
        none = f"{named} has no {', '.join(FILES)}: neither plain, nor as .gz, nor in a zip or tar"
        assert said[0] == f"{none}; trying other sources"
    else:
        why = {"loop": "it is a link that leads back to itself", "pipe": "it is no file"}[kind]
        with pytest.raises(UserError, match=rf"{datasets.TEST_LABELS} cannot be read \({why}\)"):
            prepared(fresh(tmp_path), named)


def test_a_named_directory_without_a_file_says_so(few, tmp_path):
    _, said = prepared(fresh(tmp_path), fresh(tmp_path, "named"))
    told = f"{tmp_path / 'named'} has no {', '.join(FILES)}: neither plain, nor as .gz, nor in a zip or tar"
    assert said == [f"{told}; trying other sources", *said[1:]]


def test_a_cache_that_cannot_be_is_told_in_one_line(few, tmp_path):
    home = fresh(tmp_path)
    (home / "data").write_text("a file")
    with pytest.raises(UserError) as refused:
        prepared(home)
    assert str(refused.value) == (
        f"{home}/data/mnist, in the cache of mnist, cannot be used (Not a directory): "
        "correct that, or set REPRODUCE_HOME to another directory"
    )


def test_what_a_killed_preparation_left_is_cleared_by_the_next_and_nothing_else(few, tmp_path):
    home = fresh(tmp_path)
    right, _ = prepared(home)
    cache = home / "data" / "mnist"
    for folder in (".fetch-abc", ".resize-abc"):
        (cache / folder / "deep").mkdir(parents=True)
    for name in (f".{datasets.TRAIN_IMAGES}-abc", f".{datasets.RESIZED[datasets.TEST_IMAGES]}.json-abc"):
        (cache / name).write_bytes(b"half")
    (cache / "notes.txt").write_bytes(b"mine")
    left, said = prepared(home)
    assert left == right | {"notes.txt": b"mine"}
    assert said == []
    assert len(few) == 1
