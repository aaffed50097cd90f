"""A tracking store in one SQLite file: its address, whether it can be used, and where its artifacts stand.

MLflow writes the place of every run's artifacts into the store, whole, and would go on using the old place when the
folder has been moved, copied, unpacked or mounted elsewhere. The addresses are put right here, in the file itself.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import mlflow
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from reproduce.errors import UserError, shown
from reproduce.paths import unwritable

ARTIFACTS = "mlruns"  # the folder of artifacts that MLflow makes beside a store
LOCKED_SECONDS = 5  # to wait for whoever has the file locked, in one attempt
# Every column that holds the place of an artifact, in MLflow's tables; a store of another version may lack some.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def file_of(uri: str) -> Path | None:
    """Return the file, as an absolute path, of a store in SQLite; None for any other store.

    UserError where the address names no file that the next command could open: a database in memory.
    """
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        return None
    if url.get_backend_name() != "sqlite":
        return None
    database = url.database or ""
    if database.startswith("file:"):  # SQLite's own addresses, with parameters of their own
        database = unquote(urlsplit(database).path)
    if database in ("", ":memory:") or "memory" in _parameters(url).values():
        raise UserError(
            f"MLFLOW_TRACKING_URI is {shown(uri)}, a database in memory, which ends with each process: "
            "name a file, as sqlite:///mlflow.db, or unset it"
        )
    return Path(database).absolute()


def _parameters(url: URL) -> dict[str, str]:
    own = urlsplit(url.database or "").query
    return dict(part.split("=", 1) for part in own.split("&") if "=" in part) | {
        name: str(value) for name, value in url.query.items()
    }


def address_of(file: Path) -> str:
    """Return the address under which SQLAlchemy and MLflow both open that file.

    SQLAlchemy decodes an address, and MLflow makes the folder of one that begins with `sqlite:///` as it is written: a
    name that has to be encoded is given with the driver, which MLflow leaves alone.
    """
    text = str(file)
    if not set(text) & set("%?"):
        return f"sqlite:///{text}"
    return f"sqlite+pysqlite:///{text.replace('%', '%25').replace('?', '%3F')}"


def check(file: Path) -> None:
    """UserError, at once, for a file that no waiting would make a tracking store."""
    try:
        str(file).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{shown(str(file))} has a name that is not UTF-8, in which MLflow can keep no store: "
            "rename the folder, or have MLFLOW_TRACKING_URI name a file elsewhere"
        ) from error
    another = "have MLFLOW_TRACKING_URI name another file"
    if file.is_symlink() and not file.exists():
        raise UserError(f"the tracking store {file} is a link to {file.readlink()}, which is not there: {another}")
    if file.is_dir():
        raise UserError(
            f"the tracking store {file} is a directory, expected a file: "
            f"have MLFLOW_TRACKING_URI name one in it, as {address_of(file / 'mlflow.db')}"
        )
    if not os.path.lexists(file):
        if (why := unwritable(file.parent)) is not None:
            raise UserError(f"the tracking store {file} cannot be made: {file.parent}: {why}: {another}")
        return
    if not file.is_file():
        raise UserError(f"the tracking store {file} is no ordinary file: {another}")
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"the tracking store {file} cannot be read: {error.strerror}: {another}") from error
    try:
        tables = _tables(file)
    except sqlite3.OperationalError:  # locked, say: that is for those who wait
        return
    except sqlite3.DatabaseError as error:
        raise UserError(f"the tracking store {file} is no SQLite database ({error}): {another}") from error
    if tables and "experiments" not in tables:
        raise UserError(f"the tracking store {file} is the SQLite database of another program: {another}")


def _tables(file: Path) -> set[str]:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", timeout=0, uri=True)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def make(file: Path, unique: str) -> None:
    """Have a new store appear with all of its tables: one killed among MLflow's migrations is of no use."""
    folder = file.parent / f".{file.name}-{unique}"
    shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    folder.mkdir(parents=True)
    try:
        made = folder / file.name
        made.touch()  # with the rights that the umask leaves: SQLite takes the group's away
        mlflow.MlflowClient(address_of(made)).search_experiments()
        put_right(made, standing_at=file)
        try:
            os.link(made, file)  # unless somebody with another home was first
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            made.rename(file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def next_artifacts(file: Path) -> str:
    """Return the place for the artifacts of the next experiment: beside the store, by the number it will have."""
    with closing(sqlite3.connect(file, timeout=LOCKED_SECONDS)) as database:
        (last,) = database.execute("SELECT max(experiment_id) FROM experiments").fetchone()
    return (file.resolve().parent / ARTIFACTS / str((last or 0) + 1)).as_uri()


@dataclass(frozen=True)
class Move:
    """What was put right: the folder where the study stood before, and whether its artifacts came along."""

    before: Path
    with_artifacts: bool


@dataclass(frozen=True)
class _Address:
    """The place of an artifact as the store holds it; `is_open` where something may yet be written to it."""

    table: str
    column: str
    row: int
    path: Path
    is_open: bool


def put_right(file: Path, check: Callable[[], None] = lambda: None, standing_at: Path | None = None) -> Move | None:
    """Have the store's addresses of artifacts lead to where they stand beside it; None where no run had another place.

    Each folder in which artifacts stood is judged as a whole. Where some of them are found beside the store, they all
    have moved with it. Where they are found in their own folder only, on a server, or in a store's folder of which this
    is no copy, they stand there on purpose and are left alone. Else nothing new is written there, and what is finished
    keeps its address: a disk may only be away. `check` is asked before anything is changed, and may raise.
    `standing_at` is where the file is about to stand. UserError where a store that moved cannot be written to.
    """
    at = (standing_at or file).resolve()
    with closing(sqlite3.connect(file, timeout=LOCKED_SECONDS)) as database:
        changes, move = [], None
        for before, addresses in _elsewhere(database, at.parent).items():
            if before == at.parent:  # as a path, which MLflow takes for encoded
                changes += [(address, address.path) for address in addresses]
                continue
            wanted, found = _moves(addresses, before, at)
            changes += wanted
            if move is None and wanted and any(address.table == "runs" for address in addresses):
                move = Move(before, found)
        if not changes:
            return None
        if move is not None:
            check()
        try:
            with database:
                for address, path in changes:
                    change = f"UPDATE {address.table} SET {address.column} = ? WHERE rowid = ?"
                    database.execute(change, (path.as_uri(), address.row))
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):
                raise
            raise UserError(
                f"the tracking store {file} stood elsewhere before and cannot be written to, which putting its "
                "addresses right takes: make it and its folder writable, or copy the folder"
            ) from error
    return move


