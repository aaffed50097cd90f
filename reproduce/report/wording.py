"""What report.md and the page say in the same words: sentences, and the rows of their small tables."""

from dataclasses import dataclass

from reproduce.analysis import intervals
from reproduce.report.report_data import ReportData
from reproduce.results import verdicts
from reproduce.results.table import Table
from reproduce.study.trial import format_rate

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


@dataclass(frozen=True)
class CurveReading:
    """What one range test proposes, as text: the rate, and the step it was read at, of how many."""

    seed: int
    run_id: str
    rate: str
    step: str
    steps: int


@dataclass(frozen=True)
class ContradictionFound:
    """Where the paper disagrees with itself, and what was found here."""

    says: str
    found: str


def seed_count(data: ReportData) -> int:
    """Return over how many seeds the report is."""
    return len({trial.seed for trial in data.trials})


def curve_readings(data: ReportData) -> list[CurveReading]:
    """Return what each range test proposes."""
    return [
        CurveReading(
            result.trial.seed,
            result.run_id,
            str(proposal),
            str(proposal.step) if proposal else "—",
            len(data.curves[result.trial.seed].losses),
        )
        for result in data.test_results
        for proposal in [data.proposed[result.trial.seed]]
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


def contradictions(data: ReportData) -> list[ContradictionFound]:
    """Return the paper's contradictions and the verdicts between which they are; none where no claim was judged."""
    if not data.judgements:
        return []
    judged = {judgement.claim.id: judgement for judgement in data.judgements}
    return [
        ContradictionFound(
            contradiction.says,
            "; ".join(
                f"{name}: {judged[name].verdict}, ours {verdicts.our_value(judged[name])}"
                for name in contradiction.claims
            ),
        )
        for contradiction in data.paper.contradictions
    ]
