"""Views of MLflow's UI: an experiment opens on its trials, flat and charted, instead of on a collapsed parent run.

A view is a tag of the experiment, as the UI's own "Save as new view" writes it, and an address that opens it. The form
is that of MLflow 3.15 to 3.18.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from mlflow.entities import Experiment, Run, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from reproduce.errors import TrackingError
from reproduce.escaping import without_credentials
from reproduce.tracking.reader import PROPOSED, RAMP, RANGE_TEST, TRIAL, VERDICT, WEAK_GROUND
from reproduce.tracking.retrying_client import PAGE, RetryingClient

# MLflow's prefix of a view's tag.
TAG = "mlflow.sharedViewState."
# An axis for each of these parameters, where it has several values.
PARAMETERS = (
    "scheduler",
    "learning_rate",
    "seed",
    "optimizer",
    "batch_size",
    "epochs",
    "train_size",
    "dataset",
    "engine",
)
SECTION = "charts"
# Where `reproduce ui` serves it unless told otherwise.
DEFAULT_UI = "http://127.0.0.1:5000"

Card = Mapping[str, object]
Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class View:
    """A view: its key in the address, its name in the UI's menu, the kind of runs that it lists, and their charts.

    `mode` is what it opens on. With `grouped_by`, charts show means over the runs that agree in these parameters.
    """

    key: str
    name: str
    kind: str
    mode: Literal["CHART", "TABLE"]
    cards: Sequence[Card]
    grouped_by: Sequence[str] = ()

    def link(self, experiment_id: str, server: str = "") -> str:
        """Return the address of the view: on the server of that address, or to be followed within the UI."""
        return (
            f"{server}/#/experiments/{experiment_id}/runs?viewStateShareKey={self.key}&compareRunsMode={self.mode}"
            "&workflowType=machine_learning"
        )


def line(metric: str, scale: Scale = "linear", by: str = "") -> Card:
    """Return a chart of a metric by step, or by another metric, a line a run."""
    axis = {"xAxisKey": "metric", "selectedXAxisMetricKey": by} if by else {"xAxisKey": "step"}
    return {"type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], "scaleType": scale,
            "xAxisScaleType": "linear", "lineSmoothness": 0} | axis  # fmt: skip


def bar(metric: str) -> Card:
    """Return a chart of a metric's last values, a bar a run."""
    return {"type": "BAR", "metricKey": metric}


def _parallel(parameters: Sequence[str], metrics: Sequence[str]) -> Card:
    return {"type": "PARALLEL", "selectedParams": list(parameters), "selectedMetrics": list(metrics)}


LINES = (line("test_accuracy"), line("train_loss", "log"), line("learning_rate", "log"))
TRIALS = View("reproduce-trials", "Every trial", TRIAL, "CHART", (*LINES, bar("test_accuracy")))
TABLE = View("reproduce-table", "Trials as a table", TRIAL, "TABLE", TRIALS.cards)
MEANS = View("reproduce-means", "Means over seeds", TRIAL, "CHART", (*LINES, bar("test_accuracy")),
             grouped_by=("scheduler", "learning_rate"))  # fmt: skip
RANGE_TESTS = View("reproduce-range-tests", "Range tests", RANGE_TEST, "CHART", (line(RAMP[0], "log", by=RAMP[1]),))
VIEWS = (TRIALS, TABLE, MEANS, RANGE_TESTS)


def write_views(client: RetryingClient, experiment_id: str) -> None:
    """Write the views and the experiment's note. What the user has changed of them is left alone."""
    experiment = client.call(client.mlflow.get_experiment, experiment_id)
    newest = _trials(client, experiment_id, PAGE)
    tags: dict[str, str] = experiment.tags
    wanted = {f"{TAG}{view.key}": _envelope(view, experiment, newest) for view in VIEWS
              if not _is_changed(view, tags.get(f"{TAG}{view.key}"))}  # fmt: skip
    if MLFLOW_RUN_NOTE not in tags:
        wanted[MLFLOW_RUN_NOTE] = make_note(experiment_id)
    for key, value in wanted.items():
        if tags.get(key) != value:
            client.call(client.mlflow.set_experiment_tag, experiment_id, key, value)


