"""One command from its options to its runs: where it trains, on what, under which parent, and what it says of that.

What takes seconds to import is imported where it is needed: a wish that cannot be met ends before.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from reproduce import paths
from reproduce.cli.options import AUTO, PROPOSED, RAY_ADDRESS, SCHEDULE_PARAMETERS, WITHOUT_EFFECT
from reproduce.errors import TrialsFailedError, UserError, shown
from reproduce.execution import open_executor
from reproduce.execution.executor import Executor, ExecutorOptions, TrialOutcome
from reproduce.progress import say
from reproduce.study import planning, rate_checks
from reproduce.study.config import StudyConfig, option_words
from reproduce.study.departures import may_be_of_grid
from reproduce.study.schema import Paper, load_paper
from reproduce.study.trial import Trial, format_rate
from reproduce.training import distributed, launcher

RAY_VARIABLE = "RAY_ADDRESS"


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
    options = executor_options(given)
    _check_ranks(given, planned)
    if not launcher.is_main_process():
        return _follow(options)
    for what in _idle(given):
        say(what)
    with open_executor(options) as executor:
        if given["optimizer"] == "hybridadam":
            from reproduce.training import optimizers

            optimizers.check_device(given["optimizer"], executor.device)
        store, paper = open_store(command), load_paper()
        store.check_artifacts()
        if "learning_rates" in given:
            config = at_proposed_rates(given, store, paper, config)
            planned = plan(config)
            rate_checks.check_rates(config, planned)
        for what in rate_checks.list_without_effect(config, planned):
            say(what)
        with executor.prepare(store) as engine:
            config = config.model_copy(update={"engine": engine})
            store.close_abandoned()
            with store.parent(command, texts(given), telling=given["executor"] == "ray") as parent_id:
                store.log_dataset(parent_id, given["dataset"])
                train = functools.partial(_train, given, store, parent_id, executor)
                try:
                    done = train(plan(config))
                    if beside is not None:
                        done += train(beside(store, config))
                except BaseException:
                    # There may be trials whose workers were ended in the middle.
                    store.close_abandoned(waiting=False)
                    raise
                store.close_abandoned()
                _record_outcomes(store, parent_id, done)
                if then is not None:
                    then(store, parent_id, config)
                failed = [item.trial.label for item in done if item.state == "failed"]
                if failed:
                    raise TrialsFailedError(f"{len(failed)} of {len(done)} trials failed: {', '.join(failed)}")
    return 0


def _train(
    given: dict[str, Any], store: Any, parent_id: str, executor: Executor, trials: list[Trial]
) -> list[TrialOutcome]:
    from reproduce.execution import runner
    from reproduce.report import trial_artifacts

    draw_artifacts = functools.partial(trial_artifacts.leave_behind, smoothing=smoothing_of(given, load_paper()))
    return runner.run(trials, store, parent_id, executor=executor, force=given["force"], draw_artifacts=draw_artifacts)


def _record_outcomes(store: Any, parent_id: str, done: list[TrialOutcome]) -> None:
    """Record and say what became of the trials of a command."""
    store.describe_parent(parent_id, [(item.trial, item.run_id, item.state) for item in done])
    counts = Counter(item.state for item in done)
    say(", ".join(f"{counts[state]} {state}" for state in ("trained", "resumed", "reused", "failed") if counts[state]))


def executor_options(given: dict[str, Any]) -> ExecutorOptions:
    """Return where and on what to train, by the options and the environment. UserError where these are wrong."""
    return ExecutorOptions(
        name=given["executor"],
        device=given["device"],
        engine=given["engine"],
        dataset=given["dataset"],
        home=home(),
        data_dir=given["data_dir"] or paths.usual_data_dir(),
        jobs=given["jobs"],
        ray_address=ray_address(given["ray_address"]) if given["executor"] == "ray" else None,
        gpus_per_trial=given["gpus_per_trial"],
    )


def _check_ranks(given: dict[str, Any], planned: list[Trial]) -> None:
    """UserError where several ranks cannot train these trials together."""
    distributed.check_batches(planned)
    if launcher.world_size() and given["executor"] == "ray":
        raise UserError(
            "--executor ray cannot be started by torchrun or colossalai run: leave out the one, to train each trial "
            "over several ranks, or the other, to train several trials at once"
        )


def _follow(options: ExecutorOptions) -> int:
    """What a rank other than 0 does: it gets ready, and trains what rank 0 says."""
    from reproduce.execution import local

    def unsaid(line: str) -> None:
        """Rank 0 says it."""

    try:
        device, _ = local.choose_devices(options.device)
        place = paths.own(options.home, paths.HOME)
        engine, kernel = local.prepare_machine(replace(options, device=device), unsaid)
        distributed.train_broadcast_trials(
            place, kernel, lambda: local.numerics_environment(options.dataset, device, engine, kernel)
        )
    except UserError as error:
        raise UserError(launcher.with_rank(str(error))) from error
    except RuntimeError as error:
        if not distributed.is_peer_lost(error):
            raise
        return 1  # as rank 0, which says why
    return 0


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
    place = paths.own(home(), paths.HOME)
    from reproduce.tracking.writer import Store

    return Store(place, command=command)


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
        found = store.newest_proposal(test)
        if found is None or found.learning_rate is None:
            raise UserError(
                f"--learning-rates proposed needs what a range test with {test.optimizer}, {test.dataset}, "
                f"{test.train_size} images, batches of {test.batch_size} and seed {test.seed} proposes, and "
                f"{_why_none(found, _range_test_command(paper, config))}"
            )
        rates[test.seed] = tuple(planning.round_rate(found.learning_rate * factor) for factor in (1, 10, 0.1))
        ground = f", weak: {found.reason}" if found.reason else ""
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
    config, finished = planning.trainable_config(paper, config), store.finished_runs().keys()

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
