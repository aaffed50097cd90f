"""All that a report says, before it is put into words: gathered from recorded runs, by seed, rule and model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.analysis.claims import Judgement
from reproduce.analysis.lr_range_test import PAPERS_RULE, Curve, Reading
from reproduce.analysis.suggestion_rules import RULES
from reproduce.report.tables import Row
from reproduce.results import comparisons, verdicts
from reproduce.results.run_collection import RunCollection
from reproduce.study import planning
from reproduce.study.departures import list_departures
from reproduce.study.trial import Trial
from reproduce.tracking.reader import RANKS, Result


@dataclass(frozen=True)
class ReportData:
    """What tables, figures and pages show. By seed: `curves`, and what each rule suggests. `ui` is MLflow's address."""

    collection: RunCollection
    departures: list[str]
    rows: list[Row]
    tests: list[Trial]
    curves: Mapping[int, Curve]
    suggested: Mapping[int, Mapping[str, Reading]]
    missing: list[Trial]
    environment: dict[str, list[str]]
    judgements: list[Judgement]
    regrets: comparisons.Regrets | None
    optimizers: tuple[list[str], list[list[str]]]
    ui: str | None

    @property
    def proposed(self) -> dict[int, Reading]:
        """What each range test proposes by the paper's rule."""
        return {seed: found[PAPERS_RULE.name] for seed, found in self.suggested.items()}

    @property
    def by_rule(self) -> dict[str, dict[int, Reading]]:
        """What each rule suggests for each seed."""
        return {name: {seed: found[name] for seed, found in self.suggested.items()} for name in RULES}


def gather(collection: RunCollection, ui: str | None = None) -> ReportData:
    """Everything that the runs have to say."""
    paper, config = collection.paper, collection.config
    seeds = config.seeds or paper.protocol.seeds
    tests, rows = planning.range_tests(paper, config), []
    for scheduler, of_schedule in planning.by_scheduler(planning.trials(paper, config)).items():
        positions: dict[int, int] = {}
        for trial in of_schedule:  # the first of every seed is one model, and so on
            position = positions[trial.seed] = positions.get(trial.seed, -1) + 1
            result, reported = collection.result(trial), paper.reported(trial)
            rows.append(Row(trial, (scheduler, position), config.protocol, result, reported))
    departures = list_departures(paper, config)
    judged = not departures  # what departs from the paper's study says nothing about the paper's claims
    if departures:
        tests, rows, left_out = _what_was_run(collection, tests, rows)
        departures += left_out
    optimizer = config.optimizer or paper.protocol.optimizer
    found = [collection.result(trial) for trial in (*tests, *(row.trial for row in rows))]
    return ReportData(
        collection=collection,
        departures=departures,
        rows=rows,
        tests=tests,
        curves={test.seed: curve for test in tests if (curve := collection.curve(test)) is not None},
        suggested={test.seed: suggested for test in tests if (suggested := collection.suggested(test))},
        missing=[trial for trial in (*tests, *(row.trial for row in rows)) if collection.result(trial) is None],
        environment=_environment([result for result in found if result is not None]),
        judgements=verdicts.judge_all(collection, seeds) if judged else [],
        regrets=comparisons.regrets(collection, optimizer, seeds),
        optimizers=comparisons.optimizer_rows(collection, seeds),
        ui=ui,
    )


def _what_was_run(
    collection: RunCollection, tests: list[Trial], rows: list[Row]
) -> tuple[list[Trial], list[Row], list[str]]:
    """Range tests and models, without those of which there is not one beside the others, and what is left out then.

    `sweep` runs no range test, and `range_test` no model: after such a command the others are not missing.
    """
    tested, trained = any(map(collection.result, tests)), any(row.result for row in rows)
    if trained and not tested:
        return [], rows, ["no range test"]
    if tested and not trained:
        return tests, [], ["no model"]
    return tests, rows, []


def _environment(results: Sequence[Result]) -> dict[str, list[str]]:
    """What the runs were made with and on: for each name its values, more than one where the runs differ."""
    names = {"commit": "commit", "uncommitted_changes": "uncommitted changes", "code_sha256": "code"}
    keys = sorted({key for result in results for key in result.tags if key.startswith("environment.")})
    names |= {key: key.removeprefix("environment.") for key in keys}
    found = {
        name: sorted({result.tags.get(key, "1" if key == RANKS else "unknown") for result in results})
        for key, name in names.items()
    }
    return found | {"engine": sorted({result.trial.engine for result in results})}
