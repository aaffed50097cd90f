"""One command from its request to its runs: where it trains, under which parent run, and what it says of that.

What takes seconds to import is imported where it is needed: a request that cannot be met ends before.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from reproduce import paths
from reproduce.cli.option_types import RAY_ADDRESS
from reproduce.cli.proposals import with_proposed_rates
from reproduce.cli.request import Request
from reproduce.errors import TrackingError, TrialsFailedError, UserError, shown
from reproduce.execution import open_executor
from reproduce.execution.run_options import RunOptions
from reproduce.progress import say
from reproduce.study.config import StudyConfig
from reproduce.study.loading import find_faults
from reproduce.study.rate_checks import check_rates, list_without_effect
from reproduce.study.schema import Paper
from reproduce.study.trial import Trial
from reproduce.training import distributed, launcher

if TYPE_CHECKING:
    from reproduce.execution.executor import Executor, TrialOutcome
    from reproduce.tracking.store import TrackingStore

RAY_VARIABLE = "RAY_ADDRESS"

Plan = Callable[[StudyConfig], list[Trial]]


def run(
    request: Request,
    plan: Plan,
    conclude: Callable[[TrackingStore, str, StudyConfig], None] | None = None,
    plan_more: Callable[[TrackingStore, StudyConfig], list[Trial]] | None = None,
) -> int:
    """Train the trials of a plan under one parent run, and return the exit code.

    UserError before anything that takes seconds where the request cannot be met; TrialsFailedError at the end where a
    trial failed.

    Args:
        request: What was typed.
        plan: Makes the trials of a configuration.
        conclude: What follows once all are trained, by the store, the parent run's id and the configuration.
        plan_more: Makes further trials of what the first have recorded.
    """
    config, paper, options = request.config, request.paper, _with_environment(request.options)
    planned = plan(config)
    # Proposed rates are not known yet.
    if not config.proposed_rates:
        check_rates(config, planned)
    _check_ranks(options, planned)
    if not launcher.is_main_process():
        return _train_as_other_rank(options)
    for line in _list_unused(options):
        say(line)
    with open_executor(options) as executor:
        if config.optimizer == "hybridadam":
            from reproduce.training import optimizers

            optimizers.check_device(config.optimizer, executor.device)
        store = open_store(request)
        store.check_artifacts()
        config = with_proposed_rates(store, paper, config)
        planned = plan(config)
        check_rates(config, planned)
        for line in list_without_effect(config, planned):
            say(line)
        with executor.prepare(store) as engine:
            config = config.model_copy(update={"engine": engine})
            _try_own_code(paper, options)
            store.heartbeat.end_stale_runs()
            from reproduce.tracking.parent_run import open_parent_run

            with open_parent_run(store, request.command, request.texts, options.executor == "ray") as parent_id:
                store.writer.log_dataset(parent_id, options.dataset, options.data_sha256)
                train = functools.partial(_train, store, parent_id, executor, options)
                try:
                    outcomes = train(plan(config))
                    if plan_more is not None:
                        outcomes += train(plan_more(store, config))
                except BaseException:
                    # The workers of these trials were ended in the middle. What stays open, the next command ends.
                    with suppress(TrackingError):
                        store.heartbeat.no_wait.end_stale_runs()
                    raise
                store.heartbeat.end_stale_runs()
                _record_outcomes(store, parent_id, outcomes)
                if conclude is not None:
                    conclude(store, parent_id, config)
                failed = [outcome.trial.label for outcome in outcomes if outcome.state == "failed"]
                if failed:
                    raise TrialsFailedError(f"{len(failed)} of {len(outcomes)} trials failed: {', '.join(failed)}")
    say_where_to_compare(store, options, [outcome.run_id for outcome in outcomes if outcome.run_id])
    return 0


def _try_own_code(paper: Paper, options: RunOptions) -> None:
    """Raise UserError where one batch shows that a study's own Python cannot be trained with."""
    if paper.code.files:
        from reproduce.training import trial_run

        _, faults = find_faults(paper.named, lambda paper: trial_run.find_faults(paper, options.home))
        if faults:
            raise UserError(faults[0])


