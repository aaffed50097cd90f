"""The commands: `range_test`, `sweep`, `report` and `main`, which runs these three; `grid`, `verify`, `data` and `ui`.

MLflow, torch and matplotlib take seconds to import. They are imported where they are needed, so that help and errors
appear at once.
"""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reproduce import paths
from reproduce.cli import process, proposals, reading, run_command
from reproduce.cli.option_types import HOST, PLACE, PORT, STUDY
from reproduce.cli.options import COMMANDS, OPTION
from reproduce.cli.process import EXIT_FAILED, EXIT_INCONCLUSIVE
from reproduce.cli.request import Request, study_command
from reproduce.escaping import printable
from reproduce.execution.run_options import RunOptions
from reproduce.progress import say
from reproduce.report import output_folder
from reproduce.study import planning
from reproduce.study.config import StudyConfig, describe_lengths, option_words
from reproduce.study.own_code import OwnCode
from reproduce.study.trial import Trial

EXAMPLES = """\b
Examples:
  reproduce main --epochs 1 --train-size 10000   the whole study, small, in two minutes
  reproduce range_test --optimizer sgd           propose a rate for SGD
  reproduce sweep --scheduler multistep          train with MultiStepLR at three rates
  reproduce report                               write the page anew from what is recorded
  reproduce ui                                   compare the runs in MLflow's UI
"""

if TYPE_CHECKING:
    from reproduce.results.run_collection import RunCollection
    from reproduce.tracking.store import TrackingStore


@click.group(
    cls=process.Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 120,
        # `mlflow run` passes an option on as `--learning_rates`.
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
    epilog=EXAMPLES,
)
@click.option("--study", type=STUDY, help="The study of the command that follows; see reproduce studies.")
@click.version_option(package_name="lenet5-reproduction", prog_name="reproduce")
@click.pass_context
def cli(context: click.Context, study: str | None) -> None:
    """Rerun a study, track it in MLflow, and report on it."""
    context.obj = study


def main() -> None:
    """Run the console command."""
    process.run(cli)


@study_command(cli, "main")
def main_command(request: Request) -> int:
    """Run the range test, train all models and write the report."""
    paper = request.paper
    output_folder.check_output(request.options.output)
    output_folder.say_what_is_replaced(request.options.output, paper.title)

    def plan(config: StudyConfig) -> list[Trial]:
        return planning.own_range_tests(paper, config) + planning.requested_trials(paper, config)

    def conclude(store: TrackingStore, parent_id: str, config: StudyConfig) -> None:
        collection = reading.collect(store, request, config)
        proposals.log_proposals(store, parent_id, collection)
        _write_report(store, parent_id, collection, request.options)

    return run_command.run(request, plan, conclude)


@study_command(cli, "range_test")
def range_test_command(request: Request) -> int:
    """Raise the learning rate step by step, and propose a rate."""
    paper = request.paper
    own = request.with_config(range_test_epochs=request.config.epochs, epochs=None)

    def conclude(store: TrackingStore, parent_id: str, config: StudyConfig) -> None:
        proposals.log_proposals(store, parent_id, reading.collect(store, request, config))

    return run_command.run(own, functools.partial(planning.range_tests, paper), conclude)


@study_command(cli, "sweep")
def sweep_command(request: Request) -> int:
    """Train with one schedule or all, at several rates."""
    return run_command.run(request, functools.partial(planning.requested_trials, request.paper))


@study_command(cli, "grid")
def grid_command(request: Request) -> int:
    """Compare the proposed rates with a grid of fixed rates."""
    paper = request.paper

    def plan(config: StudyConfig) -> list[Trial]:
        models = planning.requested_trials(paper, planning.grid_config(paper, config))
        return planning.range_tests(paper, config) + models

    def plan_proposed(store: TrackingStore, config: StudyConfig) -> list[Trial]:
        collection = reading.collect(store, request, config)
        rates = {
            test.seed: [
                planning.round_rate(proposal.learning_rate)
                for proposal in collection.suggested(test).values()
                if proposal
            ]
            for test in planning.range_tests(paper, config)
        }
        return planning.trials_beside_grid(paper, config, rates)

    def conclude(store: TrackingStore, parent_id: str, config: StudyConfig) -> None:
        from reproduce.results import comparisons

        collection = reading.collect(store, request, config)
        proposals.log_proposals(store, parent_id, collection)
        seeds, optimizer = config.seeds or paper.protocol.seeds, config.optimizer or paper.protocol.optimizer
        compared = comparisons.regrets(collection, optimizer, seeds)
        if compared:
            click.echo(comparisons.regret_text(compared))

    return run_command.run(request, plan, conclude, plan_proposed)


@study_command(cli, "report")
def report_command(request: Request) -> int:
    """Write tables, figures and the page from the tracking store. The options choose the trials of the report.

    --check writes nothing, and exits with 1 if the report is not what its own recorded runs give.
    """
    options, paper = request.options, request.paper
    if options.check:
        return _check(options.output, paper.code)
    planning.refuse_what_never_ran(paper, request.config)
    output_folder.check_output(options.output)
    output_folder.say_what_is_replaced(options.output, paper.title)
    store = run_command.open_store(request)
    store.check_artifacts()
    store.heartbeat.end_stale_runs()
    collection = reading.collect_recorded(store, request)
    from reproduce.report import build
    from reproduce.tracking.parent_run import open_parent_run

    build.check_replaced(collection, options.output)
    with open_parent_run(store, "report", request.texts) as parent_id:
        _write_report(store, parent_id, collection, options)
    run_ids = [result.run_id for result in collection.results_read()]
    run_command.say_where_to_compare(store, options, run_ids)
    return 0


