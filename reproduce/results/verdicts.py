"""Every claim of the paper judged by the tracked runs: what the store has for each, the verdicts as table and data."""

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from markupsafe import Markup

from reproduce import escaping
from reproduce.analysis import claims
from reproduce.analysis.claims import Judgement
from reproduce.results import measures
from reproduce.results.archive import finite
from reproduce.results.run_collection import RunCollection
from reproduce.results.table import Table
from reproduce.study import planning
from reproduce.study.claim import PROPOSED, Claim, Measure, Model, OptimizerRangeTest
from reproduce.study.fields import format_rate
from reproduce.study.schema import Paper
from reproduce.study.trial import Trial

# Each claim's values, one a seed, in the archived runs: where fewer than three seeds were run, the spread between seeds
# is theirs. `tools/readme_results.py` writes it.
REFERENCE_SPREAD = "reference_spread.json"


def judge_all(
    collection: RunCollection,
    seeds: Sequence[int],
    further: Sequence[int] = (),
    reference: Path | None = None,
    about: Collection[Trial] | None = None,
) -> list[Judgement]:
    """Return a judgement of each claim, in the paper's order.

    The claims are about the paper's own study, so the collection has to be of that.

    Args:
        collection: The runs.
        seeds: Seeds by which each claim is judged.
        further: Seeds that count only for those claims for which they have all runs.
        reference: A file as REFERENCE_SPREAD; by default that beside the study.
        about: Where given, only the claims that rest on one of these trials are judged, run or not.
    """
    borrowed = read_reference_spread(reference or collection.paper.file.with_name(REFERENCE_SPREAD))
    judgements = []
    for claim in collection.paper.claims:
        values: dict[int, float] = {}
        runs: dict[str, str] = {}
        missing: dict[str, int] = {}
        needed: set[Trial] = set()
        failed = ""
        for seed in sorted({*seeds, *further}):
            used = measures.UsedRuns(collection)
            value = measures.take(claim.measure, seed, used)
            needed |= used.needed
            failed = failed or used.failed
            if value is not None:
                values[seed] = value
            if value is not None or seed in seeds:
                runs |= used.runs
                missing |= dict.fromkeys(used.missing, seed)
        if about is None or not needed.isdisjoint(about):
            spread_of = borrowed.get(claim.id, list(values.values()))
            judgements.append(claims.judge(claim, values, spread_of, runs, missing, failed))
    return judgements


def seeds_studied(collection: RunCollection, seeds: Sequence[int]) -> tuple[int, ...]:
    """Return those of the seeds with which at least half of the paper's own study was run; others were run singly."""

    def share(seed: int) -> float:
        config = collection.config_for(collection.paper.protocol.optimizer, seed)
        planned = planning.own_range_tests(collection.paper, config) + planning.trials(collection.paper, config)
        return sum(map(collection.has, planned)) / len(planned)

    return tuple(seed for seed in seeds if share(seed) >= 0.5)


def read_reference_spread(path: Path) -> dict[str, list[float]]:
    """Return the values of each claim, one a seed; nothing where there is no such file."""
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {name: list(map(float, values)) for name, values in rows.items()}


def sentence(judgements: list[Judgement]) -> str:
    """Return how many claims are reproduced, and how many are not."""
    counts = Counter(judgement.verdict for judgement in judgements)
    return (
        f"{counts['reproduced']} of {len(judgements)} statements of the paper are reproduced, "
        f"{counts['not reproduced']} are not, and {counts['inconclusive']} are inconclusive."
    )


def command(judgement: Judgement, paper: Paper) -> str:
    """Return what to type for the runs that a claim rests on or needs; with more seeds where it is not settled."""
    if judgement.rule.startswith(claims.FAILED):
        # More runs would not mend the study's own code.
        return paper.command("verify")
    if judgement.missing:
        seeds = ",".join(map(str, sorted(set(judgement.missing.values()))))
    elif judgement.verdict != "inconclusive":
        seeds = ",".join(map(str, judgement.values))
    else:
        seeds = "0-9" if len(judgement.values) >= claims.ENOUGH_SEEDS else "0-2"
    return " && ".join(commands(judgement.claim.measure, seeds, paper))


