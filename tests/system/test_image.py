"""The container for real: the image built from the Dockerfile by whichever engine answers, and run as users run it.

`make test-image` runs these; `DOCKER_HOST` names the engine and `BASE_IMAGE` the base. Without that variable the base
is the Dockerfile's own, or where no registry can be reached a Debian made on the spot.
"""

import csv
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

import docker
import pytest

from helpers import ROOT

pytestmark = pytest.mark.image

DOCKERFILE = (ROOT / "Dockerfile").read_text()
DEFAULT_BASE = re.search(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)[1]
TAG = "lenet5-reproduction"
SMALL = ("--epochs", "1", "--train-size", "1280", "--range-test-epochs", "1")
STRANGER = "4321:4321"  # no entry in the image's /etc/passwd
HOST_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@pytest.fixture(scope="session")
def engine():
    """A client of the engine that runs here."""
    try:
        client = docker.from_env(timeout=1200)
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        pytest.skip(f"no container engine answers: {error}")
    return client


@pytest.fixture(scope="session")
def base_image(engine, tmp_path_factory) -> str:
    """The base to build from: the one asked for, the Dockerfile's own, or a Debian 12 made here."""
    if asked := os.environ.get("BASE_IMAGE"):
        return asked
    try:
        engine.images.pull(DEFAULT_BASE)
        return DEFAULT_BASE
    except docker.errors.APIError as error:
        if shutil.which("debootstrap") is None or os.geteuid() != 0:
            pytest.skip(f"{DEFAULT_BASE} cannot be pulled, and debootstrap as root is not to be had: {error}")
    folder = tmp_path_factory.mktemp("base")
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", str(folder / "root")], check=True)
    certificates = folder / "root/etc/ssl/host.pem"  # a network's own proxy may want its own
    certificates.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(HOST_CERTIFICATES, certificates)
    with tarfile.open(folder / "root.tar", "w") as archive:
        archive.add(folder / "root", ".")
    changes = [f"ENV {name}=/etc/ssl/host.pem" for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    answer = engine.api.import_image_from_file(str(folder / "root.tar"), changes=changes)
    made = engine.images.get(json.loads(answer.splitlines()[-1])["status"])  # not every engine tags as it imports
    made.tag("localhost/base-made-here", "1")
    return "localhost/base-made-here:1"


@pytest.fixture(scope="session")
def commit() -> str:
    described = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    return subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def image(engine, base_image, commit):
    """The image, built from the real Dockerfile."""
    built, _ = engine.images.build(
        path=str(ROOT), tag=TAG, network_mode="host", buildargs={"BASE_IMAGE": base_image, "COMMIT": commit}
    )
    return built


@pytest.fixture
def directory(tmp_path) -> Path:
    """A directory that belongs to the stranger."""
    path = tmp_path / "output"
    path.mkdir()
    if os.geteuid() == 0:
        os.chown(path, *map(int, STRANGER.split(":")))
    return path


@pytest.fixture
def start(engine, image):
    """Start a container that may write to /tmp and `directory` only and has no network; it is removed at the end."""
    started = []

    def start(*arguments, directory=None, **options):
        volumes = {str(directory): {"bind": "/output", "mode": "rw"}} if directory else {}
        user = STRANGER if os.geteuid() == 0 else f"{os.getuid()}:{os.getgid()}"
        defaults = {"network_mode": "none", "read_only": True, "tmpfs": {"/tmp": "exec"}, "user": user}
        container = engine.containers.run(
            image.id, list(arguments), detach=True, volumes=volumes, **(defaults | options)
        )
        started.append(container)
        return container

    yield start
    for container in started:
        container.remove(force=True)


def finish(container):
    """The exit code, and what was printed."""
    code = container.wait()["StatusCode"]
    return code, container.logs().decode()


def runs(directory):
    """Status, kind and all tags of every run in the store."""
    with sqlite3.connect(f"file:{directory}/mlflow.db?mode=ro", uri=True) as connection:
        found = connection.execute("SELECT run_uuid, status FROM runs").fetchall()
        tags = connection.execute("SELECT run_uuid, key, value FROM tags").fetchall()
    return [{"id": run, "status": status} | {key: value for owner, key, value in tags if owner == run}
            for run, status in found]  # fmt: skip


def test_the_image_says_what_it_is(engine, image, base_image, commit):
    labels = image.labels
    assert labels["org.opencontainers.image.revision"] == commit
    assert labels["org.opencontainers.image.base.name"] == base_image
    config = engine.api.inspect_image(image.id)["Config"]
    assert config["User"] == "1000:1000"
    assert "5000/tcp" in config["ExposedPorts"]


def test_the_image_brings_a_list_of_what_it_is_made_of(start, image):
    found = json.loads(finish(start("cat", image.labels["org.cyclonedx.sbom"]))[1])
    listed = {component["name"]: component["version"] for component in found["components"]}
    assert (found["bomFormat"], listed["torch"].partition("+")[0]) == ("CycloneDX", "2.5.1")


def test_one_run_reproduces_everything_without_a_network(start, directory, image, base_image, commit):
    code, said = finish(start(*SMALL, directory=directory, environment={"REPRODUCE_IMAGE_ID": image.id}))
    assert code == 0, said
    assert "16 trained" in said
    report = (directory / "report/output/report.md").read_text()
    assert {path.name for path in (directory / "report/output").iterdir()} >= {
        "summary.csv", "summary.json", "environment.json", "figure-1.png", "figure-4b.svg", "figure-conclusion.png",
    }  # fmt: skip
    with (directory / "report/output/summary.csv").open(newline="") as file:
        assert {row["engine"] for row in csv.DictReader(file)} == {"fused"}  # without a compiler in the image
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in directory.rglob("*")}
    assert owners == {(directory.stat().st_uid, directory.stat().st_gid)}
    recorded = runs(directory)
    assert [run["status"] for run in recorded] == ["FINISHED"] * 17  # the parent, the range test, 15 models
    assert {run["environment.image_id"] for run in recorded} == {image.id}
    assert {run["environment.image_base"] for run in recorded} == {base_image}
    assert {run["commit"] for run in recorded} == {commit.removesuffix("-dirty")}
    (contents,) = {run["environment.image"] for run in recorded}
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", contents)
    assert contents in report
    code, said = finish(start(*SMALL, directory=directory))  # once more: nothing is left to do
    assert code == 0, said
    assert "16 of 16 trials are finished and reused" in said
    assert (directory / "report/output/report.md").read_text() == report


