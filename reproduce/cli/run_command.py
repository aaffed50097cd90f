"""One command from its options to its runs: where it trains, on what, under which parent, and what it says of that.

What takes seconds to import is imported where it is needed: a wish that cannot be met ends before.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from reproduce import paths
from reproduce.cli.options import AUTO, PROPOSED, RAY_ADDRESS, SCHEDULE_PARAMETERS, WITHOUT_EFFECT
from reproduce.errors import TrackingError, TrialsFailedError, UserError, shown
from reproduce.progress import say, say_if_slow
from reproduce.study import planning, rate_checks
from reproduce.study.config import StudyConfig, option_words
from reproduce.study.departures import may_be_of_grid
from reproduce.study.schema import Paper, load_paper
from reproduce.study.trial import Trial, format_rate
from reproduce.training import distributed

RAY_VARIABLE, VISIBLE = "RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"


def run(
    command: str,
    given: dict[str, Any],
    config: StudyConfig,
    plan: Callable[[StudyConfig], list[Trial]],
    then: Callable[[Any, str, StudyConfig], None] | None = None,
    beside: Callable[[Any, StudyConfig], list[Trial]] | None = None,
) -> int:
    """Have the plan's trials finished under one parent run, then do what follows; the exit code.

    `beside` plans further trials by what the first have recorded.
    """
    planned = plan(config)  # a wish that cannot be met ends here, before anything that takes seconds
    if given.get("learning_rates") != PROPOSED:  # proposed rates are not known yet
        rate_checks.check_rates(config, planned)
    data_dir = given["data_dir"] or paths.default_data_dir()
    _check_ranks(given, planned)
    if distributed.follows():
        with _no_gpu_seen_for(given["device"]):
            return _follow(given, data_dir)
    for what in _idle(given):
        say(what)
    with (_on_ray if given["executor"] == "ray" else _here)(given, data_dir) as (device, prepare):
        if given["optimizer"] == "hybridadam":
            from reproduce.training import optimizers

            optimizers.check_device(given["optimizer"], device)
        store, paper = open_store(command), load_paper()
        store.check_artifacts()
        if "learning_rates" in given:
            config = at_proposed_rates(given, store, paper, config)
            planned = plan(config)
            rate_checks.check_rates(config, planned)
        for what in rate_checks.list_without_effect(config, planned):
            say(what)
        engine, ground = prepare(store)
        config = config.model_copy(update={"engine": engine})
        store.heartbeat.end_stale_runs()
        from reproduce.execution import runner
        from reproduce.report import trial_artifacts
        from reproduce.tracking.parent_run import log_outcomes, open_parent_run

        how = functools.partial(
            runner.run,
            ground=ground,
            force=given["force"],
            artifacts=functools.partial(trial_artifacts.leave_behind, smoothing=smoothing_of(given, paper)),
        )
        with open_parent_run(store, command, texts(given), given["executor"] == "ray") as parent_id:
            store.writer.log_dataset(parent_id, given["dataset"])
            try:
                done = how(plan(config), store, parent_id)
                if beside is not None:
                    done += how(beside(store, config), store, parent_id)
            except BaseException:
                # The workers of these trials were ended in the middle. What stays open, the next command ends.
                with suppress(TrackingError):
                    store.heartbeat.no_wait.end_stale_runs()
                raise
            store.heartbeat.end_stale_runs()
            log_outcomes(store, parent_id, [(item.trial, item.run_id, item.how) for item in done])
            counts = {how: sum(item.how == how for item in done) for how in ("trained", "resumed", "reused", "failed")}
            say(", ".join(f"{count} {how}" for how, count in counts.items() if count))
            if then is not None:
                then(store, parent_id, config)
            failed = [item.trial.label for item in done if item.how == "failed"]
            if failed:
                raise TrialsFailedError(f"{len(failed)} of {len(done)} trials failed: {', '.join(failed)}")
    return 0


@contextmanager
def _here(given: dict[str, Any], data_dir: Path | None) -> Iterator[tuple[str, Callable]]:
    """The kind of device of this machine, and what prepares it, as `_on_ray` does its nodes."""
    at_once = jobs(given["jobs"])
    with ExitStack() as until_the_end:
        until_the_end.enter_context(_no_gpu_seen_for(given["device"]))
        device, devices = _device(given["device"])

        def prepare(store: Any) -> tuple[str, Any]:
            from reproduce.data import verified_cache
            from reproduce.execution import local
            from reproduce.training import engines

            with say_if_slow("having the kernel of engine fused compiled, once for this machine, for up to 120 s"):
                engine, kernel = engines.resolve(given["engine"], device, home(), say)
            verified_cache.prepare(given["dataset"], home(), data_dir, say)
            if distributed.size():
                until_the_end.enter_context(
                    distributed.leading(_numerics_environment(given["dataset"], device, engine, kernel))
                )
            return engine, local.Pool(at_once, device, devices, kernel)

        yield device, prepare


def _check_ranks(given: dict[str, Any], planned: list[Trial]) -> None:
    """UserError where several ranks cannot train these trials together."""
    distributed.check(planned)
    if distributed.size() and given["executor"] == "ray":
        raise UserError(
            "--executor ray cannot be started by torchrun or colossalai run: leave out the one, to train each trial "
            "over several ranks, or the other, to train several trials at once"
        )


def _follow(given: dict[str, Any], data_dir: Path | None) -> int:
    """What a rank other than 0 does: it gets ready, and trains what rank 0 says."""
    from reproduce.data import verified_cache
    from reproduce.training import engines

    def unsaid(line: str) -> None:
        """Rank 0 says it."""

    try:
        (device, _), place = _device(given["device"]), paths.prepare_home(home())
        engine, kernel = engines.resolve(given["engine"], device, place, unsaid)
        verified_cache.prepare(given["dataset"], place, data_dir, unsaid)
        distributed.follow(place, kernel, lambda: _numerics_environment(given["dataset"], device, engine, kernel))
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
def _on_ray(given: dict[str, Any], data_dir: Path | None) -> Iterator[tuple[str, Callable]]:
    """The kind of device of a Ray cluster's nodes, and what prepares them; the cluster is let go of at the end."""
    address = ray_address(given["ray_address"])
    from reproduce.execution.ray import session

    with session.connect(address) as (ray, head), ExitStack() as until_the_end:
        from reproduce.execution.ray import cluster, node
        from reproduce.execution.ray.nodes import Nodes

        nodes = Nodes(ray, head)
        device = nodes.device(given["device"])
        if device == "cpu" and given["gpus_per_trial"] != 1:
            say(f"--gpus-per-trial {given['gpus_per_trial']:g} has no effect, as trials run on CPUs")

        def prepare(store: Any) -> tuple[str, Any]:
            wanted = node.Wanted(home(), given["dataset"], given["data_dir"], given["engine"], device)
            command, ready = until_the_end.enter_context(nodes.ready(store, wanted))
            return ready.engine, cluster.Cluster(nodes, store, command, ready, given["jobs"], given["gpus_per_trial"])

        yield device, prepare


