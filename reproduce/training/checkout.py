"""Tell which commit of its own git repository this source is, and how it differs from it. Standard library only.

Git is asked for what it has stored, and the files are read here, byte by byte. The answer is therefore the same
whatever the user's git settings, variables, hooks, filters and index say, and nothing is written into the repository,
not even its index.

`python checkout.py` prints the commit, followed by `-dirty` where files differ from it, or `unknown`. `make image` runs
it with whatever Python 3 there is.
"""

from __future__ import annotations

import hashlib
import os
import re
import selectors
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DIRTY = "-dirty"  # how git describe marks a commit with changes on top
SECONDS = 4  # to wait for a program, which takes milliseconds
MOST_OUTPUT = 2**26  # bytes that are read of what a program prints
MOST_CHANGED = 2**24  # bytes of changed files of which a diff is made
# A new file counts as a change where it is of the package; others in a checkout are the user's own.
PACKAGE = "reproduce"
CODE = ("py", "yaml", "cpp")
SUBMODULE, LINK, PROGRAM, FILE, NOTHING = "160000", "120000", "100755", "100644", ""  # modes, as git writes them
# These come from the command line, before all others: no setting of a repository may start a program, use the network
# or write anything.
SETTINGS = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null", "core.splitIndex=false",
    "core.untrackedCache=false", "core.quotePath=true", "diff.suppressBlankEmpty=false", "protocol.allow=never",
)  # fmt: skip
VARIABLES = {
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1", "GIT_NO_LAZY_FETCH": "1",
    "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "none",  # which no repository's own setting overrides
    "HOME": os.devnull, "XDG_CONFIG_HOME": os.devnull,  # before git 2.32 only these say where the user's settings are
    "LC_ALL": "C",
}  # fmt: skip
DIFF = (
    "diff-index", "-p", "--cached", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv",
    "--no-color", "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip


class NotKnownError(Exception):
    """Why something cannot be told."""


class FailedError(NotKnownError):
    """A program said that it failed."""


@dataclass(frozen=True)
class Tracked:
    """A file as a commit has it. `size` is in bytes."""

    mode: str
    oid: str
    size: int


@dataclass(frozen=True)
class Git:
    """Git in one folder, with the user's settings set aside.

    One is kept, as it is the user's word: which folders of other owners git may read (safe.directory).
    """

    root: Path
    trusted: tuple[str, ...]

    @classmethod
    def at(cls, root: Path) -> Git:
        """Find out which folders are trusted."""
        with suppress(FailedError):  # none is named
            ask = ("git", "-C", "/", "config", "--null", "--type=path", "--get-all", "safe.directory")
            return cls(root, tuple(map(os.fsdecode, output_of(ask, b"", _environment()).split(b"\0")[:-1])))
        return cls(root, ())

    def __call__(self, *words: str, also: dict[str, str] | None = None, given: bytes = b"") -> bytes:
        """Run git and give what it prints. `also` are variables, `given` is for its standard input."""
        settings = [*SETTINGS, *(f"safe.directory={folder}" for folder in self.trusted)]
        options = ["--no-pager", "--no-optional-locks", "--no-replace-objects", "-C", str(self.root)]
        command = ["git", *options, *(word for setting in settings for word in ("-c", setting)), *words]
        return output_of(command, given, _environment() | VARIABLES | (also or {}))


@dataclass(frozen=True)
class Checkout:
    """A folder that is the top of a git repository which tracks this package, at the commit that is checked out."""

    git: Git
    commit: str
    tracked: dict[bytes, Tracked]

    @classmethod
    def at(cls, root: Path) -> Checkout:
        """Ask git about the folder.

        NotKnownError with the reason where git cannot tell, or the repository is another project's: one that begins
        above the folder, or does not track the package.
        """
        git = Git.at(root)
        top = Path(os.fsdecode(git("rev-parse", "--show-toplevel").removesuffix(b"\n")))
        if not top.is_absolute() or top.resolve() != root.resolve():
            raise NotKnownError(f"{root} is not the top of a git repository")
        commit = git("rev-parse", "--verify", "HEAD^{commit}").decode("ascii", "replace").strip()
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", commit):
            raise NotKnownError("git names no commit")
        tracked = dict(_listed(git("ls-tree", "-r", "-l", "-z", "--full-tree", commit)))
        if f"{PACKAGE}/__init__.py".encode() not in tracked:
            raise NotKnownError(f"the git repository at {root} does not track this source")
        return cls(git, commit, tracked)

    def diff(self) -> bytes:
        """Make the diff of the files against the commit, which `git apply` takes; empty where nothing differs.

        It has every change of a tracked file, and the package's new files. Where these have more than MOST_CHANGED
        bytes it is a list of their names instead. NotKnownError or OSError where it cannot be made.
        """
        has_modes = self._has_modes()
        changed = {path: mode for path in self.tracked if (mode := self._changed(path, has_modes)) is not None}
        with _index_apart(self.git, self.commit) as variables:
            changed |= {path: _mode(self._place(path)) for path in self._new(variables)}
            size = sum(self._place(path).lstat().st_size for path, mode in changed.items() if mode)
            if size > MOST_CHANGED:
                return _names(changed, size)
            return self._diff(changed, variables) if changed else b""

    def _place(self, path: bytes) -> Path:
        return self.git.root / os.fsdecode(path)

    def _has_modes(self) -> bool:
        """Tell whether the file system knows programs from other files, as git found out when it made the checkout."""
        with suppress(FailedError):  # it says nothing
            return self.git("config", "--type=bool", "core.fileMode").strip() != b"false"
        return True

    def _changed(self, path: bytes, has_modes: bool) -> str | None:
        """Give the mode that a changed file has now, NOTHING where it is gone; None for an unchanged one."""
        was, place = self.tracked[path], self._place(path)
        if was.mode == SUBMODULE:
            if (place / ".git").exists():
                raise NotKnownError(f"{place} is a submodule, which is not looked into")
            return None
        mode = _mode(place)
        if not has_modes and {mode, was.mode} == {FILE, PROGRAM}:
            mode = was.mode
        if mode != was.mode:
            return mode
        same = place.lstat().st_size == was.size and _oid(_content(place), was.oid) == was.oid
        return None if same else mode

    def _new(self, variables: dict[str, str]) -> list[bytes]:
        """List the package's files that the commit has not."""
        wanted = [f":(glob){PACKAGE}/**/*.{ending}" for ending in CODE]
        listed = self.git(
            "ls-files", "--others", "--exclude-per-directory=.gitignore", "-z", "--", *wanted, also=variables
        )
        return [path for path in listed.split(b"\0") if path]

    def _diff(self, changed: dict[bytes, str], variables: dict[str, str]) -> bytes:
        entries = []
        for path, mode in changed.items():
            entry = (b"0", b"0" * len(self.commit))
            if mode != NOTHING:
                content = _content(self._place(path))
                entry = (mode.encode(), self.git("hash-object", "-w", "--stdin", also=variables, given=content).strip())
            entries.append(b"%s %s\t%s\0" % (*entry, path))
        self.git("update-index", "-z", "--index-info", also=variables, given=b"".join(entries))
        return self.git(*DIFF, self.commit, also=variables)


def _listed(listing: bytes) -> Iterator[tuple[bytes, Tracked]]:
    """Read what `git ls-tree -l -z` prints."""
    for entry in filter(None, listing.split(b"\0")):
        about, _, path = entry.partition(b"\t")
        found = re.fullmatch(rb"(\d{6}) \w+ ([0-9a-f]+) +(\d+|-)", about)
        if found is None:
            raise NotKnownError("git's list of files cannot be read")
        mode, oid, size = (part.decode() for part in found.groups())
        yield path, Tracked(mode, oid, 0 if size == "-" else int(size))


def _mode(place: Path) -> str:
    try:
        found = place.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING
    if stat.S_ISLNK(found):
        return LINK
    if not stat.S_ISREG(found):
        return NOTHING
    return PROGRAM if found & stat.S_IXUSR else FILE


def _content(place: Path) -> bytes:
    """Read what git would store: of a link, where it leads."""
    return os.fsencode(place.readlink()) if place.is_symlink() else place.read_bytes()


def _oid(content: bytes, like: str) -> str:
    """Name the content as git does, by the hash that the repository uses."""
    hashed = hashlib.new("sha1" if len(like) == 40 else "sha256", b"blob %d\0" % len(content), usedforsecurity=False)
    hashed.update(content)
    return hashed.hexdigest()


def _names(changed: dict[bytes, str], size: int) -> bytes:
    said = (
        f"The files that differ from the commit have {size} bytes. Of more than {MOST_CHANGED} bytes no diff is kept, "
        "only their names:\n"
    )
    return said.encode() + b"".join(path.replace(b"\n", b"\\n") + b"\n" for path in sorted(changed))


@contextmanager
def _index_apart(git: Git, commit: str) -> Iterator[dict[str, str]]:
    """Have an index of that commit, and room for new objects, outside the repository; give git's variables for them."""
    objects = os.fsdecode(git("rev-parse", "--git-path", "objects").removesuffix(b"\n"))
    quoted = str(git.root / objects).replace("\\", "\\\\").replace('"', '\\"')
    with tempfile.TemporaryDirectory() as folder:
        variables = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": f"{folder}/objects",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{quoted}"',
        }
        Path(folder, "objects").mkdir()
        git("read-tree", commit, also=variables)
        yield variables


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def output_of(command: Sequence[str], given: bytes = b"", environment: dict[str, str] | None = None) -> bytes:
    """Run a program, `given` on its standard input, and give its standard output.

    NotKnownError where it is not installed, fails, prints more than MOST_OUTPUT or has not ended after SECONDS: it and
    what it started are ended then.
    """
    with tempfile.TemporaryFile() as standard_input, tempfile.TemporaryFile() as complaints:
        standard_input.write(given)
        standard_input.seek(0)
        try:
            program = subprocess.Popen(
                command, stdin=standard_input, stdout=subprocess.PIPE, stderr=complaints, env=environment,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            why = "is not installed" if isinstance(error, FileNotFoundError) else f"cannot be run ({error.strerror})"
            raise NotKnownError(f"{command[0]} {why}") from error
        try:
            printed = _read(program, time.monotonic() + SECONDS)
        finally:
            _end(program)
        if program.returncode != 0:
            complaints.seek(0)
            raise FailedError(f"{command[0]} failed: {_first_line(complaints.read(1000)) or program.returncode}")
        return printed


def _read(program: subprocess.Popen, until: float) -> bytes:
    """Read all that a program prints, and wait for its end. A pipe may stay open for longer than the program lives."""
    printed = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(program.stdout, selectors.EVENT_READ)
        while selector.select(max(0, until - time.monotonic())):
            piece = os.read(program.stdout.fileno(), 2**16)
            printed += piece
            if len(printed) > MOST_OUTPUT:
                raise NotKnownError(f"{program.args[0]} prints without an end")
            if not piece:
                with suppress(subprocess.TimeoutExpired):
                    program.wait(max(0, until - time.monotonic()))
                    return bytes(printed)
                break
    raise NotKnownError(f"{program.args[0]} has not ended after {SECONDS} seconds")


def _end(program: subprocess.Popen) -> None:
    program.stdout.close()
    if program.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)  # it leads a group of its own
        with suppress(subprocess.TimeoutExpired):  # a driver may hold it
            program.wait(1)


def _first_line(complaints: bytes) -> str:
    return next(iter(complaints.decode("utf-8", "backslashreplace").splitlines()), "")


def describe(root: Path) -> str:
    """Give the commit, followed by DIRTY where files differ from it; `unknown` where either is not known."""
    try:
        found = Checkout.at(root)
        return found.commit + (DIRTY if found.diff() else "")
    except (NotKnownError, OSError, ValueError):
        return "unknown"


if __name__ == "__main__":
    print(describe(ROOT))
