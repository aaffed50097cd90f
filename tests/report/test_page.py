"""What a reader does with the page: open claims, filter them, follow links, sort, copy."""

import pytest

from helpers.pages import CURVE, FAILED, HELD, MODELS, NONE, SHORTER, STEP, WHOLE, at, open_all, replace, rule_of


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


def test_a_shorter_run_says_that_it_is_one(show):
    window = show(SHORTER)
    note = "This is a shorter run, not the reproduction. It was run with 1 epoch; 10,000 images."
    assert note in window.get_by_role("note").inner_text()


def test_a_row_is_closed_until_it_is_asked_for(show):
    window = show()
    assert [rule_of(window, claim).is_visible() for claim in WHOLE.claims] == [False] * 3


def test_a_click_on_a_row_opens_its_claim_and_no_other(show):
    window = show()
    window.get_by_text(FAILED.says).click()
    assert [rule_of(window, claim).is_visible() for claim in WHOLE.claims] == [False, True, False]


def test_a_second_click_closes_it(show):
    window = show()
    window.get_by_text(FAILED.says).click()
    window.get_by_text(FAILED.says).click()
    assert not rule_of(window, FAILED).is_visible()


def test_a_click_on_the_mark_of_a_row_opens_it_once(show):
    window = show()
    window.locator(f"{at(HELD)} summary").click()
    assert rule_of(window, HELD).is_visible()


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_goes_to_a_row_and_opens_it(show, key):
    window = show()
    window.locator("#open-all").focus()
    window.keyboard.press("Tab")
    window.keyboard.press("Tab")
    window.keyboard.press(key)
    assert [rule_of(window, claim).is_visible() for claim in WHOLE.claims] == [False, True, False]


def test_a_link_to_a_claim_opens_it(show):
    window = show(fragment=at(FAILED))
    assert [rule_of(window, claim).is_visible() for claim in WHOLE.claims] == [False, True, False]


def test_a_link_to_a_claim_shows_it_though_it_is_filtered_out(show):
    window = show()
    window.locator("label[for=show-failed]").click()
    window.locator("#figures").get_by_role("link", name=HELD.id).click()
    rule_of(window, HELD).wait_for(state="visible")


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
