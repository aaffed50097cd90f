"""Whether somebody is at work on a run, and the end of the runs whose process is gone."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from reproduce.progress import say
from reproduce.tracking import retry
from reproduce.tracking.reader import Records, with_cache_key
from reproduce.tracking.retrying_client import as_tags

SIGN_SECONDS = 60  # between two signs of life of a run


class Liveness(Records):
    """The store, with what tells a run at work from one that was left.

    `home` holds the locks that tell whether a run's process is alive: `trials/FINGERPRINT/lock`, `parents/RUN.lock`.
    Of runs whose process has another home, on another machine say, a tag tells, renewed while they are at work.
    """

    @contextmanager
    def at_work(self, run_id: str, telling: bool = False) -> Iterator[None]:
        """Have a run give a sign of life every minute, for those who have another home.

        It is also `telling` of a store that is away, where nobody hears the workers that wait for it.
        """
        ended = threading.Event()
        self.client.log_batch(run_id, tags=as_tags(self.sign_of_life()))
        signs = threading.Thread(
            target=self._give_signs, args=(run_id, ended, telling), name="signs-of-life", daemon=True
        )
        signs.start()
        try:
            yield
        finally:
            ended.set()

    def _give_signs(self, run_id: str, ended: threading.Event, telling: bool) -> None:
        missed = False
        while not ended.wait(SIGN_SECONDS):
            try:
                self.client.at_once.log_batch(run_id, tags=as_tags(self.sign_of_life()))
            except retry.TROUBLES as error:  # the next one will do
                if telling and not missed:
                    wait = f"the trials wait for it, each for up to {self.client.patience:g} s"
                    say(f"{self.client.away(error)}; {wait}")
                missed = True
            else:
                if telling and missed:
                    say(f"the tracking store {self.shown_uri} is back")
                missed = False

    def lock(self, cache_key: str) -> FileLock:
        """The lock of whoever trains that trial."""
        return self._lock(_of_trial(cache_key))

    def parent_lock(self, run_id: str) -> FileLock:
        """The lock of the command whose run that is. Its file goes with the command."""
        return self._lock(_of_parent(run_id))

    def _lock(self, name: Path) -> FileLock:
        file = self.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(file)

    def at_work_elsewhere(self, cache_key: str) -> Run | None:
        """The run of that trial that a process with another home is at, to judge by its signs of life."""
        return next((run for run in self.runs(with_cache_key(cache_key)) if self.is_alive_elsewhere(run)), None)

    def is_alive_elsewhere(self, run: Run) -> bool:
        """Whether a process with another home is at work on that run."""
        tags = run.data.tags
        if run.info.status != "RUNNING" or tags.get("home", self.home_id) == self.home_id:
            return False
        return not self._is_silent(run)

    def close_abandoned(self, waiting: bool = True) -> None:
        """Mark as KILLED the runs whose process is gone.

        Of this home those still RUNNING whose lock nobody holds, of another those that gave no sign of life for long,
        and those of a parent of this home that has ended: a cluster's workers end with the command that they work for,
        unless that lost the cluster.
        Unless it is `waiting` for a store that is away, what cannot be closed now the next command closes.
        """
        client = self.client if waiting else self.client.at_once
        with nullcontext() if waiting else suppress(*retry.TROUBLES):
            running = self.runs("attributes.status = 'RUNNING'", client)
            for run in sorted(running, key=lambda run: "fingerprint" in run.data.tags):  # parents first
                if "home" in run.data.tags:  # else it was not made by us, and nothing is known of it
                    self._close_if_abandoned(run, client)

    def _close_if_abandoned(self, run: Run, client: Any) -> None:
        run_id, cache_key = run.info.run_id, run.data.tags.get("fingerprint")
        file = self.home / (_of_trial(cache_key) if cache_key else _of_parent(run_id))
        if run.data.tags["home"] != self.home_id or not file.exists():
            if self._is_silent(run) or self._has_ended(run.data.tags.get(MLFLOW_PARENT_RUN_ID), client):
                self._kill(run_id, client)
            return
        with suppress(Timeout), FileLock(file, blocking=False):  # else it is at work
            self._kill(run_id, client)
            if not cache_key:
                file.unlink(missing_ok=True)

    def _has_ended(self, parent_id: str | None, client: Any) -> bool:
        """Whether that is the run of a command with this home, whose workers ended with it.

        Those of one that failed may not have: it could have lost its cluster.
        """
        found = self.runs(f"attributes.run_id = '{parent_id}'", client) if parent_id else []  # none if it was deleted
        ended = ("FINISHED", "KILLED")
        return any(run.data.tags.get("home") == self.home_id and run.info.status in ended for run in found)

    def close_lost(self, parent_id: str, cache_key: str | None = None, waiting: bool = True) -> None:
        """Mark as KILLED what still is RUNNING of a parent's trials, or of one: their workers are known to be gone.

        Where it is not `waiting` for a store that is away, the next command closes what cannot be closed now.
        """
        client = self.client if waiting else self.client.at_once
        of_parent = f"attributes.status = 'RUNNING' AND tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'"
        with nullcontext() if waiting else suppress(*retry.TROUBLES):
            for run in self.runs(of_parent, client):
                if cache_key in (None, run.data.tags.get("fingerprint")):
                    self._kill(run.info.run_id, client)

    def _kill(self, run_id: str, client: Any) -> None:
        if client.get_run(run_id).info.status == "RUNNING":  # it may have ended since it was listed
            client.set_terminated(run_id, "KILLED")

    def _is_silent(self, run: Run) -> bool:
        """Whether a run gave no sign of life for longer than its process would wait for the store."""
        since, its_patience = (run.data.tags.get(name, "") for name in ("alive_at", "patience"))
        wait = int(its_patience) if its_patience.isdecimal() else self.client.patience
        return not since.isdecimal() or time.time() - int(since) >= wait + 2 * SIGN_SECONDS


def _of_trial(cache_key: str) -> Path:
    """Where in a home the lock of whoever trains that trial is."""
    return Path("trials", cache_key, "lock")


def _of_parent(run_id: str) -> Path:
    """Where in a home the lock of the command whose run that is is."""
    return Path("parents", f"{run_id}.lock")
