"""The README's results, put there from the archived report: what stands between `<!-- results -->` and its end mark.

`python tools/readme_results.py` writes them, and tests/project/test_project.py says whether they are stale.
"""

import json
from collections import Counter

from reproduce.analysis import intervals
from reproduce.analysis.lr_range_test import PAPERS_RULE
from reproduce.study.trial import format_rate
from reproduce.training.provenance import ROOT

REFERENCE = ROOT / "report" / "reference"
README = ROOT / "README.md"
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"


def results() -> str:
    """The archived report's own words for what came out."""
    summary = json.loads((REFERENCE / "summary.json").read_text(encoding="utf-8"))
    claims = json.loads((REFERENCE / "claims.json").read_text(encoding="utf-8"))["claims"]
    counts = Counter(claim["verdict"] for claim in claims)
    tests = summary["range_tests"]
    middle, low, high = (
        format_rate(rate, 3) for rate in intervals.of_rates([t["proposed_learning_rate"] for t in tests])
    )
    open_claims = ", ".join(claim["id"] for claim in claims if claim["verdict"] == "inconclusive")
    lines = [
        f"**{counts['reproduced']} of {counts.total()} statements of the report are reproduced, "
        f"{counts['not reproduced']} are not, and {counts['inconclusive']} are inconclusive"
        f"{f' ({open_claims})' if open_claims else ''}.**",
        "",
        f"The range test proposed {middle} (95% interval {low} to {high} over {len(tests)} seeds); "
        f"the report has {format_rate(tests[0]['paper']['proposed_learning_rate'])}.",
    ]
    if summary["regret"]:
        regret = {
            name: {n: intervals.of([100 * float(value) for value in values]) for n, values in rule["regret"].items()}
            for name, rule in summary["regret"]["rules"].items()
        }
        horizons = sorted(map(int, regret[PAPERS_RULE.name]))
        last = str(horizons[-1])
        images = summary["regret"]["images"]
        lines[-1] += (
            f" Trained there, a model ended below the best of {len(summary['regret']['grid'])} fixed rates by "
            + ", ".join(
                f"{regret[PAPERS_RULE.name][str(n)].text(2)} points after {n} epoch{'s' * (n > 1)} "
                f"(for {images[str(n)]['proposal'] / images[str(n)]['grid']:.0%} of the grid's images)"
                for n in horizons
            )
            + f"; by the other rules' proposals, after {last}: "
            + ", ".join(f"{name} {found[last].text(2)}" for name, found in regret.items() if name != PAPERS_RULE.name)
            + "."
        )
    table = (REFERENCE / "summary.md").read_text(encoding="utf-8")
    return "\n".join([*lines, "", table])


def renewed(text: str) -> str:
    """The README's text with the results as they are now. ValueError where it has no place for them."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{README.name}: has no {BEGIN.strip()} with an {END}")
    return before + BEGIN + results() + END + after


def stale() -> list[str]:
    """What is to be said if the README's results are not those of the archive."""
    text = README.read_text(encoding="utf-8")
    try:
        if text == renewed(text):
            return []
    except ValueError as error:
        return [str(error)]
    return ["README.md: its results are not those of report/reference: run python tools/readme_results.py"]


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
