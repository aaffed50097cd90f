"""Windows of a browser for the tests of the page; and a small report."""

import contextlib
import shutil
from pathlib import Path

import pytest

from helpers import ROOT
from helpers.crates import DIVERGED, FINISHED, GIVEN, PUBLICATION
from helpers.pages import WHOLE
from helpers.reports import write_report
from reproduce.report import crate, html

ARCHIVED = ROOT / "report" / "reference" / "index.html"
WIDE = 1440


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page in a window of its own: one that was made, or a file; `heard` is all that it says and asks for."""
    with contextlib.ExitStack() as windows:

        def opened(what=WHOLE, fragment="", **options):
            if not isinstance(what, Path):
                (tmp_path / "index.html").write_text(
                    what if isinstance(what, str) else html.render(vars(what)), "utf-8"
                )
                what = tmp_path / "index.html"
            settings = {"viewport": {"width": WIDE, "height": 900}, "reduced_motion": "reduce"} | options
            window = windows.enter_context(contextlib.closing(browser.new_context(**settings))).new_page()
            window.set_default_timeout(5000)  # what is not there fails soon
            window.heard, window.asked = [], []
            window.on("console", lambda message: window.heard.append(message.text))
            window.on("pageerror", lambda error: window.heard.append(str(error)))
            window.on("request", lambda request: window.asked.append(request.url))
            window.goto(what.as_uri() + fragment)
            return window

        yield opened


@pytest.fixture(params=["made up", "archived"])
def any_page(request):
    """What has to hold of every page is tried on one that has everything, and on the one that is kept."""
    if request.param == "archived" and not ARCHIVED.exists():
        pytest.skip("report/reference has no index.html")
    return {"made up": WHOLE, "archived": ARCHIVED}[request.param]


@pytest.fixture(scope="session")
def report_written_once(finished_study, tmp_path_factory):
    """The report on the three runs, of which each test gets a copy."""
    from reproduce.study.loading import load_paper
    from reproduce.tracking.store import open_store

    folder, _, _ = finished_study
    output = tmp_path_factory.mktemp("report") / "output"
    write_report(open_store(folder / "home", f"sqlite:///{folder}/mlflow.db"), load_paper(), output)
    return output


@pytest.fixture
def written(report_written_once, tmp_path):
    """The report on the three runs, a copy of the test's own."""
    return Path(shutil.copytree(report_written_once, tmp_path / "output"))


@pytest.fixture
def archived_report(tmp_path):
    """A copy of the archived report, without a crate, beside a file of each kind that it lacks."""
    folder = tmp_path / "output"
    shutil.copytree(ROOT / "report" / "reference", folder, ignore=shutil.ignore_patterns(crate.METADATA))
    (folder / "index.html").write_text("<!doctype html>\n")
    (folder / "more").mkdir()
    (folder / "more" / "figure 1 é#?.bin").write_bytes(b"\x00\x01")
    return folder


@pytest.fixture
def described(archived_report):
    """That report, described."""
    crate.write(archived_report, [FINISHED, DIVERGED], PUBLICATION, **GIVEN)
    return archived_report
