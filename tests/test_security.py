"""What is not trusted does no harm: checkpoints, a compiled kernel, the store's texts. Secrets stay where they are."""

import ast
import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import pickle
import platform
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import uuid
from importlib.metadata import distributions
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT, kernel, small_wishes
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_cli import typed

from reproduce import checkpoints, cli, plain, provenance, report, study, tables, training
from reproduce.fused import library


def needs(*programs):
    """The container's image has not all that a checkout's machine has."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


FILES = (checkpoints.WEIGHTS, checkpoints.OPTIMIZER, checkpoints.SCHEDULE, checkpoints.HISTORY)


def train(trial, data, directory):
    """All its records, and the final weights by their bytes."""
    history = list(training.train(trial, data, directory, kernel=kernel()))
    return history, checkpoints.last_weights(directory).read_bytes()


def stop_after(epochs, trial, data, directory):
    running = training.train(trial, data, directory, kernel=kernel())
    for _ in range(epochs):
        next(running)
    running.close()


def forge(folder, file, content):
    """Put other bytes in a file's place, and their hash in that of the true ones."""
    (folder / file).write_bytes(content)
    known = json.loads((folder / checkpoints.HASHES).read_text())
    known["sha256"][file] = hashlib.sha256(content).hexdigest()
    (folder / checkpoints.HASHES).write_text(json.dumps(known))


@pytest.fixture(scope="module")
def few(whole_mnist):
    """MNIST with a tenth of a second's worth of test images."""
    return dataclasses.replace(whole_mnist, test=whole_mnist.test.part(0, 128))


@pytest.fixture(scope="module")
def stopped(few, tmp_path_factory):
    """A trial of three epochs left after its second, the directory's checkpoints as they then are, its final bits."""
    from reproduce.paper import load_paper

    wishes = small_wishes(epochs=3, train_size=128, batch_size=64, schedulers=("onecycle",), learning_rates=(6e-3,))
    trial = study.trials(load_paper(), wishes)[0]
    folder = tmp_path_factory.mktemp("trial")
    _, expected = train(trial, few, folder / "whole" / "name")
    stop_after(2, trial, few, folder / "stopped" / "name")
    return trial, folder / "stopped" / "name", expected


@pytest.fixture
def resume(stopped, few, tmp_path):
    """Has a copy of the checkpoints spoilt and goes on from it: the epochs restored, and whether the bits are right."""
    trial, whole, expected = stopped
    times = iter(range(10**6))

    def spoilt(harm):
        directory = tmp_path / str(next(times)) / "name"
        shutil.copytree(whole, directory)
        before = {record.finished_at for record in checkpoints.load_history(directory / "epoch-0002" / FILES[-1])}
        harm(directory)
        history, weights = train(trial, few, directory)
        assert [record.epoch for record in history] == [1, 2, 3]
        return len(before & {record.finished_at for record in history}), weights == expected

    return spoilt


def test_an_unspoilt_checkpoint_is_gone_on_from(resume):
    assert resume(lambda directory: None) == (2, True)


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_checkpoint_with_any_bit_flipped_is_passed_over_for_the_one_before(resume, data):
    def flip(directory):
        path = directory / "epoch-0002" / data.draw(st.sampled_from((*FILES, checkpoints.HASHES)))
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)

    assert resume(flip) == (1, True)


class Hostile:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def as_pickle(path):
    return pickle.dumps(Hostile(path))


def as_torch_zip(path):
    buffer = io.BytesIO()
    torch.save({"state": Hostile(path), "param_groups": []}, buffer)
    return buffer.getvalue()


