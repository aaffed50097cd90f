"""The page a reviewer reads: one HTML file that stands alone, without a request to anywhere. Dataclasses in, text out.

Every string is text, whatever is in it: the template escapes them all, and a figure is an image, in which nothing runs.
The same page gives the same bytes.
"""

import base64
import hashlib
import math
import re
from collections import Counter
from dataclasses import astuple, dataclass
from typing import Literal

import jinja2
from markupsafe import Markup, escape

from reproduce.training.checkout import ROOT

TEMPLATE = ROOT / "report" / "index.html.j2"
# In the order in which they are counted, each with its class in the style sheet.
VERDICTS = {"reproduced": "held", "not reproduced": "failed", "inconclusive": "open"}
# Where a claim's bounds stand on its plot, and how near to the plot's end a point may come, in percent of the width.
BAND = (30.0, 70.0)
EDGE = 4.0
# What is one word to a reader and two to a browser, as 6e-4 and ≤ 1.
NUMBER = r"(?:[≤≥≈] -?)?\d[\d.]*e-\d+|[≤≥≈] -?[\d.]*\d|n = \d+"


@dataclass(frozen=True)
class Run:
    """A tracked run; shown as a link only where its `url` is given."""

    label: str
    run_id: str
    url: str | None = None


@dataclass(frozen=True)
class Interval:
    """Our mean and its interval beside the bounds of what a claim allows. Infinity is a value; NaN is none."""

    allowed: tuple[float, float]
    low: float
    mean: float
    high: float


@dataclass(frozen=True)
class ClaimRow:
    """A statement of the paper, its verdict, and all that the verdict rests on.

    `reason` says why the tolerance is what it is, `by_seed` has the value of each seed, and `missing` the labels of the
    runs that the claim wants and the store does not have. `command` makes this number again, `figure` is the key of the
    figure that shows it, and `note` what contradicts it.
    """

    id: str
    says: str
    where: str
    paper_value: str
    our_value: str
    verdict: Literal["reproduced", "not reproduced", "inconclusive"]
    rule: str
    reason: str
    by_seed: tuple[tuple[str, str], ...]
    runs: tuple[Run, ...]
    missing: tuple[str, ...]
    command: str
    figure: str | None = None
    note: str | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Figure:
    """A figure as the text of an SVG, under the key that claims name it by."""

    key: str
    title: str
    alt: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Table:
    """A table of plain text, whose first column names the row; `numeric` says which columns are numbers."""

    title: str
    intro: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sortable: bool = False
    numeric: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Page:
    """All that the page shows, in the order in which it does.

    `original` is the citation of the paper, and `original_url` its address. `verdict` is None where the paper's claims
    were not judged. `departures` say in what the study is not the paper's, `missing` are labels of runs, of `wanted` in
    all, and `differing` is in what the runs were not made alike. The models are the first of the tables. A command
    follows what it gives; a file's name comes before what it is.
    """

    title: str
    original: str
    original_url: str | None
    verdict: str | None
    departures: tuple[str, ...]
    missing: tuple[str, ...]
    wanted: int
    differing: tuple[str, ...]
    claims: tuple[ClaimRow, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    environment: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]
    citation: str
    files: tuple[tuple[str, str], ...]


def render(page: Page) -> str:
    """Return the page as HTML. ValueError for a figure without a text in its place, and for two of one name."""
    for what, names in (("claim", [claim.id for claim in page.claims]), ("figure", [f.key for f in page.figures])):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"every {what} needs a name of its own, got {twice[0]!r} twice")
    for figure in page.figures:
        if not figure.alt.strip():
            raise ValueError(f"figure {figure.key!r} needs a text that says what it shows, got none")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), trim_blocks=True, lstrip_blocks=True, autoescape=True,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "csp_hash": csp_hash,
        "data_uri": data_uri,
        "size": size,
        "plotted": plotted,
        "unbroken": unbroken,
    }
    return environment.get_template(TEMPLATE.name).render(
        page=page, classes=VERDICTS, counts=Counter(claim.verdict for claim in page.claims)
    )


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


def plotted(interval: Interval) -> tuple[float, ...]:
    """Return where on a plot the band of what is allowed begins and ends, then the interval's low, mean and high.

    All are in percent of the width. Bounds stand at the same place on every plot, so that a column of them reads as one
    figure; a band without a bound goes on to the edge, and a value that is off the scale stands there.
    """
    low, high = interval.allowed
    left, right = BAND
    if math.isfinite(low) and math.isfinite(high):
        bound, at, scale = low, left, (right - left) / ((high - low) or 1)
    else:
        # The farthest of the three that is finite stands as far from the one bound as there is room for.
        bound, at = (low, left) if math.isfinite(low) else (high, right)
        far = [abs(value - bound) for value in astuple(interval)[1:] if math.isfinite(value)]
        scale = (left - EDGE) / (max(far, default=0) or 1)
    places = [min(max(at + (value - bound) * scale, EDGE), 100 - EDGE) for value in astuple(interval)[1:]]
    band = (left if math.isfinite(low) else 0, right if math.isfinite(high) else 100)
    return tuple(round(place, 2) for place in (*band, *places))