def running(file: Path) -> list[tuple[str, int]]:
    """Return the commands' runs that are RUNNING, each with when it last said so, in s of the epoch; 0 is never."""
    with closing(sqlite3.connect(file, timeout=LOCKED_SECONDS)) as database:
        rows = database.execute(
            "SELECT runs.run_uuid, alive.value FROM runs JOIN tags kind ON kind.run_uuid = runs.run_uuid "
            "AND kind.key = 'kind' AND kind.value = 'parent' LEFT JOIN tags alive ON alive.run_uuid = runs.run_uuid "
            "AND alive.key = 'alive_at' WHERE runs.status = 'RUNNING' AND runs.lifecycle_stage = 'active'"
        ).fetchall()
        return [(run_id, int(value) if str(value).isdecimal() else 0) for run_id, value in rows]


def _elsewhere(database: sqlite3.Connection, folder: Path) -> dict[Path, list[_Address]]:
    """The addresses that do not lead into the store's folder as they should, by the folder that they lead into."""
    right = f"{folder.as_uri().rstrip('/')}/"
    plain = f"{str(folder).rstrip('/')}/"
    found: dict[Path, list[_Address]] = {}
    for table, column in PLACES:
        for row, value, is_open in _held(database, table, column):
            if value.startswith(right) or (value.startswith(plain) and "%" not in value):
                continue
            path = path_of(value)
            if path is None or ARTIFACTS not in path.parts:
                continue
            is_here = path.is_relative_to(folder)
            if is_here or not Path(os.path.realpath(path)).is_relative_to(folder):
                before = folder if is_here else _folder_before(path)
                found.setdefault(before, []).append(_Address(table, column, row, path, bool(is_open)))
    return found


def _held(database: sqlite3.Connection, table: str, column: str) -> list[tuple[int, str, int]]:
    """Row, value, and whether it is of an experiment or of a run that has not finished."""
    is_open = {"experiments": "1", "runs": "status != 'FINISHED'"}.get(table, "0")
    try:
        return database.execute(f"SELECT rowid, {column}, {is_open} FROM {table} WHERE {column} IS NOT NULL").fetchall()
    except sqlite3.OperationalError as error:
        if "no such" in str(error):  # table or column: of another version of MLflow
            return []
        raise


def _moves(addresses: list[_Address], before: Path, file: Path) -> tuple[list[tuple[_Address, Path]], bool]:
    """The addresses of one former folder that are to change, each with its place now; whether artifacts are there."""
    here = [(address, _beside(file.parent, address.path)) for address in addresses]
    # Whoever has no right to look there is told that nothing is.
    is_there = {address: os.path.exists(address.path) for address in addresses}  # noqa: PTH110
    if any(path.exists() for _, path in here):
        left = {address for address, path in here if is_there[address] and not path.exists() and not address.is_open}
        return [(address, path) for address, path in here if address not in left], True
    if any(is_there.values()) and not _is_original(before / file.name, file):
        return [], False
    return [(address, path) for address, path in here if address.is_open], False


def _beside(folder: Path, path: Path) -> Path:
    """What stood at `path` when the store's folder had another name: as much of the path as is found in the folder."""
    shortest = len(_folder_before(path).parts)
    ends = [folder.joinpath(*path.parts[start:]) for start in range(1, shortest + 1)]
    return next((end for end in ends if end.exists()), ends[-1])


def path_of(value: str) -> Path | None:
    """Return the absolute path of an artifact's address on this machine; None for one on a server."""
    parts = urlsplit(value)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return Path(value) if value.startswith("/") else None


def _folder_before(path: Path) -> Path:
    """The folder in which the artifacts' folder stood, to judge by the place of one of them."""
    return Path(*path.parts[: len(path.parts) - 1 - path.parts[::-1].index(ARTIFACTS)])


def _is_original(other: Path, file: Path) -> bool:
    """Whether the store in `file` is a copy of that other one: they were made at the same moment."""
    try:
        same = other.samefile(file)
    except OSError:
        return False
    return not same and bool(_made(other) & _made(file))


def _made(file: Path) -> frozenset:
    """The names of a store's experiments and when each was made, in ms: independent stores share none of these."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", timeout=LOCKED_SECONDS, uri=True)) as database:
            return frozenset(database.execute("SELECT name, creation_time FROM experiments"))
    except sqlite3.Error:
        return frozenset()