def commands(measure: Measure, seeds: str, paper: Paper) -> list[str]:
    """Return what to type, line by line, for the runs of a measure with these seeds."""
    if measure.is_of_grid:
        return [f"{paper.command('grid')} --seeds {seeds}"]
    parts: dict[str, None] = {}
    for term in (measure.of, measure.minus):
        if term is None:
            continue
        is_usual = term.optimizer in (None, paper.protocol.optimizer)
        own = "" if is_usual else f" --optimizer {term.optimizer}"
        if isinstance(term, OptimizerRangeTest) or term.learning_rate == PROPOSED:
            parts[f"{paper.command('range_test')}{own} --seeds {seeds}"] = None
        if isinstance(term, Model):
            is_usual_protocol = term.protocol in (None, paper.protocols[0])
            protocol = "" if is_usual_protocol else f" --protocol {term.protocol}"
            rate = PROPOSED if term.learning_rate == PROPOSED else format_rate(term.learning_rate)
            options = f"--scheduler {term.scheduler} --learning-rates {rate}{protocol}"
            parts[f"{paper.command('sweep')}{own} {options} --seeds {seeds}"] = None
    return list(parts)


def paper_value(claim: Claim) -> str:
    """Return what the paper says, as a number."""
    low, high = claim.expected
    if claim.measure.is_rate:
        return format_rate(10**low, 3)
    difference = "difference " if claim.measure.minus else ""
    if low == high:
        text = f"{low:.5g}"
    elif math.isinf(low):
        text = f"≤ {high:.5g}"
    else:
        text = f"≥ {low:.5g}" if math.isinf(high) else f"{low:.5g} to {high:.5g}"
    return difference + text + _unit(claim.measure)


def our_value(judgement: Judgement) -> str:
    """Return what was measured: mean, interval and number of seeds."""
    if judgement.interval is None:
        return "—"
    mean, low, high = (one_value(judgement.claim, value) for value in judgement.interval)
    interval = "" if low == high else f" ({low} to {high})"
    unit = _unit(judgement.claim.measure) if math.isfinite(judgement.interval.mean) else ""
    return f"{mean}{interval}{unit}, n = {len(judgement.values)}"


def one_value(claim: Claim, value: float) -> str:
    """Return a value of the claim's measure as text: as a rate where the measure is a rate's logarithm."""
    if claim.measure.is_rate:
        return format_rate(10**value, 3)
    # Where a difference is infinite, one of the two models never got there.
    if claim.measure.kind == "epochs_to_95_percent" and not math.isfinite(value):
        return {math.inf: "never", -math.inf: "the other never"}.get(value, "neither")
    return f"{value:.4g}"


def _unit(measure: Measure) -> str:
    if measure.kind.endswith("_step") or measure.kind.endswith("_steps"):
        return " steps"
    if measure.kind == "epochs_to_95_percent":
        return " epochs"
    return " decades" if not measure.is_rate and ("log10" in measure.kind or "decades" in measure.kind) else ""


def text(judgements: list[Judgement], paper: Paper) -> str:
    """Return the verdicts for a terminal: two lines a claim, a third on what would settle it, and how many held."""
    lines = []
    for judgement in judgements:
        claim = judgement.claim
        lines.append(f"{claim.id:4} {judgement.verdict:15} {claim.says}")
        lines.append(f"     the paper {paper_value(claim)}, here {our_value(judgement)}; {judgement.rule}")
        if judgement.verdict == "inconclusive":
            lines.append(f"     to settle it: {command(judgement, paper)}")
    return "\n".join([*lines, sentence(judgements)])


def table(judgements: list[Judgement], paper: Paper) -> Table:
    """Return the verdicts as a table, a row a claim."""
    head = ["", "the paper says", "where", "its value", "ours", "verdict", "by which rule"]
    return Table(head, [_row(judgement, paper) for judgement in judgements])


def _row(judgement: Judgement, paper: Paper) -> list[str]:
    claim, rule = judgement.claim, escaping.markdown(judgement.rule)
    if judgement.verdict == "inconclusive":
        rule += f". Run `{command(judgement, paper)}`"
    values = [paper_value(claim), our_value(judgement)]
    return [claim.id, claim.says, claim.where, *values, f"**{judgement.verdict}**", Markup(rule)]


def data(judgements: list[Judgement], paper: Paper) -> dict[str, object]:
    """Return the verdicts as data. A number that is not finite, which JSON does not have, is text: inf, -inf or nan."""
    return {"claims": [_claim_data(judgement, paper) for judgement in judgements]}


def _claim_data(judgement: Judgement, paper: Paper) -> dict[str, object]:
    claim, interval = judgement.claim, judgement.interval
    return {
        "id": claim.id,
        "says": claim.says,
        "where": claim.where,
        "verdict": judgement.verdict,
        "expected": list(map(finite, claim.expected)),
        "allowed": list(map(finite, judgement.allowed)),
        "reading_error": claim.reading,
        "reading_reason": claim.reason,
        "mean": finite(interval.mean) if interval else None,
        "interval": [finite(interval.low), finite(interval.high)] if interval else [None, None],
        "values": {str(seed): finite(value) for seed, value in judgement.values.items()},
        "rule": judgement.rule,
        "runs": judgement.runs,
        "missing": list(judgement.missing),
        "command": command(judgement, paper),
    }
