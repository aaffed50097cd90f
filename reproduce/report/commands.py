"""What a user types to have the runs of a report, and the report itself, again."""

from reproduce.report.report_data import ReportData
from reproduce.results import verdicts
from reproduce.study.config import StudyConfig, command_line
from reproduce.study.departures import main_trains

# What is in the commands for runs that `main` does not make.
BEYOND_MAIN = ("reproduce grid", "--optimizer", "as-written", "proposed")


def commands(data: ReportData) -> list[tuple[str, str]]:
    """Return commands, each after what it gives: the runs, where one command gives them all, then this page."""
    paper, config, smoothing = data.paper, data.collection.config, data.collection.smoothing
    everything = f"the range test, all {paper.model_count} models and this page"
    is_whole = main_trains(paper, config, smoothing)
    if data.departures:
        named = [("main", everything)] * is_whole + [("report", "the same page again")]
        return [(gives, command_line(name, paper, config, smoothing)) for name, gives in named]
    seeds = ",".join(map(str, sorted({row.trial.seed for row in data.rows})))

    def with_seeds(name: str, config: StudyConfig) -> str:
        """Return the command with its seeds named, even where they are the paper's."""
        without = config.model_copy(update={"seeds": None})
        return f"{command_line(name, paper, without, smoothing)} --seeds {seeds}"

    further = _commands_beyond_main(data, seeds)
    return [
        *[(everything, with_seeds("main", config))] * is_whole,
        *(
            (f"what further claims rest on, {number} of {len(further)}", command)
            for number, command in enumerate(further, 1)
        ),
        ("the verdicts alone", with_seeds("verify", StudyConfig(engine=config.engine))),
        ("the same page again", with_seeds("report", config)),
    ]


def _commands_beyond_main(data: ReportData, seeds: str) -> list[str]:
    """Return the commands for the other runs that the judged claims rest on, each once."""
    found: dict[str, None] = {}
    for judgement in data.judgements:
        if judgement.runs and not judgement.missing:
            found |= dict.fromkeys(verdicts.commands(judgement.claim.measure, seeds))
    return [command for command in found if any(words in command for words in BEYOND_MAIN)]
