"""No setting, variable or program of the user's has a say in which commit the source is of, and nothing is written."""

import os
import shutil

import pytest

from helpers import needs
from helpers.repositories import commit_all, git, write
from reproduce.training.checkout import Checkout

pytestmark = needs("git")

SETTINGS = """
[diff]
    noprefix = true
    mnemonicPrefix = true
    external = %(program)s
    context = 0
    renames = copies
    suppressBlankEmpty = true
    orderFile = /nowhere
[diff "mine"]
    textconv = %(program)s
    command = %(program)s
[filter "mine"]
    clean = %(program)s
    smudge = %(program)s
    process = %(program)s
    required = true
[core]
    pager = %(program)s
    fsmonitor = %(program)s
    hooksPath = %(hooks)s
    attributesFile = %(attributes)s
    excludesFile = %(excludes)s
    autocrlf = true
    quotePath = false
    splitIndex = true
    untrackedCache = true
[color]
    ui = always
[alias]
    diff-index = !%(program)s
[gc]
    auto = 1
"""


@pytest.fixture
def hostile(tmp_path):
    """Settings that name programs wherever git would start one; each leaves a trace."""
    folder = tmp_path / "hostile"
    program = folder / "hooks" / "post-index-change"
    write(folder, {
        "hooks/post-index-change": f"#!/bin/sh\ntouch '{folder}/trace'\n".encode(), "excludes": b"*.py\n",
        "attributes": b"* filter=mine diff=mine text eol=crlf ident working-tree-encoding=UTF-16\n",
    })  # fmt: skip
    program.chmod(0o755)
    shutil.copy(program, folder / "hooks" / "pre-commit")
    text = SETTINGS % {"program": program, "hooks": program.parent, "attributes": folder / "attributes",
                       "excludes": folder / "excludes"}  # fmt: skip
    (folder / "home" / ".config" / "git").mkdir(parents=True)
    (folder / "home" / ".gitconfig").write_text(text)
    shutil.copy(folder / "attributes", folder / "home" / ".config" / "git" / "attributes")
    return folder, text


def hostile_variables(folder):
    other = folder / "other"
    write(other, {"reproduce/__init__.py": b""})
    commit_all(other)
    program = str(folder / "hooks" / "pre-commit")
    return {
        "HOME": str(folder / "home"), "XDG_CONFIG_HOME": str(folder / "home" / ".config"),
        "GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": str(other / ".git" / "index"),
        "GIT_OBJECT_DIRECTORY": "/nowhere", "GIT_NAMESPACE": "other", "GIT_CEILING_DIRECTORIES": "/",
        "GIT_EXTERNAL_DIFF": program, "GIT_PAGER": program, "GIT_CONFIG_GLOBAL": str(folder / "home" / ".gitconfig"),
        "GIT_CONFIG_PARAMETERS": "'diff.noprefix=true'", "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "diff.noprefix",
        "GIT_CONFIG_VALUE_0": "true", "GIT_TRACE": "1", "GIT_DIFF_OPTS": "--unified=0", "GIT_GLOB_PATHSPECS": "1",
        "GIT_LITERAL_PATHSPECS": "1", "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "GIT_DEFAULT_HASH": "sha256",
        "GIT_EXEC_PATH": "/nowhere", "LC_ALL": "xx_YY.nonsense", "LANGUAGE": "de", "PAGER": program,
    }  # fmt: skip


def test_no_setting_and_no_variable_of_the_users_changes_the_answer_or_starts_a_program(source, hostile, monkeypatch):
    write(source, {"docs/notes.txt": b"plain\nw\xf6rds\n", "reproduce/more.py": b"\n"})
    plainly = Checkout.open(source)
    expected = plainly.commit, plainly.diff()
    folder, settings = hostile
    for name, value in hostile_variables(folder).items():
        monkeypatch.setenv(name, value)
    with (source / ".git" / "config").open("a") as file:  # and the repository's own
        file.write(settings)
    attributes = (folder / "attributes").read_bytes()
    write(source, {".git/info/attributes": attributes, ".gitattributes": attributes})
    shutil.copytree(folder / "hooks", source / ".git" / "hooks", dirs_exist_ok=True)
    found = Checkout.open(source)
    assert (found.commit, found.diff()) == expected
    assert not (folder / "trace").exists()


def test_nothing_is_written_into_the_repository(source):
    write(source, {"docs/notes.txt": b"new\n", "reproduce/more.py": b"\n"})
    os.utime(source / "run.sh", (1, 1))  # git would refresh its index by this
    git(source, "config", "core.splitIndex", "true")  # and leave parts of any index in here

    def stood():
        return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in source.rglob("*")}

    before = stood()
    assert Checkout.open(source).diff()
    assert stood() == before
