"""Secrets stay where they are, what is installed is known, and texts from outside do no harm."""

import ast
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import uuid
from importlib.metadata import distributions
from types import SimpleNamespace

import mlflow
import psutil
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from helpers import ROOT, needs
from helpers.commands import typed
from reproduce import escaping
from reproduce.cli import main, ui
from reproduce.report import build
from reproduce.results.table import Table
from reproduce.training import provenance

# Secrets.

SECRETS = ("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MY_SECRET", "PGPASSWORD")
BOTH_COMMANDS = """
import sys
from reproduce.cli import main, ui
for command in (%r, %r):
    sys.argv[1:] = command.split()
    try:
        main.main()
    except SystemExit as left:
        assert not left.code
"""


@needs("git")
@pytest.mark.system
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
    assert b"example.org" not in database  # a repository that the source is not in is nothing to record
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
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    tests = set(re.findall(r"^def (test_\w+)", code, re.MULTILINE))
    assert named - tests == set()


def test_nothing_is_read_with_torch_load():
    for path in (ROOT / "reproduce").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
        assert not called & {"torch.load", "pickle.load", "pickle.loads", "joblib.load"}, path
        assert not {name for name in called if name.endswith((".load_optimizer", ".load_lr_scheduler"))}, path


@pytest.mark.system
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


@pytest.mark.system
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
    assert escaping.without_credentials(text) == shown


def test_what_steers_a_terminal_is_written_out():
    assert escaping.printable("a\x1b[31mb\x07\x9b2J\r\nc\u202ed ±é∞") == "a\\x1b[31mb\\x07\\x9b2J c\\u202ed ±é∞"


def test_a_password_in_the_stores_address_is_not_printed(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:hidden@127.0.0.1:9")  # where nothing listens
    monkeypatch.setattr("reproduce.tracking.store.OPENING_SECONDS", 0)
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

    def start(command, preexec_fn):
        started["command"] = command
        return SimpleNamespace(wait=lambda: 0, poll=lambda: 0, terminate=lambda: None)

    monkeypatch.setattr(ui.subprocess, "Popen", start)
    monkeypatch.setattr(ui, "check_store_to_show", lambda home: os.environ["MLFLOW_TRACKING_URI"])
    monkeypatch.setattr(ui, "prepare_to_show", lambda uri, address: address)
    monkeypatch.setattr(os, "environ", os.environ.copy() | {"MLFLOW_TRACKING_URI": "postgresql://someone:hidden@db/x"})
    typed(monkeypatch, capsys, "ui")
    assert "--host 127.0.0.1" in " ".join(started["command"])
    assert "hidden" not in " ".join(started["command"])
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == "postgresql://someone:hidden@db/x"


def test_a_report_that_was_sent_does_not_steer_the_terminal(monkeypatch, capsys, tmp_path):
    shutil.copytree(ROOT / "report" / "reference", tmp_path / "sent")
    (tmp_path / "sent" / "\x1b]0;title\x07").touch()
    # What is in the folder is enough here.
    monkeypatch.setattr(build, "fill", lambda data, folder: None)
    monkeypatch.setattr(sys, "argv", ["reproduce", "report", "--check", "--output", str(tmp_path / "sent")])
    with pytest.raises(SystemExit):
        main.main()
    printed = capsys.readouterr().out
    assert "\\x1b]0;title\\x07: added" in printed
    assert "\x1b" not in printed


def test_markdown_has_no_markup_from_the_store():
    row = Table(["a"], [["<script>x</script> ![](http://example.org/) | `b` &amp;\n# c"]]).markdown().splitlines()[2]
    assert row == "| &lt;script>x&lt;/script> !\\[](http://example.org/) \\| &#96;b&#96; &amp;amp; # c |"
