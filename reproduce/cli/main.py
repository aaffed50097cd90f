"""The commands: `range_test`, `sweep`, `report` and `main`, which is all three; `grid`, `verify`, `data` and `ui`.

What takes seconds to import (MLflow, torch, matplotlib) is imported where it is needed, so that help and errors are
there at once.
"""

import functools
import os
import sys
from pathlib import Path
from typing import Any

import click

from reproduce import paths
from reproduce.cli import process, run_command
from reproduce.cli.options import COMMANDS, HOST, OPTION, PAPER, PORT, PROPOSED, options
from reproduce.cli.process import EXIT_FAILED, EXIT_INCONCLUSIVE
from reproduce.errors import UserError
from reproduce.escaping import printable, without_credentials
from reproduce.progress import say
from reproduce.study import planning
from reproduce.study.config import StudyConfig, option_words
from reproduce.study.departures import list_departures
from reproduce.study.schema import Paper, load_paper
from reproduce.study.trial import Trial, format_rate


@click.group(cls=process.Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="lenet5-reproduction", prog_name="reproduce")
def cli() -> None:
    """Rerun the study, track it in MLflow, and report on it."""


def main() -> None:
    """The console command."""
    process.run(cli)


@cli.command("main")
@options("main")
def main_command(**given: Any) -> int:
    """Everything: the range test and all 15 models, then the report."""
    paper = load_paper()
    _check_output(given["output"])

    def plan(config: StudyConfig) -> list[Trial]:
        return planning.range_tests(paper, config) + planning.requested_trials(paper, config)

    def then(store: Any, parent_id: str, config: StudyConfig) -> None:
        _log_proposals(store, parent_id, paper, config, paper.range_test.smoothing)
        _report(store, parent_id, _collection(store, paper, config, paper.range_test.smoothing), given)

    return run_command.run("main", given, run_command.wished(given), plan, then)


@cli.command("range_test")
@options("range_test")
def range_test_command(**given: Any) -> int:
    """The learning-rate range test: raise the rate step by step, and propose one."""
    paper = load_paper()
    config = run_command.wished(given | {"range_test_epochs": given["epochs"], "epochs": None})
    smoothing = run_command.smoothing_of(given, paper)

    def then(store: Any, parent_id: str, config: StudyConfig) -> None:
        _log_proposals(store, parent_id, paper, config, smoothing)

    return run_command.run("range_test", given, config, functools.partial(planning.range_tests, paper), then)


@cli.command("sweep")
@options("sweep")
def sweep_command(**given: Any) -> int:
    """Train with one schedule, or all, at several initial rates."""
    paper = load_paper()
    return run_command.run(
        "sweep", given, run_command.wished(given), functools.partial(planning.requested_trials, paper)
    )


@cli.command("grid")
@options("grid")
def grid_command(**given: Any) -> int:
    """How good is a proposed rate? The range test, and fixed rates all over, trained to compare its proposal with."""
    paper = load_paper()
    config, smoothing = run_command.wished(given), run_command.smoothing_of(given, paper)

    def plan(config: StudyConfig) -> list[Trial]:
        return planning.range_tests(paper, config) + planning.requested_trials(
            paper, planning.grid_config(paper, config)
        )

    def beside(store: Any, config: StudyConfig) -> list[Trial]:
        found = _collection(store, paper, config, smoothing)
        suggested = {test.seed: found.suggested(test).values() for test in planning.range_tests(paper, config)}
        rates = {
            seed: [planning.round_rate(proposal.learning_rate) for proposal in proposals if proposal]
            for seed, proposals in suggested.items()
        }
        return planning.trials_beside_grid(paper, config, rates)

    def then(store: Any, parent_id: str, config: StudyConfig) -> None:
        _log_proposals(store, parent_id, paper, config, smoothing)
        from reproduce.results import comparisons

        seeds, optimizer = config.seeds or paper.protocol.seeds, config.optimizer or paper.protocol.optimizer
        compared = comparisons.regrets(_collection(store, paper, config, smoothing), optimizer, seeds)
        if compared:
            click.echo(comparisons.regret_text(compared))

    return run_command.run("grid", given, config, plan, then, beside)


@cli.command("report")
@options("report")
def report_command(**given: Any) -> int:
    """Write tables, figures and the page from the tracking store. The options choose the trials it is about.

    --check writes nothing and exits with 1 if the report is not what the runs recorded in it give.
    """
    if given["check"]:
        return _check(given["output"])
    given = run_command.heeded("report", given)
    paper, config = load_paper(), run_command.wished(given)
    smoothing = run_command.smoothing_of(given, paper)
    planning.refuse_what_never_ran(paper, config)
    _check_output(given["output"])
    store = run_command.open_store("report")
    store.check_artifacts()
    store.heartbeat.end_stale_runs()
    config = run_command.recorded(given, store, paper, run_command.at_proposed_rates(given, store, paper, config))
    found = _collection(store, paper, config, smoothing)
    from reproduce.report import build
    from reproduce.tracking.parent_run import open_parent_run

    build.check_replaced(found, given["output"])
    with open_parent_run(store, "report", run_command.texts(given)) as parent_id:
        _report(store, parent_id, found, given)
    return 0


def _check(output: Path) -> int:
    from reproduce.report import build

    found = build.check(output)
    for name, how in found.items():
        click.echo(f"{printable(name)}: {how}")
    if found:
        click.echo(
            f"{output}: {len(found)} file{'s' * (len(found) > 1)} not as its runs give it: put back what is changed or "
            f"missing and remove what was added, or write it anew with {build.command(output)}"
        )
        return EXIT_FAILED
    click.echo(f"{output}: all as its runs give it")
    return 0


