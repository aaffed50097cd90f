"""The job that MLflow's Kubernetes backend would start, held to Kubernetes' own schema; no cluster is needed."""

import copy
import json
import re
import shlex

import kubernetes_validate
import mlflow.projects
import pytest
import yaml
from mlflow.projects import kubernetes as backend
from mlflow.projects._project_spec import load_project
from mlflow.projects.utils import get_entry_point_command

from helpers import ROOT

VERSIONS = ("1.31", kubernetes_validate.latest_version())
ENTRY_POINTS = ("main", "range_test", "sweep", "grid", "report", "verify")


def template():
    return yaml.safe_load((ROOT / "kubernetes" / "job.yaml").read_text())


@pytest.fixture
def filled(monkeypatch, tmp_path):
    """Fill the template in as `mlflow run docker --backend kubernetes -e ENTRY_POINT -P …` does."""
    monkeypatch.chdir(ROOT)  # the template's path is relative to where one types
    monkeypatch.setenv("KUBE_MLFLOW_TRACKING_URI", "http://mlflow:5000")

    def fill(entry_point, **parameters):
        config = json.loads((ROOT / "kubernetes" / "backend.json").read_text())
        parsed = mlflow.projects._parse_kubernetes_config(config)
        project = load_project(str(ROOT / "docker"))
        command = get_entry_point_command(project, entry_point, parameters, str(tmp_path))
        return backend._get_kubernetes_job_definition(
            project.name, parsed["repository-uri"], f"sha256:{'0' * 64}", backend._get_run_command(command),
            {"MLFLOW_RUN_ID": "1" * 32, "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}, parsed["kube-job-template"],
        )  # fmt: skip

    return fill


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_the_filled_in_job_is_what_kubernetes_takes(filled, entry_point, version):
    assert kubernetes_validate.validate(filled(entry_point), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_volume_is_what_kubernetes_takes(version):
    volume = yaml.safe_load((ROOT / "kubernetes" / "volume.yaml").read_text())
    assert kubernetes_validate.validate(volume, version, strict=True)
    (claim,) = [volume["persistentVolumeClaim"]["claimName"] for volume in template()["spec"]["template"]["spec"]
                ["volumes"] if "persistentVolumeClaim" in volume]  # fmt: skip
    assert volume["metadata"]["name"] == claim


def test_the_schema_is_one_that_refuses():
    broken = copy.deepcopy(template())
    broken["spec"]["template"]["spec"]["containers"][0]["resuorces"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_the_job_runs_our_command_where_the_volume_is_and_with_the_clusters_own_address_of_the_server(filled):
    from reproduce.cli.main import cli

    job = filled("sweep", scheduler="multistep", epochs="2")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][:4] == ["python", "-m", "reproduce", "sweep"]
    values = cli.commands["sweep"].make_context("sweep", container["command"][4:]).params
    assert (values["scheduler"], values["epochs"]) == ("multistep", 2)
    assert {"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow:5000"} in container["env"]
    assert container["workingDir"] in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert container["image"] == f"registry.example.org/lenet5-reproduction@sha256:{'0' * 64}"


def test_the_job_has_no_more_rights_than_the_container_needs():
    pod = template()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    user, group = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE).groups()
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (int(user), int(group))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def test_the_documented_command_is_one_that_mlflow_takes():
    from mlflow.cli import run

    page = (ROOT / "docs" / "scaling.md").read_text()
    (line,) = re.findall(r"^(?:\w+=\S+ )?mlflow run (.* --backend kubernetes .*)$", page, re.MULTILINE)
    values = run.make_context("run", shlex.split(line)).params
    assert (values["uri"], values["backend"], values["entry_point"]) == ("docker", "kubernetes", "sweep")
    assert (ROOT / values["backend_config"]).is_file()
    assert values["build_image"]
