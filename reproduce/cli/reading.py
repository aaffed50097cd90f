"""What commands read of the tracking store: the runs that the options choose, and the verdicts that rest on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reproduce.cli import proposals, run_command
from reproduce.cli.recorded_config import find_recorded_config
from reproduce.cli.request import Request
from reproduce.study import planning
from reproduce.study.config import StudyConfig, option_words
from reproduce.study.trial import Trial

if TYPE_CHECKING:
    from reproduce.analysis.claims import Judgement
    from reproduce.results.run_collection import RunCollection
    from reproduce.tracking.store import TrackingStore


@dataclass(frozen=True)
class Judged:
    """The verdicts on a study's claims; `about` are the trials that they were restricted to, None for all."""

    store: TrackingStore
    judgements: list[Judgement]
    about: set[Trial] | None


def collect(store: TrackingStore, request: Request, config: StudyConfig) -> RunCollection:
    """Return the runs of exactly that configuration."""
    from reproduce.results.run_collection import RunCollection

    return RunCollection(store.reader, request.paper, config, request.options.smoothing)


def collect_recorded(store: TrackingStore, request: Request) -> RunCollection:
    """Return the runs that the options choose, as the store has them."""
    paper = request.paper
    typed = proposals.with_proposed_rates(store, paper, request.config)
    return collect(store, request, find_recorded_config(store, paper, typed, request.options))


def judge(request: Request) -> Judged:
    """Judge all claims by all runs, or those about the trials that the options choose, by the seeds that they name."""
    paper, options, typed = request.paper, request.options, request.config
    planning.refuse_what_never_ran(paper, typed)
    from reproduce.results import verdicts

    store = run_command.open_store(request)
    every = store.reader.seeds()
    own = StudyConfig(seeds=typed.seeds or every or None, engine=typed.engine)
    collection = collect(store, request, find_recorded_config(store, paper, own, options))
    seeds = typed.seeds or verdicts.seeds_studied(collection, every) or paper.protocol.seeds
    about = _chosen_trials(store, request.with_config(seeds=seeds))
    return Judged(store, verdicts.judge_all(collection, seeds, () if typed.seeds else every, about=about), about)


def _chosen_trials(store: TrackingStore, request: Request) -> set[Trial] | None:
    """Return the trials that the options choose; None if they do not choose any."""
    paper = request.paper
    if not option_words(paper, request.config.model_copy(update={"seeds": None})):
        return None
    typed = proposals.with_proposed_rates(store, paper, request.config)
    return set(planning.chosen_trials(paper, typed, find_recorded_config(store, paper, typed, request.options)))