def as_torch_tar(path):
    """The oldest of torch.load's formats."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for name, values in (("storages", (0, [])), ("tensors", (0,)), ("pickle", (Hostile(path),))):
            content = b"".join(map(pickle.dumps, values))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def as_array(path):
    buffer = io.BytesIO()
    np.savez(buffer, epoch=np.array([Hostile(path)], dtype=object))
    return buffer.getvalue()


@pytest.mark.parametrize("form", [as_pickle, as_torch_zip, as_torch_tar, as_array])
@pytest.mark.parametrize("file", FILES)
def test_a_pickle_with_hashes_to_match_is_not_run_but_passed_over(resume, tmp_path, file, form):
    mark = tmp_path / "ran"
    assert resume(lambda directory: forge(directory / "epoch-0002", file, form(mark))) == (1, True)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("form", "load"),
    [(as_pickle, torch.load), (as_torch_zip, torch.load), (as_torch_tar, torch.load),
     (as_array, lambda path: np.load(path, allow_pickle=True)["epoch"])],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning")
def test_these_pickles_do_run_where_pickles_are_read(tmp_path, form, load):
    """Else the test above would hold of any checkpoints."""
    (tmp_path / "file").write_bytes(form(tmp_path / "ran"))
    with contextlib.suppress(pickle.UnpicklingError, RuntimeError, TypeError):
        load(tmp_path / "file")
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "tensor"),
    [("0.exp_avg", torch.zeros(())), ("1.exp_avg_sq", torch.zeros(1)), ("0.step", torch.zeros(2)),
     ("99.exp_avg", torch.zeros(3)), ("x.exp_avg", torch.zeros(3)), ("exp_avg", torch.zeros(3))],
    ids=["smaller", "shorter", "step", "no such parameter", "no number", "no parameter"],
)  # fmt: skip
def test_a_state_that_fits_no_parameter_is_passed_over(resume, key, tensor):
    """PyTorch's fused kernels write through it unseen, beyond its end."""

    def misfit(directory):
        from safetensors import safe_open

        path = directory / "epoch-0002" / checkpoints.OPTIMIZER
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
        save_file(load_file(path) | {key: tensor}, path, header)
        forge(path.parent, path.name, path.read_bytes())

    assert resume(misfit) == (1, True)


@pytest.mark.parametrize("kept", ["epoch-0001", "epoch-0002"])
def test_a_checkpoint_under_another_epochs_name_is_passed_over(resume, kept):
    def rename(directory):
        other = directory / "epoch-0007"
        (directory / kept).rename(other)

    assert resume(rename) == (2 if kept == "epoch-0001" else 1, True)


def test_another_trials_checkpoint_is_passed_over(resume, stopped, few, tmp_path):
    other = stopped[0].model_copy(update={"seed": 1})
    stop_after(2, other, few, tmp_path / "other")

    def exchange(directory):
        for epoch in ("epoch-0001", "epoch-0002"):
            shutil.rmtree(directory / epoch)
            shutil.copytree(tmp_path / "other" / epoch, directory / epoch)

    assert resume(exchange) == (0, True)


def test_foreign_names_among_the_checkpoints_are_let_alone(resume, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    foreign = ("epoch-abc", "epoch-", "epoch-7", "epoch-00009", "epoch-٠٠٠٣", "epoch--001")

    def clutter(directory):
        for name in foreign:
            (directory / name).mkdir()
        (directory / "epoch-0008").touch()
        (directory / "epoch-0009").symlink_to(tmp_path / "elsewhere")
        (directory / "epoch-0003").symlink_to(tmp_path / "nowhere")  # where the next is to stand
        (directory / ".epoch-left").symlink_to(tmp_path / "elsewhere")
        clutter.directory = directory

    assert resume(clutter) == (2, True)
    names = {path.name for path in clutter.directory.iterdir()}
    assert names == {*foreign, "epoch-0008", "epoch-0009", "epoch-0002", "epoch-0003"}
    assert (tmp_path / "elsewhere" / "kept").exists()


@pytest.mark.parametrize("file", FILES)
def test_what_is_no_file_is_passed_over(resume, file):
    def pipe(directory):
        (directory / "epoch-0002" / file).unlink()
        os.mkfifo(directory / "epoch-0002" / file)

    assert resume(pipe) == (1, True)


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [("adam", "ramp"), ("adamw", "step"), ("sgd", "onecycle"), ("radam", "exponential"), ("lamb", "multistep"),
     ("lars", "none")],
)  # fmt: skip
def test_every_optimizer_and_schedule_goes_on_to_the_same_bits(paper, few, tmp_path, optimizer, scheduler):
    small = {"optimizer": optimizer, "train_size": 128, "batch_size": 32, "epochs": 3, "range_test_epochs": 3}
    if scheduler == "ramp":
        trial = study.range_tests(paper, small_wishes(**small))[0]
    else:
        own = {"decay_steps": 3} if scheduler in ("step", "exponential") else {}
        own |= {"milestones": (3, 5, 9)} if scheduler == "multistep" else {}
        wishes = small_wishes(**small, schedulers=(scheduler,), learning_rates=(6e-3,), schedule_parameters=own)
        trial = study.trials(paper, wishes)[0]
    _, expected = train(trial, few, tmp_path / "whole")
    stop_after(2, trial, few, tmp_path / "stopped")
    _, found = train(trial, few, tmp_path / "stopped")
    assert found == expected


