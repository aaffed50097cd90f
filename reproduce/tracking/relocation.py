"""A study whose folder was moved, copied, unpacked or mounted elsewhere: the store leads to its artifacts again.

MLflow writes the absolute place of every run's artifacts into the store, and continues to use the old place. The places
are corrected here, in the SQLite file itself.
"""

import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from reproduce.errors import UserError
from reproduce.progress import say
from reproduce.tracking.local_store import ARTIFACTS, LOCKED_SECONDS, local_path
from reproduce.tracking.locks import parent_lock

# Without a heartbeat, which comes every minute, the command of a run has ended.
SILENT_RUN_SECONDS = 120
# Columns with places of artifacts in MLflow's tables, and for which rows more may be written. A store of another
# version may lack some.
PLACES = (
    ("experiments", "artifact_location", "1"),
    ("runs", "artifact_uri", "status != 'FINISHED'"),
    ("logged_models", "artifact_location", "0"),
    ("model_versions", "source", "0"),
    ("model_versions", "storage_location", "0"),
)


@dataclass(frozen=True)
class _Address:
    """The place of an artifact as the store holds it; `is_open` where something may still be written to it."""

    table: str
    column: str
    row: int
    path: Path
    is_open: bool


def relocate(file: Path, home: Path) -> None:
    """Correct the places of artifacts in a store that stood elsewhere, and tell the user where it stood.

    Each folder in which artifacts stood is judged as a whole. Where some of them are found beside the store, they all
    have moved with it. Where they are found in their own folder only, on a server, or in a folder with a store of which
    this is no copy, they stand there on purpose and are left alone. Otherwise nothing new is written there, and what is
    finished keeps its place: a disk may be away for a while.

    UserError where a store that moved cannot be written to, or where a command still runs in the study under its
    earlier path.
    """
    here = file.resolve()
    before, found = None, False
    changes: list[tuple[_Address, Path]] = []
    with closing(sqlite3.connect(file, timeout=LOCKED_SECONDS)) as database:
        for folder, addresses in _addresses_elsewhere(database, here.parent).items():
            if folder == here.parent:
                # Paths that are not URIs: MLflow would decode them.
                changes += [(address, address.path) for address in addresses]
                continue
            moved, are_here = _plan_changes(addresses, folder, here)
            changes += moved
            if before is None and moved and any(address.table == "runs" for address in addresses):
                before, found = folder, are_here
        if before is not None:
            _check_no_command_runs(database, home)
        if changes:
            _write(database, changes, file)
    if before is not None:
        moved_too = "its recorded paths now lead to its artifacts here"
        left_behind = "its earlier artifacts are not here, and new ones are kept here"
        say(f"the study in {here.parent} was in {before} before: {moved_too if found else left_behind}")


def _write(database: sqlite3.Connection, changes: list[tuple[_Address, Path]], file: Path) -> None:
    try:
        with database:
            for address, path in changes:
                change = f"UPDATE {address.table} SET {address.column} = ? WHERE rowid = ?"
                database.execute(change, (path.as_uri(), address.row))
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error):
            raise
        raise UserError(
            f"the tracking store {file} was moved and cannot be written to, so the paths of its artifacts cannot be "
            "corrected: make it and its folder writable, or copy the folder"
        ) from error


def _check_no_command_runs(database: sqlite3.Connection, home: Path) -> None:
    """Raise UserError while a command runs in the study under its earlier path, as in a container."""
    rows = database.execute(
        "SELECT runs.run_uuid, alive.value FROM runs JOIN tags kind ON kind.run_uuid = runs.run_uuid "
        "AND kind.key = 'kind' AND kind.value = 'parent' LEFT JOIN tags alive ON alive.run_uuid = runs.run_uuid "
        "AND alive.key = 'alive_at' WHERE runs.status = 'RUNNING' AND runs.lifecycle_stage = 'active'"
    ).fetchall()
    for run_id, alive_at in rows:
        if _is_command_alive(home, run_id, int(alive_at) if str(alive_at).isdecimal() else 0):
            raise UserError(
                f"run {run_id} is running in this study under another path, as in a container: wait until it has "
                f"ended or, if it was killed, {SILENT_RUN_SECONDS} s"
            )


