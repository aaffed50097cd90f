"""A tracking store in one SQLite file: its address, whether it can be used, and how a new one is made."""

import os
import shutil
import sqlite3
from contextlib import closing
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
        with closing(sqlite3.connect(made)) as database, database:
            # The default experiment's, number 0, is the only place in a new store.
            database.execute("UPDATE experiments SET artifact_location = ?", (_artifacts(file, 0),))
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
    return _artifacts(file, (last or 0) + 1)


def _artifacts(file: Path, experiment: int) -> str:
    return (file.resolve().parent / ARTIFACTS / str(experiment)).as_uri()


def path_of(value: str) -> Path | None:
    """Return the absolute path of an artifact's address on this machine; None for one on a server."""
    parts = urlsplit(value)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return Path(value) if value.startswith("/") else None