# The compiled kernel.


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A copy of the compiled kernel in a home of its own, where no compiler is to be had."""
    monkeypatch.delenv("REPRODUCE_FUSED_DIR", raising=False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    (tmp_path / "home" / "fused").mkdir(parents=True)
    for name in (kernel().name, f"{kernel().name}.sha256"):
        shutil.copy(kernel().with_name(name), tmp_path / "home" / "fused")
    return tmp_path / "home" / "fused" / kernel().name


@given(st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_kernel_with_any_bit_flipped_is_not_loaded(cached, data):
    whole = {path: path.read_bytes() for path in cached.parent.iterdir()}
    path = data.draw(st.sampled_from(sorted(whole)))
    content = bytearray(whole[path])
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        with pytest.raises(library.UnavailableError, match="'no-such-compiler', is not installed"):
            library.ready(cached.parents[1])
    finally:
        path.write_bytes(whole[path])
    assert library.ready(cached.parents[1]) == cached


@needs("g++")
@pytest.mark.parametrize("harm", ["cut off", "empty", "without its hash", "another's hash"])
def test_a_kernel_that_is_not_whole_is_compiled_anew(cached, monkeypatch, harm):
    whole, listed = cached.read_bytes(), cached.with_name(f"{cached.name}.sha256")
    if harm == "without its hash":
        listed.unlink()
    elif harm == "another's hash":
        listed.write_text(listed.read_text().replace("lenet5", "lenet6"))
    else:
        cached.write_bytes(whole[: len(whole) // 2 if harm == "cut off" else 0])
    monkeypatch.delenv("CXX")
    assert library.ready(cached.parents[1]) == cached
    assert (cached.read_bytes(), listed.read_text()) == (whole, f"{library.sha256(kernel())}  {cached.name}\n")
    assert {path.name for path in cached.parent.iterdir()} == {cached.name, listed.name}


COUNTING = """#!/bin/sh
mkdir "$COUNTED/$$"  # one folder a compilation
exec g++ "$@"
"""


@needs("g++")
def test_processes_that_want_the_kernel_at_once_compile_it_once(tmp_path):
    compiler, counted, home = tmp_path / "compiler", tmp_path / "counted", tmp_path / "home"
    compiler.write_text(COUNTING)
    compiler.chmod(0o755)
    counted.mkdir()
    (home / "fused" / ".build-killed").mkdir(parents=True)
    (home / "fused" / ".build-killed" / "made.so").touch()
    environment = os.environ | {"CXX": str(compiler), "COUNTED": str(counted)}
    environment.pop("REPRODUCE_FUSED_DIR", None)
    code = f"from pathlib import Path; from reproduce.fused import library; print(library.ready(Path({str(home)!r})))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = [process.communicate()[0].strip() for process in processes]
    assert printed == [str(home / "fused" / kernel().name)] * 3
    assert len(list(counted.iterdir())) == 1
    assert {path.name for path in (home / "fused").iterdir()} == {kernel().name, f"{kernel().name}.sha256"}


@needs("g++")
def test_without_locks_the_kernel_is_compiled_all_the_same(cached, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.delenv("CXX")
    monkeypatch.setattr(library.fcntl, "flock", no_locks)
    (cached.parent / ".build-anothers").mkdir()
    cached.unlink()
    assert library.ready(cached.parents[1]) == cached
    assert (cached.parent / ".build-anothers").exists()  # it may be at work


@needs("g++")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the image is x86's")
def test_the_images_kernels_are_made_with_their_hashes_by_the_standard_library_alone(tmp_path):
    """As the Dockerfile does it, on a machine that has two files of ours and nothing else."""
    for file in (library.SOURCE, Path(library.__file__)):
        shutil.copy(file, tmp_path)
    command = [sys.executable, "-I", "-S", "library.py", str(tmp_path / "fused"), *library.X86_TARGETS]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    listed = sorted((tmp_path / "fused").glob("*.sha256"))
    assert len(listed) == len(library.X86_TARGETS)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", *listed], cwd=tmp_path / "fused", check=True)


# Secrets.

SECRETS = ("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MY_SECRET", "PGPASSWORD")
BOTH_COMMANDS = """
import sys
from reproduce import cli
for command in (%r, %r):
    sys.argv[1:] = command.split()
    try:
        cli.main()
    except SystemExit as left:
        assert not left.code
