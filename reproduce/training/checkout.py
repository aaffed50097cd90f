"""The commit of the git repository that this source is in, and the diff to it. Standard library only.

The files are compared by a git directory of our own, made for the purpose in a temporary folder: it borrows the
repository's objects and has neither its settings, hooks, attributes and index nor the user's. So no filter, pager or
other program can be started, the answer is the same for every user, and nothing is written into the repository.

`python checkout.py` prints the commit, followed by `-dirty` where files differ from it, or `unknown`. `make image` runs
it with any Python 3.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent.parent
# As `git describe` marks a commit with changes on top.
DIRTY = "-dirty"
UNKNOWN: Final = "unknown"
# For a program that takes milliseconds.
TIMEOUT_SECONDS = 4
MAX_OUTPUT_BYTES = 2**26
MAX_CHANGED_BYTES = 2**24
# A new file counts as a change where it is code of the package. Other new files are the user's own.
PACKAGE = "reproduce"
NEW_CODE = [f":(glob){PACKAGE}/**/*.{suffix}" for suffix in ("py", "yaml", "cpp")]
SUBMODULE = b"160000 "
VARIABLES = {
    # Whatever settings there are, no file is fetched and git does not prompt for a password.
    "GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C",
}  # fmt: skip
NO_SETTINGS = {
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1",
    # Before git 2.32 only these two say where the user's settings are.
    "HOME": os.devnull, "XDG_CONFIG_HOME": os.devnull,
}  # fmt: skip
# This overrules the .gitattributes in the source: every file is compared byte by byte.
ATTRIBUTES = "* !text !eol !crlf !ident !filter !working-tree-encoding !diff\n"


class NotKnownError(Exception):
    """The reason why something is not known."""


@dataclass(frozen=True)
class Checkout:
    """A folder that is the top of a git repository which tracks this package, at the commit that is checked out."""

    root: Path
    commit: str

    @classmethod
    def open(cls, root: Path) -> Checkout:
        """Return the checkout in the folder.

        NotKnownError with the reason where git gives no answer, or the repository is another project's: one that begins
        above the folder, or does not track the package.
        """
        top = Path(os.fsdecode(_git(root, "rev-parse", "--show-toplevel").removesuffix(b"\n")))
        if not top.is_absolute() or top.resolve() != root.resolve():
            raise NotKnownError(f"{root} is not the top of a git repository")
        commit = _git(root, "rev-parse", "--verify", "HEAD^{commit}").decode("ascii", "replace").strip()
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", commit):
            raise NotKnownError("git names no commit")
        if not _git(root, "ls-tree", commit, f"{PACKAGE}/__init__.py"):
            raise NotKnownError(f"the git repository at {root} does not track this source")
        return cls(root, commit)

    def diff(self) -> bytes:
        """Return the diff of the files against the commit, as `git apply` takes it; empty where nothing differs.

        It has every change of a tracked file, and the package's new files. Where these have more than MAX_CHANGED_BYTES
        it is a list of their names instead. NotKnownError or OSError where it cannot be made.
        """
        with tempfile.TemporaryDirectory() as folder:
            variables = self._make_git_directory(Path(folder))

            def git(*words: str, stdin: bytes = b"") -> bytes:
                return _git(self.root, *words, variables=variables, stdin=stdin)

            git("read-tree", self.commit)
            self._refuse_submodules(git("ls-files", "--stage", "-z"))
            git("update-index", "-q", "--refresh")
            deleted = git("diff-files", "--name-only", "-z", "--diff-filter=D")
            changed = git("diff-files", "--name-only", "-z", "--diff-filter=d")
            changed += git("ls-files", "--others", "--exclude-per-directory=.gitignore", "-z", "--", *NEW_CODE)
            size = sum((self.root / os.fsdecode(path)).lstat().st_size for path in changed.split(b"\0")[:-1])
            if size > MAX_CHANGED_BYTES:
                return _list_names(deleted + changed, size)
            git("update-index", "--force-remove", "-z", "--stdin", stdin=deleted)
            git("update-index", "--add", "-z", "--stdin", stdin=changed)
            return git("diff-index", "-p", "--cached", "--binary", "--full-index", "--no-renames", self.commit)

    def _make_git_directory(self, folder: Path) -> dict[str, str]:
        """Make a git directory without any settings, and return the variables that have git use it."""
        objects = os.fsdecode(_git(self.root, "rev-parse", "--git-path", "objects").removesuffix(b"\n"))
        # Some file systems have no executable bit. Git found that out when it made the checkout.
        has_modes = _git(self.root, "config", "--type=bool", "--default=true", "core.fileMode").decode().strip()
        object_format = "sha1" if len(self.commit) == 40 else "sha256"
        config = (
            f"[core]\nrepositoryFormatVersion = 1\nbare = false\nfileMode = {has_modes}\n"
            f"[extensions]\nobjectFormat = {object_format}\n"
        )
        files = {
            "HEAD": self.commit, "config": config, "info/attributes": ATTRIBUTES,
            "objects/info/alternates": f"{self.root.resolve() / objects}\n",
        }  # fmt: skip
        (folder / "refs").mkdir()
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(os.fsencode(text))
        return NO_SETTINGS | {"GIT_DIR": str(folder), "GIT_WORK_TREE": str(self.root.resolve())}

    def _refuse_submodules(self, listing: bytes) -> None:
        for entry in listing.split(b"\0"):
            path = self.root / os.fsdecode(entry.partition(b"\t")[2])
            if entry.startswith(SUBMODULE) and (path / ".git").exists():
                raise NotKnownError(f"{path} is a submodule, which is not looked into")


def _git(root: Path, *words: str, variables: dict[str, str] | None = None, stdin: bytes = b"") -> bytes:
    """Run git in the folder, and return what it prints. NotKnownError as `run_program` raises it.

    The user's own settings are in force unless `variables` set them aside: safe.directory says which folders of other
    owners git may read.

    Args:
        root: The folder.
        words: The command and its arguments.
        variables: Variables of the environment, over the user's.
        stdin: What git reads.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-replace-objects", "-C", str(root), *words]
    return run_program(command, stdin, kept | VARIABLES | (variables or {}))


