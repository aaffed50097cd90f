"""Every claim of the paper judged by the tracked runs: what the store has for each, the verdicts as table and data."""

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, get_args

from reproduce.analysis import claims
from reproduce.analysis.claims import Judgement
from reproduce.results.archive import finite
from reproduce.results.run_collection import RunCollection
from reproduce.study import planning
from reproduce.study.schema import Claim, GridKind, Measure, Model, Test
from reproduce.study.trial import Trial, format_rate
from reproduce.training.provenance import ROOT

REFERENCE = ROOT / "report" / "reference" / "claims.json"


def judge_all(
    collection: RunCollection,
    seeds: Sequence[int],
    further: Sequence[int] = (),
    reference: Path = REFERENCE,
    about: Collection[Trial] | None = None,
) -> list[Judgement]:
    """A judgement of each claim by the runs of these seeds, and of such `further` ones as have all that it wants.

    In the paper's order; with `about` only of those claims that rest on one of these trials, run or not. The claims are
    about the paper's own study, so that has to be what the collection is of.
    """
    borrowed = read_values(reference)
    judgements = []
    for claim in collection.paper.claims:
        values, runs, missing, wanted = {}, {}, {}, set()
        for seed in sorted({*seeds, *further}):
            used = _Used(collection)
            value = _value(claim.measure, seed, used)
            wanted |= used.wanted
            if value is not None:
                values[seed] = value
            if value is not None or seed in seeds:
                runs |= used.runs
                missing |= dict.fromkeys(used.missing, seed)
        if about is not None and wanted.isdisjoint(about):
            continue
        spread_of = borrowed.get(claim.id, list(values.values()))
        judgements.append(claims.judge(claim, values, spread_of, runs, missing))
    return judgements


def studied(collection: RunCollection, seeds: Sequence[int]) -> tuple[int, ...]:
    """Those of the seeds with which at least half of the paper's own study was run: the rest were asked for singly."""

    def share(seed: int) -> float:
        own = collection.like("adam", seed)
        wanted = planning.range_tests(collection.paper, own) + planning.trials(collection.paper, own)
        return sum(collection.has(trial) for trial in wanted) / len(wanted)

    return tuple(seed for seed in seeds if share(seed) >= 0.5)


class _Used:
    """The runs that a claim rests on, and those it wants and the store has not."""

    def __init__(self, collection: RunCollection) -> None:
        self.collection = collection
        self.runs: dict[str, str] = {}
        self.missing: list[str] = []
        self.wanted: set[Trial] = set()

    def has(self, trial: Trial) -> bool:
        """Whether there is a run of that trial, which is then counted as used, else as missing."""
        self.wanted.add(trial)
        result = self.collection.result(trial)
        if result is None:
            if trial.label not in self.missing:
                self.missing.append(trial.label)
            return False
        self.runs[trial.label] = result.run_id
        return True


def _value(measure: Measure, seed: int, used: _Used) -> float | None:
    """The measure's value for that seed; None where a run is missing, NaN where the runs have no such value."""
    terms = [_term(measure.kind, term, seed, used) for term in (measure.of, measure.minus) if term is not None]
    if None in terms:
        return None
    return terms[0] - terms[1] if len(terms) == 2 else terms[0]


def _term(kind: str, term: Model | Test, seed: int, used: _Used) -> float | None:
    collection = used.collection
    test = collection.test(term.optimizer, seed)
    if isinstance(term, Model):
        if term.learning_rate != "proposed":
            trial = planning.trial_of_model(
                collection.paper, collection.like(term.optimizer, seed), term, term.learning_rate
            )
        elif not used.has(test):
            return None
        else:
            proposal = collection.proposal(test)
            trial = collection.at_rate(term.optimizer, seed, proposal) if proposal else None
        if trial is None:
            return math.nan
        return claims.of_epochs(kind, collection.result(trial).epochs, _decay_epoch(trial)) if used.has(trial) else None
    if kind not in get_args(GridKind):
        return claims.of_curve(kind, collection.curve(test), collection.smoothing) if used.has(test) else None
    grid = collection.grid(term.optimizer, seed)
    have = [used.has(trial) for trial in (test, *grid)]
    proposal = collection.proposal(test) if have[0] else None
    trial = collection.at_rate(term.optimizer, seed, proposal) if proposal else None
    if not all(have) or (trial and not used.has(trial)):
        return None
    if trial is None:
        return math.nan
    accuracies = {trial.learning_rate: collection.accuracies(trial) for trial in grid}
    return claims.of_grid(kind, accuracies, trial.learning_rate, collection.accuracies(trial))


def _decay_epoch(trial: Trial) -> int | None:
    """The epoch, from 1, in which the rate first falls."""
    steps = getattr(trial.schedule, "decay_steps", None)
    return None if steps is None else math.ceil(steps / trial.steps_per_epoch)


def read_values(path: Path) -> dict[str, list[float]]:
    """The values by seed of each claim in a claims.json; empty where there is none."""
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["claims"]
    return {row["id"]: [float(value) for value in row["values"].values()] for row in rows}


