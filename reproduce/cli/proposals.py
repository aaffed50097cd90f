"""What range tests propose: rates for a sweep to train at, and what is said and recorded of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reproduce.errors import UserError
from reproduce.progress import say
from reproduce.study import planning
from reproduce.study.config import StudyConfig, option_words
from reproduce.study.departures import list_departures
from reproduce.study.fields import format_rate
from reproduce.study.schema import Paper

if TYPE_CHECKING:
    from reproduce.analysis.lr_range_test import Suggestion
    from reproduce.results.run_collection import RunCollection
    from reproduce.tracking.reader import RecordedProposal
    from reproduce.tracking.store import TrackingStore

# The proposed rate, and what it is compared with.
AROUND = (1, 10, 0.1)


def with_proposed_rates(store: TrackingStore, paper: Paper, config: StudyConfig) -> StudyConfig:
    """Return the configuration with each seed's proposed rate, ten times it and a tenth of it, if requested.

    UserError where a seed's range test is not recorded, or proposes no rate.
    """
    if not config.proposed_rates:
        return config
    rates = {}
    for test in planning.range_tests(paper, config):
        found = store.reader.newest_proposal(test)
        if found is None or found.learning_rate is None:
            raise UserError(
                f"--learning-rates proposed needs what a range test with {test.optimizer}, {test.dataset}, "
                f"{test.train_size} images, batches of {test.batch_size} and seed {test.seed} proposes, and "
                f"{_explain_missing(found, range_test_command(paper, config))}"
            )
        rates[test.seed] = tuple(planning.round_rate(found.learning_rate * factor) for factor in AROUND)
        weakness = f", weak: {found.reason}" if found.reason else ""
        say(f"seed {test.seed}: {format_rate(found.learning_rate, 3)} is what run {found.run_id} proposes{weakness}")
    return config.model_copy(update={"rates_by_seed": rates, "proposed_rates": False})


def _explain_missing(found: RecordedProposal | None, command: str) -> str:
    """Say why there is no proposed rate to train at, and what to type for one."""
    if found is None:
        return f"there is no such range test: run {command} first"
    return f"run {found.run_id} has none: {found.reason} (run {command} with that change, then this again)"


def range_test_command(paper: Paper, config: StudyConfig) -> str:
    """Return what to type for the configuration's range tests, with only the options that are not the paper's."""
    own = {key: getattr(config, key) for key in ("dataset", "optimizer", "batch_size", "train_size", "seeds")}
    return " ".join([paper.command("range_test"), *option_words(paper, StudyConfig(**own))])


def log_proposals(store: TrackingStore, parent_id: str, collection: RunCollection) -> None:
    """Say and record what the configuration's range tests propose."""
    paper, config = collection.paper, collection.config
    found: dict[str, tuple[int, Suggestion]] = {}
    for trial in planning.range_tests(paper, config):
        result, proposal = collection.result(trial), collection.proposal(trial)
        # One that failed was said to have failed.
        if result is None or proposal is None:
            continue
        if proposal:
            beside = ""
            if (stated := paper.range_test.reported) and not list_departures(paper, config):
                beside = f" (the paper: {format_rate(stated.proposed_learning_rate)}, around step {stated.step})"
            say(f"{trial.label}: proposes {proposal}, read at step {proposal.step}{beside}")
        else:
            say(f"{trial.label}: proposes no rate: {proposal.reason}")
        found[result.run_id] = (trial.seed, proposal)
    store.writer.log_proposals(parent_id, collection.smoothing, found)
