"""All that a report says, before it is put into words: collected from recorded runs, by seed, rule and model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.analysis.claims import Judgement
from reproduce.analysis.lr_range_test import PAPERS_RULE, Curve, Suggestion
from reproduce.analysis.suggestion_rules import RULES
from reproduce.report.tables import Row
from reproduce.results import comparisons, verdicts
from reproduce.results.run_collection import RunCollection
from reproduce.results.table import Table
from reproduce.study import planning
from reproduce.study.departures import list_departures
from reproduce.study.schema import Paper
from reproduce.study.trial import Trial
from reproduce.tracking.reader import RANKS, Result


@dataclass(frozen=True)
class ReportData:
    """The content of tables, figures and pages.

    `tests` are the range tests, and `rows` the models. `curves` and what each rule suggests are by seed. `environment`
    has the values of each name that runs were made with. `ui` is MLflow's address.
    """

    collection: RunCollection
    departures: list[str]
    rows: list[Row]
    tests: list[Trial]
    curves: Mapping[int, Curve]
    suggested: Mapping[int, Mapping[str, Suggestion]]
    environment: dict[str, list[str]]
    judgements: list[Judgement]
    regrets: comparisons.Regrets | None
    optimizers: Table
    ui: str | None

    @property
    def paper(self) -> Paper:
        """Return the paper that the report is about."""
        return self.collection.paper

    @property
    def trials(self) -> list[Trial]:
        """Return the range tests and the models, run or missing."""
        return [*self.tests, *(row.trial for row in self.rows)]

    @property
    def missing(self) -> list[Trial]:
        """Return those of the trials that have no run."""
        return [trial for trial in self.trials if self.collection.result(trial) is None]

    @property
    def test_results(self) -> list[Result]:
        """Return the runs of the range tests."""
        return [result for test in self.tests if (result := self.collection.result(test)) is not None]

    @property
    def differing(self) -> list[str]:
        """Return the names of what the runs were not made alike with."""
        return [name for name, values in self.environment.items() if len(values) > 1]

    @property
    def proposed(self) -> dict[int, Suggestion]:
        """Return what each range test proposes by the paper's rule."""
        return {seed: found[PAPERS_RULE.name] for seed, found in self.suggested.items()}

    @property
    def by_rule(self) -> dict[str, dict[int, Suggestion]]:
        """Return what each rule suggests for each seed."""
        return {name: {seed: found[name] for seed, found in self.suggested.items()} for name in RULES}


def collect_report_data(collection: RunCollection, ui: str | None = None) -> ReportData:
    """Return everything that the runs say. `ui` is the address of MLflow's UI, for links to the runs."""
    paper, config = collection.paper, collection.config
    seeds = config.seeds or paper.protocol.seeds
    tests, rows = planning.range_tests(paper, config), _rows(collection)
    if not paper.has_range_test:
        tests = [test for test in tests if collection.has(test)]
    departures = list_departures(paper, config)
    is_judged = not departures
    if departures:
        tests, rows, left_out = _without_what_was_not_run(collection, tests, rows)
        departures += left_out
    results = [collection.result(trial) for trial in (*tests, *(row.trial for row in rows))]
    return ReportData(
        collection=collection,
        departures=departures,
        rows=rows,
        tests=tests,
        curves={test.seed: curve for test in tests if (curve := collection.curve(test)) is not None},
        suggested={test.seed: suggested for test in tests if (suggested := collection.suggested(test))},
        environment=_environment([result for result in results if result is not None]),
        # What departs from the paper's study says nothing about the paper's claims.
        judgements=verdicts.judge_all(collection, seeds) if is_judged else [],
        regrets=comparisons.regrets(collection, config.optimizer or paper.protocol.optimizer, seeds),
        optimizers=comparisons.optimizer_table(collection, seeds),
        ui=ui,
    )


def _rows(collection: RunCollection) -> list[Row]:
    """Return a row for each model and seed, with the run of it and what the paper reports."""
    paper, config, rows = collection.paper, collection.config, []
    # Of a schedule, the first trial of every seed is one model, the second another, and so on.
    positions: dict[tuple[str, int], int] = {}
    for trial in planning.trials(paper, config):
        key = (trial.schedule.name, trial.seed)
        position = positions[key] = positions.get(key, -1) + 1
        model = (trial.schedule.name, position)
        rows.append(
            Row(trial, model, config.protocol or paper.protocols[0], collection.result(trial), paper.reported(trial))
        )
    return rows


def _without_what_was_not_run(
    collection: RunCollection, tests: list[Trial], rows: list[Row]
) -> tuple[list[Trial], list[Row], list[str]]:
    """Return range tests and models, without those of which there is no run at all, and what is left out then.

    `sweep` runs no range test, and `range_test` no model: after such a command the others are not missing.
    """
    tested, trained = any(map(collection.result, tests)), any(row.result for row in rows)
    if trained and not tested:
        return [], rows, ["no range test"]
    if tested and not trained:
        return tests, [], ["no model"]
    return tests, rows, []


def _environment(results: Sequence[Result]) -> dict[str, list[str]]:
    """Return what the runs were made with: for each name its values, more than one where the runs differ."""
    names = {"commit": "commit", "uncommitted_changes": "uncommitted changes", "code_sha256": "code"}
    keys = sorted({key for result in results for key in result.tags if key.startswith("environment.")})
    names |= {key: key.removeprefix("environment.") for key in keys}
    found = {
        name: sorted({result.tags.get(key, "1" if key == RANKS else "unknown") for result in results})
        for key, name in names.items()
    }
    return found | {"engine": sorted({result.trial.engine for result in results})}