def sentence(judgements: list[Judgement]) -> str:
    """How many held."""
    counts = Counter(judgement.verdict for judgement in judgements)
    return (
        f"{counts['reproduced']} of {len(judgements)} statements of the paper are reproduced, "
        f"{counts['not reproduced']} are not, and {counts['inconclusive']} are inconclusive."
    )


def command(judgement: Judgement) -> str:
    """What to type to have the runs that a claim rests on or wants; more seeds where its own could not settle it."""
    if judgement.missing:
        seeds = ",".join(map(str, sorted(set(judgement.missing.values()))))
    elif judgement.verdict != "inconclusive":
        seeds = ",".join(map(str, judgement.values))
    else:
        seeds = "0-9" if len(judgement.values) >= claims.ENOUGH_SEEDS else "0-2"
    return " && ".join(commands(judgement.claim.measure, seeds))


def commands(measure: Measure, seeds: str) -> list[str]:
    """What to type, line by line, to have the runs of a measure for these seeds."""
    if measure.is_of_grid:
        return [f"reproduce grid --seeds {seeds}"]
    parts: dict[str, None] = {}
    for term in filter(None, (measure.of, measure.minus)):
        own = "" if term.optimizer == "adam" else f" --optimizer {term.optimizer}"
        if isinstance(term, Test) or term.learning_rate == "proposed":
            parts[f"reproduce range_test{own} --seeds {seeds}"] = None
        if isinstance(term, Model):
            protocol = "" if term.protocol == "as-drawn" else f" --protocol {term.protocol}"
            rate = term.learning_rate if term.learning_rate == "proposed" else format_rate(term.learning_rate)
            options = f"--scheduler {term.scheduler} --learning-rates {rate}{protocol}"
            parts[f"reproduce sweep{own} {options} --seeds {seeds}"] = None
    return list(parts)


def paper_value(claim: Claim) -> str:
    """What the paper says, as a number."""
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
    """What was measured: mean, interval and number of seeds."""
    if judgement.mean is None:
        return "—"
    mean, low, high = (one_value(judgement.claim, value) for value in (judgement.mean, judgement.low, judgement.high))
    interval = "" if low == high else f" ({low} to {high})"
    unit = _unit(judgement.claim.measure) if math.isfinite(judgement.mean) else ""
    return f"{mean}{interval}{unit}, n = {len(judgement.values)}"


def one_value(claim: Claim, value: float) -> str:
    """A value of the claim's measure: a rate where the measure is a rate's logarithm."""
    if claim.measure.is_rate:
        return format_rate(10**value, 3)
    if claim.measure.kind == "epochs_to_95_percent" and not math.isfinite(value):  # one of two never got there
        return {math.inf: "never", -math.inf: "the other never"}.get(value, "neither")
    return f"{value:.4g}"


def _unit(measure: Measure) -> str:
    if measure.kind.endswith("_step") or measure.kind.endswith("_steps"):
        return " steps"
    if measure.kind == "epochs_to_95_percent":
        return " epochs"
    return " decades" if not measure.is_rate and ("log10" in measure.kind or "decades" in measure.kind) else ""


def text(judgements: list[Judgement]) -> str:
    """The verdicts for a terminal: two lines a claim, a third where something would settle it, and how many held."""
    lines = []
    for judgement in judgements:
        claim = judgement.claim
        lines.append(f"{claim.id:4} {judgement.verdict:15} {claim.says}")
        lines.append(f"     the paper {paper_value(claim)}, here {our_value(judgement)}; {judgement.rule}")
        if judgement.verdict == "inconclusive":
            lines.append(f"     to settle it: {command(judgement)}")
    return "\n".join([*lines, sentence(judgements)])


def markdown(judgements: list[Judgement]) -> str:
    """The verdicts as a table."""
    head = ["", "the paper says", "where", "its value", "ours", "verdict", "by which rule"]
    lines = ["| " + " | ".join(head) + " |", "|" + "-|" * len(head)]
    for judgement in judgements:
        claim, rule = judgement.claim, judgement.rule
        if judgement.verdict == "inconclusive":
            rule += f". Run `{command(judgement)}`"
        values = [paper_value(claim), our_value(judgement)]
        lines.append(
            "| " + " | ".join([claim.id, claim.says, claim.where, *values, f"**{judgement.verdict}**", rule]) + " |"
        )
    return "\n".join(lines) + "\n"


def data(judgements: list[Judgement]) -> dict[str, Any]:
    """The verdicts as data. A number that is not finite, which JSON has not, is the text inf, -inf or nan."""
    return {
        "claims": [
            {
                "id": judgement.claim.id,
                "says": judgement.claim.says,
                "where": judgement.claim.where,
                "verdict": judgement.verdict,
                "expected": list(map(finite, judgement.claim.expected)),
                "allowed": list(map(finite, judgement.allowed)),
                "reading_error": judgement.claim.reading,
                "reading_reason": judgement.claim.reason,
                "mean": finite(judgement.mean),
                "interval": [finite(judgement.low), finite(judgement.high)],
                "values": {str(seed): finite(value) for seed, value in judgement.values.items()},
                "rule": judgement.rule,
                "runs": judgement.runs,
                "missing": list(judgement.missing),
                "command": command(judgement),
            }
            for judgement in judgements
        ]
    }
