"""What the user has set for Python and its libraries: it changes nothing, or is named in one line before any work."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import mlflow
import numpy as np
import pytest

from helpers import ROOT
from helpers.imports import imports_of, modules
from helpers.small import kernel
from reproduce.analysis.lr_range_test import Curve
from reproduce.cli import interpreter
from reproduce.report import figure_style, figures
from reproduce.tracking import local_store

COMMAND = Path(sysconfig.get_path("scripts"), "reproduce")
NOTEBOOK_BACKEND = "module://matplotlib_inline.backend_inline"
WITHOUT_LETTERS = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
HIDES_PYTHONS_OWN = "raise SystemExit('a random.py of the user was run')\n"


def left(*words, folder, **variables):
    """The exit code, and what was printed to either output, of a command in that folder."""
    # A command that a test ran in this process has set that variable for what it starts.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | variables
    done = subprocess.run(list(map(str, words)), cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    return done.returncode, done.stdout + done.stderr


def module(path, text="print('the wrong one')\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# A name in the way.


@pytest.mark.parametrize("name", ["reproduce.py", "reproduce/__init__.py"])
def test_another_reproduce_on_pythonpath_is_named(tmp_path, name):
    other = module(tmp_path / "lib" / name)
    assert left(COMMAND, "--version", folder=tmp_path, PYTHONPATH=str(tmp_path / "lib")) == (
        2,
        f"error: {str(other)!a} would be imported in place of the package reproduce, which is "
        f"{str(ROOT / 'reproduce')!a}: rename it, or remove its folder from PYTHONPATH\n",
    )


def test_an_environment_that_was_copied_runs_nothing_of_the_one_that_it_was_copied_from(tmp_path):
    copy = tmp_path / "é copy" / ".venv"
    (copy / "bin").mkdir(parents=True)
    shutil.copy(COMMAND, copy / "bin" / "reproduce")
    shutil.copy(Path(sys.prefix, "pyvenv.cfg"), copy)
    assert left(copy / "bin" / "reproduce", "--version", folder=tmp_path) == (
        2,
        f"error: {str(copy)!a} is a copy of {sys.prefix!a} and would run the code that is installed there: "
        "make an environment here, for example with make env\n",
    )


def test_a_folder_called_reproduce_on_pythonpath_is_named(tmp_path):
    (tmp_path / "lib" / "reproduce").mkdir(parents=True)
    code, printed = left(COMMAND, "--version", folder=tmp_path, PYTHONPATH="lib")
    assert (code, printed.count("\n")) == (2, 1)
    assert printed.startswith(
        f"error: {str(tmp_path / 'lib' / 'reproduce')!a} would be imported in place of the package reproduce"
    )


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("torch.py", "the package torch"),
        ("mlflow/__init__.py", "the package mlflow"),
        (f"yaml{EXTENSION_SUFFIXES[0]}", "the package yaml"),
        ("random.py", "Python's own module random"),
        ("queue/__init__.py", "Python's own module queue"),
    ],
)
def test_a_file_that_would_be_imported_for_another_is_named_and_not_run(tmp_path, name, whose):
    path = module(tmp_path / "lib é" / name)
    named = path.parent if path.name == "__init__.py" else path
    folder = tmp_path / "lib é"
    start = f"error: {named} would be imported in place of {whose}: rename it, or "
    assert left(COMMAND, "--version", folder=tmp_path, PYTHONPATH=f"/nowhere:{folder}") == (
        2, f"{start}remove {folder} from PYTHONPATH\n",
    )  # fmt: skip
    by_module = (sys.executable, "-m", "reproduce", "--version")
    assert left(*by_module, folder=folder) == (2, f"{start}start reproduce from another folder\n")
    assert left(COMMAND, "--version", folder=folder) == (0, "reproduce, version 0.1.0\n")


def test_what_hides_nothing_is_no_matter(tmp_path):
    for name in ("os.py", "sys.py", "time.py", "mine.py", "torch/readme.txt", "random.txt", "docker/a.py"):
        module(tmp_path / name)
    assert left(sys.executable, "-m", "reproduce", "--version", folder=tmp_path) == (0, "reproduce, version 0.1.0\n")


def test_what_was_installed_on_pythonpath_is_wanted(tmp_path):
    module(tmp_path / "lib" / "torch.py")
    (tmp_path / "lib" / "torch-2.5.1.dist-info").mkdir()
    assert left(COMMAND, "--version", folder=tmp_path, PYTHONPATH="lib") == (0, "reproduce, version 0.1.0\n")


def test_every_package_that_is_imported_is_looked_for():
    imported = set().union(*(imports_of(module)[0] for module in modules()))
    assert imported - sys.stdlib_module_names - {"reproduce"} <= set(interpreter.PACKAGES)


# Python's flags.


@pytest.mark.parametrize(
    ("words", "variables", "remedy"),
    [
        ([COMMAND], {"PYTHONOPTIMIZE": "2"}, "PYTHONOPTIMIZE is '2', unset it"),
        ([sys.executable, "-OO", "-m", "reproduce"], {}, "leave out -OO"),
        ([sys.executable, "-OO", "-m", "reproduce"], {"PYTHONOPTIMIZE": "1"}, "leave out -OO"),
        ([sys.executable, "-E", "-OO", "-m", "reproduce"], {"PYTHONOPTIMIZE": "2"}, "leave out -OO"),
    ],
)
def test_without_docstrings_nothing_is_begun(tmp_path, words, variables, remedy):
    assert left(*words, "range_test", folder=tmp_path, **variables) == (
        2,
        "error: Python runs without docstrings, and transformers, which Colossal-AI imports, cannot be imported then: "
        f"{remedy}\n",
    )
    assert list(tmp_path.iterdir()) == []


# Python 3.10 has no such flag.
NO_UNSAFE_PATH = ["-P"] if sys.version_info >= (3, 11) else []


@pytest.mark.parametrize(
    "words", [["-O"], ["-I"], ["-E", "-s", *NO_UNSAFE_PATH], ["-bb"], ["-W", "error"], ["-X", "dev"]]
)
def test_other_flags_are_no_matter(tmp_path, words):
    assert left(sys.executable, *words, "-m", "reproduce", "--version", folder=tmp_path) == (
        0, "reproduce, version 0.1.0\n",
    )  # fmt: skip


def test_warnings_that_were_to_be_errors_warn_as_pythons_own_do(tmp_path):
    program = (
        "import os, sys, warnings; from reproduce.cli import interpreter; interpreter.settle();"
        "warnings.warn('seen'); warnings.warn('unseen', DeprecationWarning);"
        "print(sys.warnoptions, os.environ.get('PYTHONWARNINGS'))"
    )
    code, printed = left(sys.executable, "-W", "error", "-c", program, folder=tmp_path, PYTHONWARNINGS="error")
    assert code == 0
    assert printed == "[] None\n<string>:1: UserWarning: seen\n"


def test_warnings_that_were_to_be_shown_are(tmp_path):
    program = (
        "import warnings; from reproduce.cli import interpreter; interpreter.settle(); "
        "warnings.warn('seen', ResourceWarning)"
    )
    code, printed = left(sys.executable, "-c", program, folder=tmp_path, PYTHONWARNINGS="default")
    assert (code, printed) == (0, "<string>:1: ResourceWarning: seen\n")


# An encoding without letters.


@pytest.mark.parametrize(
    "start", [[COMMAND], [sys.executable, "-m", "reproduce"], [sys.executable, "-X", "utf8=0", COMMAND]]
)
def test_a_name_with_other_letters_is_read_as_such_where_the_locale_has_ascii_only(tmp_path, start):
    wanted = "but it is not there; expected a directory, or a zip or tar, that exists, or the word none"
    assert left(*start, "sweep", "--data-dir", "nöwhere", folder=tmp_path, **WITHOUT_LETTERS) == (
        2, f"error: Invalid value for '--data-dir': got 'nöwhere', {wanted}\n",
    )  # fmt: skip


# Pictures.


def pictures(folder):
    curve = Curve(np.geomspace(1e-6, 1, 50), np.linspace(2.3, 1, 50) ** 2)
    for ending in ("png", "svg"):
        figure_style.save(figures.range_test({0: curve}, 0.9, {0: None}), folder / f"picture.{ending}")


def test_a_picture_is_the_same_whatever_is_set_for_matplotlib(tmp_path):
    pictures(tmp_path)
    work = tmp_path / "work"
    settings = "text.usetex: True\nbackend: nonsense\nfont.size: 30\nnonsense: 1\nsavefig.bbox: tight\nno colon\n"
    module(work / "matplotlibrc", settings)
    program = "import test_interpreter; from pathlib import Path; test_interpreter.pictures(Path())"
    code, printed = left(
        sys.executable, "-c", program, folder=work,
        PYTHONPATH=f"{ROOT / 'tests'}{os.pathsep}{Path(__file__).parent}", MPLBACKEND=NOTEBOOK_BACKEND,
        MPLCONFIGDIR="/dev/null/x",
        MATPLOTLIBRC=str(work / "matplotlibrc"), DISPLAY="", HOME=str(work / "home"),
    )  # fmt: skip
    assert (code, printed) == (0, "")
    for name in ("picture.png", "picture.svg"):
        assert (work / name).read_bytes() == (tmp_path / name).read_bytes()


def test_settings_of_matplotlib_that_it_cannot_read_are_named(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"font.size: \xe9\n")
    code, printed = left(COMMAND, "report", "--check", "--output", str(ROOT / "report" / "reference"), folder=tmp_path)
    assert (code, printed) == (
        2,
        f"error: {tmp_path}/matplotlibrc, settings of matplotlib's, is not in UTF-8: rename it, or correct it\n",
    )


def test_pytorchs_compiler_starts_no_processes_once_a_command_has_begun(tmp_path):
    program = (
        "import os; os.environ.pop('TORCHINDUCTOR_COMPILE_THREADS', None); "
        "from reproduce.cli import interpreter; interpreter.settle(); import torch._inductor.async_compile, psutil; "
        "print(len(psutil.Process().children()))"
    )
    assert left(sys.executable, "-c", program, folder=tmp_path, PYTHONPATH=str(ROOT)) == (0, "0\n")


# All of it at once.


@pytest.mark.system
def test_a_sweep_in_a_strange_environment_gives_what_it_gives_elsewhere(tmp_path, mnist_cache, empty_database):
    """Two workers, in a folder that has a name with other letters, and files with names of modules."""
    kernel()
    work = tmp_path / "é"
    for name in ("random.py", "torch.py", "yaml.py", "mlflow.py"):
        module(work / name, HIDES_PYTHONS_OWN)
    (work / "mlflow.db").write_bytes(empty_database.read_bytes())
    code, printed = left(
        COMMAND, "range_test", "--train-size", "1280", "--epochs", "1", "--seeds", "0,1", "--jobs", "2",
        folder=work, **WITHOUT_LETTERS,
        REPRODUCE_DATA_DIR=str(mnist_cache / "data" / "mnist"), REPRODUCE_FUSED_DIR=str(mnist_cache / "fused"),
        MLFLOW_TRACKING_URI="sqlite:///mlflow.db", MPLBACKEND=NOTEBOOK_BACKEND,
        PYTHONWARNINGS="error", PYTHONHASHSEED="random", PYTHONSTARTUP="/nowhere", PYTHONBREAKPOINT="nonsense",
        PYTHONUNBUFFERED="1", PYTHONINTMAXSTRDIGITS="640",
        HOME=str(work / "home"), GIT_DIR="/nowhere",
    )  # fmt: skip
    assert code == 0, printed
    lines = printed.splitlines(keepends=True)
    assert "".join(line for line in lines if not line.startswith("to compare the runs, ")).endswith(
        "2 trained\nrange_test adam seed 0: proposes no rate: the loss still falls at the ramp's end, 0.251: "
        "raise --lr-end\n"
        "range_test adam seed 1: proposes no rate: no fall beyond rounding and noise (4.6 standard errors, over 5.3 "
        "needed): raise --lr-end or --epochs\n"
    )
    client = mlflow.MlflowClient(f"sqlite:///{work}/mlflow.db")
    (experiment,) = (found for found in client.search_experiments() if found.name != "Default")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert all(local_store.local_path(run.info.artifact_uri).is_relative_to(work) for run in runs)
