"""compose.yaml: by the Compose Specification, and as careful as it says. Its server runs in test_shared_store.py."""

import re
import shlex
import subprocess

import click
import pytest
import yaml
from mlflow.cli import server as mlflow_server
from mlflow.server.security_utils import is_allowed_host_header
from sqlalchemy import make_url

from helpers import ROOT
from helpers.compose_file import FILE, VARIABLE, services
from reproduce.cli.main import cli

CHECK = ROOT / "tests" / "validator" / ".venv" / "bin" / "check-jsonschema"
PAGE = (ROOT / "docs" / "scaling.md").read_text()
SECTION = PAGE.partition("\n## A shared tracking server\n")[2].partition("\n## ")[0]
FILLED = services(POSTGRES_PASSWORD="secret")
OURS = {name: service for name, service in FILLED.items() if name != "postgres"}


def complaints(path):
    if not CHECK.exists():
        pytest.skip("the schema is not installed: make tests/validator/.venv/installed")
    done = subprocess.run([CHECK, "--builtin-schema", "vendor.compose-spec", path], capture_output=True, text=True)
    return done.stdout if done.returncode else ""


def test_the_file_is_what_the_compose_specification_asks_for():
    assert complaints(FILE) == ""


def test_the_specification_knows_a_mistake(tmp_path):
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text().replace("condition: service_healthy", "condition: healthy", 1))
    assert "'healthy'" in complaints(wrong)


def parsed(command, words):
    """What the options are; an error for one that is not there or not right."""
    with click.Context(command) as context:
        command.parse_args(context, list(words))
    return context.params


def test_the_servers_command_is_one_that_mlflow_knows():
    program, command, *words = FILLED["server"]["command"]
    assert (program, command) == ("mlflow", "server")
    given = parsed(mlflow_server, words)
    assert (given["host"], given["port"], given["serve_artifacts"]) == ("0.0.0.0", 5000, True)
    (kept,) = FILLED["server"]["volumes"]
    assert given["artifacts_destination"].startswith(kept.partition(":")[2] + "/")
    url = make_url(FILLED["server"]["environment"]["MLFLOW_BACKEND_STORE_URI"])
    assert (url.get_driver_name(), url.host, url.password) == ("psycopg2", "postgres", None)
    assert (url.username, url.database) == tuple(
        FILLED["postgres"]["environment"][name] for name in ("POSTGRES_USER", "POSTGRES_DB")
    )


@pytest.mark.parametrize(
    ("host", "allowed"),
    [("server:5000", True), ("localhost:5000", True), ("127.0.0.1:8080", True), ("tracking.example.org", False)],
)
def test_the_server_answers_the_study_and_this_machine_and_no_other_name(host, allowed):
    words = FILLED["server"]["command"]
    assert is_allowed_host_header(words[words.index("--allowed-hosts") + 1].split(","), host) is allowed


def test_it_listens_on_this_machine_unless_told_and_the_database_nowhere():
    assert FILLED["server"]["ports"] == ["127.0.0.1:5000:5000"]
    told = services(POSTGRES_PASSWORD="secret", TRACKING_ADDRESS="0.0.0.0", TRACKING_PORT="80")
    assert told["server"]["ports"] == ["0.0.0.0:80:5000"]
    assert {name for name, service in FILLED.items() if "ports" in service} == {"server"}
    whole = yaml.safe_load(FILE.read_text())
    assert whole["networks"]["database"] == {"internal": True}
    assert FILLED["postgres"]["networks"] == ["database"]
    assert "networks" not in FILLED["study"]  # it speaks to the server only


def test_the_password_has_no_default_and_is_in_no_command_and_no_address():
    found = [match for match in VARIABLE.finditer(FILE.read_text()) if match["name"] == "POSTGRES_PASSWORD"]
    assert {match["sign"] for match in found} == {"?"}
    with pytest.raises(KeyError, match="POSTGRES_PASSWORD"):
        services()
    given = {
        (name, key)
        for name, service in services(POSTGRES_PASSWORD="s3cret").items()
        for key, value in service["environment"].items()
        if "s3cret" in value
    }
    assert given == {("postgres", "POSTGRES_PASSWORD"), ("server", "PGPASSWORD")}
    assert not any("s3cret" in str(service.get("command")) for service in FILLED.values())


def test_images_are_named_by_version_and_ours_by_the_packages():
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert {service["image"] for service in OURS.values()} == {f"lenet5-reproduction:{version}"}
    assert f"--tag lenet5-reproduction:{version} " in (ROOT / "Makefile").read_text()
    assert {service["pull_policy"] for service in OURS.values()} == {"never"}  # a registry has none of that name
    assert re.fullmatch(r"postgres:\d+\.\d+", FILLED["postgres"]["image"])


def test_each_waits_until_what_it_needs_is_healthy_and_keeps_what_it_makes():
    assert FILLED["server"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert FILLED["study"]["depends_on"] == {"server": {"condition": "service_healthy"}}
    assert all("test" in FILLED[name]["healthcheck"] for name in ("postgres", "server"))
    assert FILLED["study"]["profiles"] == ["study"]
    assert FILLED["study"]["environment"]["MLFLOW_TRACKING_URI"] == "http://server:5000"
    volumes = {name: [volume.partition(":")[0] for volume in service["volumes"]] for name, service in FILLED.items()}
    assert volumes == {"postgres": ["database"], "server": ["artifacts"], "study": ["study"]}
    assert yaml.safe_load(FILE.read_text())["volumes"].keys() == {"database", "artifacts", "study"}


def test_ours_have_no_rights_that_they_do_not_need_and_want_no_gpu():
    for service in OURS.values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.keys() & {"privileged", "user", "gpus", "deploy", "devices"}


def test_what_the_page_says_to_type_is_there():
    blocks = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    ours = [words for words in lines if words[0] == ".venv/bin/reproduce"]
    ours += [words[4:] for words in lines if words[:4] == ["docker", "compose", "run", "--rm"]]
    assert len(ours) == 4
    for service, name, *options in ours:
        assert service in (".venv/bin/reproduce", "study")
        parsed(cli.commands[name], options)
    (served,) = [words[2:] for words in lines if words[:2] == [".venv/bin/mlflow", "server"]]
    given, composed = parsed(mlflow_server, served), parsed(mlflow_server, FILLED["server"]["command"][2:])
    assert (given["workers"], given["serve_artifacts"]) == (composed["workers"], composed["serve_artifacts"])
    assert given["host"] is None or given["host"] == "127.0.0.1"
    variables = {name for block in blocks for name in re.findall(r"^export (\w+)=", block, re.MULTILINE)}
    assert variables - {"MLFLOW_TRACKING_URI"} <= FILLED["server"]["environment"].keys()
    told = re.search(r"TRACKING_HOSTS=(\S+?)`", SECTION)[1]
    assert is_allowed_host_header(told.split(","), "tracking.example.org:5000")
    known = {match["name"] for match in VARIABLE.finditer(FILE.read_text())}
    assert known == {"POSTGRES_PASSWORD", *re.findall(r"`(TRACKING_\w+)", SECTION)}
