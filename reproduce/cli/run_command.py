"""One command from its options to its runs: where it trains, on what, under which parent, and what it says of that.

What takes seconds to import is imported where it is needed: a wish that cannot be met ends before.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce import paths
from reproduce.cli.option_types import RAY_ADDRESS
from reproduce.cli.request import Request
from reproduce.errors import TrackingError, TrialsFailedError, UserError, shown
from reproduce.execution.run_options import RunOptions
from reproduce.progress import say, say_if_slow
from reproduce.study.config import StudyConfig
from reproduce.study.rate_checks import check_rates, list_without_effect
from reproduce.study.schema import load_paper
from reproduce.study.trial import Engine, Trial
from reproduce.training import distributed

if TYPE_CHECKING:
    from reproduce.execution.runner import Executor
    from reproduce.execution.worker import TrialOutcome
    from reproduce.tracking.store import TrackingStore

RAY_VARIABLE, VISIBLE = "RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"


Plan = Callable[[StudyConfig], list[Trial]]
Prepare = Callable[["TrackingStore"], "tuple[Engine, Executor]"]


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
        request: what was typed.
        plan: makes the trials of a configuration.
        conclude: what follows once all are trained, by the store, the parent run's id and the configuration.
        plan_more: makes further trials of what the first have recorded.
    """
    config, options, paper = request.config, request.options, load_paper()
    planned = plan(config)
    # Proposed rates are not known yet.
    if not config.proposed_rates:
        check_rates(config, planned)
    data_dir = options.data_dir or paths.default_data_dir()
    _check_ranks(options, planned)
    if distributed.follows():
        with _no_gpu_seen_for(options.device):
            return _follow(options, data_dir)
    for line in _list_unused(options):
        say(line)
    with (_on_ray if options.executor == "ray" else _here)(options, data_dir) as (device, prepare):
        if config.optimizer == "hybridadam":
            from reproduce.training import optimizers

            optimizers.check_device(config.optimizer, device)
        store = open_store(request.command)
        store.check_artifacts()
        from reproduce.cli.proposals import with_proposed_rates

        config = with_proposed_rates(store, paper, config)
        planned = plan(config)
        check_rates(config, planned)
        for line in list_without_effect(config, planned):
            say(line)
        engine, executor = prepare(store)
        config = config.model_copy(update={"engine": engine})
        store.heartbeat.end_stale_runs()
        from reproduce.tracking.parent_run import log_outcomes, open_parent_run

        with open_parent_run(store, request.command, request.texts, options.executor == "ray") as parent_id:
            store.writer.log_dataset(parent_id, options.dataset)
            try:
                done = _train(plan(config), store, parent_id, executor, options)
                if plan_more is not None:
                    done += _train(plan_more(store, config), store, parent_id, executor, options)
            except BaseException:
                # The workers of these trials were ended in the middle. What stays open, the next command ends.
                with suppress(TrackingError):
                    store.heartbeat.no_wait.end_stale_runs()
                raise
            store.heartbeat.end_stale_runs()
            log_outcomes(store, parent_id, [(outcome.trial, outcome.run_id, outcome.how) for outcome in done])
            counts = Counter(outcome.how for outcome in done)
            say(", ".join(f"{counts[how]} {how}" for how in ("trained", "resumed", "reused", "failed") if counts[how]))
            if conclude is not None:
                conclude(store, parent_id, config)
            failed = [outcome.trial.label for outcome in done if outcome.how == "failed"]
            if failed:
                raise TrialsFailedError(f"{len(failed)} of {len(done)} trials failed: {', '.join(failed)}")
    return 0


def _train(
    trials: list[Trial], store: TrackingStore, parent_id: str, executor: Executor, options: RunOptions
) -> list[TrialOutcome]:
    """Train the trials and return what became of them.

    Args:
        trials: what is to be trained.
        store: where it is recorded.
        parent_id: the command's own run.
        executor: what trains.
        options: whether finished trials are trained again, and how a range test's curve is smoothed.
    """
    from reproduce.execution import runner
    from reproduce.report import trial_artifacts

    artifacts = functools.partial(trial_artifacts.leave_behind, smoothing=options.smoothing)
    return runner.run(trials, store, parent_id, ground=executor, force=options.force, artifacts=artifacts)


@contextmanager
def _here(options: RunOptions, data_dir: Path | None) -> Iterator[tuple[str, Prepare]]:
    """The kind of device of this machine, and what prepares it, as `_on_ray` does its nodes."""
    at_once = jobs(options.jobs)
    with ExitStack() as until_the_end:
        until_the_end.enter_context(_no_gpu_seen_for(options.device))
        device, devices = _device(options.device)

        def prepare(store: TrackingStore) -> tuple[Engine, Executor]:
            from reproduce.data import verified_cache
            from reproduce.execution import local
            from reproduce.training import engines

            with say_if_slow("having the kernel of engine fused compiled, once for this machine, for up to 120 s"):
                engine, kernel = engines.resolve(options.engine, device, home(), say)
            verified_cache.prepare(options.dataset, home(), data_dir, say)
            if distributed.size():
                until_the_end.enter_context(
                    distributed.leading(_numerics_environment(options.dataset, device, engine, kernel))
                )
            return engine, local.Pool(at_once, device, devices, kernel)

        yield device, prepare


