"""What a run says of where it comes from: it is true, or it is unknown, and it never stops the run."""

import functools
import json
import os
import shutil
from importlib.metadata import version

import mlflow
import pytest

from helpers import ROOT, needs
from helpers.repositories import commit_all, git, write
from helpers.small import run, small_config
from reproduce.study import planning
from reproduce.training import checkout, provenance
from reproduce.training.provenance import Source

COMMIT = "6f7dd0fc0aac8a03e6f443a775af62cc4bf087cd"
GIT_TAGS = ("mlflow.source.git.commit", "mlflow.source.git.branch", "mlflow.source.git.repoURL")


@pytest.fixture(autouse=True)
def fresh_caches():
    """What was found out once holds for the process; not so here."""
    caches = (provenance.source, provenance._image, provenance.environment)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """This source in a folder of its own, where provenance looks for it."""
    folder = tmp_path / "project" / "unpacked"
    shutil.copytree(ROOT / "reproduce", folder / "reproduce", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "ROOT", folder)
    return folder


@needs("git")
def test_a_source_in_its_own_repository_is_of_its_commit_with_or_without_changes(unpacked):
    commit = commit_all(unpacked)
    assert provenance.source() == Source(commit, "no")
    provenance.source.cache_clear()
    write(unpacked, {"reproduce/__init__.py": b"# \xe9\n"})
    found = provenance.source()
    assert (found.commit, found.uncommitted_changes, found.trouble) == (commit, "yes", "")
    assert b"+# \xe9\n" in found.diff


@needs("git")
def test_a_source_in_another_repository_or_in_none_is_unknown_without_a_word(unpacked):
    assert provenance.source() == Source("unknown", "unknown")
    provenance.source.cache_clear()
    commit_all(unpacked.parent)
    assert provenance.source() == Source("unknown", "unknown")


@needs("git")
def test_what_git_cannot_tell_is_unknown_with_the_reason(unpacked, monkeypatch):
    commit_all(unpacked)
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance.source() == Source("unknown", "unknown", trouble="git is not installed")


@needs("git")
def test_a_commit_is_known_also_where_the_changes_are_not(unpacked, monkeypatch):
    commit = commit_all(unpacked)
    monkeypatch.setattr(checkout.tempfile, "TemporaryDirectory", functools.partial(open, "/nowhere/at/all"))
    found = provenance.source()
    assert (found.commit, found.uncommitted_changes) == (commit, "unknown")
    assert found.trouble == "[Errno 2] No such file or directory: '/nowhere/at/all'"


SAID_BY_IMAGES = {
    "clean": (json.dumps({"commit": COMMIT, "contents": "sha256:1"}), (COMMIT, "no"), "sha256:1"),
    "with changes": (json.dumps({"commit": f"{COMMIT}-dirty", "contents": "sha256:1"}), (COMMIT, "yes"), "sha256:1"),
    "no commit was given": (json.dumps({"commit": "unknown", "contents": "x"}), ("unknown", "unknown"), "x"),
    "a name was given": (json.dumps({"commit": "v1.0", "contents": "x"}), ("v1.0", "unknown"), "x"),
    "no commit at all": (json.dumps({"contents": "x"}), ("unknown", "unknown"), "x"),
    "damaged": ('{"commit": ', ("unknown", "unknown"), "unknown"),
    "other types": (json.dumps({"commit": 1, "contents": []}), ("unknown", "unknown"), "unknown"),
    "no object": ("[1]", ("unknown", "unknown"), "unknown"),
    "no UTF-8": ("\udcff", ("unknown", "unknown"), "unknown"),
}


@pytest.mark.parametrize(("written", "expected", "image"), SAID_BY_IMAGES.values(), ids=SAID_BY_IMAGES.keys())
def test_an_image_says_what_its_builder_knew(unpacked, written, expected, image):
    (unpacked / "image.json").write_bytes(written.encode("utf-8", "surrogateescape"))
    found = provenance.source()
    assert (found.commit, found.uncommitted_changes) == expected
    assert bool(found.diff) == (expected[1] == "yes")
    assert provenance.environment()["image"] == image


def test_the_versions_of_what_a_studys_own_code_imports_are_part_of_the_cache_key():
    usual = provenance.numerics_environment("data", "cpu", "engine")
    own = provenance.numerics_environment(
        "data", "cpu", "engine", packages=("torch", "PIL", "scipy", "yaml", "not_installed")
    )
    # yaml has its distribution's name in a file of its own, scipy has not.
    assert own == usual | {"PyYAML": version("PyYAML"), "scipy": version("scipy")}


def test_of_the_environment_only_what_cannot_be_found_out_is_unknown(tmp_path, monkeypatch):
    before = provenance.environment()
    provenance.environment.cache_clear()
    write(tmp_path, {"nvidia-smi": b"#!/bin/sh\nprintf '\\377\\n'\n"})
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "abc")
    monkeypatch.setenv("REPRODUCE_IMAGE_ID", "\udcff\n\x1b" + "x" * 10_000)
    monkeypatch.setattr(provenance, "PACKAGES", (*provenance.PACKAGES, "of-no-such-name"))

    def unreadable():
        raise PermissionError

    monkeypatch.setattr(provenance.psutil, "virtual_memory", unreadable)
    expected = before | dict.fromkeys(("gpu", "cores", "memory", "of-no-such-name"), "unknown")
    assert provenance.environment() == expected | {"image_id": r"\udcff \x1b" + "x" * 989}


