"""Locks of trials and of commands, as files in a home.

The system frees a lock when its process ends, however it ends. So a lock that nobody holds shows that its process is
gone. Taking a lock makes the folder of its file.
"""

from pathlib import Path

from filelock import FileLock


def trial_lock(home: Path, cache_key: str) -> FileLock:
    """Return the lock of the process that trains that trial."""
    return FileLock(home / "trials" / cache_key / "lock")


def parent_lock(home: Path, run_id: str) -> FileLock:
    """Return the lock of the command with that parent run. The command removes its file at the end."""
    return FileLock(home / "parents" / f"{run_id}.lock")