def _check_ranks(options: RunOptions, planned: list[Trial]) -> None:
    """UserError where several ranks cannot train these trials together."""
    distributed.check(planned)
    if distributed.size() and options.executor == "ray":
        raise UserError(
            "--executor ray cannot be started by torchrun or colossalai run: leave out the one, to train each trial "
            "over several ranks, or the other, to train several trials at once"
        )


def _follow(options: RunOptions, data_dir: Path | None) -> int:
    """What a rank other than 0 does: it gets ready, and trains what rank 0 says."""
    from reproduce.data import verified_cache
    from reproduce.training import engines

    def unsaid(line: str) -> None:
        """Rank 0 says it."""

    try:
        (device, _), place = _device(options.device), paths.prepare_home(home())
        engine, kernel = engines.resolve(options.engine, device, place, unsaid)
        verified_cache.prepare(options.dataset, place, data_dir, unsaid)
        distributed.follow(place, kernel, lambda: _numerics_environment(options.dataset, device, engine, kernel))
    except UserError as error:
        raise UserError(distributed.own(str(error))) from error
    except RuntimeError as error:
        if not distributed.is_parting(error):
            raise
        return 1  # as rank 0, which says why
    return 0


def _numerics_environment(dataset: str, device: str, engine: str, kernel: Path | None) -> dict[str, str]:
    from reproduce.data import datasets
    from reproduce.training import engines, provenance

    return provenance.numerics_environment(
        datasets.data_sha256(dataset), device, engines.digest(engine, kernel), split=True
    )


@contextmanager
def _on_ray(options: RunOptions, data_dir: Path | None) -> Iterator[tuple[str, Prepare]]:
    """The kind of device of a Ray cluster's nodes, and what prepares them; the cluster is let go of at the end."""
    address = ray_address(options.ray_address)
    from reproduce.execution.ray import session

    with session.connect(address) as (ray, head), ExitStack() as until_the_end:
        from reproduce.execution.ray import cluster, node
        from reproduce.execution.ray.nodes import Nodes

        nodes = Nodes(ray, head)
        device = nodes.device(options.device)
        if device == "cpu" and options.gpus_per_trial != 1:
            say(f"--gpus-per-trial {options.gpus_per_trial:g} has no effect, as trials run on CPUs")

        def prepare(store: TrackingStore) -> tuple[Engine, Executor]:
            wanted = node.Wanted(home(), options.dataset, options.data_dir, options.engine, device)
            command, ready = until_the_end.enter_context(nodes.ready(store, wanted))
            return ready.engine, cluster.Cluster(nodes, store, command, ready, options.jobs, options.gpus_per_trial)

        yield device, prepare


def _list_unused(options: RunOptions) -> list[str]:
    """The options that only another executor would heed, one phrase each."""
    if options.executor == "ray":
        return []
    typed = {"--ray-address": options.ray_address is not None, "--gpus-per-trial": options.gpus_per_trial != 1}
    return [f"{name} has no effect without --executor ray" for name, is_typed in typed.items() if is_typed]


def ray_address(wanted: str | None) -> str | None:
    """The address of the option, else of Ray's own variable; None where Ray is to be looked for on this machine."""
    named = os.environ.get(RAY_VARIABLE)
    if wanted is not None or not named:
        return wanted
    try:
        return None if named == RAY_ADDRESS.word else RAY_ADDRESS.parse(named)
    except ValueError as error:
        why = f", {error}" if str(error) else ""
        raise UserError(
            f"{RAY_VARIABLE} is {shown(named)}{why}; expected {RAY_ADDRESS.expected}: correct or unset it"
        ) from error


def home() -> Path:
    """Where caches and checkpoints are kept."""
    named = os.environ.get(paths.HOME) or ".reproduce"
    try:
        return Path(named).resolve()
    except (OSError, RuntimeError) as error:  # links that lead to each other
        raise UserError(f"{paths.HOME} is {shown(named)}, which leads nowhere: name a directory") from error


def open_store(command: str) -> TrackingStore:
    """The tracking store, for that command to record in. It takes seconds to import."""
    place = paths.prepare_home(home())
    from reproduce.tracking import store

    return store.open_store(place, command=command, trains=command not in ("report", "verify"))


def jobs(wanted: int | None) -> int:
    """How many trials to train at once."""
    from reproduce.training import provenance

    cores = provenance.cores()
    if distributed.size():
        if wanted is not None:
            say(
                f"--jobs {wanted} has no effect: {distributed.size()} ranks train the trials together, "
                "one after another"
            )
        return 1
    if wanted is not None and wanted > cores:
        say(f"--jobs {wanted}: there are {cores} cores, so that trials take turns and none ends sooner for it")
    return wanted or cores


@contextmanager
def _no_gpu_seen_for(wanted: str) -> Iterator[None]:
    """Where the CPU is wanted, hide the GPUs from this process and its workers: Colossal-AI takes one that it sees."""
    before = os.environ.get(VISIBLE)
    if wanted == "cpu":
        os.environ[VISIBLE] = ""
    try:
        yield
    finally:
        if before is not None:
            os.environ[VISIBLE] = before
        elif wanted == "cpu":
            del os.environ[VISIBLE]


def _device(wanted: str) -> tuple[str, int]:
    """The kind of device to compute on and how many of them there are."""
    if wanted == "cpu":
        return "cpu", 1
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.cuda.device_count()
    if wanted == "cuda":
        raise UserError("--device cuda: no CUDA device is to be seen here; leave --device out to compute on the CPU")
    return "cpu", 1
