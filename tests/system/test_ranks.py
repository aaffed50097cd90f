"""Several ranks on one trial, started by torchrun as users start them."""

import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import CACHE, ROOT
from helpers.faults import METRICS
from helpers.own_study import write_parts
from helpers.ray_cluster import unlike
from helpers.servers import free_port
from helpers.small import kernel, run_options, small_config
from reproduce.cli import run_command
from reproduce.data import verified_cache
from reproduce.report import report_data
from reproduce.study import planning
from reproduce.study.loading import load_paper
from reproduce.study.own_code import OwnCode
from reproduce.training import checkpoints, distributed, loop, provenance, torch_setup
from reproduce.training.data_parallel import ProcessGroup

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def torchrun(world_size, *words, env=os.environ, **settings):
    command = [*TORCHRUN, str(world_size), *map(str, words)]
    with tempfile.TemporaryDirectory() as folder:  # torchrun leaves its logs
        env = env | {"TMPDIR": folder}
        return subprocess.run(command, capture_output=True, text=True, timeout=600, env=env, **settings)


def train_split(world_size, trial, directory):
    """Train with so many ranks; the losses that each of them has of every step."""
    done = torchrun(
        world_size, ROOT / "tests" / "helpers" / "train_split.py", CACHE, directory, kernel(), trial.model_dump_json()
    )
    assert done.returncode == 0, done.stderr
    return [np.load(f"{directory}.rank-{rank}.npy") for rank in range(world_size)]


def one_trial(paper, **config):
    return planning.trials(paper, small_config(schedulers=("step",), learning_rates=(6e-4,), **config))[0]


@pytest.fixture
def whole(whole_mnist, tmp_path):
    """What one process makes of a trial: its losses and its weights."""

    def train(trial):
        records = loop.train(trial, whole_mnist, tmp_path / "whole", kernel=kernel())
        losses = np.concatenate([record.step_losses for record in records])
        return losses, load_file(checkpoints.last_weights(tmp_path / "whole"))

    return train


def weights_of(directory):
    return load_file(checkpoints.last_weights(directory))


def test_a_wrong_option_is_told_once_and_by_no_traceback_of_ours(command):
    done = command(2, *SWEEP[:2], "stepp")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: Invalid value for '--scheduler': got 'stepp'"), line
    assert f'File "{ROOT}/reproduce' not in done.stderr


def test_every_image_of_a_batch_is_one_ranks():
    batch = np.arange(10, 20)
    parts = [ProcessGroup(rank, 3).local_batch(batch).tolist() for rank in range(3)]
    assert parts == [[10, 11, 12, 13], [14, 15, 16], [17, 18, 19]]


def test_the_mean_over_ranks_of_what_is_weighed_is_the_mean_over_the_batch():
    losses = torch.tensor([3.0, 5.0, 10.0, 6.0, 1.0])  # mean 5; of the parts 6 and 3.5, whose plain mean is 4.75
    parts = [losses[:3], losses[3:]]
    weighed = [ProcessGroup(rank, 2).scale_loss(part.mean(), len(part), 5).item() for rank, part in enumerate(parts)]
    assert weighed == pytest.approx([7.2, 2.8])
    assert sum(weighed) / 2 == pytest.approx(5.0)
    assert ProcessGroup(0, 1).scale_loss(losses.mean(), 5, 5).item() == 5.0


def test_fifty_steps_of_two_ranks_are_those_of_one_within_rounding(paper, whole, tmp_path):
    trial = one_trial(paper, epochs=1, train_size=6400)
    first, second = train_split(2, trial, tmp_path / "split")
    losses, weights = whole(trial)
    assert len(losses) == 50
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, losses, rtol=1e-5)
    for name, found in weights_of(tmp_path / "split").items():
        torch.testing.assert_close(found, weights[name], rtol=1e-4, atol=1e-5)


def test_rank_0_alone_writes(paper, tmp_path):
    train_split(2, one_trial(paper), tmp_path / "split")
    assert checkpoints.saved_epochs(tmp_path / "split") == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["split", "split.rank-0.npy", "split.rank-1.npy"]


def test_a_trial_goes_on_with_another_number_of_ranks_and_uneven_parts(paper, whole, tmp_path):
    trial = one_trial(paper, epochs=3, train_size=700)  # six steps an epoch, the last of 60 images
    shorter = trial.model_copy(update={"epochs": 1})
    (begun, _) = train_split(2, shorter, tmp_path / "split")
    gone_on = train_split(3, trial, tmp_path / "split")
    losses, weights = whole(trial)
    assert len(losses) == 18
    for found in gone_on:  # also those of ranks 1 and 2, which cannot read what rank 0 has
        np.testing.assert_array_equal(found[:6], begun)
        np.testing.assert_allclose(found, losses, rtol=1e-5)
    for name, found in weights_of(tmp_path / "split").items():
        torch.testing.assert_close(found, weights[name], rtol=1e-4, atol=1e-5)


