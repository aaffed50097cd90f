"""The files around the package say the same as each other and as the code."""

import csv
import hashlib
import importlib.util
import json
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from mlflow.projects.utils import load_project
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from helpers import PYPROJECT, ROOT
from helpers.imports import imports_of, modules
from helpers.own_study import write_study
from reproduce.cli.main import cli
from reproduce.cli.options import COMMANDS
from reproduce.errors import shown
from reproduce.report import build
from reproduce.study import planning
from reproduce.study.config import StudyConfig
from reproduce.study.loading import load_paper
from reproduce.training import provenance
from tools import readme_results

LOCK = (ROOT / "requirements.lock").read_text()
MLPROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
CONDA = yaml.safe_load((ROOT / "conda.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PYTHONS = ["3.10", "3.11", "3.12"]
README = (ROOT / "README.md").read_text()


def locked(python, machine):
    """The versions for that Python and processor, by name."""
    found = re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==([^ \\;]+)(?: ; ([^\\]+))? \\$", LOCK, re.MULTILINE)
    where = {"python_full_version": f"{python}.0", "python_version": python, "platform_machine": machine}
    return {name: version for name, version, marker in found if not marker or Marker(marker).evaluate(where)}


def test_the_pythons_that_are_admitted_are_those_that_make_looks_for():
    admitted = SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert [f"3.{minor}" for minor in range(20) if admitted.contains(f"3.{minor}.1")] == PYTHONS
    (looked_for,) = re.findall(r"for name in (python3.*) python3; do", MAKEFILE)
    assert looked_for.split() == [f"python{version}" for version in reversed(PYTHONS)]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_locked_at_an_admitted_version(python, machine):
    versions = locked(python, machine)
    wanted = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["dev"]]
    for requirement in map(Requirement, wanted):
        if not requirement.marker or requirement.marker.evaluate({"python_version": python}):
            assert requirement.specifier.contains(versions[requirement.name]), requirement


def test_every_entry_of_the_lock_has_its_hashes():
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=[a-z0-9])", LOCK.strip()))


def test_the_lock_is_what_is_installed_here():
    from importlib.metadata import version

    versions = locked(f"3.{sys.version_info.minor}", platform.machine())
    for name in ("torch", "torchvision", "colossalai", "mlflow", "numpy", "click", "scikit-learn", "matplotlib"):
        assert version(name) == versions[name]


def test_conda_installs_the_lock_and_bears_its_digest():
    digest = hashlib.sha256(LOCK.encode()).hexdigest()[:12]
    assert CONDA["name"] == f"lenet5-reproduction-{digest}"
    assert CONDA["dependencies"] == ["python=3.11", "pip", {"pip": ["-r requirements.lock"]}]
    assert MLPROJECT["conda_env"] == "conda.yaml"


def test_the_image_fetches_the_data_with_all_that_the_fetching_imports():
    copied = re.search(r"^COPY ((?:reproduce/\S+\s+(?:\\\n\s*)?)+)/tmp/fetch/reproduce/$", DOCKERFILE, re.MULTILINE)[1]
    assert "COPY reproduce/data /tmp/fetch/reproduce/data\n" in DOCKERFILE
    there = {name.removesuffix(".py") for name in re.findall(r"reproduce/(\S+)", copied)}
    there |= {name for name in modules() if name.startswith("data.")}
    reached, waiting = set(), ["data.verified_cache"]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += imports_of(module)[1]
    assert reached <= there


@pytest.mark.parametrize("name", COMMANDS)
def test_an_entry_point_declares_options_of_its_command_with_their_defaults(name):
    entry = MLPROJECT["entry_points"][name]
    options = {option.name: option for option in cli.commands[name].params if not option.hidden}
    assert {key: str(parameter["default"]) for key, parameter in entry["parameters"].items()} == {
        key: options[key].default for key in entry["parameters"]
    }
    words = shlex.split(entry["command"])
    assert words[:4] == ["python", "-m", "reproduce", name]
    assert words[4:] == [word for key in entry["parameters"] for word in ("--" + key.replace("_", "-"), f"{{{key}}}")]


