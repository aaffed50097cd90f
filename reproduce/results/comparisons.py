"""What the runs say beyond the paper: the regret of every rule's proposal, and optimizers at their own proposals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.analysis import claims, intervals, regret, suggestion_rules
from reproduce.analysis.lr_range_test import WEAK, NoProposal, Proposal
from reproduce.analysis.regret import Cost
from reproduce.results.archive import finite
from reproduce.results.run_collection import RunCollection
from reproduce.results.table import Table
from reproduce.study.fields import Optimizer, format_rate
from reproduce.tracking.reader import Result

# How an optimizer's trainings without a schedule are named, and how many times the proposed rate they are at.
AROUND_PROPOSAL: dict[str, float] = {"proposed": 1, "× 10": 10, "× 0.1": 0.1}
Accuracies = Sequence[float]


@dataclass(frozen=True)
class AtProposal:
    """A training at the rate that a rule proposes; the accuracies are by epoch."""

    learning_rate: float
    accuracies: Accuracies
    is_weak: bool

    @property
    def short(self) -> str:
        """Return the rate as text, marked where it is weak."""
        return format_rate(self.learning_rate) + WEAK * self.is_weak


@dataclass(frozen=True)
class Regrets:
    """A grid and the proposals beside it. Accuracies are test accuracies by epoch, as the paper counts them.

    `grid` maps a seed and a rate to them, `proposed` a rule and a seed to the training there; `regret` maps a rule and
    a number of epochs to the regret of each seed. `cost` is that of the paper's rule, by the number of epochs.
    """

    grid: Mapping[int, Mapping[float, Accuracies]]
    proposed: Mapping[str, Mapping[int, AtProposal]]
    regret: Mapping[str, Mapping[int, Sequence[float]]]
    cost: Mapping[int, Cost]

    @property
    def epochs_compared(self) -> list[int]:
        """Return after how many epochs they are compared, from the fewest to the most."""
        return list(self.cost)


def regrets(collection: RunCollection, optimizer: Optimizer, seeds: Sequence[int]) -> Regrets | None:
    """Return the regret of each rule, over those seeds that have range test, grid and trainings at proposals.

    None if no seed has them.
    """
    grid: dict[int, Mapping[float, Accuracies]] = {}
    proposed: dict[str, dict[int, AtProposal]] = {name: {} for name in suggestion_rules.RULES}
    for seed in seeds:
        accuracies, at_proposals = _grid(collection, optimizer, seed), _at_proposals(collection, optimizer, seed)
        if accuracies and at_proposals:
            grid[seed] = accuracies
            for name, training in at_proposals.items():
                proposed[name][seed] = training
    if not grid:
        return None
    test, trials = collection.range_test(optimizer, seeds[0]), collection.grid(optimizer, seeds[0])
    last = trials[0].epochs
    compared = sorted({n for n in collection.paper.grid.epochs_compared if n < last} | {last})
    return Regrets(
        grid,
        proposed,
        {
            name: {n: [regret.regret(grid[seed], at.accuracies, n) for seed, at in by_seed.items()] for n in compared}
            for name, by_seed in proposed.items()
        },
        {n: regret.cost(test, trials, n) for n in compared},
    )


def _grid(collection: RunCollection, optimizer: Optimizer, seed: int) -> dict[float, Accuracies]:
    """Return the accuracies at each rate of the grid; nothing where one is missing."""
    trained = {trial.learning_rate: collection.accuracies(trial) for trial in collection.grid(optimizer, seed)}
    found: dict[float, Accuracies] = {
        rate: accuracies for rate, accuracies in trained.items() if accuracies is not None
    }
    return found if len(found) == len(trained) else {}


def _at_proposals(collection: RunCollection, optimizer: Optimizer, seed: int) -> dict[str, AtProposal]:
    """Return the training at what each rule proposes; nothing where one is missing."""
    found: dict[str, AtProposal] = {}
    missing = False
    for name, proposal in collection.suggested(collection.range_test(optimizer, seed)).items():
        trial = collection.trial_at(optimizer, seed, proposal) if isinstance(proposal, Proposal) else None
        if trial is not None and isinstance(proposal, Proposal):
            accuracies = collection.accuracies(trial)
            missing |= accuracies is None
            found[name] = AtProposal(trial.learning_rate, accuracies or [], bool(proposal.weak))
    return {} if missing else found


def regret_table(found: Regrets) -> Table:
    """Return the regrets, a row a rule, in percentage points of accuracy."""
    rows = []
    for name, by_seed in found.proposed.items():
        if by_seed:
            rates = ", ".join(training.short for training in by_seed.values())
            points = ([100 * value for value in found.regret[name][n]] for n in found.epochs_compared)
            rows.append([name, rates, *(intervals.mean_interval(values).text(2) for values in points)])
    return Table(["rule", "proposes", *(f"after {_epochs(n)}" for n in found.epochs_compared)], rows)


def regret_text(found: Regrets) -> str:
    """Return the regrets as text, for a terminal."""
    over = f" over {len(found.grid)} seeds" if len(found.grid) > 1 else ""
    title = f"Regret in percentage points of test accuracy against the best fixed rate of the grid{over}:"
    return "\n".join([title, regret_table(found).text(), *cost_lines(found)])


def cost_lines(found: Regrets) -> list[str]:
    """Return what the answers cost, in images trained on."""
    return [
        f"{_epochs(n)}: {cost.of_proposal:,} images for the range test and one training, {cost.of_grid:,} for the grid"
        for n, cost in found.cost.items()
    ]


def _epochs(n: int) -> str:
    return f"{n} epoch{'s' * (n > 1)}"


def regret_data(found: Regrets) -> dict[str, object]:
    """Return the regrets as data: by rule the proposed rates and, by epochs, the regret of each seed as a fraction."""
    return {
        "seeds": list(found.grid),
        "grid": sorted(next(iter(found.grid.values()))),
        "rules": {
            name: {
                "proposed": {str(seed): training.learning_rate for seed, training in by_seed.items()},
                "regret": {str(n): list(map(finite, values)) for n, values in found.regret[name].items()},
            }
            for name, by_seed in found.proposed.items()
        },
        "images": {str(n): {"proposal": cost.of_proposal, "grid": cost.of_grid} for n, cost in found.cost.items()},
    }


def optimizer_table(collection: RunCollection, seeds: Sequence[int]) -> Table:
    """Return each optimizer without a schedule at what its own range tests propose, ten times it, and a tenth."""
    head = ["optimizer", "trained at", "rate, by seed", "epochs to 95%, by seed", "final accuracy"]
    rows = []
    for optimizer in collection.paper.optimizers:
        tests = {seed: collection.range_test(optimizer, seed) for seed in seeds}
        proposals = {seed: collection.proposal(test) for seed, test in tests.items()}
        found = {seed: proposal for seed, proposal in proposals.items() if isinstance(proposal, Proposal)}
        trained = {
            name: _around_proposals(collection, optimizer, found, factor) for name, factor in AROUND_PROPOSAL.items()
        }
        reasons = [str(proposal) for proposal in proposals.values() if isinstance(proposal, NoProposal)]
        if reasons and not trained["proposed"]:
            rows.append([optimizer, "proposed", "; ".join(dict.fromkeys(reasons)), "—", "—"])
        rows += [[optimizer, name, *_cells(results)] for name, results in trained.items() if results]
    return Table(head, rows)


def _around_proposals(
    collection: RunCollection, optimizer: Optimizer, proposals: Mapping[int, Proposal], factor: float
) -> list[tuple[Proposal, Result]]:
    """Return the proposals of those seeds that were trained at so many times what is proposed, and the runs.

    Args:
        collection: The runs.
        optimizer: The trials'.
        proposals: What range tests with that optimizer propose, by seed.
        factor: How many times the proposed rate.
    """
    found = []
    for seed, proposal in proposals.items():
        trial = collection.trial_at(optimizer, seed, proposal, factor)
        if trial is not None and (result := collection.result(trial)) is not None:
            found.append((proposal, result))
    return found


def _cells(trained: Sequence[tuple[Proposal, Result]]) -> list[str]:
    """Return rates and epochs to 95% accuracy, by seed, and the mean of the final accuracies."""
    reached = [claims.measure_epochs("epochs_to_95_percent", result.epochs, None) for _, result in trained]
    return [
        ", ".join(format_rate(run.trial.learning_rate) + WEAK * bool(proposal.weak) for proposal, run in trained),
        ", ".join("never" if math.isinf(epochs) else f"{epochs:g}" for epochs in reached),
        intervals.mean_interval([result.last(regret.METRIC) for _, result in trained]).text(),
    ]
