"""What is taken from the archived report: results in README.md and docs/results.md, and the spread between seeds.

`python tools/readme_results.py` writes them, and tests/project/test_project.py says whether they are stale.
"""

import json
from collections import Counter
from pathlib import Path

from reproduce.analysis import intervals
from reproduce.analysis.lr_range_test import PAPERS_RULE
from reproduce.results import verdicts
from reproduce.study import location
from reproduce.study.fields import format_rate
from reproduce.training.provenance import ROOT

REFERENCE = ROOT / "report" / "reference"
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results.md"
REFERENCE_SPREAD = location.find(location.DEFAULT).with_name(verdicts.REFERENCE_SPREAD)


def results() -> str:
    """Return the archived report's own words for what came out."""
    summary = json.loads((REFERENCE / "summary.json").read_text(encoding="utf-8"))
    claims = json.loads((REFERENCE / "claims.json").read_text(encoding="utf-8"))["claims"]
    counts = Counter(claim["verdict"] for claim in claims)
    tests = summary["range_tests"]
    middle, low, high = (
        format_rate(rate, 3) for rate in intervals.mean_rate_interval([t["proposed_learning_rate"] for t in tests])
    )
    open_claims = ", ".join(claim["id"] for claim in claims if claim["verdict"] == "inconclusive")
    lines = [
        f"**{counts['reproduced']} of {counts.total()} statements of the paper are reproduced, "
        f"{counts['not reproduced']} are not, and {counts['inconclusive']} are inconclusive"
        f"{f' ({open_claims})' if open_claims else ''}.**",
        "",
        f"The range test proposed {middle} (95% interval {low} to {high} over {len(tests)} seeds); "
        f"the paper has {format_rate(tests[0]['paper']['proposed_learning_rate'])}.",
    ]
    if summary["regret"]:
        regret = {
            name: {
                n: intervals.mean_interval([100 * float(value) for value in values])
                for n, values in rule["regret"].items()
            }
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


def reference_spread() -> str:
    """Return the values of each claim, one a seed, by which fewer than three seeds are judged."""
    claims = json.loads((REFERENCE / "claims.json").read_text(encoding="utf-8"))["claims"]
    lines = (f" {json.dumps(claim['id'])}: {json.dumps(list(claim['values'].values()))}" for claim in claims)
    return "{\n" + ",\n".join(lines) + "\n}\n"


def files() -> dict[Path, str]:
    """Return what has results of the archive, as it should be. ValueError where a page has no place for them."""
    whole = results()
    headline = whole.split("\n\n", 1)[0] + "\n"
    return {
        README: renewed(README, "headline", headline),
        RESULTS: renewed(RESULTS, "results", whole),
        REFERENCE_SPREAD: reference_spread(),
    }


def renewed(page: Path, mark: str, text: str) -> str:
    """Return the page with that text between `<!-- mark -->` and `<!-- /mark -->`."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{page.name}: has no {begin.strip()} with an {end}")
    return before + begin + text + end + after


def stale() -> list[str]:
    """Return the files whose results are not those of the archive."""
    return [file.name for file, text in files().items() if file.read_text(encoding="utf-8") != text]


if __name__ == "__main__":
    for file, text in files().items():
        file.write_text(text, encoding="utf-8")
