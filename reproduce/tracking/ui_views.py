"""Views of MLflow's UI: an experiment opens on its trials, flat and charted, instead of on a collapsed parent run.

A view is a tag of the experiment, as the UI's own "Save as new view" writes it, and an address that opens it. The form
is that of MLflow 3.15 to 3.18.
"""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from mlflow.entities import Experiment, Run
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from reproduce.errors import StoreAwayError, TrackingError
from reproduce.escaping import without_credentials
from reproduce.progress import say
from reproduce.tracking.reader import PROPOSED, RAMP, RANGE_TEST, TRIAL, VERDICT, WEAK_GROUND
from reproduce.tracking.retrying_client import PAGE, RetryingClient
from reproduce.tracking.writer import DESPITE_COLLISIONS

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

    `mode` is what it opens on. With `means`, charts show means over the runs that agree in all parameters but the seed.
    With `finished`, runs that are under way, were interrupted or failed are left out.
    """

    key: str
    name: str
    kind: str
    mode: Literal["CHART", "TABLE"]
    cards: Sequence[Card]
    means: bool = False
    finished: bool = False

    @property
    def filter(self) -> str:
        """Return which runs it lists, in the language of MLflow's search."""
        of_kind = f"tags.kind = '{self.kind}'"
        return f"{of_kind} and attributes.status = 'FINISHED'" if self.finished else of_kind

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
# In a ranking and in a mean, half of a training would be compared with a whole one.
TABLE = View("reproduce-table", "Trials as a table", TRIAL, "TABLE", TRIALS.cards, finished=True)
MEANS = View("reproduce-means", "Means over seeds", TRIAL, "CHART", TRIALS.cards, means=True, finished=True)
RANGE_TESTS = View("reproduce-range-tests", "Range tests", RANGE_TEST, "CHART", (line(RAMP[0], "log", by=RAMP[1]),))
VIEWS = (TRIALS, TABLE, MEANS, RANGE_TESTS)


def write_views(client: RetryingClient, experiment_id: str) -> None:
    """Write the views and the experiment's note. What the user has changed of them is left alone.

    A store that refuses them ends no command: that is said in a line.
    """
    with unless_refused("the views of MLflow's UI are not written"):
        experiment = client.call(client.mlflow.get_experiment, experiment_id)
        newest = _newest(client, [experiment_id], TRIAL, PAGE)
        tags: dict[str, str] = experiment.tags
        wanted = {f"{TAG}{view.key}": _envelope(view, experiment, newest) for view in VIEWS
                  if not _is_changed(view, tags.get(f"{TAG}{view.key}"))}  # fmt: skip
        if MLFLOW_RUN_NOTE not in tags:
            wanted[MLFLOW_RUN_NOTE] = make_note(experiment_id)
        for key, value in wanted.items():
            if tags.get(key) != value:
                # Two commands that are the first in an experiment collide.
                DESPITE_COLLISIONS(client.call, client.mlflow.set_experiment_tag, experiment_id, key, value)


@contextmanager
def unless_refused(what: str) -> Iterator[None]:
    """Say `what` where the store refuses a call of the block, and go on: nothing of the study depends on it."""
    try:
        yield
    except StoreAwayError:
        raise
    except TrackingError as error:
        say(f"{what}: {error}")


def where_to_compare(
    client: RetryingClient, experiment_id: str, ui: str | None, run_id: str | None = None
) -> str | None:
    """Return what to do to see the runs charted; None where there is none, or no answer.

    Args:
        client: of the store.
        experiment_id: of the command's experiment. Where it has no trial, the newest of all experiments is shown.
        ui: the address of MLflow's UI. The default one is not there before somebody types `reproduce ui`.
        run_id: a run that the command trained, reused or read. It may be another experiment's, which is then shown.
    """
    with suppress(TrackingError):
        if run_id is not None:
            experiment_id = client.no_wait.call(client.mlflow.get_run, run_id).info.experiment_id
        if found := _view_to_open(client.no_wait, [experiment_id]) or _view_to_open(client.no_wait):
            view, shown_id = found
            own = without_credentials(client.uri).rstrip("/") if is_server(client.uri) else None
            if server := ui if ui not in (None, DEFAULT_UI) else own:
                return f"open {view.link(shown_id, server)}"
            return f"type reproduce ui, and open {view.link(shown_id, DEFAULT_UI)}"
    return None


def is_server(uri: str) -> bool:
    """Return whether a store's address is that of an MLflow server, which has the UI itself."""
    return uri.startswith(("http://", "https://"))


def prepare_to_show(uri: str, server: str) -> str | None:
    """Return the address on that server of the view of the newest trials; None where there is none.

    The view is written where it is missing, and left as it is in a store that cannot be written to.
    """
    client = RetryingClient(uri, 0)
    found = _view_to_open(client)
    if found is None:
        return None
    view, experiment_id = found
    write_views(client, experiment_id)
    return view.link(experiment_id, server)


def _view_to_open(client: RetryingClient, experiment_ids: Sequence[str] | None = None) -> tuple[View, str] | None:
    """Return the view of the newest trial or else of the newest range test, and the id of its experiment."""
    if experiment_ids is None:
        experiment_ids = [found.experiment_id for found in client.call(client.mlflow.search_experiments)]
    for view in (TRIALS, RANGE_TESTS):
        for run in _newest(client, experiment_ids, view.kind, 1):
            return view, str(run.info.experiment_id)
    return None


def _newest(client: RetryingClient, experiment_ids: Sequence[str], kind: str, at_most: int) -> list[Run]:
    """Return the newest runs of a kind in these experiments."""
    found = client.call(client.mlflow.search_runs, list(experiment_ids), f"tags.kind = '{kind}'", max_results=at_most)
    return list(found)


def make_note(experiment_id: str) -> str:
    """Return links to the views, in Markdown. Collapsed, the UI shows the first line only.

    They have no host and no path, as the UI may be served anywhere.
    """
    links = [f"[{view.name}]({view.link(experiment_id).lstrip('/')})" for view in VIEWS]
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
    if view.kind == TRIAL and not view.means and varying:
        cards.append(_parallel(varying, ["test_accuracy"]))
    shown = list(dict.fromkeys(["scheduler", "learning_rate", *varying]))
    grouped_by = [{"mode": "param", "groupByData": name} for name in shown if name != "seed"]
    own = {"metricSectionId": SECTION, "deleted": False, "isGenerated": False, "runsCountToCompare": PAGE}
    if view.kind == TRIAL:
        names = [f"params.`{name}`" for name in shown]
        columns = [*names, "metrics.`test_accuracy`", "metrics.`train_loss`", f"tags.`{VERDICT}`", "tags.`outcome`"]
    else:
        columns = ["params.`optimizer`", "params.`seed`", f"tags.`{PROPOSED}`", f"tags.`{WEAK_GROUND}`"]
    return {
        "searchFilter": view.filter,
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
        "groupBy": {"aggregateFunction": "average", "groupByKeys": grouped_by} if view.means else None,
        "compareRunSections": [
            {"uuid": SECTION, "name": view.name, "display": True, "isReordered": False, "deleted": False,
             "isGenerated": False, "columns": min(2, len(cards)), "cardHeight": 360}
        ],
        "isAccordionReordered": True,
        "compareRunCharts": [{"uuid": f"card-{number}", **card, **own} for number, card in enumerate(cards)],
    }  # fmt: skip
