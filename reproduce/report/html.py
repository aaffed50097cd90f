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

from reproduce.training.provenance import ROOT

TEMPLATE = ROOT / "report" / "index.html.j2"
# In the order in which they are counted, each with its class in the style sheet.
VERDICTS = {"reproduced": "held", "not reproduced": "failed", "inconclusive": "open"}
BAND = (30.0, 70.0)  # where a claim's bounds stand on its plot, in percent of the width
EDGE = 4.0  # how near to an end of the plot a point may come, in percent
NUMBER = r"(?:[≤≥≈] -?)?\d[\d.]*e-\d+|[≤≥≈] -?[\d.]*\d|n = \d+"  # 6e-4 and ≤ 1: one word to a reader, two to a browser


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
    """A statement of the paper, its verdict, and all that the verdict rests on."""

    id: str
    says: str
    where: str
    paper_value: str
    our_value: str
    verdict: Literal["reproduced", "not reproduced", "inconclusive"]
    rule: str
    reason: str  # why the tolerance is what it is
    by_seed: tuple[tuple[str, str], ...]  # seed, value
    runs: tuple[Run, ...]
    missing: tuple[str, ...]  # labels of the runs that the claim wants and the store has not
    command: str  # what makes this number again
    figure: str | None = None  # the key of the figure that shows it
    note: str | None = None  # what contradicts it
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
    """All that the page shows, in the order in which it does."""

    title: str
    original: str  # the paper, in a few words
    verdict: str | None  # None where the paper's claims were not judged
    departures: tuple[str, ...]  # from the paper's study
    missing: tuple[str, ...]  # labels of runs
    wanted: int  # how many runs there would be with those
    differing: tuple[str, ...]  # in what the runs were not made alike
    claims: tuple[ClaimRow, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]  # the models first
    environment: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]  # what it gives, command
    citation: str
    files: tuple[tuple[str, str], ...]  # name, what it is


def render(page: Page) -> str:
    """The page as HTML. ValueError where it would have a figure without a text in its place, or two of one name."""
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
    """How a ReportData-Security-Policy names an inline script or style: nothing but this very text may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def data_uri(svg: str) -> str:
    """An SVG as the address of an image: the ids in it are its own, and no script in it runs."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def size(svg: str) -> tuple[int, int]:
    """Width and height, so that the page keeps a figure's place before it is drawn."""
    found = re.search(r'<svg[^>]*\sviewBox="[-\d.]+ [-\d.]+ ([\d.]+) ([\d.]+)"', svg)
    if found is None:
        raise ValueError(f"a figure needs a viewBox to have a size, got {svg[:60]!r}")
    return round(float(found[1])), round(float(found[2]))


def unbroken(text: str, pattern: str = NUMBER) -> Markup:
    """A text, escaped, in which no line ends within what the pattern finds."""
    return Markup(re.sub(pattern, r'<span class="whole">\g<0></span>', str(escape(text))))


def plotted(interval: Interval) -> tuple[float, ...]:
    """Where the band of what is allowed begins and ends on an interval's plot, then its low end, mean and high end.

    All in percent of the width. Bounds stand at the same place on every plot, so that a column of them reads as one
    figure; a band without a bound goes on to the edge, and a value that is off the scale stands there.
    """
    low, high = interval.allowed
    left, right = BAND
    if math.isfinite(low) and math.isfinite(high):
        bound, at, scale = low, left, (right - left) / ((high - low) or 1)
    else:  # the farthest of the three that is finite stands as far from the one bound as there is room for
        bound, at = (low, left) if math.isfinite(low) else (high, right)
        far = [abs(value - bound) for value in astuple(interval)[1:] if math.isfinite(value)]
        scale = (left - EDGE) / (max(far, default=0) or 1)
    places = [min(max(at + (value - bound) * scale, EDGE), 100 - EDGE) for value in astuple(interval)[1:]]
    band = (left if math.isfinite(low) else 0, right if math.isfinite(high) else 100)
    return tuple(round(place, 2) for place in (*band, *places))
