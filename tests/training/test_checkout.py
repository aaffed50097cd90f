"""Which commit the source is of, and how it differs from it, whatever git and its user are like."""

import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from helpers import ROOT, needs
from helpers.faults import PATIENCE_SECONDS
from helpers.repositories import ODD, commit_all, git, write
from reproduce.training import checkout
from reproduce.training.checkout import Checkout, NotKnownError

pytestmark = needs("git")


def files(folder):
    """All that is in a checkout: what a file holds or where a link leads, and whether it is a program."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)  # noqa: PTH115
        elif path.is_file() and not name.startswith(".git/"):
            found[name] = (path.read_bytes(), bool(path.stat().st_mode & stat.S_IXUSR))
    return found


def test_a_clean_checkout_is_its_commit_and_has_no_changes(source):
    found = Checkout.open(source)
    assert found.commit == git(source, "rev-parse", "HEAD").decode().strip()
    assert found.diff() == b""


def replace_by_a_folder(source):
    (source / "reproduce" / "part.py").unlink()
    write(source, {"reproduce/part.py/__init__.py": b""})


def replace_by_a_link(source):
    (source / "docs" / "notes.txt").unlink()
    (source / "docs" / "notes.txt").symlink_to("nowhere")


def hide_from_the_index(source):
    git(source, "update-index", "--assume-unchanged", "reproduce/part.py")
    git(source, "update-index", "--skip-worktree", "docs/notes.txt")
    write(source, {"reproduce/part.py": b"x = 2\n", "docs/notes.txt": b""})


def have_git_show_something_else(source):
    was = git(source, "rev-parse", "HEAD:docs/notes.txt").decode().strip()
    other = git(source, "hash-object", "-w", "--stdin", input=b"other\n").decode().strip()
    git(source, "replace", was, other)
    write(source, {"docs/notes.txt": b"plain\nnew\n"})


CHANGES = {
    "Latin-1": lambda source: write(source, {"docs/notes.txt": b"plain\nw\xf6rds\n"}),
    "no text, no last newline": lambda source: write(source, {"reproduce/part.py": b"\xff\xfe\x00\r\n\x1b"}),
    "bytes of a picture": lambda source: write(source, {"docs/picture.bin": bytes(range(255, -1, -1)) * 3}),
    "CRLF": lambda source: write(source, {"docs/notes.txt": b"plain\r\nwords\r\n"}),
    "nothing left": lambda source: write(source, {"docs/notes.txt": b""}),
    "deleted": lambda source: (source / "docs" / "notes.txt").unlink(),
    "an odd name": lambda source: write(source, {ODD: b"changed\n"}),
    "no program now": lambda source: (source / "run.sh").chmod(0o644),
    "a program now": lambda source: (source / "docs" / "notes.txt").chmod(0o755),
    "a link that leads elsewhere": lambda source: (
        (source / "docs" / "link").unlink(), (source / "docs" / "link").symlink_to("../run.sh"),
    ),
    "a link for a file": replace_by_a_link,
    "a folder for a file": replace_by_a_folder,
    "a new module": lambda source: write(source, {"reproduce/more.py": b"z = 3\n", "reproduce/sub/b.yaml": b"a: 1\n"}),
    "a new module, staged": lambda source: (
        write(source, {"reproduce/more.py": b"z = 3\n"}), git(source, "add", "reproduce/more.py"),
    ),
    "a new module, to be added": lambda source: (
        write(source, {"reproduce/more.py": b"z = 3\n"}), git(source, "add", "-N", "reproduce/more.py"),
    ),
    "a module renamed": lambda source: (source / "reproduce" / "part.py").rename(source / "reproduce" / "whole.py"),
    "staged": lambda source: (write(source, {"docs/notes.txt": b"new\n"}), git(source, "add", "docs")),
    "beside a replacement": have_git_show_something_else,
    "hidden from the index": hide_from_the_index,
    "a damaged index": lambda source: write(source, {".git/index": b"garbage", "docs/notes.txt": b"new\n"}),
    "an index that is locked": lambda source: write(source, {".git/index.lock": b"", "docs/notes.txt": b"new\n"}),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_diff_applied_to_the_commit_gives_the_very_bytes(source, tmp_path, change):
    git(tmp_path, "clone", "--quiet", str(source), "again")
    change(source)
    diff = Checkout.open(source).diff()
    git(tmp_path / "again", "apply", "--whitespace=nowarn", "-", input=diff)
    assert files(tmp_path / "again") == files(source)
    assert diff


def test_new_files_that_are_no_code_of_the_package_or_are_ignored_are_the_users_own(source):
    write(source, {"notes.md": b"", "reproduce/of.log": b"", "output/a.py": b"", "reproduce/__pycache__/a.pyc": b""})
    write(source, {"tests/new.py": b"", "mine.py": b""})
    assert Checkout.open(source).diff() == b""


def test_a_stage_that_the_files_do_not_have_is_no_change(source):
    write(source, {"docs/notes.txt": b"new\n"})
    git(source, "add", "docs")
    write(source, {"docs/notes.txt": b"plain\nwords\n"})
    assert Checkout.open(source).diff() == b""


def why(folder):
    with pytest.raises(NotKnownError) as error:
        Checkout.open(folder)
    return str(error.value)


def test_a_repository_around_the_source_is_another_projects(source, tmp_path):
    outer = tmp_path / "outer"
    inner = outer / "site-packages"
    shutil.copytree(source, inner, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    commit_all(outer)
    assert why(inner) == f"{inner} is not the top of a git repository"
    (inner / ".git").mkdir()  # damaged, so that git looks further up
    assert why(inner) == f"{inner} is not the top of a git repository"


def test_a_repository_that_does_not_track_the_package_is_another_projects(source, tmp_path):
    write(tmp_path / "mine", {"notes.txt": b""})
    commit_all(tmp_path / "mine")
    shutil.copytree(source / "reproduce", tmp_path / "mine" / "reproduce")
    assert why(tmp_path / "mine") == f"the git repository at {tmp_path / 'mine'} does not track this source"


def test_what_has_no_commit_is_not_known(source, tmp_path):
    shutil.copytree(source / "reproduce", tmp_path / "new" / "reproduce")
    git(tmp_path / "new", "init", "--quiet")
    assert why(tmp_path / "new").startswith("git failed: fatal: Needed a single revision")
    assert why(tmp_path).startswith("git failed: fatal: not a git repository")


def test_a_worktree_and_a_submodule_are_repositories_of_their_own(source, tmp_path):
    expected = git(source, "rev-parse", "HEAD").decode().strip()
    git(source, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    (tmp_path / "outer").mkdir()
    write(tmp_path / "outer", {"a": b""})
    commit_all(tmp_path / "outer")
    git(tmp_path / "outer", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(source), "inner")
    for folder in (tmp_path / "tree", tmp_path / "outer" / "inner"):
        assert Checkout.open(folder).commit == expected
        assert Checkout.open(folder).diff() == b""
        write(folder, {"docs/notes.txt": b"new\n"})
        assert b"+new\n" in Checkout.open(folder).diff()


def test_a_submodule_of_the_source_is_not_looked_into(source, tmp_path):
    write(tmp_path / "part", {"a": b""})
    commit_all(tmp_path / "part")
    git(source, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "part"), "part")
    git(source, "commit", "--quiet", "-m", "second")
    with pytest.raises(NotKnownError, match="part is a submodule, which is not looked into"):
        Checkout.open(source).diff()
    git(source, "submodule", "--quiet", "deinit", "part")
    assert Checkout.open(source).diff() == b""


def test_a_repository_with_sha256_is_read_too(source, tmp_path):
    shutil.copytree(source, tmp_path / "longer", symlinks=True, ignore=shutil.ignore_patterns(".git"))
    commit = commit_all(tmp_path / "longer", "--object-format=sha256")
    assert len(commit) == 64
    assert Checkout.open(tmp_path / "longer").commit == commit
    assert Checkout.open(tmp_path / "longer").diff() == b""
    write(tmp_path / "longer", {"docs/notes.txt": b"new\n"})
    assert b"+new\n" in Checkout.open(tmp_path / "longer").diff()


def test_where_the_file_system_knows_no_programs_a_mode_is_no_change(source):
    git(source, "config", "core.fileMode", "false")
    (source / "run.sh").chmod(0o644)
    assert Checkout.open(source).diff() == b""


def test_of_large_changes_only_the_names_are_kept(source, monkeypatch):
    monkeypatch.setattr(checkout, "MAX_CHANGED_BYTES", 10)
    write(source, {"docs/notes.txt": b"0123456789a", "run.sh": b""})
    assert Checkout.open(source).diff() == (
        b"The files that differ from the commit have 11 bytes. Of more than 10 bytes no diff is kept, only their "
        b"names:\ndocs/notes.txt\nrun.sh\n"
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_another_owners_repository_is_read_only_where_the_user_trusts_it(source, tmp_path, monkeypatch):
    for path in (source, *source.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert why(source) == f"git failed: fatal: detected dubious ownership in repository at '{source}'"
    (tmp_path / ".gitconfig").write_text(f'[safe]\n\tdirectory = "{source}"\n')
    assert Checkout.open(source).diff() == b""


NO_GIT = {
    "garbage": ("echo garbage", "is not the top of a git repository"),
    "no text": ("printf '\\377\\000\\n'", "is not the top of a git repository"),
    "nothing": ("exit 0", "is not the top of a git repository"),
    "a failure": ("echo no >&2; exit 3", "git failed: no"),
    "a signal": ("kill -9 $$", "git failed: -9"),
    "no end": ("sleep 600", "git has not ended after 0.3 seconds"),
    "a child that keeps the output open": ("sleep 5 & exit 0", "is not the top of a git repository"),
    "output without an end": ("yes", "git prints without an end"),
}


@pytest.mark.parametrize(("script", "reason"), NO_GIT.values(), ids=NO_GIT.keys())
def test_a_git_that_is_none_is_told_and_not_waited_for(source, tmp_path, monkeypatch, script, reason):
    write(tmp_path / "bin", {"git": f"#!/bin/sh\n{script}\n".encode()})
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(checkout, "TIMEOUT_SECONDS", 0.3 if "sleep" in script else 30)
    monkeypatch.setattr(checkout, "MAX_OUTPUT_BYTES", 2**20)
    assert why(source).endswith(reason)


def test_what_a_git_without_an_end_has_started_is_ended_with_it(source, tmp_path, monkeypatch):
    script = f"#!/bin/sh\nsleep 600 &\necho $! > '{tmp_path}/pid'\nwait\n"
    write(tmp_path / "bin", {"git": script.encode()})
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(checkout, "TIMEOUT_SECONDS", 3)  # in which it has started the other
    assert why(source) == "git has not ended after 3 seconds"
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(int((tmp_path / "pid").read_text()))
        assert started.status() == psutil.STATUS_ZOMBIE or started.wait(PATIENCE_SECONDS) is None


def test_no_git_and_one_that_cannot_be_run_are_told(source, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why(source) == "git is not installed"
    (tmp_path / "git").write_text("")
    (tmp_path / "git").chmod(0o644)
    assert why(source) == "git cannot be run (Permission denied)"


def test_the_image_is_told_the_commit_and_whether_files_differ_from_it(source, tmp_path):
    commit = git(source, "rev-parse", "HEAD").decode().strip()
    assert checkout.describe(source) == commit
    write(source, {"reproduce/more.py": b""})
    assert checkout.describe(source) == f"{commit}-dirty"
    assert checkout.describe(tmp_path) == "unknown"
    printed = subprocess.run(
        [sys.executable, "-I", ROOT / "reproduce" / "training" / "checkout.py"], capture_output=True, text=True
    )
    assert printed.stdout == f"{checkout.describe(ROOT)}\n"