def test_what_a_container_made_opens_on_the_host_and_goes_on_in_the_container(start, tmp_path):
    directory = tmp_path / "My Documents é"
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    test = ("range_test", "--epochs", "1", "--train-size", "1280")
    assert finish(start(*test, directory=directory))[0] == 0

    command = [sys.executable, "-m", "reproduce", "report", "--range-test-epochs", "1", "--train-size", "1280"]
    numerics_environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=directory, env=numerics_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        f"the study in {directory} was in /output before: its recorded paths now lead to its artifacts here"
        in done.stderr
    )
    assert (directory / "report" / "output" / "figure-1.png").exists()
    assert not Path("/output").exists()

    code, said = finish(start(*test, "--seeds", "0,1", directory=directory, user=f"{os.getuid()}:{os.getgid()}"))
    assert code == 0, said
    assert "1 trained, 1 reused" in said
    assert len(curves(directory)) == 2


def test_the_recorded_digest_can_be_made_again_from_the_image(start):
    written = json.loads(finish(start("cat", "/opt/reproduce/image.json"))[1])
    again = json.loads(finish(start("python", "/opt/reproduce/docker/identity.py"))[1])
    assert written["contents"] == again["contents"]


def curves(directory):
    """The bytes of every trial's losses, in order."""
    return sorted(path.read_bytes() for path in directory.glob("mlruns/*/*/artifacts/curve.csv"))


def until(condition, seconds=120):
    """Wait for what a container does; the test fails when it does not come."""
    for _ in range(seconds * 10):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("what was waited for did not come")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_container_that_was_ended_half_way_goes_on_to_the_same_bits(start, directory, tmp_path, how):
    sweep = ("sweep", "--scheduler", "step", "--epochs", "4", "--train-size", "12800", "--learning-rates", "6e-4,6e-6")
    container = start(*sweep, directory=directory)
    until(lambda: any(directory.glob(".reproduce/trials/*/epoch-0002")))
    container.stop(timeout=30) if how == "stop" else container.kill()
    code, said = finish(container)
    assert code == (143 if how == "stop" else 137), said
    if how == "stop":
        assert said.endswith("terminated: what is done is recorded; the same command resumes from there\n")
    assert curves(directory) == []
    code, said = finish(start(*sweep, directory=directory))
    assert code == 0, said
    assert said.count(": resumed, loss") == 2
    assert sorted(run["status"] for run in runs(directory)) == ["FINISHED"] * 3 + ["KILLED"]

    whole = tmp_path / "whole"
    whole.mkdir()
    os.chown(whole, directory.stat().st_uid, directory.stat().st_gid)
    assert finish(start(*sweep, directory=whole))[0] == 0
    assert curves(directory) == curves(whole)
    assert len(curves(whole)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweeep",), "error: there is no command 'sweeep', expected one of main, "),
        (
            ("sweep", "--epochs", "0"),
            "error: Invalid value for '--epochs': got '0', expected a whole number from 1 to 10000",
        ),
        (("range_test", "--device", "cuda"), "error: --device cuda: PyTorch sees no CUDA device here"),
    ],
)
def test_what_a_user_got_wrong_ends_in_one_line_and_exit_code_2(start, directory, arguments, message):
    code, said = finish(start(*arguments, directory=directory))
    assert code == 2
    assert said.startswith(message)
    assert said.count("\n") == 1
    assert list(directory.iterdir()) == []


