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

from reproduce import console, places, running, study
from reproduce.console import EXIT_FAILED, EXIT_INCONCLUSIVE
from reproduce.errors import UserError
from reproduce.options import COMMANDS, HOST, OPTION, PAPER, PORT, PROPOSED, options
from reproduce.paper import Paper, load_paper
from reproduce.plain import printable, without_credentials
from reproduce.progress import say
from reproduce.trial import Trial, format_rate


@click.group(cls=console.Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="lenet5-reproduction", prog_name="reproduce")
def cli() -> None:
    """Rerun the study, track it in MLflow, and report on it."""


def main() -> None:
    """The console command."""
    console.run(cli)


@cli.command("main")
@options("main")
def main_command(**given: Any) -> int:
    """Everything: the range test and all 15 models, then the report."""
    paper = load_paper()
    _check_output(given["output"])

    def plan(wishes: study.Wishes) -> list[Trial]:
        return study.range_tests(paper, wishes) + study.asked(paper, wishes)

    def then(store: Any, parent_id: str, wishes: study.Wishes) -> None:
        _log_proposals(store, parent_id, paper, wishes, paper.range_test.smoothing)
        _report(store, parent_id, _evidence(store, paper, wishes, paper.range_test.smoothing), given)

    return running.run("main", given, running.wished(given), plan, then)


@cli.command("range_test")
@options("range_test")
def range_test_command(**given: Any) -> int:
    """The learning-rate range test: raise the rate step by step, and propose one."""
    paper = load_paper()
    wishes = running.wished(given | {"range_test_epochs": given["epochs"], "epochs": None})
    smoothing = running.smoothing_of(given, paper)

    def then(store: Any, parent_id: str, wishes: study.Wishes) -> None:
        _log_proposals(store, parent_id, paper, wishes, smoothing)

    return running.run("range_test", given, wishes, functools.partial(study.range_tests, paper), then)


@cli.command("sweep")
@options("sweep")
def sweep_command(**given: Any) -> int:
    """Train with one schedule, or all, at several initial rates."""
    paper = load_paper()
    return running.run("sweep", given, running.wished(given), functools.partial(study.asked, paper))


@cli.command("grid")
@options("grid")
def grid_command(**given: Any) -> int:
    """How good is a proposed rate? The range test, and fixed rates all over, trained to compare its proposal with."""
    paper = load_paper()
    wishes, smoothing = running.wished(given), running.smoothing_of(given, paper)

    def plan(wishes: study.Wishes) -> list[Trial]:
        return study.range_tests(paper, wishes) + study.asked(paper, study.of_grid(paper, wishes))

    def beside(store: Any, wishes: study.Wishes) -> list[Trial]:
        found = _evidence(store, paper, wishes, smoothing)
        suggested = {test.seed: found.suggested(test).values() for test in study.range_tests(paper, wishes)}
        rates = {
            seed: [study.as_printed(proposal.learning_rate) for proposal in proposals if proposal]
            for seed, proposals in suggested.items()
        }
        return study.beside_grid(paper, wishes, rates)

    def then(store: Any, parent_id: str, wishes: study.Wishes) -> None:
        _log_proposals(store, parent_id, paper, wishes, smoothing)
        from reproduce import comparisons

        seeds, optimizer = wishes.seeds or paper.protocol.seeds, wishes.optimizer or paper.protocol.optimizer
        compared = comparisons.regrets(_evidence(store, paper, wishes, smoothing), optimizer, seeds)
        if compared:
            click.echo(comparisons.regret_text(compared))

    return running.run("grid", given, wishes, plan, then, beside)


@cli.command("report")
@options("report")
def report_command(**given: Any) -> int:
    """Write tables, figures and the page from the tracking store. The options choose the trials it is about.

    --check writes nothing and exits with 1 if the report is not what the runs recorded in it give.
    """
    if given["check"]:
        return _check(given["output"])
    given = running.heeded("report", given)
    paper, wishes = load_paper(), running.wished(given)
    smoothing = running.smoothing_of(given, paper)
    study.refuse_what_never_ran(paper, wishes)
    _check_output(given["output"])
    store = running.open_store("report")
    store.check_artifacts()
    store.close_abandoned()
    wishes = running.recorded(given, store, paper, running.at_proposed_rates(given, store, paper, wishes))
    found = _evidence(store, paper, wishes, smoothing)
    from reproduce import report

    report.check_replaced(found, given["output"])
    with store.parent("report", running.texts(given)) as parent_id:
        _report(store, parent_id, found, given)
    return 0


def _check(output: Path) -> int:
    from reproduce import readme, report

    found = report.check(output)
    for name, how in found.items():
        click.echo(f"{printable(name)}: {how}")
    if found:
        click.echo(
            f"{output}: {len(found)} file{'s' * (len(found) > 1)} not as its runs give it: put back what is changed or "
            f"missing and remove what was added, or write it anew with {report.command(output)}"
        )
    around = readme.stale() if output.resolve() == readme.REFERENCE else []
    for line in around:
        click.echo(line)
    if found or around:
        return EXIT_FAILED
    click.echo(f"{output}: all as its runs give it")
    return 0


