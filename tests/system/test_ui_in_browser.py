"""MLflow's UI in a real browser, in a fresh profile: the prepared views chart the trials, and ask no other host."""

import contextlib
import os
import signal
from urllib.parse import urlsplit

import pytest

from helpers import ROOT, archived_store
from helpers.faults import PATIENCE_SECONDS
from helpers.servers import start_ui

WAIT_MS = 120_000
STUDIES = {
    "15 trials": {},
    "three seeds": {"seeds": (0, 1, 2)},
    "twelve seeds": {"seeds": (0, 1, 2), "times": 4},
}


@pytest.fixture(scope="module", params=STUDIES)
def shown(request, browser, tmp_path_factory, empty_database):
    """Open a window on the address that `reproduce ui` prints, or on one made from it; and the number of its trials."""
    folder = tmp_path_factory.mktemp("study")
    _, models = archived_store.fill(folder, empty_database, **STUDIES[request.param])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "REPRODUCE_HOME": str(folder / "home")}
    running, address = start_ui(folder, environment)
    try:
        with contextlib.ExitStack() as windows:

            def show(change=lambda address: address):
                context = windows.enter_context(contextlib.closing(browser.new_context(viewport=VIEWPORT)))
                window = context.new_page()
                window.set_default_timeout(WAIT_MS)
                window.asked = []
                window.on("request", lambda request: window.asked.append(request.url))
                window.goto(change(address))
                return window

            yield show, models
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(PATIENCE_SECONDS)


VIEWPORT = {"width": 1500, "height": 1300}


def await_rows(window, number):
    """MLflow lists a hundred at first."""
    window.get_by_text(f"{min(number, 100)} matching runs").wait_for()
    if number > 100:
        window.get_by_text("Load more").click()
        window.get_by_text(f"{number} matching runs").wait_for()


def charts(window):
    """The titles of the charts, in their order."""
    window.locator("[data-testid='experiment-view-compare-runs-card']").first.wait_for()
    return [card.inner_text().split("\n")[0] for card in
            window.locator("[data-testid='experiment-view-compare-runs-card']").all()]  # fmt: skip


def test_the_address_shows_every_trial_flat_and_charted(shown):
    show, models = shown
    window = show()
    await_rows(window, models)
    assert charts(window)[:4] == ["test_accuracy", "train_loss", "learning_rate", "test_accuracy"]
    assert "Parallel Coordinates" in charts(window)[4]
    assert {urlsplit(url).hostname for url in window.asked if url.startswith("http")} == {"127.0.0.1"}


def test_the_table_is_sorted_by_accuracy_and_has_the_columns_that_matter(shown):
    show, models = shown
    window = show(lambda address: address.replace("reproduce-trials", "reproduce-table").replace("=CHART", "=TABLE"))
    await_rows(window, models)
    for name in ("test_accuracy", "train_loss", "learning_rate", "scheduler"):
        window.get_by_role("columnheader", name=name).first.wait_for()


def test_means_are_grouped_by_schedule_and_rate(shown):
    show, models = shown
    window = show(lambda address: address.replace("reproduce-trials", "reproduce-means"))
    await_rows(window, models)
    window.get_by_text("Group: scheduler").first.wait_for()


def test_range_tests_are_charted_by_rate(shown):
    show, _ = shown
    window = show(lambda address: address.replace("reproduce-trials", "reproduce-range-tests"))
    assert charts(window)[0] == "step_loss"
    window.get_by_text("log10_learning_rate").first.wait_for()
    window.get_by_role("link", name="range_test adam seed 0").wait_for()


def test_the_experiments_note_leads_to_the_views_from_wherever_it_is_opened(shown):
    show, models = shown
    window = show(lambda address: address.partition("/runs?")[0])
    # MLflow tells of itself on a first visit, over everything else.
    window.get_by_role("button", name="Got it").click()
    followed = window.get_by_role("link", name="Every trial").first.evaluate("link => link.href")
    await_rows(show(lambda address: followed), models)
