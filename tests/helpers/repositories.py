"""Git repositories, made as nobody has set git up."""

import os
import subprocess

# A name that git quotes.
ODD = 'docs/é "a"\n\tb.txt'
IDENTITY = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
}  # fmt: skip


def git(folder, *words, **given):
    """Git as nobody has set it up."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", *words], cwd=folder, env=kept | IDENTITY, check=True, capture_output=True, **given
    ).stdout


def commit_all(folder, *options):
    git(folder, "init", "--quiet", *options)
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "-m", "first")
    return git(folder, "rev-parse", "HEAD").decode().strip()


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def make_source(folder):
    """Make a folder like this checkout, a repository of its own with one commit of every kind of file."""
    write(folder, {
        "reproduce/__init__.py": b'"""A package."""\n', "reproduce/part.py": b"x = 1\ny = 2\n",
        "reproduce/fused/lenet5.cpp": b"int x;\n", "docs/notes.txt": b"plain\nwords\n", ODD: b"odd\n",
        "docs/picture.bin": bytes(range(256)), "run.sh": b"#!/bin/sh\n", ".gitignore": b"*.log\noutput/\n",
    })  # fmt: skip
    (folder / "run.sh").chmod(0o755)
    (folder / "docs" / "link").symlink_to("notes.txt")
    commit_all(folder)
    return folder
