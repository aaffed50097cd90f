"""The options of each command. The word `paper` stands for what the paper did, and is every default."""

import copy

import click

from reproduce.cli.option_types import (
    AUTO,
    DATA_DIR,
    EPOCHS,
    EVERY_SEED,
    FACTOR,
    FRACTION,
    HELD_OUT,
    IMAGES,
    INTERVAL,
    JOBS,
    OWN_RATES,
    PAPER,
    PART_OF_GPU,
    PLACE,
    RATE,
    RATES,
    RAY_ADDRESS,
    SEEDS,
    SMOOTHING,
    STEPS,
    SWITCH,
    UI_URL,
    Named,
)
from reproduce.study.trial import OPTIMIZERS, SCHEDULERS, SIZES


def _option(name: str, kind: click.ParamType[object, object], text: str, default: str = PAPER) -> click.Option:
    return click.Option([name], type=kind, default=default, show_default=True, help=text)


def _switch(name: str, text: str) -> click.Option:
    """Make an option that may be typed alone, or with true or false as `mlflow run` does."""
    return click.Option(
        [name], type=SWITCH, default="false", show_default=True, help=text, is_flag=False, flag_value="true"
    )


OPTION: dict[str, click.Option] = {
    "dataset": _option("--dataset", Named(tuple(SIZES)), "The images.", "mnist"),
    "data_dir": _option("--data-dir", DATA_DIR, "Look here first for the four IDX files: in a directory and what is in "
                        "it, plain, as .gz or in a zip or tar, or in one archive.", "none"),
    "optimizer": _option("--optimizer", Named(OPTIMIZERS), "Adam is the paper's; HybridAdam needs a GPU.", "adam"),
    "epochs": _option("--epochs", EPOCHS, "Epochs of every trial: 30 in the paper's models, 5 in its range test."),
    "batch_size": _option("--batch-size", IMAGES, "Images a step: 128 in the paper."),
    "seeds": _option("--seeds", SEEDS, "One run for each of these, as 0,1,2 or 0-4; 0 for the paper's one. "
                     "A seed sets weights and data order."),
    "every_seed": _option("--seeds", EVERY_SEED, "Judge by these seeds; all is every one in the store.", "all"),
    "strict": _switch("--strict", "Exit with 1 if any claim is not reproduced."),
    "train_size": _option("--train-size", IMAGES, "Train on the first N images only, for a quick look: 60,000 in "
                          "the paper."),
    "protocol": _option(
        "--protocol", Named(("as-drawn", "as-written")),
        "When the rate decays: as the paper's curves show, or as its text says.", "as-drawn",
    ),
    "scheduler": _option("--scheduler", Named((*SCHEDULERS, "all")), "One schedule, or all five.", "all"),
    "learning_rates": _option(
        "--learning-rates", OWN_RATES,
        "Initial rates (max_lr for onecycle): 0.6,6e-4,6e-6 in the paper, and without a schedule 0.06,6e-5,6e-6. "
        "proposed is what the newest range test of the same optimizer, data and seed proposes, ten times that, and a "
        "tenth of it.",
    ),
    "grid_rates": _option("--learning-rates", RATES, "The grid's rates: half-decades from 1e-6 to 0.1."),
    "validation_size": _option("--validation-size", HELD_OUT, "Hold so many of the last training images out, and "
                               "judge them along the ramp.", "none"),
    "validation_interval": _option("--validation-interval", INTERVAL, "Steps from one judgement to the next: 20."),
    "stop_factor": _option("--stop-factor", FACTOR, "Stop once the average loss is so many times its least.", "none"),
    "decay_steps": _option("--decay-steps", INTERVAL, "step, exponential: steps for one factor of gamma: 4500 and "
                           "4690 as drawn, 2345 and 4690 as written."),
    "milestones": _option("--milestones", STEPS, "multistep: the steps at which the rate falls: 2500,7500,10000 as "
                          "drawn, 2345,7035,9380 as written."),
    "gamma": _option("--gamma", RATE, "step, multistep, exponential: the factor of each decay: 0.1 in the paper."),
    "pct_start": _option("--pct-start", FRACTION, "onecycle: the part of all steps in which the rate rises: "
                         "0.3, as in PyTorch."),
    "div_factor": _option("--div-factor", RATE, "onecycle: it starts at max_lr over this: 25, as in PyTorch."),
    "final_div_factor": _option("--final-div-factor", RATE, "onecycle: it ends at its start over this: 10000, as in "
                                "PyTorch."),
    "lr_start": _option("--lr-start", RATE, "The ramp's first rate: 1e-6 in the paper."),
    "lr_end": _option("--lr-end", RATE, "The rate that the ramp would reach one step after its last: 1 in the paper."),
    "range_test_epochs": _option("--range-test-epochs", EPOCHS, "The range test's epochs: 5 in the paper."),
    "smoothing": _option("--smoothing", SMOOTHING, "The past's weight in the average that smooths the loss: 0.98, as "
                         "the paper names none."),
    "jobs": _option("--jobs", JOBS, "Trials at once; auto is as many as there are cores, and 1,000 on Ray.", "auto"),
    "engine": _option(
        "--engine", Named(("auto", "torch", "fused")),
        "PyTorch's layers or our kernel for CPUs; auto takes the kernel where it can be had.", AUTO,
    ),
    "device": _option("--device", Named(("auto", "cpu", "cuda")), "auto takes a GPU where there is one.", "auto"),
    "executor": _option("--executor", Named(("local", "ray")), "This machine's cores, or a Ray cluster.", "local"),
    "ray_address": _option(
        "--ray-address", RAY_ADDRESS,
        "auto is what RAY_ADDRESS says, else the cluster started on this machine, else one for this command, as local.",
        AUTO,
    ),
    "gpus_per_trial": _option("--gpus-per-trial", PART_OF_GPU, "How much of a GPU a trial takes on Ray.", "1"),
    "force": _switch("--force", "Train again what is finished."),
    "ui_url": _option("--ui-url", UI_URL, "Where MLflow's UI is, for the page to link runs to.", "http://127.0.0.1:5000"),
    "check": _switch("--check", "Write nothing; say whether the report in --output is what its own runs give."),
    "output": _option("--output", PLACE, "Where the report goes.", "report/output"),
}  # fmt: skip