def _train(
    store: TrackingStore, parent_id: str, executor: Executor, options: RunOptions, trials: list[Trial]
) -> list[TrialOutcome]:
    from reproduce.execution import runner
    from reproduce.report import trial_artifacts

    draw_artifacts = functools.partial(trial_artifacts.write_artifacts, smoothing=options.smoothing)
    return runner.run(
        trials, store, parent_id, executor=executor, force=options.force, draw_artifacts=draw_artifacts,
        code=options.code,
    )  # fmt: skip


def _record_outcomes(store: TrackingStore, parent_id: str, outcomes: list[TrialOutcome]) -> None:
    """Record and say what became of the trials of a command."""
    from reproduce.tracking.parent_run import log_outcomes

    log_outcomes(store, parent_id, [(outcome.trial, outcome.run_id, outcome.state) for outcome in outcomes])
    counts = Counter(outcome.state for outcome in outcomes)
    say(", ".join(f"{counts[state]} {state}" for state in ("trained", "resumed", "reused", "failed") if counts[state]))


def say_where_to_compare(store: TrackingStore, options: RunOptions, run_ids: Sequence[str]) -> None:
    """Say where MLflow's UI shows these runs charted. They may have been recorded in another command's experiment."""
    from reproduce.tracking.ui_views import where_to_compare

    newest = run_ids[-1] if run_ids else None
    if what := where_to_compare(store.client, store.experiment_id, options.ui_url, newest):
        click.echo(f"to compare the runs, {what}")


def _with_environment(options: RunOptions) -> RunOptions:
    """Return the options with what the environment says where nothing was typed. UserError where that is wrong."""
    # The nodes of a cluster each have their own place for the images.
    if options.executor == "ray":
        return options.model_copy(update={"ray_address": ray_address(options.ray_address)})
    return options.model_copy(update={"data_dir": options.data_dir or paths.default_data_dir()})


def _check_ranks(options: RunOptions, planned: list[Trial]) -> None:
    """Raise UserError where several ranks cannot train these trials together."""
    distributed.check_batches(planned)
    if launcher.world_size() and options.executor == "ray":
        raise UserError(
            "--executor ray cannot be started by torchrun or colossalai run: leave out --executor ray, to train each "
            "trial over several ranks, or the launcher, to train several trials at once"
        )


def _train_as_other_rank(options: RunOptions) -> int:
    """Prepare this rank, which is not the main one, and train what the main one says. Return the exit code."""
    from reproduce.data import study_data
    from reproduce.execution import local

    def ignore(line: str) -> None:
        """Print nothing, as rank 0 prints it."""

    try:
        device, _ = local.choose_devices(options.device)
        home = paths.prepare_home(options.home)
        engine, kernel = local.prepare_machine(options.model_copy(update={"device": device}), ignore)
        data = study_data.sha256(options.dataset, options.data_sha256)
        distributed.train_broadcast_trials(
            home, kernel, options.code,
            lambda: local.numerics_environment(data, device, engine, kernel, options.packages),
        )  # fmt: skip
    except UserError as error:
        raise UserError(launcher.with_rank(str(error))) from error
    except RuntimeError as error:
        if not distributed.is_peer_lost(error):
            raise
        # Rank 0 has the same exit code, and says why.
        return 1
    return 0


def _list_unused(options: RunOptions) -> list[str]:
    """List the options that only another executor uses, one phrase each."""
    if options.executor == "ray":
        return []
    typed = {"--ray-address": options.ray_address is not None, "--gpus-per-trial": options.gpus_per_trial != 1}
    return [f"{name} has no effect without --executor ray" for name, is_typed in typed.items() if is_typed]


def ray_address(typed: str | None) -> str | None:
    """Return the address that was typed, else that of Ray's own variable; None for the cluster of this machine."""
    named = os.environ.get(RAY_VARIABLE)
    if typed is not None or not named:
        return typed
    try:
        return None if named == RAY_ADDRESS.word else RAY_ADDRESS.parse(named)
    except ValueError as error:
        why = f", {error}" if str(error) else ""
        raise UserError(
            f"{RAY_VARIABLE} is {shown(named)}{why}; expected {RAY_ADDRESS.expected}: correct or unset it"
        ) from error


def open_store(request: Request) -> TrackingStore:
    """Open the tracking store for that command. It takes seconds to import."""
    home = paths.prepare_home(request.options.home)
    from reproduce.tracking import store

    trains = request.command not in ("report", "verify")
    return store.open_store(home, command=request.command, trains=trains, experiment=request.paper.slug)