def where_to_compare(client: RetryingClient, experiment_id: str, ui: str | None) -> str:
    """Return what to do to see the runs charted, where `ui` is the UI's address if it is known."""
    view, uri = _view_to_open(client, experiment_id), client.uri
    if uri.startswith(("http://", "https://")):
        return "open " + view.link(experiment_id, without_credentials(uri).rstrip("/"))
    return f"type reproduce ui, and open {view.link(experiment_id, ui or DEFAULT_UI)}"


def prepare_to_show(uri: str, server: str) -> str:
    """Return the address on that server of the view of the newest command's trials, written where it is missing.

    Without a command, or in a store that cannot be written to, it is the server's own address, or the view as it is.
    """
    client = RetryingClient(uri, 0)
    commands = client.search_runs("tags.kind = 'parent'")
    if not commands:
        return server
    experiment_id = str(commands[0].info.experiment_id)
    with suppress(TrackingError):
        write_views(client, experiment_id)
    return _view_to_open(client, experiment_id).link(experiment_id, server)


def _view_to_open(client: RetryingClient, experiment_id: str) -> View:
    """Return the view of the trials, or where there is none yet, that of the range tests."""
    return TRIALS if _trials(client, experiment_id, 1) else RANGE_TESTS


def _trials(client: RetryingClient, experiment_id: str, at_most: int) -> list[Run]:
    """Return the newest trials of the experiment."""
    wanted = f"tags.kind = '{TRIAL}'"
    return list(client.call(client.mlflow.search_runs, [experiment_id], wanted, ViewType.ACTIVE_ONLY, at_most))


def make_note(experiment_id: str) -> str:
    """Return links to the views, in Markdown. Collapsed, the UI shows the first line only."""
    links = [f"[{view.name}]({view.link(experiment_id)})" for view in VIEWS]
    return f"Compare the runs: {' · '.join(links)}"


def _is_changed(view: View, tag: str | None) -> bool:
    """Return whether the user has saved the view anew, or renamed it: the UI then sets the time of its last change."""
    if tag is None:
        return False
    try:
        known = json.loads(tag)
        return bool(known["name"] != view.name or known["updatedAt"] != known["createdAt"])
    except (ValueError, TypeError, KeyError):
        return True


def _envelope(view: View, experiment: Experiment, runs: Sequence[Run]) -> str:
    """Return the view as the UI keeps it in a tag."""
    made_at = experiment.creation_time
    packed = base64.b64encode(zlib.compress(json.dumps(_state(view, runs)).encode())).decode()
    return json.dumps({"name": view.name, "createdAt": made_at, "updatedAt": made_at, "state": f"deflate;{packed}"})


def _state(view: View, runs: Sequence[Run]) -> dict[str, object]:
    varying = [name for name in PARAMETERS if len({run.data.params.get(name) for run in runs}) > 1]
    cards = list(view.cards)
    # The UI draws no parallel coordinates of groups.
    if view.kind == TRIAL and not view.grouped_by and varying:
        cards.append(_parallel(varying, ["test_accuracy"]))
    grouped_by = [{"mode": "param", "groupByData": name} for name in view.grouped_by]
    own = {"metricSectionId": SECTION, "deleted": False, "isGenerated": False, "runsCountToCompare": PAGE}
    if view.kind == TRIAL:
        names = [f"params.`{name}`" for name in dict.fromkeys(["scheduler", "learning_rate", *varying])]
        columns = [*names, "metrics.`test_accuracy`", "metrics.`train_loss`", f"tags.`{VERDICT}`", "tags.`outcome`"]
    else:
        columns = ["params.`optimizer`", "params.`seed`", f"tags.`{PROPOSED}`", f"tags.`{WEAK_GROUND}`"]
    return {
        "searchFilter": f"tags.kind = '{view.kind}'",
        # Sorted by time, the UI would show a parent run with its children folded away.
        "orderByKey": "metrics.`test_accuracy`" if view.kind == TRIAL else "params.`seed`",
        "orderByAsc": view.kind != TRIAL,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        # Otherwise only ten runs are drawn.
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": grouped_by} if grouped_by else None,
        "compareRunSections": [
            {"uuid": SECTION, "name": view.name, "display": True, "isReordered": False, "deleted": False,
             "isGenerated": False, "columns": min(2, len(cards)), "cardHeight": 360}
        ],
        "isAccordionReordered": True,
        "compareRunCharts": [{"uuid": f"card-{number}", **card, **own} for number, card in enumerate(cards)],
    }  # fmt: skip
