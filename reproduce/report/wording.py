"""What a report says in the same words wherever it does: sentences, the rows of small tables, what a user types."""

from reproduce.analysis import intervals
from reproduce.analysis.lr_range_test import Suggestion
from reproduce.report.report_data import ReportData
from reproduce.results import verdicts
from reproduce.results.table import Table
from reproduce.study.config import StudyConfig, command_line
from reproduce.study.departures import main_trains
from reproduce.study.fields import format_rate
from reproduce.study.schema import Paper
from reproduce.tracking.reader import Result

ACCURACY_MEANING = (
    "the mean over test batches of each batch's accuracy, as the paper counts it, unless it says “over all images”"
)
REGRET_INTRO = (
    "The best test accuracy on a grid of fixed rates less that of a model trained at the rate each rule proposes, in "
    "percentage points: what following the rule costs. Below zero the proposal beat the whole grid. The best of many "
    "values is lucky besides, so that a regret errs on the high side."
)
OPTIMIZERS_INTRO = (
    "Each optimizer without a schedule, at the rate its own range test proposes for each seed, ten times it, and a "
    "tenth of it; in the order of the seeds. A rate that is marked weak is to be doubted."
)
RULES_INTRO = (
    "What learning-rate finders read off the same smoothed curves. The first rule is the paper's. Those that look at "
    "the whole curve can be drawn into the explosion, where the smoothed loss also falls now and then; by the rate "
    "itself, a fall within the noise at the tiniest rates counts most. A reading is weak at the first rate, where the "
    "loss has not fallen beyond its noise, after its minimum, and where the fall rests on one batch."
)


def beyond_main(paper: Paper) -> list[str]:
    """Return words of which one is in each command for runs that `main` does not make."""
    variants = [f"--protocol {variant}" for variant in paper.protocols[1:]]
    on_demand = [f"--scheduler {sweep.scheduler} " for sweep in paper.sweeps if sweep.on_demand]
    return ["reproduce grid", "--optimizer", "proposed", *variants, *on_demand]


def seed_count(data: ReportData) -> int:
    """Return over how many seeds the report is."""
    return len({trial.seed for trial in data.trials})


def curve_readings(data: ReportData) -> list[tuple[Result, Suggestion, int]]:
    """Return the run of each range test, what it proposes, and how many steps it has."""
    return [
        (result, data.proposed[result.trial.seed], len(data.curves[result.trial.seed].losses))
        for result in data.test_results
    ]


def mean_proposal(data: ReportData) -> tuple[str, str, str] | None:
    """Return the mean of the proposed rates and its 95% interval, as text; None with fewer than two proposals."""
    rates = [proposal.learning_rate for proposal in data.proposed.values() if proposal]
    if len(rates) < 2:
        return None
    mean, low, high = intervals.mean_rate_interval(rates)
    return format_rate(mean, 3), format_rate(low, 3), format_rate(high, 3)


def rules_table(data: ReportData) -> Table:
    """Return what each rule suggests for each seed, a row a rule."""
    rows = [[name, *(found.short for found in by_seed.values())] for name, by_seed in data.by_rule.items()]
    return Table(["rule", *(f"seed {seed}" for seed in data.suggested)], rows)


def contradictions(data: ReportData) -> list[tuple[str, str]]:
    """Return the paper's contradictions, each with the verdicts that it is between; none where no claim was judged."""
    if not data.judgements:
        return []
    judged = {judgement.claim.id: judgement for judgement in data.judgements}
    ours = {name: verdicts.our_value(judgement) for name, judgement in judged.items()}
    return [
        (found.says, "; ".join(f"{name}: {judged[name].verdict}, ours {ours[name]}" for name in found.claims))
        for found in data.paper.contradictions
    ]


def commands(data: ReportData) -> list[tuple[str, str]]:
    """Return commands, each after what it gives: the runs, where one command gives them all, then this page."""
    paper, config, smoothing = data.paper, data.collection.config, data.collection.smoothing
    first = "the range test, " if paper.has_range_test else ""
    everything = f"{first}all {paper.model_count} models and this page"
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
            found |= dict.fromkeys(verdicts.commands(judgement.claim.measure, seeds, data.paper))
    return [command for command in found if any(words in command for words in beyond_main(data.paper))]
