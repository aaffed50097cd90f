"""The run of a command, parent of its trials' runs: opened, described, and closed as the command ends."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow.entities import Param
from mlflow.utils.mlflow_tags import MLFLOW_GIT_BRANCH, MLFLOW_GIT_COMMIT, MLFLOW_GIT_REPO_URL, MLFLOW_RUN_NOTE

from reproduce.errors import StoreAwayError, TrackingError, UserError
from reproduce.progress import say
from reproduce.study.trial import Trial
from reproduce.tracking.locks import parent_lock
from reproduce.tracking.mlflow_variables import RUN
from reproduce.tracking.remedies import suggest_for_store
from reproduce.tracking.retrying_client import RetryingClient
from reproduce.tracking.store import TrackingStore
from reproduce.tracking.ui_views import make_note, write_views
from reproduce.tracking.writer import provenance_tags
from reproduce.training import checkout, provenance

NOTE_LINES = 50


@contextmanager
def open_parent_run(
    store: TrackingStore, command: str, parameters: Mapping[str, object], announce_outage: bool = False
) -> Iterator[str]:
    """Open the run of this command, yield its id, and close the run.

    It is the run that `mlflow run` made for the command, else a new one. It is closed as FINISHED, as FAILED after an
    error, or as KILLED after an interruption.

    Args:
        store: where to record the run.
        command: the command's name, which is also the name of a new run.
        parameters: the command's options.
        announce_outage: `Heartbeat.record_heartbeat`'s.
    """
    client = store.client
    run_id = os.environ.get(RUN)
    if run_id:
        client.call(client.mlflow.update_run, run_id, status="RUNNING")
    else:
        try:
            run_id = store.writer.create_run({"kind": "parent"}, command)
        except StoreAwayError:
            raise
        except TrackingError as error:
            # No work has begun: the user can correct a store that is read-only.
            raise UserError(f"{error}: {suggest_for_store(store.shown_uri, error)}") from error
    lock = parent_lock(store.home, run_id)
    with lock, store.heartbeat.record_heartbeat(run_id, announce_outage):
        try:
            # `mlflow run` logs parameters too, in its own spelling.
            known = client.call(client.mlflow.get_run, run_id).data
            new = [Param(key, str(value)) for key, value in parameters.items() if key not in known.params]
            client.call(client.mlflow.log_batch, run_id, params=new)
            client.set_tags(run_id, {"kind": "parent"} | provenance_tags())
            _correct_source(client, run_id, known.tags)
            write_views(client, store.experiment_id)
            if MLFLOW_RUN_NOTE not in known.tags:
                client.set_tags(run_id, {MLFLOW_RUN_NOTE: make_note(store.experiment_id)})
            yield run_id
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
            # What cannot be closed now, the next command closes.
            with suppress(TrackingError, OSError):
                _close(client.no_wait, run_id, status, lock.lock_file)
            raise
        _close(client, run_id, "FINISHED", lock.lock_file)


def _close(client: RetryingClient, run_id: str, status: str, lock_file: str) -> None:
    client.call(client.mlflow.set_terminated, run_id, status)
    Path(lock_file).unlink(missing_ok=True)


def _correct_source(client: RetryingClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Say why the source is not known, and delete what `mlflow run` took for it: any repository around."""
    source = provenance.source()
    if source.trouble:
        say(f"{source.trouble}: the unknown parts of the source's commit and changes are recorded as unknown")
    if source.commit == checkout.UNKNOWN:
        for name in {MLFLOW_GIT_COMMIT, MLFLOW_GIT_BRANCH, MLFLOW_GIT_REPO_URL} & tags.keys():
            client.call(client.mlflow.delete_tag, run_id, name)


def log_outcomes(store: TrackingStore, run_id: str, outcomes: Iterable[tuple[Trial, str, str]]) -> None:
    """Log what became of each trial, (trial, run id, state), as the UI's note and as a file."""
    client = store.client
    rows = [{"trial": trial.label, "run_id": trial_id, "how": state} for trial, trial_id, state in outcomes]
    counts = {state: str(sum(row["how"] == state for row in rows)) for state in ("trained", "resumed", "reused")}
    lines = [f"- {row['trial']}: {row['how']}, run `{row['run_id']}`" for row in rows[:NOTE_LINES]]
    note = "\n".join([make_note(store.experiment_id), "", *lines])
    write_views(client, store.experiment_id)
    client.set_tags(run_id, {f"trials_{state}": n for state, n in counts.items()} | {MLFLOW_RUN_NOTE: note})
    client.call(client.mlflow.log_text, run_id, json.dumps(rows, indent=2), "trials.json")
