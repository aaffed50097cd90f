"""The commands that docs/scaling.md gives for a cluster are understood by Ray, MLflow and this package."""

import re
import shlex
from collections import Counter

import click

from helpers import ROOT
from reproduce.cli.main import cli


def test_the_documented_commands_are_understood_by_ray_mlflow_and_us():
    from mlflow.cli import run as mlflow_run
    from mlflow.cli import server as mlflow_server
    from mlflow.server.security_utils import is_allowed_host_header
    from ray.scripts import symmetric_run
    from ray.scripts.scripts import cli as ray_commands

    page = (ROOT / "docs" / "scaling.md").read_text()
    section = page.partition("\n## A Ray cluster\n")[2].partition("\n## ")[0]
    lines = [line for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    understood = Counter()
    for line in lines:
        program, *words = shlex.split(line.removeprefix(".venv/bin/"))
        understood[program.partition("=")[0]] += 1
        if program in ("export", "chmod", "source") or "=" in program:
            continue
        if program == "srun":
            under_slurm(words, symmetric_run)
            continue
        group = {"ray": ray_commands, "reproduce": cli, "mlflow": {"run": mlflow_run, "server": mlflow_server}}[program]
        command = group[words[0]] if program == "mlflow" else group.commands[words[0]]
        with click.Context(command) as context:
            command.parse_args(context, words[1:])
        if words[0] == "server":
            assert is_allowed_host_header(context.params["allowed_hosts"].split(","), "SERVER:5000")
        if words[0] == "run":
            given = [f"--{pair.replace('_', '-')}" for pair in context.params["param_list"]]
            cli.commands[context.params["entry_point"]].make_context("sweep", given)
    assert understood == {
        "ray": 4, "mlflow": 2, "export": 3, "chmod": 1, "reproduce": 2, "source": 1, "HEAD": 1, "srun": 1
    }  # fmt: skip


def under_slurm(words, symmetric_run):
    """Hold what `srun` runs on every node to Ray, and what Ray then runs on the first to us."""
    from ray.scripts.scripts import start

    known = {"$HEAD:6379": "HEAD:6379", "$SLURM_NNODES": "2", "$SLURM_CPUS_PER_TASK": "8"}
    words = [known.get(word, word) for word in words]
    on_every, on_first = words[: words.index("--")], words[words.index("--") + 1 :]
    assert on_every[:4] == ["--ntasks-per-node", "1", "ray", "symmetric-run"]
    whole = symmetric_run.symmetric_run.make_context("symmetric-run", on_every[4:])
    assert (whole.params["address"], whole.params["min_nodes"]) == ("HEAD:6379", 2)
    started = start.make_context("start", ["--head", *symmetric_run.curate_and_validate_ray_start_args(on_every[4:])])
    assert (started.params["num_cpus"], started.params["include_dashboard"]) == (8, False)
    assert on_first[:2] == ["reproduce", "sweep"]
    ours = cli.commands["sweep"].make_context("sweep", on_first[2:])
    assert (ours.params["executor"], ours.params["ray_address"]) == ("ray", "HEAD:6379")