"""


@needs("git")
def test_no_secret_of_the_environment_is_recorded_or_printed(own_home, tmp_path, empty_database):
    """A sweep and a report for real, started by a script in a checkout whose origin has a token in its address."""
    secret = uuid.uuid4().hex  # not a word, as the changes to this very file are recorded too
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    same = "--epochs 1 --train-size 640 --scheduler step --learning-rates 6e-4"
    script = BOTH_COMMANDS % (f"sweep {same} --jobs 1 --device cpu", f"report {same}")
    (checkout / "script.py").write_text(script)
    for command in (
        ["init", "--quiet"],
        ["remote", "add", "origin", f"https://someone:{secret}@example.org/repository.git"],
        ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(["git", *command], cwd=checkout, check=True)
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(empty_database, work / "mlflow.db")
    given = dict.fromkeys(SECRETS, secret)
    given |= {"REPRODUCE_HOME": str(own_home), "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_USERNAME": "a-user"}
    done = subprocess.run(
        [sys.executable, str(checkout / "script.py")],
        env=os.environ | given, cwd=work, capture_output=True, check=True,
    )  # fmt: skip
    assert b"1 trained" in done.stderr
    assert (work / "report" / "output" / "index.html").exists()
    contents = {path: path.read_bytes() for folder in (work, own_home) for path in folder.rglob("*") if path.is_file()}
    contents |= {"printed": done.stdout, "said": done.stderr}
    assert [path for path, content in contents.items() if secret.encode() in content] == []
    database = contents[work / "mlflow.db"]
    assert b"https://example.org/repository.git" in database  # the address is recorded, without the token
    assert b"a-user" in database  # and so is the user


def test_of_the_environments_variables_only_the_images_id_is_recorded(monkeypatch):
    provenance.environment.cache_clear()
    before = provenance.environment()
    for name in (*SECRETS, "REPRODUCE_IMAGE_ID"):
        monkeypatch.setenv(name, "set")
    provenance.environment.cache_clear()
    try:
        assert provenance.environment() == before | {"image_id": "set"}
    finally:
        provenance.environment.cache_clear()


# What is installed, and what listens.


def recipe(target):
    """The commands that `make` would run for it, without the environment's."""
    told = subprocess.run(["make", "--dry-run", "--assume-old=env", target], cwd=ROOT, capture_output=True, text=True)
    return told.stdout


@needs("make")
def test_the_audit_accepts_what_the_documentation_explains_and_nothing_else():
    section = (ROOT / "docs" / "security.md").read_text().split("## Known findings\n")[1].split("\n## ")[0]
    explained = re.findall(r"`((?:CVE|PYSEC|GHSA)-[^`]+)`", section)
    accepted = re.findall(r"--ignore-vuln (\S+)", recipe("audit"))
    assert accepted == explained != []
    assert len(set(explained)) == len(explained)


def test_every_guard_that_is_named_is_tested():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text()))
    code = "\n".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    tests = set(re.findall(r"^def (test_\w+)", code, re.MULTILINE))
    assert named - tests == set()


def test_nothing_is_read_with_torch_load():
    for path in (ROOT / "reproduce").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
        assert not called & {"torch.load", "pickle.load", "pickle.loads", "joblib.load"}, path
        assert not {name for name in called if name.endswith((".load_optimizer", ".load_lr_scheduler"))}, path


@needs("make")
def test_the_bill_of_materials_is_valid_and_lists_what_is_installed(tmp_path):
    told = re.search(r"cyclonedx_py (environment .*?)--output-file", recipe("sbom").replace("\\\n", " "))[1].split()
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    assert re.search(r"cyclonedx_py (environment .*?)--output-file", dockerfile)[1].split() == told
    files = [tmp_path / name for name in ("sbom.cdx.json", "again.cdx.json")]
    for file in files:
        command = [sys.executable, "-m", "cyclonedx_py", *told, "--output-file", str(file), sys.prefix]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    text, again = (file.read_text() for file in files)
    assert text == again
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    own = bill["metadata"]["component"]
    installed = distributions(path=[sysconfig.get_path("purelib")])  # what was imported may have added to sys.path
    listed = [(component["name"], component["version"]) for component in (own, *bill["components"])]
    assert sorted(listed) == sorted({(found.name, found.version) for found in installed})
    assert str(ROOT) not in text