def _idle(given: dict[str, Any]) -> list[str]:
    """The options that only another executor would heed, one phrase each."""
    if given["executor"] == "ray":
        return []
    typed = {"--ray-address": given["ray_address"] is not None, "--gpus-per-trial": given["gpus_per_trial"] != 1}
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


def open_store(command: str) -> Any:
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


def wished(given: dict[str, Any]) -> StudyConfig:
    """What the options ask for, as the study understands it."""
    fields = {key: given[key] for key in StudyConfig.model_fields if given.get(key) not in (None, AUTO, PROPOSED)}
    if given.get("scheduler", "all") != "all":
        fields["schedulers"] = (given["scheduler"],)
    own = {key: given[key] for key in SCHEDULE_PARAMETERS if given.get(key) is not None}
    return StudyConfig(**fields, schedule_parameters=own)


def heeded(command: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options without those that only a command which trains heeds; the ones of these that were typed are told."""
    source = click.get_current_context().get_parameter_source
    typed = [
        f"--{name.replace('_', '-')}" for name in WITHOUT_EFFECT[command] if source(name) is ParameterSource.COMMANDLINE
    ]
    if typed:
        say(f"{', '.join(typed)} {'have' if len(typed) > 1 else 'has'} no effect on {command}, which trains nothing")
    return {name: value for name, value in given.items() if name not in WITHOUT_EFFECT[command]}


def smoothing_of(given: dict[str, Any], paper: Paper) -> float:
    """The weight of the past in the average that smooths a range test's loss."""
    return given["smoothing"] if given.get("smoothing") is not None else paper.range_test.smoothing


def at_proposed_rates(given: dict[str, Any], store: Any, paper: Paper, config: StudyConfig) -> StudyConfig:
    """The config with each seed's proposed rate, ten times it and a tenth of it, where that is asked for."""
    if given["learning_rates"] != PROPOSED:
        return config
    rates = {}
    for test in planning.range_tests(paper, config):
        found = store.reader.newest_proposal(test)
        if found is None or found.learning_rate is None:
            raise UserError(
                f"--learning-rates proposed needs what a range test with {test.optimizer}, {test.dataset}, "
                f"{test.train_size} images, batches of {test.batch_size} and seed {test.seed} proposes, and "
                f"{_why_none(found, _range_test_command(paper, config))}"
            )
        rates[test.seed] = tuple(planning.round_rate(found.learning_rate * factor) for factor in (1, 10, 0.1))
        ground = f", on weak ground: {found.reason}" if found.reason else ""
        say(f"seed {test.seed}: {format_rate(found.learning_rate, 3)} is what run {found.run_id} proposes{ground}")
    return config.model_copy(update={"rates_by_seed": rates})


def _why_none(found: Any, command: str) -> str:
    """Why there is no proposed rate to train at, and what to type for one."""
    if found is None:
        return f"there is no such range test: run {command} first"
    return f"run {found.run_id} has none: {found.reason} (run {command} so changed, then this again)"


def _range_test_command(paper: Paper, config: StudyConfig) -> str:
    """What to type for the range tests that the config want, with only the options that are not the paper's."""
    own = {key: getattr(config, key) for key in ("dataset", "optimizer", "batch_size", "train_size", "seeds")}
    return " ".join(["reproduce range_test", *option_words(paper, StudyConfig(**own))])


def texts(given: dict[str, Any]) -> dict[str, str]:
    """The options as text, as `mlflow run` records them."""
    kinds = {option.name: option.type for option in click.get_current_context().command.params}

    def text(key: str, value: Any) -> str:
        if value is None:
            return kinds[key].word
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return {key: text(key, value) for key, value in given.items()}


def recorded(given: dict[str, Any], store: Any, paper: Paper, config: StudyConfig) -> StudyConfig:
    """The config as the store has runs of them, where the same options mean different things to different commands.

    An engine of auto is the one of which there are more runs. `range_test` takes --epochs for its own: where a range
    test is of that length, so it is meant. `grid` takes --learning-rates for its own: where a grid was run and no model
    with a schedule, they are meant.
    """
    config, finished = planning.trainable_config(paper, config), store.reader.finished_runs().keys()

    def count(trials: list[Trial]) -> int:
        return sum(trial.config_hash in finished for trial in trials)

    def of_any_length(config: StudyConfig) -> list[StudyConfig]:
        as_long = config.model_copy(update={"range_test_epochs": config.epochs})
        return [config, as_long] if config.epochs and not config.range_test_epochs else [config]

    def everything(config: StudyConfig) -> int:
        tests = sum(count(planning.range_tests(paper, like)) for like in of_any_length(config))
        return tests + count(planning.trials(paper, config)) + count(planning.grid_trials(paper, config))

    if given["engine"] == AUTO:
        config = max((config.model_copy(update={"engine": engine}) for engine in ("fused", "torch")), key=everything)
    config = max(of_any_length(config), key=lambda like: count(planning.range_tests(paper, like)))
    if may_be_of_grid(paper, config) and count(planning.range_tests(paper, config)):
        with_schedule = tuple(name for name in config.schedulers if name != "none")
        trained = count(planning.trials(paper, config.model_copy(update={"schedulers": with_schedule})))
        if not trained and count(planning.grid_trials(paper, config)):
            return planning.grid_config(paper, config)
    return config


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
