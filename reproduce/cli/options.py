"""The options of each command. The word `paper` stands for the study's own value, and is the usual default."""

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
    STUDY,
    SWITCH,
    UI_URL,
    VARIANT,
    Named,
    Schedule,
)
from reproduce.cli.study_values import SCHEDULE_PARAMETERS, StudyOption
from reproduce.study.fields import OPTIMIZERS, WITH_KERNEL
from reproduce.study.location import DEFAULT, VARIABLE
from reproduce.study.schedules import SCHEDULERS


def _option(name: str, kind: click.ParamType[object, object], text: str, default: str = PAPER) -> click.Option:
    kind_of_option = StudyOption if default == PAPER else click.Option
    return kind_of_option([name], type=kind, default=default, show_default=True, help=text)


def _switch(name: str, text: str) -> click.Option:
    """Make an option that is typed alone, or with true or false as `mlflow run` types it."""
    return click.Option(
        [name], type=SWITCH, default="false", show_default=True, help=text, is_flag=False, flag_value="true"
    )


OPTION: dict[str, click.Option] = {
    "study": click.Option(
        ["--study"], type=STUDY, help=f"A folder with a study.yaml, or the name of a study that is shipped. By "
        f"default the one that {VARIABLE} names, else {DEFAULT}.",
    ),
    "dataset": _option("--dataset", Named((*WITH_KERNEL, PAPER)), "The data set."),
    "fetched": _option("--dataset", Named(WITH_KERNEL), "The data set.", WITH_KERNEL[0]),
    "data_dir": _option("--data-dir", DATA_DIR, "Look for the four IDX files here first: in a directory (plain, as "
                        ".gz, in a zip or in a tar) or in one archive.", "none"),
    "optimizer": _option("--optimizer", Named((*OPTIMIZERS, PAPER)), "The optimizer. hybridadam needs a GPU."),
    "epochs": _option("--epochs", EPOCHS, "Epochs of every trial. main has --range-test-epochs beside."),
    "batch_size": _option("--batch-size", IMAGES, "Images per step."),
    "seeds": _option("--seeds", SEEDS, "Train once for each of these seeds, for example 0,1,2 or 0-4. A seed sets the "
                     "initial weights and the order of the data."),
    "every_seed": _option("--seeds", EVERY_SEED, "Judge by these seeds. all is every seed in the store.", "all"),
    "strict": _switch("--strict", "Exit with 1 if any claim is not reproduced."),
    "train_size": _option("--train-size", IMAGES, "Train on the first N images only."),
    "protocol": _option("--protocol", VARIANT, "Which variant of its schedules to train with; paper is the first."),
    "scheduler": _option("--scheduler", Schedule((*SCHEDULERS, "all")), "One schedule of the study, or all of them.",
                         "all"),
    "learning_rates": _option(
        "--learning-rates", OWN_RATES,
        "Initial rates (max_lr for onecycle). proposed is the rate that the last trained or reused range test of the "
        "same optimizer, data and seed proposes, ten times that rate, and a tenth of it.",
    ),
    "grid_rates": _option("--learning-rates", RATES, "The grid's rates."),
    "validation_size": _option("--validation-size", HELD_OUT, "Hold out this many of the last training images, and "
                               "evaluate the network on them along the ramp.", "none"),
    "validation_interval": _option("--validation-interval", INTERVAL, "Steps from one such evaluation to the next, "
                                  "by default 20."),
    "stop_factor": _option("--stop-factor", FACTOR, "Stop when the average loss exceeds its lowest value this many "
                           "times.", "none"),
    "decay_steps": _option("--decay-steps", INTERVAL, "step, exponential: steps in which the rate is multiplied by "
                           "gamma once."),
    "milestones": _option("--milestones", STEPS, "multistep: the steps at which the rate is multiplied by gamma."),
    "gamma": _option("--gamma", RATE, "step, multistep, exponential: the factor of each decay."),
    "pct_start": _option("--pct-start", FRACTION, "onecycle: the fraction of all steps in which the rate rises."),
    "div_factor": _option("--div-factor", RATE, "onecycle: the first rate is max_lr / div_factor."),
    "final_div_factor": _option("--final-div-factor", RATE, "onecycle: the last rate is the first rate / "
                                "final_div_factor."),
    "lr_start": _option("--lr-start", RATE, "The ramp's first rate."),
    "lr_end": _option("--lr-end", RATE, "The rate that the ramp would reach one step after its last step."),
    "range_test_epochs": _option("--range-test-epochs", EPOCHS, "Epochs of the range test."),
    "smoothing": _option("--smoothing", SMOOTHING, "The weight of the past in the average that smooths the loss."),
    "jobs": _option(
        "--jobs",
        JOBS,
        "Trials at once. auto is the number of cores, or more if that ends sooner; on Ray it is 1,000.",
        "auto",
    ),
    "engine": _option(
        "--engine", Named(("auto", "torch", "fused")),
        "PyTorch's layers (torch) or our kernel for CPUs (fused). auto uses the kernel if it is available.", AUTO,
    ),
    "device": _option("--device", Named(("auto", "cpu", "cuda")), "auto uses a GPU if there is one.", "auto"),
    "executor": _option("--executor", Named(("local", "ray")), "Where to train: on this machine's cores, or on a Ray "
                        "cluster.", "local"),
    "ray_address": _option(
        "--ray-address", RAY_ADDRESS,
        "HOST:PORT of the Ray cluster's head. auto is RAY_ADDRESS, else the cluster that was started on this machine, "
        "else local, which starts a cluster for this command only.",
        AUTO,
    ),
    "gpus_per_trial": _option("--gpus-per-trial", PART_OF_GPU, "Which part of a GPU a trial takes on Ray.", "1"),
    "force": _switch("--force", "Train finished trials again."),
    "ui_url": _option("--ui-url", UI_URL, "Address of MLflow's UI. The page links runs to it.", "http://127.0.0.1:5000"),
    "check": _switch("--check", "Write nothing. Check whether the report in --output is what its own runs give."),
    "output": _option("--output", PLACE, "The directory for the report.", "report/output"),
}  # fmt: skip

_COMMON = ("study", "dataset", "optimizer", "batch_size", "seeds", "train_size", "engine")
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
    "verify": ("study", "dataset", "optimizer", "batch_size", "every_seed", "train_size", "engine", "epochs",
               "protocol", *_MODELS, "range_test_epochs", *_RAMP, "strict"),
}  # fmt: skip
# Options of the commands that train. These two accept them without effect, so the same words work for every command.
WITHOUT_EFFECT = {"report": _WORK, "verify": (*_WORK, "output", "ui_url")}


def list_options(command: str) -> list[click.Option]:
    """Return all options of a command, in their order. Options without effect are accepted, but its help hides them."""
    unused = [copy.copy(OPTION[name]) for name in WITHOUT_EFFECT.get(command, ())]
    for option in unused:
        option.hidden = True
    return [OPTION[name] for name in COMMANDS[command]] + unused