def test_the_ui_listens_on_this_machine_only(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "reproduce", "ui", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            listening = set()
            while not listening and process.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                    found = [one for some in everyone for one in some.net_connections("inet")]
                    listening = {one.laddr for one in found if one.status == psutil.CONN_LISTEN}
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
            assert listening == {("127.0.0.1", port)}
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.terminate()
            process.terminate()


# Texts that are printed, recorded, or put into Markdown.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pass@example.org:5000/a?b=c", "http://***@example.org:5000/a?b=c"),
        ("postgresql://me:p@ss:w@rd@db/mlflow?sslmode=require", "postgresql://***@db/mlflow?sslmode=require"),
        ("at https://token@host/x and http://a:b@c", "at https://***@host/x and http://***@c"),
        ("https://blob/x?sv=1&sig=abc%3D&se=2", "https://blob/x?sv=1&sig=***&se=2"),
        ("mysql://db/x?password=abc", "mysql://db/x?password=***"),
        ("http://example.org/@someone/x", "http://example.org/@someone/x"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("mail me@example.org", "mail me@example.org"),
    ],
)
def test_credentials_are_taken_out_of_addresses(text, shown):
    assert plain.without_credentials(text) == shown


def test_what_steers_a_terminal_is_written_out():
    assert plain.printable("a\x1b[31mb\x07\x9b2J\r\nc\u202ed ±é∞") == "a\\x1b[31mb\\x07\\x9b2J c\\u202ed ±é∞"


def test_a_password_in_the_stores_address_is_not_printed(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:hidden@127.0.0.1:9")  # where nothing listens
    monkeypatch.setattr("reproduce.connection.OPENING_SECONDS", 0)
    monkeypatch.setenv("REPRODUCE_HOME", str(tmp_path))
    try:
        code, printed = typed(monkeypatch, capsys, "verify")
    finally:
        mlflow.set_tracking_uri(None)
    assert (code, printed.count("\n")) == (2, 1)
    assert "the tracking store http://***@127.0.0.1:9 does not answer" in printed
    assert "hidden" not in printed


def test_an_address_of_the_ui_with_a_password_is_refused(monkeypatch, capsys):
    code, printed = typed(monkeypatch, capsys, "report", "--ui-url", "https://someone:hidden@example.org/mlflow")
    assert code == 2
    assert "expected an address without credentials" in printed
    assert "hidden" not in printed


def test_the_ui_is_given_the_stores_address_where_others_cannot_read_it(monkeypatch, capsys):
    started = {}
    monkeypatch.setattr(os, "execv", lambda program, command: started.update(command=command))
    monkeypatch.setattr(os, "environ", os.environ.copy() | {"MLFLOW_TRACKING_URI": "postgresql://someone:hidden@db/x"})
    typed(monkeypatch, capsys, "ui")
    assert "--host 127.0.0.1" in " ".join(started["command"])
    assert "hidden" not in " ".join(started["command"])
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == "postgresql://someone:hidden@db/x"


def test_a_report_that_was_sent_does_not_steer_the_terminal(monkeypatch, capsys, tmp_path):
    shutil.copytree(ROOT / "report" / "reference", tmp_path / "sent")
    (tmp_path / "sent" / "\x1b]0;title\x07").touch()
    monkeypatch.setattr(report, "_fill", lambda content, folder: None)  # what is in the folder is enough here
    monkeypatch.setattr(sys, "argv", ["reproduce", "report", "--check", "--output", str(tmp_path / "sent")])
    with pytest.raises(SystemExit):
        cli.main()
    printed = capsys.readouterr().out
    assert "\\x1b]0;title\\x07: added" in printed
    assert "\x1b" not in printed


def test_markdown_has_no_markup_from_the_store():
    row = tables.markdown(["a"], [["<script>x</script> ![](http://example.org/) | `b` &amp;\n# c"]]).splitlines()[2]
    assert row == "| &lt;script>x&lt;/script> !\\[](http://example.org/) \\| &#96;b&#96; &amp;amp; # c |"