SCHEDULE_PARAMETERS = ("decay_steps", "milestones", "gamma", "pct_start", "div_factor", "final_div_factor")
_COMMON = ("dataset", "optimizer", "batch_size", "seeds", "train_size", "engine")
_WORK = ("data_dir", "jobs", "device", "executor", "ray_address", "gpus_per_trial", "force")
_RAMP = ("lr_start", "lr_end", "validation_size", "validation_interval", "stop_factor", "smoothing")
_MODELS = ("scheduler", "learning_rates", *SCHEDULE_PARAMETERS)
# The options of each command, and so the parameters of each entry point of MLproject.
COMMANDS = {
    "main": (*_COMMON, "epochs", "range_test_epochs", "protocol", *_WORK, "output", "ui_url"),
    "range_test": (*_COMMON, "epochs", *_RAMP, *_WORK),
    "sweep": (*_COMMON, "epochs", "protocol", *_MODELS, *_WORK),
    "grid": (*_COMMON, "epochs", "grid_rates", "range_test_epochs", *_RAMP, *_WORK),
    "report": (*_COMMON, "epochs", "protocol", *_MODELS, "range_test_epochs", *_RAMP, "output", "ui_url", "check"),
    "verify": ("dataset", "optimizer", "batch_size", "every_seed", "train_size", "engine", "epochs", "protocol",
               *_MODELS, "range_test_epochs", *_RAMP, "strict"),
}  # fmt: skip
# What the commands that train take besides, taken too and without effect: so the same words follow every command.
WITHOUT_EFFECT = {"report": _WORK, "verify": (*_WORK, "output", "ui_url")}


def list_options(command: str) -> list[click.Option]:
    """Return all options of a command, in their order. Those without effect are taken, and stay out of its help."""
    unused = [copy.copy(OPTION[name]) for name in WITHOUT_EFFECT.get(command, ())]
    for option in unused:
        option.hidden = True
    return [OPTION[name] for name in COMMANDS[command]] + unused
