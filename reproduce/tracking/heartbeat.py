"""Heartbeats of runs, and the end of the runs whose process is gone.

A lock shows whether a process of this home is alive (`locks`). For the processes of another home, on another machine
for instance, a tag shows it: a run renews it every minute.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from reproduce.errors import StoreAwayError, TrackingError
from reproduce.progress import say
from reproduce.tracking.locks import parent_lock, trial_lock
from reproduce.tracking.reader import search_trial_runs
from reproduce.tracking.retrying_client import RetryingClient, retry_timeout

HEARTBEAT_SECONDS = 60


class Heartbeat:
    """The heartbeats of this home's runs, and what heartbeats say of the runs of other homes.

    `home` has the locks, and `home_id` identifies it among all homes.
    """

    def __init__(self, client: RetryingClient, home: Path, home_id: str) -> None:
        self.client, self.home, self.home_id = client, home, home_id

    @property
    def no_wait(self) -> "Heartbeat":
        """The same without waiting for a store that is away: what cannot be ended now, the next command ends."""
        return Heartbeat(self.client.no_wait, self.home, self.home_id)

    def tags(self) -> dict[str, str]:
        """Return the tags of a heartbeat now. `patience` is for how many seconds the process waits for the store."""
        return {"home": self.home_id, "alive_at": str(int(time.time())), "patience": f"{self.client.timeout:.0f}"}

    @contextmanager
    def record_heartbeat(self, run_id: str, announce_outage: bool = False) -> Iterator[None]:
        """Record a heartbeat of the run every minute, from another thread, while the block lasts.

        `announce_outage` also tells the user that the store is away, where its trials' processes cannot tell.
        """
        ended = threading.Event()
        self.client.set_tags(run_id, self.tags())
        arguments = (run_id, ended, announce_outage)
        threading.Thread(target=self._repeat_heartbeat, args=arguments, name="heartbeat", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _repeat_heartbeat(self, run_id: str, ended: threading.Event, announce_outage: bool) -> None:
        is_away = False
        while not ended.wait(HEARTBEAT_SECONDS):
            try:
                self.client.no_wait.set_tags(run_id, self.tags())
            except StoreAwayError as error:
                # The next heartbeat will do.
                if announce_outage and not is_away:
                    say(f"{error}; the trials wait for it, each for up to {self.client.timeout:g} s")
                is_away = True
            except TrackingError:
                # A store that refuses tells the trials themselves.
                continue
            else:
                if announce_outage and is_away:
                    say(f"the tracking store {self.client.shown_uri} is back")
                is_away = False

    def find_running_elsewhere(self, cache_key: str) -> Run | None:
        """Return the run of that trial that a process of another home trains now."""
        return next((run for run in search_trial_runs(self.client, cache_key) if self.is_running_elsewhere(run)), None)

    def is_running_elsewhere(self, run: Run) -> bool:
        """Return whether a process of another home works for that run."""
        of_another_home = run.data.tags.get("home", self.home_id) != self.home_id
        return run.info.status == "RUNNING" and of_another_home and not self.is_stale(run)

    def is_stale(self, run: Run) -> bool:
        """Return whether the last heartbeat is older than the time for which the run's process waits for the store."""
        last, timeout = (run.data.tags.get(name, "") for name in ("alive_at", "patience"))
        wait = int(timeout) if timeout.isdecimal() else retry_timeout()
        return not last.isdecimal() or time.time() - int(last) >= wait + 2 * HEARTBEAT_SECONDS

    def end_stale_runs(self) -> None:
        """Mark as KILLED the runs whose process is gone.

        Of this home, these are the runs whose lock nobody holds. Of other homes, they are the runs that are stale, and
        the trials of a parent of this home that has ended: a cluster's workers end with their command.
        """
        running = self.client.search_runs("attributes.status = 'RUNNING'")
        # Parents first, as their trials may have ended with them.
        for run in sorted(running, key=lambda run: "fingerprint" in run.data.tags):
            # Without this tag it is a run of another program.
            if "home" in run.data.tags:
                self._end_if_stale(run)

    def _end_if_stale(self, run: Run) -> None:
        run_id, cache_key = run.info.run_id, run.data.tags.get("fingerprint")
        lock = trial_lock(self.home, cache_key) if cache_key else parent_lock(self.home, run_id)
        file = Path(lock.lock_file)
        if run.data.tags["home"] != self.home_id or not file.exists():
            if self.is_stale(run) or self._has_parent_ended(run):
                self._end_run(run_id)
            return
        # A lock that is held raises Timeout: that process is alive.
        with suppress(Timeout), lock.acquire(blocking=False):
            self._end_run(run_id)
            if not cache_key:
                file.unlink(missing_ok=True)

    def _has_parent_ended(self, run: Run) -> bool:
        """Return whether the run's parent is a command of this home that ended, and its workers with it.

        A command that failed may have lost its cluster, whose workers then continue.
        """
        parent_id = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
        found = self.client.search_runs(f"attributes.run_id = '{parent_id}'") if parent_id else []
        ended = ("FINISHED", "KILLED")
        return any(run.data.tags.get("home") == self.home_id and run.info.status in ended for run in found)

    def end_lost_trials(self, parent_id: str, cache_key: str | None = None) -> None:
        """Mark as KILLED the running trials of a parent, or the one with that cache key: their workers are gone."""
        condition = f"attributes.status = 'RUNNING' AND tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'"
        for run in self.client.search_runs(condition):
            if cache_key in (None, run.data.tags.get("fingerprint")):
                self._end_run(run.info.run_id)

    def _end_run(self, run_id: str) -> None:
        # The run may have ended since it was listed.
        if self.client.call(self.client.mlflow.get_run, run_id).info.status == "RUNNING":
            self.client.call(self.client.mlflow.set_terminated, run_id, "KILLED")
