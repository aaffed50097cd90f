"""Text from outside on the page: it is shown, and runs nothing."""

import contextlib
import re
import sqlite3

import pytest

from helpers.pages import CURVE, HELD, STEP, WHOLE, at, open_all, replace
from helpers.small import run, small_config
from reproduce.report import build, html
from reproduce.results.run_collection import RunCollection

SCRIPT = "<script>window.ran = true</script>"
IMAGE = '"><img src=x onerror="window.ran = true">'
ADDRESS = "javascript:window.ran=true"
HOSTILE = replace(
    WHOLE,
    title=SCRIPT,
    missing=(SCRIPT,),
    claims=(
        replace(
            HELD,
            says=SCRIPT,
            rule=IMAGE,
            runs=(
                replace(STEP, label=SCRIPT + "label", run_id='"><script>', url="https://example.org/"),
                replace(STEP, label="a run", run_id="abc", url=ADDRESS),
            ),
            missing=(IMAGE,),
            command=SCRIPT,
        ),
    ),
    figures=(replace(CURVE, alt=IMAGE, svg=CURVE.svg.replace("<path", f"{SCRIPT.replace('window', 'top')}<path")),),
    environment=(("python", IMAGE),),
    files=((ADDRESS, "a file"),),
)


def test_hostile_text_runs_nothing(show):
    window = show(HOSTILE)
    open_all(window)
    assert (window.evaluate("window.ran"), window.heard) == (None, [])


def test_hostile_text_is_shown_as_it_is(show):
    window = show(HOSTILE)
    open_all(window)
    claim = window.locator(at(HELD)).inner_text()
    for text in (SCRIPT + "label", '"><scrip', IMAGE):  # of a run's id, its beginning
        assert text in claim
    assert window.locator("h1").inner_text() == SCRIPT
    assert window.locator("#origin dd").first.inner_text() == IMAGE
    assert window.locator("img").get_attribute("alt") == IMAGE
    assert SCRIPT in window.get_by_role("note").first.inner_text()


def test_an_address_that_is_a_script_is_no_link(show):
    window = show(HOSTILE)
    addresses = window.eval_on_selector_all("a", "links => links.map(one => one.protocol)")
    assert set(addresses) == {"file:", "http:", "https:"}


SPOILT = {
    "commit": SCRIPT, "uncommitted_changes": IMAGE, "code_sha256": ADDRESS, "outcome": SCRIPT, "environment.cpu": IMAGE,
    "environment.gpu": "</dd></div></main><iframe srcdoc='<script>top.ran = true</script>'></iframe>",
    "environment.system": "{{ 7 * 7 }} {% raw %} ${7 * 7} &lt;b&gt;", "mlflow.runName": SCRIPT,
    "mlflow.note.content": IMAGE, "mlflow.user": SCRIPT, "mlflow.source.git.commit": SCRIPT,
}  # fmt: skip


def spoil(database):
    """Put hostile text wherever a tracking store has text: names, ids of runs, tags, and the key of a tag."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE experiments SET name = name || ?", (SCRIPT,))
        connection.execute("UPDATE runs SET name = ?, user_id = ?, source_name = ?", (SCRIPT, IMAGE, ADDRESS))
        for key, value in SPOILT.items():
            connection.execute("UPDATE tags SET value = ? WHERE key = ?", (value, key))
        connection.execute("UPDATE tags SET key = ? WHERE key = 'environment.memory'", (f"environment.{IMAGE}",))
        for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
            connection.execute(f"UPDATE {table} SET run_uuid = ? || run_uuid", (IMAGE,))


def test_a_store_full_of_hostile_text_gives_a_page_in_which_nothing_runs(show, store, trials, paper, tmp_path):
    run(store, trials, jobs=1)
    spoil(tmp_path / "mlflow.db")
    config = small_config(learning_rates=(6e-4,), schedulers=("step", "multistep"))
    found = RunCollection(store.reader, paper, config, 0.9)
    assert build.write(found, tmp_path / "report", "http://127.0.0.1:5000").missing == []
    window = show(tmp_path / "report" / "index.html")
    window.wait_for_load_state("networkidle")
    assert (window.evaluate("[window.ran, document.querySelectorAll('iframe').length]"), window.heard) == (
        [None, 0],
        [],
    )
    assert [url for url in window.asked if not url.startswith("data:")] == [window.url]
    shown = window.locator("body").inner_text()
    for key in (
        "commit",
        "uncommitted_changes",
        "code_sha256",
        "environment.cpu",
        "environment.gpu",
        "environment.system",
    ):
        assert SPOILT[key] in shown
    text = (tmp_path / "report" / "report.md").read_text()
    assert not {"<script", "<img", "<iframe"} & set(re.findall(r"<\w+", text))


@pytest.mark.parametrize(
    "injected",
    [SCRIPT, '<img src="data:," onerror="window.ran = true">', "<style>body { display: none }</style>",
     '<iframe srcdoc="x"></iframe><script src="https://example.org/x.js"></script>'],
    ids=["script", "handler", "style", "address"],
)  # fmt: skip
def test_the_policy_refuses_what_the_template_did_not_write(show, injected):
    window = show(html.render(vars(WHOLE)).replace("</main>", f"{injected}</main>"))
    window.wait_for_load_state("networkidle")
    assert window.evaluate("window.ran") is None
    assert window.locator("h1").is_visible()
    assert any("Content Security Policy" in said for said in window.heard)


def test_the_policy_lets_nothing_be_sent(show):
    window = show()
    refused = "fetch('https://example.org/').then(() => 'sent', error => error.message)"
    assert window.evaluate(refused) == "Failed to fetch"
    assert any("Content Security Policy" in said for said in window.heard)
