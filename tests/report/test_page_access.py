"""Whom the page has to serve: narrow windows, dark rooms, readers without sight, without scripts, on paper."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from helpers.pages import FAILED, SHORTER, WHOLE, at, open_all, rule_of

NARROW, WIDE = 360, 1440


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
    assert [rule_of(window, claim).is_visible() for claim in WHOLE.claims] == [False, True, False]


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_print_shows_every_rule_whatever_is_closed_or_filtered(show, scripts):
    window = show(java_script_enabled=scripts)
    window.locator("label[for=show-held]").click()
    window.emulate_media(media="print")
    assert [rule_of(window, claim).is_visible() for claim in WHOLE.claims] == [True] * 3


def test_a_row_opens_without_scripts(show):
    window = show(java_script_enabled=False)
    window.locator(f"{at(FAILED)} summary").click()
    assert [rule_of(window, claim).is_visible() for claim in WHOLE.claims] == [False, True, False]


def test_without_scripts_nothing_is_offered_that_needs_them(show):
    assert show(java_script_enabled=False).locator("button:visible").count() == 0


def test_a_page_without_claims_opens_in_silence_and_keeps_no_reader_out(show):
    window = show(SHORTER)
    found = Axe().run(window)
    assert (window.heard, found.violations_count) == ([], 0), found.generate_report()
