"""Pages made up for the tests: one that has everything, and what it is made of."""

import math
from types import SimpleNamespace

from reproduce.analysis.intervals import Interval


def replace(made, **changes):
    return SimpleNamespace(**vars(made) | changes)


STEP = SimpleNamespace(
    label="step 6e-4 seed 0",
    run_id="872b13166bb74f81893590b33e890a52",
    url="http://127.0.0.1:5000/#/experiments/1/runs/8",
)
NONE = SimpleNamespace(label="none 6e-2 seed 0", run_id="d54f6f04d1f64795a5484e12f28c6d74", url=None)
HELD = SimpleNamespace(
    id="C1",
    says="StepLR at 6e-4 ends at an accuracy of 0.9885.",
    where="Table 2, p. 4",
    paper_value="0.9885",
    our_value="0.9881 (n = 3, 0.9878 to 0.9884)",
    verdict="reproduced",
    rule="The interval of our mean lies within 0.9885 ± 0.0015.",
    reason="Three models of the paper's own lie as far apart.",
    by_seed=((0, "0.9879"), (1, "0.9884"), (2, "0.9880")),
    runs=(STEP, replace(STEP, label="step 6e-4 seed 1", run_id="0123456789abcdef0123456789abcdef")),
    missing=(),
    command="reproduce verify --seeds 0,1,2 --schedulers step --learning-rates 6e-4 --optimizers adam --engine fused",
    figure="step",
    note="",
    interval=Interval(0.9881, 0.9878, 0.9884),
    allowed=(0.987, 0.99),
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
    interval=Interval(0.88, -math.inf, math.inf),
    allowed=(-math.inf, 0.2),
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
CURVE = SimpleNamespace(
    key="step",
    title="Figure 4a: StepLR",
    alt="Training loss and test accuracy by epoch, a line for each initial rate.",
    caption="Hollow markers are the paper's values.",
    svg='<svg xmlns="http://www.w3.org/2000/svg" width="600" height="200" viewBox="0 0 600 200">'
    '<path d="M20 20L580 180" stroke="#00609c"/></svg>',
)
MODELS = SimpleNamespace(
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
RULES = SimpleNamespace(
    sortable=False,
    title="What other rules suggest",
    intro="",
    head=("rule", "seed 0", "seed 1"),
    rows=(("steepest, by step", "6.23e-3", "none"), ("minimum / 10", "6e-3", "1.03e-2")),
    numeric=(False, False, False),
)
WHOLE = SimpleNamespace(
    title="LeNet-5 on MNIST, run again",
    original="P. Manocha, “CS5260 Assignment 6”",
    original_url=None,
    views=[("Every trial", "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=reproduce-trials")],
    verdict="1 of 3 statements of the paper is reproduced (n = 3).",
    departures=(),
    missing=FAILED.missing + OPEN.missing,
    trial_count=18,
    differing=("cpu", "commit"),
    claims=(HELD, FAILED, OPEN),
    figures=(CURVE,),
    tables=(MODELS, RULES),
    environment=(("python", "3.11.7"), ("commit", "6f7dd0fc0aac8a03e6f443a775af62cc4bf087cd"), ("cpu", "this, that")),
    commands=(("everything", "reproduce main --seeds 0,1,2"),),
    citation="A. Author: LeNet-5, run again. Version 0.1.0.",
    files=(("report.md", "The report, as Markdown"), ("claims.json", "The verdicts")),
)
SHORTER = replace(WHOLE, verdict=None, claims=(), figures=(), missing=(), differing=(),
                departures=("1 epoch", "10,000 images"))  # fmt: skip


def open_all(window):
    """Open every claim, by what the reader would press."""
    if window.locator("#open-all").count():
        window.locator("#open-all").click()
        assert window.locator(".claims details:not([open])").count() == 0


def at(claim):
    return f"#claim-{claim.id}"


def rule_of(window, claim):
    return window.locator(at(claim)).get_by_text(claim.rule)