@pytest.mark.parametrize("name", COMMANDS)
def test_mlflow_passes_every_option_of_a_command_through(name, tmp_path):
    entry = load_project(ROOT).get_entry_point(name)
    value = "no such 'value'; $HOME"
    for option in cli.commands[name].params:
        words = shlex.split(entry.compute_command({option.name: value}, str(tmp_path)))
        assert words[:4] == ["python", "-m", "reproduce", name]
        with cli.make_context("reproduce", words[3:]) as parent:
            if option.name == "output":
                parsed = cli.commands[name].make_context(name, words[4:], parent=parent)
                assert parsed.params["output"] == Path(value)
                continue
            with pytest.raises(click.BadParameter) as refused:
                cli.commands[name].make_context(name, words[4:], parent=parent)
        # A value that reached another option, or none, would be told of that one.
        assert refused.value.param is option
        assert shown(value) in refused.value.message


def test_mlproject_has_no_other_entry_points():
    assert MLPROJECT["entry_points"].keys() == COMMANDS.keys()


def test_the_image_has_the_same_entry_points_as_the_environment():
    project = yaml.safe_load((ROOT / "docker" / "MLproject").read_text())
    assert project["entry_points"] == MLPROJECT["entry_points"]
    assert project["docker_env"]["image"] == "lenet5-reproduction"
    assert "--tag lenet5-reproduction ." in MAKEFILE


def test_the_image_bears_the_packages_version_and_licence():
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', (ROOT / "Dockerfile").read_text()))
    project = PYPROJECT["project"]
    assert (labels["version"], labels["licenses"]) == (project["version"], project["license"])


def test_what_git_ignores_stays_out_of_the_image():
    ignored = set((ROOT / ".gitignore").read_text().split()) - {"__pycache__/"}
    left_out = {line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert {line.removesuffix("/") for line in ignored} <= left_out
    assert ".git" in left_out


PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for study in ("two_rates", "my_study"):
        write_study(tmp_path / study)
    (tmp_path / "report").mkdir()
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]
    for line in commands:
        words = shlex.split(line, comments=True)
        if words[:2] == ["mlflow", "run"]:
            name = words[words.index("-e") + 1] if "-e" in words else "main"
            given = [words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "-P"]
            arguments = [part for key, value in given for part in ("--" + key.replace("_", "-"), value)]
        elif words[:2] == ["docker", "run"]:
            name, *arguments = words[words.index("lenet5-reproduction") + 1 :] or ["main"]
            if name == "test":  # the entrypoint's own
                continue
        elif words[0].endswith("reproduce") and words[1] in cli.commands:
            name, arguments = words[1], words[2:]
        else:
            assert words[0] != "make" or f"\n{words[1]}:" in MAKEFILE, line
            assert page != "README.md" or words[0] in ("make", "mkdir"), line
            continue
        with click.Context(cli.commands[name]) as context:
            cli.commands[name].parse_args(context, arguments)  # raises for what is not there or not right


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_every_link_of_a_page_leads_somewhere(page):
    text = (ROOT / page).read_text()
    files = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in files if not ((ROOT / page).parent / link.partition("#")[0]).exists()] == []
    titles = {re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
              for line in text.splitlines() if line.startswith("#")}  # fmt: skip
    assert {link[1:] for link in files if link.startswith("#")} <= titles


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_code_hash_ignores_comments_and_docstrings_and_nothing_else():
    plain, kernel = "def f(x):\n    return x + 1\n", "int f(int x) { return x + 1; }\n"
    told = '"""A module."""\n\n\ndef f(x):  # adds\n    """One more."""\n    return (x\n            + 1)\n'
    told_kernel = "// A kernel.\n\nint f(int x)   { return x + 1; }  // adds\n"
    code_sha256 = provenance.code_sha256
    assert code_sha256([plain], kernel) == code_sha256([told], kernel) == code_sha256([plain], told_kernel)
    assert code_sha256([plain], kernel) != code_sha256([plain.replace("1", "2")], kernel)
    assert code_sha256([plain], kernel) != code_sha256([plain.replace("x + 1", "1 + x")], kernel)
    assert code_sha256([plain], kernel) != code_sha256([plain], kernel.replace("1", "2"))


