"""The look of the plots, and matplotlib itself: whatever draws has it from here, without the user's settings.

Colours are Okabe and Ito's, which colour-blind eyes can distinguish too; every line also has a marker or a dash of its
own.
"""

# ruff: noqa: E402  (what the user has set is set aside before matplotlib is imported, here alone)

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.errors import UserError

# While it is imported matplotlib reads the user's settings, and fails over some of them: a notebook sets a backend that
# only the notebook has. No setting may change a figure, so that none is worth a warning either.
os.environ.update({"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull})
logging.getLogger("matplotlib").setLevel(logging.ERROR)
try:
    import matplotlib
except UnicodeDecodeError as error:
    # This is the only file that it reads before what MATPLOTLIBRC names.
    settings = Path("matplotlibrc").resolve()
    raise UserError(f"{settings}, settings of matplotlib's, is not in UTF-8: rename it, or correct it") from error

from matplotlib.axes import Axes as Axes
from matplotlib.figure import Figure as Figure
from matplotlib.lines import Line2D as Line2D
from matplotlib.patches import Patch as Patch
from matplotlib.ticker import LogLocator as LogLocator
from matplotlib.ticker import MaxNLocator as MaxNLocator
from matplotlib.ticker import NullFormatter as NullFormatter

if TYPE_CHECKING:
    # The matplotlib that Python 3.10 has is without it.
    from matplotlib.typing import RcKeyType

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#555555"
BAND_ALPHA = 0.2
STYLE: dict["RcKeyType", Any] = {
    # The defaults, not the user's settings.
    **{name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"},
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Lines pass behind a legend, not through it.
    "legend.framealpha": 1,
    "legend.edgecolor": "none",
    # The same figure gives the same bytes.
    "svg.hashsalt": "reproduce",
    "svg.fonttype": "path",
}
# Decorates what draws.
styled = matplotlib.rc_context(STYLE)


@styled
def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the path's ending, the same bytes for the same figure."""
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=150, metadata=metadata)