def _list_names(changed: bytes, size: int) -> bytes:
    said = (
        f"The files that differ from the commit have {size} bytes. Of more than {MAX_CHANGED_BYTES} bytes no diff is "
        "kept, only their names:\n"
    )
    names = sorted(changed.split(b"\0")[:-1])
    return said.encode() + b"".join(name.replace(b"\n", b"\\n") + b"\n" for name in names)


def run_program(command: Sequence[str], stdin: bytes = b"", environment: dict[str, str] | None = None) -> bytes:
    """Run a program, with `stdin` on its standard input, and return its standard output.

    NotKnownError where it is not installed, fails, prints more than MAX_OUTPUT_BYTES, or has not ended after
    TIMEOUT_SECONDS. It and the processes that it started are then killed.
    """
    # Files rather than pipes: a process that the program leaves behind may keep a pipe open.
    with tempfile.TemporaryFile() as typed, tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors:
        typed.write(stdin)
        typed.seek(0)
        try:
            program = subprocess.Popen(
                command, stdin=typed, stdout=printed, stderr=errors, env=environment, start_new_session=True
            )
        except OSError as error:
            why = "is not installed" if isinstance(error, FileNotFoundError) else f"cannot be run ({error.strerror})"
            raise NotKnownError(f"{command[0]} {why}") from error
        try:
            _wait(program, command[0], printed.fileno(), errors.fileno())
        finally:
            _kill(program)
        if program.returncode != 0:
            errors.seek(0)
            complaint = errors.read(1000).decode("utf-8", "backslashreplace").partition("\n")[0]
            raise NotKnownError(f"{command[0]} failed: {complaint or program.returncode}")
        printed.seek(0)
        return printed.read()


def _wait(program: subprocess.Popen[bytes], name: str, *outputs: int) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while program.returncode is None:
        with suppress(subprocess.TimeoutExpired):
            program.wait(0.05)
        if any(os.fstat(output).st_size > MAX_OUTPUT_BYTES for output in outputs):
            raise NotKnownError(f"{name} prints without an end")
        if program.returncode is None and time.monotonic() > deadline:
            raise NotKnownError(f"{name} has not ended after {TIMEOUT_SECONDS} seconds")


def _kill(program: subprocess.Popen[bytes]) -> None:
    if program.returncode is None:
        # It leads a process group of its own.
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        # A program that waits for a driver cannot be killed.
        with suppress(subprocess.TimeoutExpired):
            program.wait(1)


def describe(root: Path) -> str:
    """Return the commit, followed by DIRTY where files differ from it; UNKNOWN where either is not known."""
    try:
        found = Checkout.open(root)
        return found.commit + (DIRTY if found.diff() else "")
    except (NotKnownError, OSError, ValueError):
        return UNKNOWN


if __name__ == "__main__":
    print(describe(ROOT))