def test_the_modules_that_decide_the_numbers_are_in_the_hash():
    reached, waiting = set(), ["training.loop"]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += imports_of(module)[1]
    # What is reached but not hashed: a trial and the values that it is made of are hashed by themselves, what
    # fused.library compiles likewise; checkpoints are held to give the same bits; files and paths write them;
    # a launcher's variables only say who computes; errors only says what went wrong; study.text_file reads and
    # study.own_code loads what is hashed by itself.
    hashed = {name.replace("/", ".") for name in provenance.DECIDING_MODULES}
    assert reached - hashed == {
        "study.trial", "study.fields", "study.schedules", "study.text_file", "study.own_code", "training.checkpoints",
        "training.epoch_record", "training.launcher", "training.fused.library", "files", "paths", "errors",
    }  # fmt: skip


REFERENCE = ROOT / "report" / "reference"
SEEDS = (0, 1, 2)  # of the archived run


def test_the_results_on_the_pages_are_those_of_the_archived_run():
    assert readme_results.stale() == []
    assert (REFERENCE / "summary.md").read_text() in (ROOT / "docs" / "results.md").read_text()


def test_new_results_take_the_place_of_the_old(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before <!-- results -->\nold<!-- /results --> after")
    assert readme_results.renewed(page, "results", "new\n") == "before <!-- results -->\nnew\n<!-- /results --> after"
    page.write_text("no place")
    with pytest.raises(ValueError, match="has no <!-- results -->"):
        readme_results.renewed(page, "results", "new\n")


def test_the_archived_report_is_what_its_own_runs_give():
    assert build.check(REFERENCE) == {}


def test_the_speeds_are_those_of_the_last_bench():
    spec = importlib.util.spec_from_file_location("bench_run", ROOT / "bench" / "run.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    text = bench.table(json.loads((ROOT / "bench" / "results.json").read_text()))
    assert f"<!-- bench -->\n{text}<!-- /bench -->" in (ROOT / "docs" / "performance.md").read_text()


def test_the_archived_run_is_the_papers_own_study_whole():
    summary = json.loads((REFERENCE / "summary.json").read_text())
    assert summary["departures"] == []
    wanted = planning.trials(load_paper(), StudyConfig(engine="fused", seeds=SEEDS))
    assert [row["parameters"] for row in summary["trials"]] == [json.loads(json.dumps(t.parameters())) for t in wanted]
    with (REFERENCE / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, trial in zip(rows, summary["trials"], strict=True):
        assert {key: float(row[key]) for key in ("train_loss", "test_accuracy", "test_accuracy_batch_mean")} == {
            key: trial[key] for key in ("train_loss", "test_accuracy", "test_accuracy_batch_mean")
        }
        assert (row["run_id"], row["outcome"]) == (trial["run_id"], "finished")


@pytest.mark.parametrize(
    ("module", "record"),
    [
        ("tools/fault_table.py", "docs/faults.json"), ("bench/soak.py", "bench/soak.json"),
        ("bench/scaling.py", "bench/scaling.json"), ("bench/cluster.py", "bench/cluster.json"),
        ("bench/kernel.py", "bench/kernel.json"), ("bench/command.py", "bench/command.json"),
    ],
)  # fmt: skip
def test_the_tables_of_the_documentation_are_those_of_the_last_run(module, record, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    spec = importlib.util.spec_from_file_location("of_a_table", ROOT / module)
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look themselves up
    spec.loader.exec_module(made)
    page = made.PAGE.read_text()
    assert made.page_with(json.loads((ROOT / record).read_text()), page) == page
    assert made.table(json.loads((ROOT / record).read_text())) in page


def test_every_fault_that_was_tried_cost_nothing():
    rows = json.loads((ROOT / "docs" / "faults.json").read_text())["rows"]
    kinds = ("points_lost", "bits_changed", "doubled", "left_running", "half_written")
    assert sum(row["times"] for row in rows if row["fault"].startswith(("kill", "SIGTERM", "Ctrl-C"))) >= 30
    assert [row for row in rows if any(row[kind] for kind in kinds)] == []


def test_what_make_is_told_reaches_programs_in_words_that_a_shell_can_read():
    told = ("PYTHON=/usr/bin/python3.11", "PYTEST_ADDOPTS=-q")
    command = ["make", "--no-print-directory", "--eval", "show: ; @env -0", "show", *told]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    variables = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    assert {name: variables[name] for name in ("PYTHON", "PYTEST_ADDOPTS")} == dict(word.split("=") for word in told)
    assert [name for name, value in variables.items() if "command-variables" in value] == []