NVIDIA = {
    "two": ("echo 'NVIDIA H100'; echo 'NVIDIA H100'", "NVIDIA H100, NVIDIA H100"),
    "no driver": ("echo 'NVIDIA-SMI has failed'; exit 9", "unknown"),
    "nothing": ("exit 0", "unknown"),
    "no end": ("sleep 600", "unknown"),
}


@pytest.mark.parametrize(("script", "expected"), NVIDIA.values(), ids=NVIDIA.keys())
def test_a_gpu_that_cannot_be_asked_is_unknown(tmp_path, monkeypatch, script, expected):
    write(tmp_path, {"nvidia-smi": f"#!/bin/sh\n{script}\n".encode()})
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(checkout, "TIMEOUT_SECONDS", 0.3 if "sleep" in script else 30)
    assert provenance.environment()["gpu"] == expected


def test_no_nvidia_smi_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.environment()["gpu"] == "none"


def trained(store, paper):
    """A trial's tags, its parent's, and its run's id."""
    (trial,) = planning.trials(paper, small_config(schedulers=("step",), learning_rates=(6e-4,)))
    parent_id, (done,) = run(store, [trial], jobs=1)
    return *(store.mlflow.get_run(run_id).data.tags for run_id in (done.run_id, parent_id)), done.run_id


@needs("git")
def test_a_run_records_the_bytes_that_differ_and_the_commit_where_mlflow_shows_it(store, paper, unpacked):
    commit = commit_all(unpacked)
    write(unpacked, {"reproduce/__init__.py": b"# \xe9\n", "reproduce/more.py": b""})
    *both, run_id = trained(store, paper)
    for tags in both:
        assert (tags["commit"], tags["mlflow.source.git.commit"]) == (commit, commit)
        assert (tags["uncommitted_changes"], tags["code_sha256"]) == ("yes", provenance.code_sha256())
    with open(store.mlflow.download_artifacts(run_id, "uncommitted.diff"), "rb") as file:  # noqa: PTH123
        assert file.read() == provenance.source().diff


@needs("git")
def test_a_run_never_says_another_repositorys_commit(store, paper, unpacked, monkeypatch, capfd, tmp_path):
    """Not of the one around the source, not of the one in which the command lies, and not what `mlflow run` found."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "other", {"bin/reproduce": b""})
    commit_all(tmp_path / "other")
    git(tmp_path / "other", "remote", "add", "origin", "https://example.org/other.git")
    commit_all(unpacked.parent)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "other" / "bin" / "reproduce")])
    made_by_mlflow = store.mlflow.create_run(store.experiment_id, tags=dict.fromkeys(GIT_TAGS, "other")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made_by_mlflow)
    of_trial, of_parent, run_id = trained(store, paper)
    for tags in (of_trial, of_parent):
        assert (tags["commit"], tags["uncommitted_changes"]) == ("unknown", "unknown")
        assert tags["code_sha256"] == provenance.code_sha256()
        assert not set(GIT_TAGS) & tags.keys()
    assert store.mlflow.get_run(made_by_mlflow).data.tags == of_parent
    (model,) = mlflow.MlflowClient(store.uri).search_logged_models(
        [store.experiment_id], filter_string=f"source_run_id = '{run_id}'"
    )
    assert not set(GIT_TAGS) & model.tags.keys()
    assert "git" not in capfd.readouterr().err


def test_a_run_that_goes_on_with_another_source_says_both(store, small_trial, monkeypatch):
    def opened(source):
        monkeypatch.setattr(provenance, "source", lambda: source)
        run_id, _ = store.writer.open_trial(small_trial, "a cache key", "0" * 32)
        tags = store.mlflow.get_run(run_id).data.tags
        return tags["commit"], tags["uncommitted_changes"], tags["code_sha256"]

    code, other = provenance.code_sha256(), COMMIT[::-1]
    assert opened(Source(COMMIT, "no")) == (COMMIT, "no", code)
    assert opened(Source(COMMIT, "no")) == (COMMIT, "no", code)
    assert opened(Source(other, "unknown")) == (f"{COMMIT}, then {other}", "no, then unknown", code)
    assert opened(Source(other, "unknown")) == (f"{COMMIT}, then {other}", "no, then unknown", code)


@needs("git")
def test_why_the_source_is_unknown_is_said_once_and_the_run_goes_on(
    store, paper, unpacked, monkeypatch, capfd, tmp_path
):
    commit_all(unpacked)
    write(tmp_path / "bin", {"git": b"#!/bin/sh\necho damaged >&2\nexit 1\n"})
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    of_trial, of_parent, _ = trained(store, paper)
    assert of_trial["uncommitted_changes"] == of_parent["uncommitted_changes"] == "unknown"
    assert of_trial["outcome"] == "finished"
    said = capfd.readouterr().err
    assert said.count("git") == 1
    assert "git failed: damaged: the unknown parts of the source's commit and changes are recorded as unknown\n" in said
