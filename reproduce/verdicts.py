"""Every claim of the paper judged by the tracked runs: what the store has for each, the verdicts as table and data."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproduce import claims, range_test, study
from reproduce.claims import Judgement
from reproduce.provenance import ROOT
from reproduce.study import Claim, Paper, Wishes
from reproduce.tracking import Result, Store
from reproduce.trial import Trial, format_rate

REFERENCE = ROOT / "report" / "reference" / "claims.json"


def judge_all(store: Store, paper: Paper, wishes: Wishes, reference: Path = REFERENCE) -> list[Judgement]:
    """A judgement of each claim, in the paper's order. Of the wishes only seeds and engine count.

    The claims are about the paper's own study, so no other run is taken for one of its.
    """
    borrowed = read_values(reference)
    own = Wishes(seeds=wishes.seeds, engine=wishes.engine)
    tests = study.range_tests(paper, own)
    wanted = {claim.id: _trials(paper, own, claim) or [tests] for claim in paper.claims}
    found = store.results(trial for groups in wanted.values() for group in groups for trial in group)
    curves = {test: range_test.until_not_finite(*store.curve(found[test].run_id)) for test in tests if test in found}
    judgements = []
    for claim in paper.claims:
        values: dict[int, float] = {}
        for group in zip(*wanted[claim.id], strict=True):  # the trials of one seed
            if all(trial in found for trial in group):
                values[group[0].seed] = _value(claim, group, found, curves, paper.range_test.smoothing)
        trials = [trial for group in wanted[claim.id] for trial in group]
        judgements.append(
            claims.judge(
                claim,
                values,
                borrowed.get(claim.id, list(values.values())),
                [found[trial].run_id for trial in trials if trial in found],
                [trial.label for trial in trials if trial not in found],
            )
        )
    return judgements


def _trials(paper: Paper, wishes: Wishes, claim: Claim) -> list[list[Trial]]:
    """The trials of each model that a claim is about, one a seed; none for a range test's."""
    return [study.of_model(paper, wishes, model) for model in (claim.measure.of, claim.measure.minus) if model]


def _value(claim: Claim, group: tuple[Trial, ...], found: Mapping[Trial, Result], curves: Mapping, smoothing: float):
    if claim.measure.of is None:
        return claims.of_curve(claim.measure.kind, curves[group[0]], smoothing)
    values = [claims.of_epochs(claim.measure.kind, found[trial].epochs, _decay_epoch(trial)) for trial in group]
    return values[0] - values[1] if len(values) == 2 else values[0]


def _decay_epoch(trial: Trial) -> int | None:
    """The epoch, from 1, in which the rate first falls."""
    steps = getattr(trial.schedule, "decay_steps", None)
    return None if steps is None else math.ceil(steps / trial.steps_per_epoch)


def read_values(path: Path) -> dict[str, list[float]]:
    """The values by seed of each claim in a claims.json; empty where there is none."""
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text())["claims"]
    return {row["id"]: [float(value) for value in row["values"].values()] for row in rows}


def sentence(judgements: list[Judgement]) -> str:
    """How many held."""
    counts = Counter(judgement.verdict for judgement in judgements)
    return (
        f"{counts['reproduced']} of {len(judgements)} statements of the paper are reproduced, "
        f"{counts['not reproduced']} are not, and {counts['inconclusive']} cannot be judged from these runs."
    )


def command(judgement: Judgement) -> str:
    """What to type to have the runs that an inconclusive claim wants."""
    seeds = "0-2" if len(judgement.values) < claims.ENOUGH_SEEDS else "0-9"
    parts = []
    for model in filter(None, (judgement.claim.measure.of, judgement.claim.measure.minus)):
        protocol = "" if model.protocol == "as-drawn" else f" --protocol {model.protocol}"
        rate = format_rate(model.learning_rate)
        parts.append(f"reproduce sweep --scheduler {model.scheduler} --learning-rates {rate}{protocol} --seeds {seeds}")
    return " && ".join(parts or [f"reproduce range_test --seeds {seeds}"])


def paper_value(claim: Claim) -> str:
    """What the paper says, as a number."""
    low, high = claim.expected
    if claim.measure.kind == "proposed_log10":
        return format_rate(10**low, 3)
    difference = "difference " if claim.measure.minus else ""
    if low == high:
        return f"{difference}{low:.5g}"
    if math.isinf(low):
        return f"{difference}≤ {high:.5g}"
    return f"{difference}≥ {low:.5g}" if math.isinf(high) else f"{difference}{low:.5g} to {high:.5g}"


def our_value(judgement: Judgement) -> str:
    """What was measured: mean, interval and number of seeds."""
    if judgement.mean is None:
        return "—"
    if judgement.claim.measure.kind == "proposed_log10":
        mean, low, high = (format_rate(10**value, 3) for value in (judgement.mean, judgement.low, judgement.high))
    else:
        mean, low, high = (f"{value:.4g}" for value in (judgement.mean, judgement.low, judgement.high))
    interval = "" if low == high else f" ({low} to {high})"
    return f"{mean}{interval}, n = {len(judgement.values)}"


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
                "expected": list(map(_number, judgement.claim.expected)),
                "allowed": list(map(_number, judgement.allowed)),
                "reading_error": judgement.claim.reading,
                "reading_reason": judgement.claim.reason,
                "mean": _number(judgement.mean),
                "interval": [_number(judgement.low), _number(judgement.high)],
                "values": {str(seed): _number(value) for seed, value in judgement.values.items()},
                "rule": judgement.rule,
                "run_ids": judgement.run_ids,
                "missing": judgement.missing,
            }
            for judgement in judgements
        ]
    }


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(float(value))
