"""Have the trials of a command finished, by this command or by another.

Finished trials are reused, interrupted ones are resumed, and those that another command trains are waited for.
"""

from contextlib import closing
from dataclasses import replace

from reproduce import progress
from reproduce.execution.executor import DrawArtifacts, Executor, TrialOutcome, TrialTask
from reproduce.execution.worker import remove_leftovers
from reproduce.study.own_code import NO_CODE, OwnCode
from reproduce.study.trial import Trial
from reproduce.tracking.store import TrackingStore


def run(
    trials: list[Trial],
    store: TrackingStore,
    parent_id: str,
    *,
    executor: Executor,
    force: bool,
    draw_artifacts: DrawArtifacts,
    code: OwnCode = NO_CODE,
) -> list[TrialOutcome]:
    """Have every trial finished. A trial that fails is returned as failed and stops no other.

    Args:
        trials: what to train.
        store: where the trials are recorded.
        parent_id: the command's run, of which the trials' runs are children.
        executor: who trains them; it is prepared.
        force: whether to train finished trials again.
        draw_artifacts: draws what a trial's record is to show.
        code: the study's own Python.

    Returns:
        What became of each trial, in the order of `trials`.
    """
    tasks = []
    for index, trial in enumerate(trials):
        cache_key = trial.cache_key(executor.numerics_environment(trial))
        tasks.append(
            TrialTask(
                trial, cache_key, store.home, store.uri, store.experiment_id, parent_id, executor.place(index),
                draw_artifacts, reuse=not force, code=code,
            )
        )  # fmt: skip
    done = {} if force else _reuse_finished(tasks, store, parent_id)
    if done:
        progress.say(f"{len(done)} of {len(trials)} trials are finished and reused")
    remaining = [task for task in tasks if task.trial not in done]
    if remaining:
        _train(remaining, executor, done)
    return [done[trial] for trial in trials]


def _reuse_finished(tasks: list[TrialTask], store: TrackingStore, parent_id: str) -> dict[Trial, TrialOutcome]:
    finished, reused = store.reader.find_finished_runs([task.cache_key for task in tasks]), {}
    for task in tasks:
        if run := finished.get(task.cache_key):
            store.writer.mark_reused(run, parent_id)
            remove_leftovers(task, store)
            reused[task.trial] = TrialOutcome(task.trial, run.info.run_id, "reused")
    return reused


def _train(tasks: list[TrialTask], executor: Executor, done: dict[Trial, TrialOutcome]) -> None:
    """Train the trials and add their outcomes to `done`; those that another command trains once that has ended."""

    def epochs_done() -> int:
        return sum(task.trial.epochs if task.trial in done else executor.epochs_done(task) for task in tasks)

    def train(remaining: list[TrialTask]) -> list[TrialOutcome]:
        busy = []
        with closing(executor.run(remaining)) as outcomes:
            for outcome in outcomes:
                if outcome.state == "busy":
                    busy.append(outcome)
                else:
                    done[outcome.trial] = outcome
                    progress.say(str(outcome))
        return busy

    with progress.show_progress(sum(task.trial.epochs for task in tasks), epochs_done):
        if busy := train(tasks):
            holders = ", ".join(sorted({outcome.note for outcome in busy}))
            progress.say(f"another command is training {len(busy)} of these trials ({holders}); waiting for it")
            train([replace(task, wait=True) for task in tasks if task.trial not in done])
