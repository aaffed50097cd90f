"""A tracking store in one SQLite file: its address, whether it can be used, and how a new one is made."""

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from urllib.request import url2pathname

import mlflow
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from reproduce.errors import UserError, shown
from reproduce.paths import why_unwritable

# The folder of artifacts that MLflow makes beside a store.
ARTIFACTS = "mlruns"
# To wait in one attempt for another process that locks the file.
LOCKED_SECONDS = 5
# The SQLAlchemy that Python 3.10 has does not.
DECODES = make_url("sqlite:///%41").database == "A"


def find_file(uri: str) -> Path | None:
    """Return the file, as an absolute path, of a store in SQLite; None for any other store.

    UserError for a database in memory, which no other process can open.
    """
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        return None
    if url.get_backend_name() != "sqlite":
        return None
    database, parameters = url.database or "", [str(value) for value in url.query.values()]
    # SQLite has addresses of its own, with parameters.
    if database.startswith("file:"):
        parts = urlsplit(database)
        database, parameters = unquote(parts.path), parameters + [value for _, value in parse_qsl(parts.query)]
    # MLflow encodes its own default for every SQLAlchemy.
    elif not DECODES and not Path(database).parent.exists():
        database = unquote(database)
    if database in ("", ":memory:") or "memory" in parameters:
        raise UserError(
            f"MLFLOW_TRACKING_URI is {shown(uri)}, a database in memory, which ends with each process: "
            "name a file, such as sqlite:///mlflow.db, or unset it"
        )
    return Path(database).absolute()


def make_uri(file: Path) -> str:
    """Return the address under which SQLAlchemy and MLflow both open that file.

    SQLAlchemy decodes an address, from 2.1 on. MLflow does not, where it makes the folder of one that begins with
    `sqlite:///`. So a name that has to be encoded gets an address with the driver in it, of which MLflow makes no
    folder; for an older SQLAlchemy, an address that SQLite itself decodes.
    """
    text = str(file)
    if "?" not in text and unquote(text) == text:
        return f"sqlite:///{text}"
    if DECODES:
        return f"sqlite+pysqlite:///{text.replace('%', '%25').replace('?', '%3F')}"
    return f"sqlite+pysqlite:///file:{quote(text)}?uri=true"


def check_file(file: Path) -> None:
    """Raise UserError for a file that is no tracking store and will not become one."""
    if (why := _why_unfit(file)) is not None:
        raise UserError(f"the tracking store {file} {why}: set MLFLOW_TRACKING_URI to another file")


def _why_unfit(file: Path) -> str | None:
    if str(file) != os.fsencode(file).decode(errors="replace"):
        return "has a name that is not UTF-8, which MLflow cannot use"
    if file.is_dir():
        return f"is a directory, expected a file, such as {make_uri(file / 'mlflow.db')}"
    if file.is_symlink() and not file.exists():
        return f"is a link to {file.readlink()}, which is not there"
    if not os.path.lexists(file):
        why = why_unwritable(file.parent)
        return why and f"cannot be made: {file.parent}: {why}"
    if not file.is_file():
        return "is no ordinary file"
    try:
        with file.open("rb"):
            pass
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", timeout=0, uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except sqlite3.OperationalError:
        # It may be locked for a while.
        return None
    except sqlite3.DatabaseError as error:
        return f"is no SQLite database ({error})"
    return "is the SQLite database of another program" if tables and "experiments" not in tables else None


def make_store(file: Path, unique: str) -> None:
    """Make a new store in a folder of that `unique` name, and move it to its place once it has all of its tables.

    A process that is killed among MLflow's migrations so leaves no store that cannot be used.
    """
    folder = file.parent / f".{file.name}-{unique}"
    # A process that was killed may have left one.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        made = folder / file.name
        # SQLite would make the file without the rights that the umask leaves to the group.
        made.touch()
        mlflow.MlflowClient(make_uri(made)).search_experiments()
        with closing(sqlite3.connect(made)) as database, database:
            # A new store has one experiment, number 0.
            database.execute("UPDATE experiments SET artifact_location = ?", (_artifact_uri(file, 0),))
        try:
            # A command of another home may have made the store meanwhile.
            with suppress(FileExistsError):
                os.link(made, file)
        except OSError:
            # The file system has no links.
            made.rename(file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def next_artifact_uri(file: Path) -> str:
    """Return the place for the artifacts of the next experiment: beside the store, by the number it will have."""
    with closing(sqlite3.connect(file, timeout=LOCKED_SECONDS)) as database:
        (last,) = database.execute("SELECT max(experiment_id) FROM experiments").fetchone()
    return _artifact_uri(file, (last or 0) + 1)


def _artifact_uri(file: Path, experiment: int) -> str:
    return (file.resolve().parent / ARTIFACTS / str(experiment)).as_uri()


def local_path(address: str) -> Path | None:
    """Return the absolute path of an artifact's address on this machine; None for one on a server."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return Path(address) if address.startswith("/") else None