def test_the_cache_key_tells_a_split_batch_but_not_over_how_many_ranks():
    alone = provenance.numerics_environment("data", "cpu", "engine")
    assert provenance.numerics_environment("data", "cpu", "engine", split=True) == alone | {
        "batches": "split over ranks"
    }


def test_ranks_compare_what_a_studys_own_python_does(tmp_path):
    def compared(source):
        (tmp_path / "network.py").write_text(source)
        return distributed.own_python(OwnCode.read(tmp_path, ["network.py:Net"]))

    first = compared("def Net():\n    return 1\n")
    assert list(first) == ["network.py"]
    assert compared("# The same.\ndef Net():\n    return 1\n") == first
    assert compared("def Net():\n    return 2\n") != first
    assert distributed.own_python(OwnCode()) == {}


@pytest.fixture
def command(workshop):
    """Run a command of ours with so many ranks in one directory."""
    place = workshop()

    def run(world_size, *words):
        return torchrun(world_size, "-m", "reproduce", *words, env=place.environment, cwd=place.directory)

    run.place = place
    return run


SWEEP = ("sweep", "--scheduler", "step", "--learning-rates", "6e-4,6e-5", "--epochs", "2", "--train-size", "640")


def test_a_sweep_of_two_ranks_is_recorded_once_and_reused_by_one(command):
    done = command(2, *SWEEP)
    assert done.returncode == 0, done.stderr
    assert "2 trained" in done.stderr
    assert done.stderr.count("step 6e-5 seed 0: trained") == 1
    left = command.place.left()
    assert [len(runs) for runs in left.values()] == [1, 1]
    for (trial,) in left.values():
        assert {name: sorted(points) for name, points in trial.points.items()} == {key: [1, 2] for key in METRICS}
        assert {len(values) for points in trial.points.values() for values in points.values()} == {1}
    runs = mlflow.MlflowClient(command.place.uri).search_runs(["1"], "tags.kind = 'trial'")
    assert [run.data.tags["environment.ranks"] for run in runs] == ["2", "2"]
    again = command(1, *SWEEP)
    assert again.returncode == 0, again.stderr
    assert "2 reused" in again.stderr
    assert command.place.left().keys() == left.keys()


def test_a_study_with_its_own_python_is_trained_by_two_ranks_as_by_one(command):
    plain = "from torch import nn\n\n\ndef hidden_layer(a, b):\n    return nn.Linear(a, b), nn.ReLU()\n"
    write_parts(command.place.directory / "parts", parts=plain)
    found = []
    for ranks in (2, 1):
        done = command(ranks, "sweep", "--study", "parts", "--seeds", "0", "--device", "cpu", "--force")
        assert done.returncode == 0, done.stderr
        assert "1 trained" in done.stderr
        (run,) = mlflow.MlflowClient(command.place.uri).search_runs(["1"], "tags.kind = 'trial'", max_results=1)
        assert run.data.tags.get("environment.ranks", "1") == str(ranks)
        found.append(run.data.metrics["train_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_report_calls_an_ordinary_run_one_of_one_rank():
    trial = SimpleNamespace(engine="fused")
    runs = [SimpleNamespace(tags={"environment.ranks": "2"}, trial=trial), SimpleNamespace(tags={}, trial=trial)]
    assert report_data._environment(runs)["ranks"] == ["1", "2"]


def test_a_batch_too_small_for_its_ranks_is_refused_once(command):
    slow = f'[ "$RANK" = 0 ] && sleep 10; exec "{sys.executable}" -m reproduce "$@"'  # the other is there first
    done = torchrun(2, "--no-python", "sh", "-c", slow, "sh", *SWEEP, "--batch-size", "639",
                    env=command.place.environment, cwd=command.place.directory)  # fmt: skip
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: step 6e-4 seed 0: a batch of 1, the last of each epoch, cannot be split over 2 ranks: start "
        "fewer, or choose another --batch-size or --train-size"
    ]


def test_a_rank_that_is_not_like_rank_0_ends_the_command_in_one_line(command, tmp_path):
    odd = tmp_path / "odd"
    odd.mkdir()
    script = f'[ "$RANK" = 1 ] && PYTHONPATH="{unlike(odd)}"; exec "{sys.executable}" -m reproduce "$@"'
    done = torchrun(2, "--no-python", "sh", "-c", script, "sh", *SWEEP, env=command.place.environment,
                    cwd=command.place.directory)  # fmt: skip
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        f"error: rank 1, on {platform.node()}: this differs from rank 0: pillow 99.0 instead of {version('pillow')}: "
        "every rank needs the same"
    ]
    assert command.place.left() == {}