def _collection(store: Any, paper: Paper, config: StudyConfig, smoothing: float) -> Any:
    from reproduce.results.run_collection import RunCollection

    return RunCollection(store.reader, paper, config, smoothing)


@cli.command("verify")
@options("verify")
def verify_command(**given: Any) -> int:
    """Judge the paper's claims by the runs in the tracking store: all, or those about the trials the options choose.

    Exits with 0 if every claim could be judged, 3 if some are inconclusive; --strict with 1 if any is not reproduced.
    """
    given, paper = run_command.heeded("verify", given), load_paper()
    seeds = paper.protocol.seeds if given["seeds"] == PAPER else given["seeds"]
    chosen, smoothing = run_command.wished(given | {"seeds": seeds}), run_command.smoothing_of(given, paper)
    planning.refuse_what_never_ran(paper, chosen)
    from reproduce.results import verdicts

    store = run_command.open_store("verify")
    every = store.reader.seeds()
    own = StudyConfig(seeds=seeds or every or None, engine=chosen.engine)
    collection = _collection(store, paper, run_command.recorded(given, store, paper, own), smoothing)
    wanted = seeds or verdicts.studied(collection, every) or paper.protocol.seeds
    about = _chosen(given, store, paper, chosen.model_copy(update={"seeds": wanted}))
    judgements = verdicts.judge_all(collection, wanted, () if seeds else every, about=about)
    if not judgements:
        proposed = ["--learning-rates proposed"] * (given["learning_rates"] == PROPOSED)
        options = " ".join([*option_words(paper, chosen), *proposed])
        click.echo(
            f"none of the paper's {len(paper.claims)} statements rests on a run with {options}: "
            "reproduce verify judges them by the runs that they rest on"
        )
        return EXIT_INCONCLUSIVE
    if not any(judgement.runs for judgement in judgements):
        click.echo(
            f"{store.shown_uri} has no run of the paper's own study, of {paper.protocol.epochs} epochs with "
            f"{paper.protocol.train_size} images, so none of {'its' if about is None else 'these'} {len(judgements)} "
            "statements can be judged: "
            "reproduce main makes the runs"
        )
        return EXIT_INCONCLUSIVE
    click.echo(verdicts.text(judgements))
    found = {judgement.verdict for judgement in judgements}
    if given["strict"] and "not reproduced" in found:
        return EXIT_FAILED
    return EXIT_INCONCLUSIVE if "inconclusive" in found else 0


def _chosen(given: dict[str, Any], store: Any, paper: Paper, config: StudyConfig) -> set[Trial] | None:
    """The trials that the options choose; None where they choose none in particular."""
    if not option_words(paper, config.model_copy(update={"seeds": None})) and given["learning_rates"] != PROPOSED:
        return None
    typed = run_command.at_proposed_rates(given, store, paper, config)
    return set(planning.chosen_trials(paper, typed, run_command.recorded(given, store, paper, typed)))


@cli.command("data")
@OPTION["dataset"]
@OPTION["data_dir"]
def data_command(dataset: str, data_dir: Path | None) -> None:
    """Fetch, check and resize the images, and nothing else."""
    from reproduce.data import verified_cache

    verified_cache.prepare(dataset, paths.prepare_home(run_command.home()), data_dir or paths.default_data_dir(), say)
    click.echo(f"{dataset}: all four files are as they should be, in {run_command.home() / 'data' / dataset}")


@cli.command("ui")
@click.option("--host", default="127.0.0.1", show_default=True, type=HOST, help="Address to listen on.")
@click.option("--port", default="5000", show_default=True, type=PORT, help="Port to listen on.")
def ui_command(host: str, port: int) -> None:
    """Open the MLflow UI on the tracking store."""
    paths.check_port(host, port)
    import mlflow

    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        raise UserError(f"MLFLOW_TRACKING_URI names a server, which has the UI itself: open {without_credentials(uri)}")
    from reproduce.tracking.store import check_store_to_show

    uri = check_store_to_show(run_command.home())
    # The UI needs none of the server's background jobs: it starts in half the time and a fourth of the memory.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # as an argument everybody could read it
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, command)


def _log_proposals(store: Any, parent_id: str, paper: Paper, config: StudyConfig, smoothing: float) -> None:
    collection, found = _collection(store, paper, config, smoothing), {}
    for trial in planning.range_tests(paper, config):
        result = collection.result(trial)
        if result is None:
            continue  # it failed, and that was said
        proposal = collection.proposal(trial)
        if proposal:
            stated = paper.range_test.reported
            beside = f" (the paper: {format_rate(stated.proposed_learning_rate)}, around step {stated.step})"
            say(
                f"{trial.label}: proposes {format_rate(proposal.learning_rate, 3)}, read at step {proposal.step}"
                f"{'' if list_departures(paper, config) else beside}{proposal.ground}"
            )
        else:
            say(f"{trial.label}: proposes no rate: {proposal.reason}")
        found[result.run_id] = (trial.seed, proposal)
    store.writer.log_proposals(parent_id, smoothing, found)


def _check_output(output: Path) -> None:
    """UserError before any work where a report could not be written, or not without loss."""
    paths.check_output(output)
    from reproduce.report import build

    build.check_output(output)


def _report(store: Any, parent_id: str, found: Any, given: dict[str, Any]) -> None:
    from reproduce.report import build

    output = given["output"]
    missing = build.write(
        found, output.resolve(), given["ui_url"], lambda written: store.writer.log_folder(parent_id, written, "report")
    )
    if missing:
        say(f"the report names {missing} run{'s' if missing > 1 else ''} that {'are' if missing > 1 else 'is'} missing")
    click.echo(f"report: {output / 'index.html'}, the same as text in report.md beside it")


assert COMMANDS.keys() <= cli.commands.keys()
