"""The page, in the browser of a reader: a Chromium, where there is one."""

import contextlib
import math
import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from helpers import ROOT
from helpers.small import run, small_config
from reproduce.report import build, html
from reproduce.results.run_collection import RunCollection

ARCHIVED = ROOT / "report" / "reference" / "index.html"
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
         "--no-first-run")  # fmt: skip
NARROW, WIDE = 360, 1440
STEP = html.Run("step 6e-4 seed 0", "872b13166bb74f81893590b33e890a52", "http://127.0.0.1:5000/#/experiments/1/runs/8")
NONE = html.Run("none 6e-2 seed 0", "d54f6f04d1f64795a5484e12f28c6d74")
HELD = html.ClaimRow(
    id="C1",
    says="StepLR at 6e-4 ends at an accuracy of 0.9885.",
    where="Table 2, p. 4",
    paper_value="0.9885",
    our_value="0.9881 (n = 3, 0.9878 to 0.9884)",
    verdict="reproduced",
    rule="The interval of our mean lies within 0.9885 ± 0.0015.",
    reason="Three models of the paper's own lie as far apart.",
    by_seed=(("0", "0.9879"), ("1", "0.9884"), ("2", "0.9880")),
    runs=(STEP, replace(STEP, label="step 6e-4 seed 1", run_id="0123456789abcdef0123456789abcdef")),
    missing=(),
    command="reproduce verify --seeds 0,1,2 --schedulers step --learning-rates 6e-4 --optimizers adam --engine fused",
    figure="step",
    interval=html.Interval((0.987, 0.99), 0.9878, 0.9881, 0.9884),
)
FAILED = replace(
    HELD,
    id="C2",
    says="No schedule learns anything at 6e-2.",
    paper_value="≈ 0.1",
    our_value="0.88 (n = 2, −∞ to ∞)",
    verdict="not reproduced",
    rule="The interval of our mean lies below 0.2.",
    runs=(NONE,),
    missing=("none 6e-2 seed 1", "none 6e-2 seed 2"),
    figure=None,
    note="The paper's figure 3 shows that it does learn.",
    interval=html.Interval((-math.inf, 0.2), -math.inf, 0.88, math.inf),
)
OPEN = replace(
    HELD,
    id="C3",
    says="The range test proposes a rate of about 6e-3.",
    our_value="—",
    verdict="inconclusive",
    rule="Every seed's proposal lies within a factor of three of it.",
    by_seed=(),
    runs=(),
    missing=("range test seed 0",),
    figure=None,
    interval=None,
)
CURVE = html.Figure(
    key="step",
    title="Figure 4a: StepLR",
    alt="Training loss and test accuracy by epoch, a line for each initial rate.",
    caption="Hollow markers are the paper's values.",
    svg='<svg xmlns="http://www.w3.org/2000/svg" width="600" height="200" viewBox="0 0 600 200">'
    '<path d="M20 20L580 180" stroke="#00609c"/></svg>',
)
MODELS = html.Table(
    title="Models",
    intro="Values after the last epoch; “≈” is read off a plot.",
    head=("schedule", "rate", "accuracy, paper", "accuracy, here", "loss, here", "outcome", "the paper's word"),
    rows=(
        ("no schedule", "6e-4", "0.9890", "0.9891 ± 0.0004", "0.0312", "finished", "converges at the lowest rate"),
        ("no schedule", "6e-2", "—", "0.1135", "inf", "diverged", "—"),
        ("StepLR", "≈ 6e-3", "≈ 0.88", "0.9885 ± 0.0003", "1,234.5", "finished", "the best of the three by far"),
        ("StepLR", "6e-4", "0.9885", "—", "—", "missing", "—"),
        ("OneCycleLR", "0.6", "0.975", "≈ 0.975", "−0.5", "finished", "fast, but not the best"),
    ),
    sortable=True,
    numeric=(False, True, True, True, True, False, False),
)
RULES = html.Table(
    title="What other rules suggest",
    intro="",
    head=("rule", "seed 0", "seed 1"),
    rows=(("steepest, by step", "6.23e-3", "none"), ("minimum / 10", "6e-3", "1.03e-2")),
    numeric=(False, False, False),
)
WHOLE = html.Page(
    title="LeNet-5 on MNIST, run again",
    original="P. Manocha, “CS5260 Assignment 6”",
    verdict="1 of 3 statements of the paper is reproduced (n = 3).",
    departures=(),
    missing=FAILED.missing + OPEN.missing,
    wanted=18,
    differing=("cpu", "commit"),
    claims=(HELD, FAILED, OPEN),
    figures=(CURVE,),
    tables=(MODELS, RULES),
    environment=(("python", "3.11.7"), ("commit", "6f7dd0fc0aac8a03e6f443a775af62cc4bf087cd"), ("cpu", "this, that")),
    commands=(("everything", "reproduce main --seeds 0,1,2"),),
    citation="A. Author: LeNet-5, run again. Version 0.1.0.",
    files=(("report.md", "The report, as Markdown"), ("claims.json", "The verdicts")),
)
TASTE = replace(WHOLE, verdict=None, claims=(), figures=(), missing=(), differing=(),
                departures=("1 epoch", "10,000 images"))  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), own)
        if not Path(found).exists():
            pytest.skip("needs a Chromium: .venv/bin/playwright install chromium, or apt-get install chromium")
        with contextlib.closing(playwright.chromium.launch(executable_path=found, args=QUIET)) as launched:
            yield launched


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page in a window of its own: one that was made, or a file; `heard` is all that it says and asks for."""
    with contextlib.ExitStack() as windows:

        def opened(what=WHOLE, fragment="", **options):
            if not isinstance(what, Path):
                (tmp_path / "index.html").write_text(what if isinstance(what, str) else html.render(what), "utf-8")
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


def open_all(window):
    """Open every claim, by what the reader would press."""
    if window.locator("#open-all").count():
        window.locator("#open-all").click()
        assert window.locator(".claims details:not([open])").count() == 0


def at(claim):
    return f"#claim-{claim.id}"


def rule(window, claim):
    return window.locator(at(claim)).get_by_text(claim.rule)


def shown(window):
    return [claim.id for claim in WHOLE.claims if window.locator(at(claim)).is_visible()]


def column(window, number):
    return window.locator(f"table.sortable tbody tr > :nth-child({number})").all_inner_texts()


def test_the_page_opens_from_a_file_in_silence(show, any_page):
    window = show(any_page)
    open_all(window)
    assert window.heard == []


def test_the_page_asks_for_nothing_but_itself(show, any_page):
    window = show(any_page)
    open_all(window)
    window.evaluate("scrollTo(0, document.body.scrollHeight)")
    window.wait_for_load_state("networkidle")
    assert [url for url in window.asked if not url.startswith("data:")] == [window.url]


def test_a_taste_says_that_it_is_one(show):
    window = show(TASTE)
    note = "This is a taste, not the reproduction. It was run with 1 epoch; 10,000 images."
    assert note in window.get_by_role("note").inner_text()


def test_a_page_without_claims_opens_in_silence_and_keeps_no_reader_out(show):
    window = show(TASTE)
    found = Axe().run(window)
    assert (window.heard, found.violations_count) == ([], 0), found.generate_report()


def test_a_row_is_closed_until_it_is_asked_for(show):
    window = show()
    assert [rule(window, claim).is_visible() for claim in WHOLE.claims] == [False] * 3


def test_a_click_on_a_row_opens_its_claim_and_no_other(show):
    window = show()
    window.get_by_text(FAILED.says).click()
    assert [rule(window, claim).is_visible() for claim in WHOLE.claims] == [False, True, False]


def test_a_second_click_closes_it(show):
    window = show()
    window.get_by_text(FAILED.says).click()
    window.get_by_text(FAILED.says).click()
    assert not rule(window, FAILED).is_visible()


def test_a_click_on_the_mark_of_a_row_opens_it_once(show):
    window = show()
    window.locator(f"{at(HELD)} summary").click()
    assert rule(window, HELD).is_visible()


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_goes_to_a_row_and_opens_it(show, key):
    window = show()
    window.locator("#open-all").focus()
    window.keyboard.press("Tab")
    window.keyboard.press("Tab")
    window.keyboard.press(key)
    assert [rule(window, claim).is_visible() for claim in WHOLE.claims] == [False, True, False]


def test_a_link_to_a_claim_opens_it(show):
    window = show(fragment=at(FAILED))
    assert [rule(window, claim).is_visible() for claim in WHOLE.claims] == [False, True, False]


def test_a_link_to_a_claim_shows_it_though_it_is_filtered_out(show):
    window = show()
    window.locator("label[for=show-failed]").click()
    window.locator("#figures").get_by_role("link", name=HELD.id).click()
    rule(window, HELD).wait_for(state="visible")


def test_an_open_claim_shows_all_that_its_verdict_rests_on(show):
    window = show(fragment=at(FAILED))
    text = window.locator(f"{at(FAILED)} .facts").inner_text()
    seeds = [f"seed {seed}: {value}" for seed, value in FAILED.by_seed]
    for said in (FAILED.reason, FAILED.note, *seeds, NONE.label, NONE.run_id[:8], *FAILED.missing, FAILED.command):
        assert said in text


def test_a_run_with_an_address_is_a_link_to_it(show):
    window = show(fragment=at(HELD))
    assert window.locator(at(HELD)).get_by_role("link", name=STEP.run_id[:8]).get_attribute("href") == STEP.url


def test_a_claim_leads_to_its_figure(show):
    window = show(fragment=at(HELD))
    window.locator(at(HELD)).get_by_role("link", name=CURVE.title).click()
    assert window.evaluate("document.querySelector(':target').id") == "figure-step"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("held", ["C1"]), ("failed", ["C2"]), ("open", ["C3"]), ("all", ["C1", "C2", "C3"])],
)
@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_a_filter_shows_just_its_claims(show, choice, expected, scripts):
    window = show(java_script_enabled=scripts)
    window.locator("label[for=show-open]").click()
    window.locator(f"label[for=show-{choice}]").click()
    assert shown(window) == expected


def test_a_filter_of_no_claims_cannot_be_chosen(show):
    window = show(replace(WHOLE, claims=(HELD, FAILED)))
    assert [window.locator(f"#show-{name}").is_disabled() for name in ("held", "failed", "open")] == [
        False, False, True,
    ]  # fmt: skip


def test_a_filter_tells_how_many_claims_it_shows(show):
    window = show()
    window.locator("label[for=show-held]").click()
    assert window.get_by_role("status").inner_text() == "1 of 3 claims shown"


@pytest.mark.parametrize(
    ("number", "ascending", "descending"),
    [
        (1, ["no schedule", "no schedule", "OneCycleLR", "StepLR", "StepLR"],
            ["StepLR", "StepLR", "OneCycleLR", "no schedule", "no schedule"]),
        (2, ["6e-4", "6e-4", "≈ 6e-3", "6e-2", "0.6"], ["0.6", "6e-2", "≈ 6e-3", "6e-4", "6e-4"]),
        (3, ["≈ 0.88", "0.975", "0.9885", "0.9890", "—"], ["0.9890", "0.9885", "0.975", "≈ 0.88", "—"]),
        (4, ["0.1135", "≈ 0.975", "0.9885 ± 0.0003", "0.9891 ± 0.0004", "—"],
            ["0.9891 ± 0.0004", "0.9885 ± 0.0003", "≈ 0.975", "0.1135", "—"]),
        (5, ["−0.5", "0.0312", "1,234.5", "inf", "—"], ["inf", "1,234.5", "0.0312", "−0.5", "—"]),
        (7, ["converges at the lowest rate", "fast, but not the best", "the best of the three by far", "—", "—"],
            ["the best of the three by far", "fast, but not the best", "converges at the lowest rate", "—", "—"]),
    ],
    ids=lambda value: MODELS.head[value - 1] if isinstance(value, int) else "",
)  # fmt: skip
def test_the_models_sort_up_then_down_then_as_in_the_paper_with_what_is_absent_last(
    show, number, ascending, descending
):
    window = show()
    head = window.locator(f"table.sortable thead th:nth-child({number})")
    seen = []
    for _ in range(3):
        head.get_by_role("button").click()
        seen.append((head.get_attribute("aria-sort"), column(window, number)))
    paper_order = [row[number - 1] for row in MODELS.rows]
    assert seen == [("ascending", ascending), ("descending", descending), ("none", paper_order)]


def test_a_row_is_sorted_whole(show):
    window = show()
    window.get_by_role("button", name="loss, here").click()
    assert window.locator("table.sortable tbody tr").first.locator("th, td").all_inner_texts() == list(MODELS.rows[4])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_no_window_scrolls_sideways(show, any_page, width, scheme):
    window = show(any_page, viewport={"width": width, "height": 800}, color_scheme=scheme)
    open_all(window)
    needed, there = window.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert needed <= there == width


@pytest.mark.parametrize(
    ("any_page", "width", "scheme"),
    [
        *(("made up", width, scheme) for width in (NARROW, WIDE) for scheme in ("light", "dark")),
        # Contrast takes seconds on so long a page; each width and each scheme is there once.
        ("archived", NARROW, "light"),
        ("archived", WIDE, "dark"),
    ],
    indirect=["any_page"],
)
def test_nothing_keeps_a_reader_out(show, any_page, width, scheme):
    window = show(any_page, viewport={"width": width, "height": 800}, color_scheme=scheme)
    open_all(window)
    found = Axe().run(window)
    assert found.violations_count == 0, found.generate_report()


def test_a_command_is_copied_as_it_is_to_be_typed(show):
    window = show(fragment=at(HELD))
    window.context.grant_permissions(["clipboard-read", "clipboard-write"])
    window.get_by_role("button", name=f"Copy the command for {HELD.id}").click()
    window.get_by_role("button", name="Copied").wait_for()
    assert window.evaluate("navigator.clipboard.readText()") == HELD.command


def test_where_the_clipboard_is_refused_a_command_is_selected(show):
    window = show(fragment=at(HELD))
    window.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")
    window.get_by_role("button", name=f"Copy the command for {HELD.id}").click()
    window.get_by_role("button", name="Selected").wait_for()
    assert window.evaluate("String(getSelection())") == HELD.command


def test_every_image_says_what_it_shows(show, any_page):
    texts = show(any_page).eval_on_selector_all("img", "images => images.map(one => one.alt.trim())")
    assert all(texts)


def test_a_figure_is_drawn(show):
    assert show().evaluate("[document.images[0].complete, document.images[0].naturalWidth]") == [True, 600]


def test_the_page_prints(show, any_page):
    assert show(any_page).pdf().startswith(b"%PDF-")


def test_what_was_closed_is_closed_again_once_printed(show):
    window = show(fragment=at(FAILED))
    window.pdf()
    assert [rule(window, claim).is_visible() for claim in WHOLE.claims] == [False, True, False]


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_print_shows_every_rule_whatever_is_closed_or_filtered(show, scripts):
    window = show(java_script_enabled=scripts)
    window.locator("label[for=show-held]").click()
    window.emulate_media(media="print")
    assert [rule(window, claim).is_visible() for claim in WHOLE.claims] == [True] * 3


def test_a_row_opens_without_scripts(show):
    window = show(java_script_enabled=False)
    window.locator(f"{at(FAILED)} summary").click()
    assert [rule(window, claim).is_visible() for claim in WHOLE.claims] == [False, True, False]


def test_without_scripts_nothing_is_offered_that_needs_them(show):
    assert show(java_script_enabled=False).locator("button:visible").count() == 0


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
            runs=(html.Run(SCRIPT + "label", '"><script>', "https://example.org/"), html.Run("a run", "abc", ADDRESS)),
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
    assert set(addresses) == {"file:", "https:"}


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
    assert (
        build.write(RunCollection(store.reader, paper, config, 0.9), tmp_path / "report", "http://127.0.0.1:5000") == 0
    )
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
    window = show(html.render(WHOLE).replace("</main>", f"{injected}</main>"))
    window.wait_for_load_state("networkidle")
    assert window.evaluate("window.ran") is None
    assert window.locator("h1").is_visible()
    assert any("Content Security Policy" in said for said in window.heard)


def test_the_policy_lets_nothing_be_sent(show):
    window = show()
    refused = "fetch('https://example.org/').then(() => 'sent', error => error.message)"
    assert window.evaluate(refused) == "Failed to fetch"
    assert any("Content Security Policy" in said for said in window.heard)


def test_a_figure_without_a_text_is_refused():
    with pytest.raises(ValueError, match="'step' needs a text that says what it shows"):
        html.render(replace(WHOLE, figures=(replace(CURVE, alt=" "),)))


@pytest.mark.parametrize(
    ("twice", "told"),
    [({"figures": (CURVE, CURVE)}, "every figure needs a name of its own, got 'step' twice"),
     ({"claims": (HELD, FAILED, HELD)}, "every claim needs a name of its own, got 'C1' twice")],
    ids=["figure", "claim"],
)  # fmt: skip
def test_two_of_one_name_are_refused(twice, told):
    with pytest.raises(ValueError, match=told):
        html.render(replace(WHOLE, **twice))


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        # 0.08 of the claim's scale is 40 percent of the plot.
        (html.Interval((0.9, 0.98), 0.94, 0.95, 0.96), (30, 70, 50, 55, 60)),
        # The far end, 0.25 from the bound, stands 26 percent from it.
        (html.Interval((0.5, math.inf), 0.6, 0.7, 0.75), (30, 100, 40.4, 50.8, 56)),
        (html.Interval((-math.inf, 0.2), 0.1, 0.2, 0.4), (0, 70, 57, 70, 96)),
        # What is off the scale stands at its edge.
        (html.Interval((0.0, 1.0), -2.0, 0.5, 3.0), (30, 70, 4, 50, 96)),
        # An interval without ends leaves the mean to give the scale.
        (html.Interval((-math.inf, 0.2), -math.inf, 0.1, math.inf), (0, 70, 4, 44, 96)),
    ],
    ids=["two bounds", "no upper bound", "no lower bound", "off the scale", "an endless interval"],
)
def test_an_interval_is_plotted_to_the_scale_of_its_claim(interval, expected):
    assert html.plotted(interval) == pytest.approx(expected)


@pytest.mark.parametrize("number", ["6e-4", "1.03e-2", "≤ -0.5", "≈ 0.88", "≥ 1876", "≈ 6.2e-5", "n = 3"])
def test_no_line_ends_within_a_number(number):
    assert html.unbroken(f"<{number}>, or.") == f'&lt;<span class="whole">{number}</span>&gt;, or.'


def test_the_same_page_gives_the_same_bytes():
    assert html.render(WHOLE).encode() == html.render(replace(WHOLE)).encode()