def _evidence(store: Any, paper: Paper, wishes: study.Wishes, smoothing: float) -> Any:
    from reproduce.evidence import Evidence

    return Evidence(store, paper, wishes, smoothing)


@cli.command("verify")
@options("verify")
def verify_command(**given: Any) -> int:
    """Judge the paper's claims by the runs in the tracking store: all, or those about the trials the options choose.

    Exits with 0 if every claim could be judged, 3 if some are inconclusive; --strict with 1 if any is not reproduced.
    """
    given, paper = running.heeded("verify", given), load_paper()
    seeds = paper.protocol.seeds if given["seeds"] == PAPER else given["seeds"]
    chosen, smoothing = running.wished(given | {"seeds": seeds}), running.smoothing_of(given, paper)
    study.refuse_what_never_ran(paper, chosen)
    from reproduce import verdicts

    store = running.open_store("verify")
    every = store.seeds()
    own = study.Wishes(seeds=seeds or every or None, engine=chosen.engine)
    evidence = _evidence(store, paper, running.recorded(given, store, paper, own), smoothing)
    wanted = seeds or verdicts.studied(evidence, every) or paper.protocol.seeds
    about = _chosen(given, store, paper, chosen.model_copy(update={"seeds": wanted}))
    judgements = verdicts.judge_all(evidence, wanted, () if seeds else every, about=about)
    if not judgements:
        proposed = ["--learning-rates proposed"] * (given["learning_rates"] == PROPOSED)
        options = " ".join([*study.as_options(paper, chosen), *proposed])
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


def _chosen(given: dict[str, Any], store: Any, paper: Paper, wishes: study.Wishes) -> set[Trial] | None:
    """The trials that the options choose; None where they choose none in particular."""
    if not study.as_options(paper, wishes.model_copy(update={"seeds": None})) and given["learning_rates"] != PROPOSED:
        return None
    typed = running.at_proposed_rates(given, store, paper, wishes)
    return set(study.chosen(paper, typed, running.recorded(given, store, paper, typed)))


@cli.command("data")
@OPTION["dataset"]
@OPTION["data_dir"]
def data_command(dataset: str, data_dir: Path | None) -> None:
    """Fetch, check and resize the images, and nothing else."""
    from reproduce import mnist_files

    mnist_files.prepare(dataset, places.own(running.home(), places.HOME), data_dir or places.usual_data_dir(), say)
    click.echo(f"{dataset}: all four files are as they should be, in {running.home() / 'data' / dataset}")


@cli.command("ui")
@click.option("--host", default="127.0.0.1", show_default=True, type=HOST, help="Address to listen on.")
@click.option("--port", default="5000", show_default=True, type=PORT, help="Port to listen on.")
def ui_command(host: str, port: int) -> None:
    """Open the MLflow UI on the tracking store."""
    places.check_port(host, port)
    import mlflow

    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        raise UserError(f"MLFLOW_TRACKING_URI names a server, which has the UI itself: open {without_credentials(uri)}")
    from reproduce.connection import store_to_show

    uri = store_to_show(running.home())
    # The UI needs none of the server's background jobs: it starts in half the time and a fourth of the memory.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # as an argument everybody could read it
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, command)


def _log_proposals(store: Any, parent_id: str, paper: Paper, wishes: study.Wishes, smoothing: float) -> None:
    evidence, found = _evidence(store, paper, wishes, smoothing), {}
    for trial in study.range_tests(paper, wishes):
        result = evidence.result(trial)
        if result is None:
            continue  # it failed, and that was said
        proposal = evidence.proposal(trial)
        if proposal:
            stated = paper.range_test.reported
            beside = f" (the paper: {format_rate(stated.proposed_learning_rate)}, around step {stated.step})"
            say(
                f"{trial.label}: proposes {format_rate(proposal.learning_rate, 3)}, read at step {proposal.step}"
                f"{'' if study.departures(paper, wishes) else beside}{proposal.ground}"
            )
        else:
            say(f"{trial.label}: proposes no rate: {proposal.reason}")
        found[result.run_id] = (trial.seed, proposal)
    store.log_proposals(parent_id, smoothing, found)


def _check_output(output: Path) -> None:
    """UserError before any work where a report could not be written, or not without loss."""
    places.check_output(output)
    from reproduce import report

    report.check_output(output)


def _report(store: Any, parent_id: str, found: Any, given: dict[str, Any]) -> None:
    from reproduce import report

    output = given["output"]
    missing = report.write(
        found, output.resolve(), given["ui_url"], lambda written: store.log_folder(parent_id, written, "report")
    )
    if missing:
        say(f"the report names {missing} run{'s' if missing > 1 else ''} that {'are' if missing > 1 else 'is'} missing")
    click.echo(f"report: {output / 'index.html'}, the same as text in report.md beside it")


assert COMMANDS.keys() <= cli.commands.keys()