def test_claims_without_runs_are_inconclusive_in_the_container_too(start, directory):
    code, said = finish(start("verify", directory=directory))
    assert code == 3
    assert "so none of its 42 statements can be judged: reproduce main makes the runs" in said


def test_a_directory_of_somebody_else_is_refused_before_any_work(start, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can make a directory that the container's user may not write to")
    code, said = finish(start("sweep", directory=tmp_path))
    assert code == 2
    assert said.startswith("error: /output cannot be written to by user 4321: ")
    assert said.count("\n") == 1


def test_without_a_mounted_directory_it_says_where_the_results_stay(start):
    code, said = finish(start("range_test", "--device", "cuda", read_only=False))
    assert code == 2
    assert [line.split(":")[0] for line in said.splitlines()] == ["nothing is mounted at /output", "error"]


def test_the_ui_answers_on_the_published_port_and_the_health_check_watches_it(start, directory):
    container = start("ui", directory=directory, network_mode="bridge", ports={"5000/tcp": ("127.0.0.1", 0)})
    check = ["python", "/opt/reproduce/docker/healthcheck.py"]
    until(lambda: container.exec_run(check).exit_code == 1)  # on its way
    until(lambda: container.exec_run(check).exit_code == 0)
    container.reload()
    port = (container.ports.get("5000/tcp") or [{"HostPort": "5000"}])[0]["HostPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
        assert "<title>MLflow</title>" in page.read().decode()
    assert f'CMD ["{check[0]}", "{check[1]}"]' in DOCKERFILE


def test_the_suite_runs_in_the_container(start):
    code, said = finish(start("test", "tests/test_schedules.py", "tests/test_mnist.py"))
    assert code == 0, said
    assert " failed" not in said


@pytest.fixture
def mlflow_run(image, tmp_path):
    """`mlflow run` on the docker folder, in an empty directory, as `pip install mlflow` has it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    (tmp_path / "reproduce").mkdir()  # as in a checkout: what runs is the image's code all the same
    (tmp_path / "reproduce" / "__init__.py").write_text("raise SystemExit('the code of the working directory')")

    def run(*arguments):
        command = ["mlflow", "run", f"{ROOT}#docker", "-e", "sweep", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_mlflow_run_works_in_the_image(mlflow_run, image, commit, tmp_path):
    done = mlflow_run("-P", "scheduler=step", "-P", "learning_rates=6e-4", "-P", "epochs=1", "-P", "train_size=1280")
    assert done.returncode == 0, done.stderr
    parent, child = sorted(runs(tmp_path), key=lambda run: "mlflow.parentRunId" in run)
    assert (parent["status"], child["status"], child["mlflow.parentRunId"]) == ("FINISHED", "FINISHED", parent["id"])
    assert parent["mlflow.docker.image.id"] == child["environment.image_id"] == image.id
    assert child["environment.image"].startswith("sha256:")
    assert child["commit"] == commit.removesuffix("-dirty")
    (artifacts,) = tmp_path.glob(f"mlruns/*/{child['id']}/artifacts")  # where MLflow outside looks for them
    assert {path.name for path in artifacts.iterdir()} >= {"curve.csv", "environment.json"}
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {os.getuid()}


def test_mlflow_run_passes_on_what_was_wrong(mlflow_run, tmp_path):
    done = mlflow_run("-P", "scheduler=stepp")
    assert "did you mean step?" in done.stderr
    if subprocess.run(["docker", "run", "--rm", TAG, "false"]).returncode == 0:
        pytest.skip("this engine's `docker run --rm` loses the exit code that MLflow goes by")
    assert [run["status"] for run in runs(tmp_path)] == ["FAILED"]