def _check(output: Path, trusted: OwnCode) -> int:
    from reproduce.report import build

    found = build.check(output, trusted)
    for name, how in found.items():
        click.echo(f"{printable(name)}: {how}")
    if found:
        differ = "files differ" if len(found) > 1 else "file differs"
        click.echo(
            f"{output}: {len(found)} {differ} from what its runs give: restore what was changed or "
            f"is missing and remove what was added, or write it again with {build.command(output)}"
        )
        return EXIT_FAILED
    click.echo(f"{output}: all files are as its runs give them")
    return 0


@study_command(cli, "verify")
def verify_command(request: Request) -> int:
    """Judge the paper's claims by the runs in the tracking store.

    Judges all claims, or those about the trials that the options choose. Exits with 0 if every claim could be judged,
    and with 3 if some are inconclusive. With --strict, exits with 1 if any claim is not reproduced.
    """
    from reproduce.results import verdicts

    paper, judged = request.paper, reading.judge(request)
    store, judgements, about = judged.store, judged.judgements, judged.about
    if not judgements:
        click.echo(
            f"none of the paper's {len(paper.claims)} statements depends on a run with "
            f"{' '.join(option_words(paper, request.config))}: {paper.command('verify')} without options judges all "
            "statements"
        )
        return EXIT_INCONCLUSIVE
    if not any(judgement.runs for judgement in judgements):
        click.echo(
            f"{store.shown_uri} has no run of the paper's own study, of {describe_lengths(paper.lengths())} with "
            f"{paper.protocol.train_size} images, so none of {'its' if about is None else 'these'} {len(judgements)} "
            f"statements can be judged: {paper.command('main')} makes the runs"
        )
        return EXIT_INCONCLUSIVE
    click.echo(verdicts.text(judgements, paper))
    found = {judgement.verdict for judgement in judgements}
    if request.options.strict and "not reproduced" in found:
        return EXIT_FAILED
    return EXIT_INCONCLUSIVE if "inconclusive" in found else 0


@cli.command("data", params=[OPTION["fetched"], OPTION["data_dir"]])
def data_command(dataset: str, data_dir: Path | None) -> None:
    """Only fetch, check and resize the images."""
    from reproduce.data import verified_cache

    verified_cache.prepare(dataset, paths.prepare_home(paths.find_home()), data_dir or paths.default_data_dir(), say)
    click.echo(f"{dataset}: all four files are correct, in {paths.find_home() / 'data' / dataset}")


@cli.command("studies")
def studies_command() -> None:
    """List the studies that are shipped, the default first."""
    from reproduce.cli import studies

    click.echo("\n".join(studies.list_shipped()))


@cli.command("new-study")
@click.argument("folder", type=PLACE)
def new_study_command(folder: Path) -> None:
    """Write a commented study into FOLDER, to be made your own."""
    from reproduce.cli import studies

    file = studies.begin(folder)
    click.echo(
        f"{file} is a study that runs as it is: edit it, then type reproduce check-study {shlex.quote(str(folder))}"
    )


@cli.command("check-study")
@click.argument("study", type=STUDY)
def check_study_command(study: str) -> int:
    """Check a study, and say what it trains. STUDY is a folder, or the name of a shipped study.

    Whatever is wrong is said in one line each. A batch is tried with the network, and the schedules step by step.
    """
    from reproduce.cli import process, studies

    said, faults = studies.check(study)
    for fault in faults:
        click.echo(f"error: {fault}", err=True)
    if not faults:
        click.echo(said)
    return process.EXIT_USER if faults else 0


@cli.command("ui")
@click.option("--host", default="127.0.0.1", show_default=True, type=HOST, help="Address to listen on.")
@click.option("--port", default="5000", show_default=True, type=PORT, help="Port to listen on.")
def ui_command(host: str, port: int) -> int:
    """Compare the runs in MLflow's UI."""
    from reproduce.cli import ui

    return ui.serve(host, port)


def _write_report(store: TrackingStore, parent_id: str, collection: RunCollection, options: RunOptions) -> None:
    from reproduce.report import build
    from reproduce.results.run_verdicts import verdicts_by_run
    from reproduce.tracking.ui_views import unless_refused

    output = options.output
    data = build.write(
        collection,
        output.resolve(),
        options.ui_url,
        lambda written: store.writer.log_folder(parent_id, written, "report"),
    )
    click.echo(f"report: {output / 'index.html'}, the same as text in report.md beside it")
    if missing := len(data.missing):
        say(f"the report names {missing} run{'s' if missing > 1 else ''} that {'are' if missing > 1 else 'is'} missing")
    with unless_refused("the verdicts are not recorded with the runs"):
        store.writer.log_verdicts(verdicts_by_run(data.judgements, collection))


assert COMMANDS.keys() <= cli.commands.keys()
