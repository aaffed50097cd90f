"""What the runs say beyond the paper: the regret of every rule's proposal, and optimizers at their own proposals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reproduce.analysis import claims, intervals, regret, suggestion_rules
from reproduce.analysis.lr_range_test import WEAK, NoProposal
from reproduce.results.archive import finite
from reproduce.results.run_collection import RunCollection
from reproduce.study.trial import Optimizer, Trial, format_rate

OPTIMIZERS: tuple[Optimizer, ...] = ("adam", "adamw", "sgd", "radam", "lars", "lamb")  # the assignment's


@dataclass(frozen=True)
class Regrets:
    """A grid and the proposals beside it. Accuracies are test accuracies by epoch, as the paper counts them.

    `grid` maps a seed and a rate to them, `proposed` a rule and a seed to its rate and them; `regret` a rule and a
    number of epochs to the regret of each seed. `cost` is that of the paper's rule. `weak` has the rules and seeds
    whose rate stands on weak ground.
    """

    grid: Mapping[int, Mapping[float, Sequence[float]]]
    proposed: Mapping[str, Mapping[int, tuple[float, Sequence[float]]]]
    epochs_compared: tuple[int, ...]
    regret: Mapping[str, Mapping[int, Sequence[float]]]
    cost: Mapping[int, regret.Cost]
    weak: frozenset[tuple[str, int]] = frozenset()


def regrets(collection: RunCollection, optimizer: Optimizer, seeds: Sequence[int]) -> Regrets | None:
    """The regret of each rule, over those seeds of which the store has range test, grid and trainings at proposals.

    None if it has no such seed.
    """
    grid: dict[int, dict[float, Sequence[float]]] = {}
    proposed: dict[str, dict[int, tuple[float, Sequence[float]]]] = {name: {} for name in suggestion_rules.RULES}
    weak: set[tuple[str, int]] = set()
    whole: Trial | None = None
    for seed in seeds:
        test, trials = collection.test(optimizer, seed), collection.grid(optimizer, seed)
        suggested = {name: found for name, found in collection.suggested(test).items() if found}
        at_rates = {
            name: trial for name, found in suggested.items() if (trial := collection.at_rate(optimizer, seed, found))
        }
        found = {trial: collection.accuracies(trial) for trial in (*trials, *at_rates.values())}
        if not at_rates or None in found.values():
            continue
        whole = test
        grid[seed] = {trial.learning_rate: found[trial] for trial in trials}
        for name, trial in at_rates.items():
            proposed[name][seed] = (trial.learning_rate, found[trial])
            weak |= {(name, seed)} if suggested[name].weak else set()
    if whole is None:
        return None
    last = trials[0].epochs
    epochs = tuple(sorted({n for n in collection.paper.grid.epochs_compared if n < last} | {last}))
    return Regrets(
        grid,
        proposed,
        epochs,
        {
            name: {n: [regret.regret(grid[seed], accuracies, n) for seed, (_, accuracies) in by_seed.items()]
                   for n in epochs}
            for name, by_seed in proposed.items()
        },
        {n: regret.cost(whole, trials, n) for n in epochs},
        frozenset(weak),
    )  # fmt: skip


def regret_rows(found: Regrets) -> tuple[list[str], list[list[str]]]:
    """The table of regrets: its head, and a row a rule, accuracies in percentage points."""
    head = ["rule", "proposes", *(f"after {n} epoch{'s' * (n > 1)}" for n in found.epochs_compared)]
    rows = []
    for name, by_seed in found.proposed.items():
        if by_seed:
            rates = ", ".join(
                format_rate(rate) + WEAK * ((name, seed) in found.weak) for seed, (rate, _) in by_seed.items()
            )
            cells = [
                intervals.of([100 * value for value in found.regret[name][n]]).text(2) for n in found.epochs_compared
            ]
            rows.append([name, rates, *cells])
    return head, rows


def regret_text(found: Regrets) -> str:
    """The table of regrets as text, for a terminal."""
    head, rows = regret_rows(found)
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in (head, *rows)]  # fmt: skip
    seeds = len(found.grid)
    over = f" over {seeds} seeds" if seeds > 1 else ""
    lines.insert(0, f"Regret in percentage points of test accuracy against the best fixed rate of the grid{over}:")
    return "\n".join(lines + cost_lines(found))


def cost_lines(found: Regrets) -> list[str]:
    """What the answers cost, in images trained on."""
    return [
        f"{n} epoch{'s' * (n > 1)}: {cost.of_proposal:,} images for the range test and one training, "
        f"{cost.of_grid:,} for the grid"
        for n, cost in found.cost.items()
    ]


def regret_data(found: Regrets) -> dict[str, Any]:
    """The regrets as data: by rule the proposed rates and, by epochs, the regret of each seed as a fraction."""
    return {
        "seeds": list(found.grid),
        "grid": sorted(next(iter(found.grid.values()))),
        "rules": {
            name: {
                "proposed": {str(seed): rate for seed, (rate, _) in by_seed.items()},
                "regret": {str(n): list(map(finite, values)) for n, values in found.regret[name].items()},
            }
            for name, by_seed in found.proposed.items()
        },
        "images": {str(n): {"proposal": cost.of_proposal, "grid": cost.of_grid} for n, cost in found.cost.items()},
    }


def optimizer_rows(collection: RunCollection, seeds: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """The table of optimizers, each without a schedule at what its own range tests propose, ten times it, a tenth."""
    head = ["optimizer", "trained at", "rate, by seed", "epochs to 95%, by seed", "final accuracy"]
    rows = []
    for optimizer in OPTIMIZERS:
        for factor, name in ((1, "proposed"), (10, "× 10"), (0.1, "× 0.1")):
            found, rates, none = [], [], []
            for seed in seeds:
                proposal = collection.proposal(collection.test(optimizer, seed))
                if isinstance(proposal, NoProposal):
                    none.append(str(proposal))
                trial = proposal and collection.at_rate(optimizer, seed, proposal, factor)
                result = trial and collection.result(trial)
                if result:
                    found.append(result)
                    rates.append(format_rate(trial.learning_rate) + WEAK * bool(proposal.weak))
            if found:
                reached = [claims.of_epochs("epochs_to_95_percent", result.epochs, None) for result in found]
                rows.append([
                    optimizer, name, ", ".join(rates),
                    ", ".join("never" if epochs == float("inf") else f"{epochs:g}" for epochs in reached),
                    intervals.of([result.epochs[regret.METRIC][-1] for result in found]).text(),
                ])  # fmt: skip
            elif none and factor == 1:
                rows.append([optimizer, name, "; ".join(dict.fromkeys(none)), "—", "—"])
    return head, rows
