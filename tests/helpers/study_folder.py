"""A folder with a store and the artifacts of its runs, to be moved and copied."""

import shutil
import sqlite3
from pathlib import Path

from reproduce.tracking import local_store, relocation
from reproduce.tracking.store import TrackingStore, open_store


class StudyFolder:
    """A folder with a new store and artifacts beside it. All that open it share `home`."""

    def __init__(self, folder: Path, home: Path, empty_database: Path) -> None:
        self.folder, self.home = folder, home
        folder.mkdir(parents=True)
        shutil.copy(empty_database, folder / "mlflow.db")

    @property
    def file(self) -> Path:
        return self.folder / "mlflow.db"

    def open(self) -> TrackingStore:
        return open_store(self.home, local_store.make_uri(self.file))

    def record(self, text: str = "1") -> str:
        """A finished run with an artifact; its id."""
        store = self.open()
        run_id = store.writer.create_run({}, "a run")
        store.mlflow.log_text(run_id, text, "curve.csv")
        store.mlflow.set_terminated(run_id, "FINISHED")
        return run_id

    def read(self, run_id: str) -> str:
        path = self.open().mlflow.download_artifacts(run_id, "curve.csv")
        return Path(path).read_text()

    def places(self) -> set[Path]:
        """The folder that every address of an artifact in the store leads into."""
        with sqlite3.connect(self.file) as database:
            rows = [database.execute(f"SELECT {column} FROM {table}") for table, column, _ in relocation.PLACES[:2]]
            values = [value for row in rows for (value,) in row]
        return {Path(local_store.local_path(value)) for value in values}

    def moved_to(self, folder: Path, how=shutil.move) -> "StudyFolder":
        how(self.folder, folder)
        other = object.__new__(StudyFolder)
        other.folder, other.home = folder, self.home
        return other
