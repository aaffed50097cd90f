"""What the judging of claims says of a single run: its tag `verdict`."""

from reproduce.analysis.claims import Judgement
from reproduce.results.run_collection import RunCollection

# What a run's tag says, by the verdict of a claim about the run's own number, from the mildest on.
RUN_VERDICTS = {"reproduced": "agrees", "inconclusive": "inconclusive", "not reproduced": "differs"}
NO_FIGURE = "no figure"


def verdicts_by_run(judgements: list[Judgement], collection: RunCollection) -> dict[str, str]:
    """Return, by run id, whether each run agrees with the paper or differs from it, or that the paper has no figure.

    A run differs where any of the paper's numbers of it does. Claims that compare models say nothing of a single run.
    Nothing is said where nothing was judged.
    """
    if not judgements:
        return {}
    found = {result.run_id: NO_FIGURE for result in collection.results_read()}
    # The gravest verdict comes last, and stays.
    for verdict, words in RUN_VERDICTS.items():
        for judgement in judgements:
            measure = judgement.claim.measure
            if judgement.verdict == verdict and measure.minus is None and not measure.is_of_grid:
                found |= dict.fromkeys(judgement.runs.values(), words)
    return found