def test_ranks_whose_study_has_other_python_end_the_command_in_one_line(command):
    parts = "from torch import nn\n\n\ndef hidden_layer(a, b):\n    return nn.Linear(a, b), nn.{}()\n"
    hashes = []
    for rank, layer in enumerate(("ReLU", "Tanh")):
        folder = write_parts(command.place.directory / f"parts{rank}", parts=parts.format(layer))
        hashes.append(distributed.own_python(load_paper(str(folder)).code))
    script = f'exec "{sys.executable}" -m reproduce sweep --study parts$RANK --seeds 0 --device cpu'
    done = torchrun(2, "--no-python", "sh", "-c", script, env=command.place.environment, cwd=command.place.directory)
    assert done.returncode != 0
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    differing = [f"{name} {hashes[1][name]} instead of {hashes[0][name]}" for name in ("network.py", "parts.py")]
    differs = f"this differs from rank 0: {', '.join(differing)}"
    assert error == f"error: rank 1, on {platform.node()}: {differs}: every rank needs the same"
    assert command.place.left() == {}


def test_an_error_of_rank_0_alone_is_told_once_and_by_no_traceback_of_ours(command):
    (command.place.home / "trials").write_text("where checkpoints go, a file")
    done = command(2, *SWEEP)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "trials failed: " in done.stderr
    assert "reproduce/training/distributed.py" not in done.stderr


@pytest.mark.parametrize("where", ["closed", "reset"])
def test_a_rank_that_loses_the_others_leaves_the_word_to_them(monkeypatch, tmp_path, where):
    def lose_the_others(*arguments):
        raise RuntimeError(
            f"[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection {where} by peer [::1]:2900"
        )

    monkeypatch.setattr(distributed, "train_broadcast_trials", lose_the_others)
    monkeypatch.setattr(verified_cache, "prepare", lambda *arguments: None)
    options = run_options(tmp_path, engine="torch")
    assert run_command._train_as_other_rank(options) == 1

    def fail(*arguments):
        raise RuntimeError("a fault of its own")

    monkeypatch.setattr(distributed, "train_broadcast_trials", fail)
    with pytest.raises(RuntimeError, match="of its own"):
        run_command._train_as_other_rank(options)


def test_colossalai_run_starts_the_ranks_too(command, tmp_path):
    colossalai = Path(sys.executable).with_name("colossalai")
    words = (colossalai, "run", "--nproc_per_node", "2", "--master_port", str(free_port()), "-m", "reproduce", *SWEEP)
    # It hands every variable on through a shell, which not all that a user may have set gets through.
    ours = {
        name: value for name, value in command.place.environment.items() if name.startswith(("REPRODUCE", "MLFLOW"))
    }
    environment = ours | {
        "TMPDIR": str(tmp_path), "PATH": f"{colossalai.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run(words, cwd=command.place.directory, env=environment, capture_output=True, text=True)
    assert "2 trained" in done.stdout + done.stderr
    assert [len(runs) for runs in command.place.left().values()] == [1, 1]


def commands(program):
    """What docs/scaling.md says to type with that program, split into words."""
    page = (ROOT / "docs" / "scaling.md").read_text()
    return [shlex.split(line) for line in re.findall(rf"^{program} .*", page, re.MULTILINE)]


def parsed_by_ours(words):
    """The command of ours, parsed as it would be: a name and its values."""
    from reproduce.cli.main import cli

    name, *rest = words
    return name, cli.commands[name].make_context(name, list(rest)).params


def test_the_documented_torchrun_commands_are_understood_by_it_and_by_us():
    from torch.distributed.run import get_args_parser

    documented = commands("torchrun")
    assert len(documented) == 2
    for _, *words in documented:
        parsed = get_args_parser().parse_args(words)
        assert (parsed.module, parsed.training_script) == (True, "reproduce")
        name, values = parsed_by_ours(parsed.training_script_args)
        assert (name, values["scheduler"]) == ("sweep", "step")


def test_the_documented_colossalai_commands_are_understood_by_it_and_by_us():
    with torch_setup.quiet():
        from colossalai.cli.launcher import run

    documented = commands("colossalai")
    assert len(documented) == 2
    for _, subcommand, *words in documented:
        assert subcommand == "run"
        values = run.make_context("run", words).params
        assert values["m"] == "reproduce"
        assert values["nproc_per_node"] in (2, 4)
        name, given = parsed_by_ours([values["user_script"], *values["user_args"]])
        assert (name, given["scheduler"]) == ("sweep", "step")