def _is_command_alive(home: Path, run_id: str, alive_at: int) -> bool:
    lock = parent_lock(home, run_id)
    if not Path(lock.lock_file).exists():
        # The run is of another home.
        return time.time() - alive_at <= SILENT_RUN_SECONDS
    try:
        with lock.acquire(blocking=False):
            return False
    except Timeout:
        return True


def _addresses_elsewhere(database: sqlite3.Connection, folder: Path) -> dict[Path, list[_Address]]:
    """Return the addresses that do not lead into the store's folder as they should, by the folder they lead into."""
    right = f"{folder.as_uri().rstrip('/')}/"
    plain = f"{str(folder).rstrip('/')}/"
    found: dict[Path, list[_Address]] = {}
    for table, column, open_rows in PLACES:
        for row, value, is_open in _read_column(database, table, column, open_rows):
            if value.startswith(right) or (value.startswith(plain) and "%" not in value):
                continue
            path = local_path(value)
            if path is None or ARTIFACTS not in path.parts:
                continue
            is_here = path.is_relative_to(folder)
            if is_here or not Path(os.path.realpath(path)).is_relative_to(folder):
                before = folder if is_here else _study_folder(path)
                found.setdefault(before, []).append(_Address(table, column, row, path, bool(is_open)))
    return found


def _read_column(database: sqlite3.Connection, table: str, column: str, open_rows: str) -> list[tuple[int, str, int]]:
    """Return row, value and `open_rows`, 1 or 0, of every value in the column.

    Args:
        database: The store.
        table: One of MLflow's tables; nothing is returned where the store does not have it.
        column: A column of it.
        open_rows: An SQL condition that holds for rows for which more artifacts may be written.
    """
    query = f"SELECT rowid, {column}, {open_rows} FROM {table} WHERE {column} IS NOT NULL"
    try:
        return database.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        # Another version of MLflow has no such table or column.
        if "no such" in str(error):
            return []
        raise


def _plan_changes(addresses: list[_Address], before: Path, file: Path) -> tuple[list[tuple[_Address, Path]], bool]:
    """Return the addresses into one earlier folder that change, with their places now; and whether artifacts are here.

    `before` is that folder, and `file` the store where it stands now.
    """
    here = [(address, _find_beside(file.parent, address.path)) for address in addresses]
    # os.path.exists, as Path.exists raises where there is no right to look.
    is_there = {address: os.path.exists(address.path) for address in addresses}  # noqa: PTH110
    if any(path.exists() for _, path in here):
        left = {address for address, path in here if is_there[address] and not path.exists() and not address.is_open}
        return [(address, path) for address, path in here if address not in left], True
    if any(is_there.values()) and not _is_copy(before / file.name, file):
        return [], False
    return [(address, path) for address, path in here if address.is_open], False


def _find_beside(folder: Path, path: Path) -> Path:
    """Return what stood at `path` when the store's folder had another name: as much of the path as is in the folder."""
    shortest = len(_study_folder(path).parts)
    ends = [folder.joinpath(*path.parts[start:]) for start in range(1, shortest + 1)]
    return next((end for end in ends if end.exists()), ends[-1])


def _study_folder(path: Path) -> Path:
    """Return the folder in which the artifacts' folder stood, to judge by the place of one artifact."""
    return Path(*path.parts[: len(path.parts) - 1 - path.parts[::-1].index(ARTIFACTS)])


def _is_copy(other: Path, file: Path) -> bool:
    """Return whether the store in `file` is a copy of that other one: they were made at the same moment."""
    try:
        same = other.samefile(file)
    except OSError:
        return False
    return not same and bool(_read_experiments(other) & _read_experiments(file))


def _read_experiments(file: Path) -> frozenset[tuple[str, int]]:
    """Return the names of a store's experiments and when each was made, in ms: no two stores share one of these."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", timeout=LOCKED_SECONDS, uri=True)) as database:
            return frozenset(database.execute("SELECT name, creation_time FROM experiments"))
    except sqlite3.Error:
        return frozenset()
