"""The page a reviewer reads: one HTML file that stands alone, without a request to anywhere. Plain values in, text out.

Every string is text, whatever is in it: the template escapes them all, and a figure is an image, in which nothing runs.
The same page gives the same bytes.
"""

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from typing import TypedDict

import jinja2
from markupsafe import Markup, escape

from reproduce import escaping
from reproduce.analysis.claims import Verdict
from reproduce.analysis.intervals import Interval
from reproduce.study.fields import format_rate
from reproduce.training.checkout import ROOT

# In the order in which they are counted, each with its class in the style sheet.
VERDICTS: dict[Verdict, str] = {"reproduced": "held", "not reproduced": "failed", "inconclusive": "open"}
# Where a claim's bounds stand on its plot, and how near to the plot's end a point may come, in percent of the width.
BAND = (30.0, 70.0)
EDGE = 4.0
# What is one word to a reader and two to a browser, as 6e-4 and ≤ 1.
NUMBER = r"(?:[≤≥≈] -?)?\d[\d.]*e-\d+|[≤≥≈] -?[\d.]*\d|n = \d+"


class Run(TypedDict):
    """A run that a claim rests on; `url` is its place in MLflow's UI, None without the UI's address."""

    label: str
    run_id: str
    url: str | None


class Claim(TypedDict):
    """A statement of the paper, its verdict, and all that the verdict rests on.

    `reason` says why the tolerance is what it is, `command` makes the number again, `figure` is the key of the figure
    that shows it, and `note` what contradicts it.
    """

    id: str
    says: str
    where: str
    paper_value: str
    our_value: str
    verdict: Verdict
    rule: str
    reason: str
    by_seed: Sequence[tuple[int, str]]
    runs: Sequence[Run]
    missing: Sequence[str]
    command: str
    figure: str | None
    note: str
    interval: Interval | None
    allowed: tuple[float, float]


class Figure(TypedDict):
    """A figure under its key: its words, and the text of its SVG."""

    key: str
    title: str
    alt: str
    caption: str
    svg: str


class Table(TypedDict):
    """A table whose first column names the row; `numeric` says of each column whether it holds numbers."""

    title: str
    intro: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    sortable: bool
    numeric: Sequence[bool]


class Page(TypedDict):
    """All that is on the page. `missing` names those of the `trial_count` trials that have no run.

    `differing` names what the runs were not made alike with. A command follows what it gives, what a file is follows
    its name.
    """

    title: str
    original: str
    original_url: str | None
    views: list[tuple[str, str]]
    verdict: str | None
    departures: Sequence[str]
    missing: Sequence[str]
    trial_count: int
    differing: Sequence[str]
    claims: Sequence[Claim]
    figures: Sequence[Figure]
    tables: Sequence[Table]
    environment: Sequence[tuple[str, str]]
    commands: Sequence[tuple[str, str]]
    citation: str
    files: Sequence[tuple[str, str]]


def render(page: Page) -> str:
    """Return the page as HTML. Every figure and every claim has a name of its own."""
    return TEMPLATES.get_template("index.html.j2").render(page=page, classes=VERDICTS)


def csp_hash(text: str) -> str:
    """Return how a Content-Security-Policy names an inline script or style, so that nothing but this text may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def data_uri(svg: str) -> str:
    """Return an SVG as the address of an image: the ids in it are its own, and no script in it runs."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def size(svg: str) -> tuple[int, int]:
    """Return width and height, so that the page keeps a figure's place before it is drawn."""
    found = re.search(r'<svg[^>]*\sviewBox="[-\d.]+ [-\d.]+ ([\d.]+) ([\d.]+)"', svg)
    if found is None:
        raise ValueError(f"a figure needs a viewBox to have a size, got {svg[:60]!r}")
    return round(float(found[1])), round(float(found[2]))


def unbroken(text: str, pattern: str = NUMBER) -> Markup:
    """Return the text, escaped, so that no line ends within what the pattern finds."""
    return Markup(re.sub(pattern, r'<span class="whole">\g<0></span>', str(escape(text))))


def plotted(interval: Interval, allowed: tuple[float, float]) -> tuple[float, ...]:
    """Return where on a plot the band of what is allowed begins and ends, then the interval's low, mean and high.

    All are in percent of the width. Bounds stand at the same place on every plot, so that a column of them reads as one
    figure; a band without a bound reaches the edge, and a value that is off the scale stands there. Infinity is a
    value; NaN is none.
    """
    low, high = allowed
    left, right = BAND
    values = (interval.low, interval.mean, interval.high)
    if math.isfinite(low) and math.isfinite(high):
        bound, at, scale = low, left, (right - left) / ((high - low) or 1)
    else:
        # The farthest of the three that is finite stands as far from the one bound as there is room for.
        bound, at = (low, left) if math.isfinite(low) else (high, right)
        far = [abs(value - bound) for value in values if math.isfinite(value)]
        scale = (left - EDGE) / (max(far, default=0) or 1)
    places = [min(max(at + (value - bound) * scale, EDGE), 100 - EDGE) for value in values]
    band = (left if math.isfinite(low) else 0, right if math.isfinite(high) else 100)
    return tuple(round(place, 2) for place in (*band, *places))


# Of the page, and of report.md, which shows what the store has as text, whatever that is.
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(ROOT / "report"), trim_blocks=True, lstrip_blocks=True,
    autoescape=lambda name: name == "index.html.j2", undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
)  # fmt: skip
TEMPLATES.filters |= {
    "csp_hash": csp_hash, "data_uri": data_uri, "size": size, "plotted": plotted, "unbroken": unbroken,
    "shown": escaping.markdown, "rate": format_rate,
}  # fmt: skip
