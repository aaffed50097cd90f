"""The RO-Crate held to the profile it keeps to, by the validator of those who wrote that."""

import json
import subprocess

import pytest
import yaml

from helpers import ROOT
from helpers.crates import DIVERGED, FINISHED, GIVEN, PUBLICATION, graph
from reproduce.report import crate

VALIDATOR = ROOT / "tests" / "validator"
NO_AGENT = "The Action SHOULD have an agent that is a Person or Organization"
NO_PUBLISHER = ["RECOMMENDED", "./", "The `publisher` property of a `Root Data Entity` SHOULD be an `Organization`"]


def findings(folder, profile, severity):
    """What the validator says, [severity, entity, message] each."""
    python = VALIDATOR / ".venv" / "bin" / "python"
    if not python.exists():
        pytest.skip("the validator is not installed: make tests/validator/.venv/installed")
    command = [python, "-I", VALIDATOR / "validate.py", folder, profile, severity]  # of its own packages only
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("profile", ["ro-crate-1.1", "process-run-crate"])
@pytest.mark.parametrize("actions", [[FINISHED, DIVERGED], []], ids=["two runs", "no run"])
def test_the_validator_finds_nothing_that_is_required_missing(archived_report, profile, actions):
    crate.write(archived_report, actions, PUBLICATION, **GIVEN)
    assert findings(archived_report, profile, "REQUIRED") == []


def test_the_validator_sees_an_action_without_its_instrument_and_a_file_that_is_not_there(described):
    metadata = json.loads((described / crate.METADATA).read_text())
    for entity in metadata["@graph"]:
        if entity["@id"] == "#report":
            del entity["instrument"]
    (described / crate.METADATA).write_text(json.dumps(metadata))
    (described / "claims.json").unlink()
    messages = [message for _, _, message in findings(described, "process-run-crate", "REQUIRED")]
    assert messages == [
        "The Action MUST have an instrument property that references the executed tool",
        "The RO-Crate does not include the Data Entity 'claims.json' as part of its payload",
    ]


def test_of_what_is_recommended_only_who_ran_it_is_left_out_once_the_code_has_an_address(
    archived_report, tmp_path, monkeypatch
):
    citation = yaml.safe_load(crate.CITATION.read_text()) | {"repository-code": "https://example.org/code"}
    (tmp_path / "CITATION.cff").write_text(yaml.safe_dump(citation))
    monkeypatch.setattr(crate, "CITATION", tmp_path / "CITATION.cff")
    crate.write(archived_report, [FINISHED, DIVERGED], PUBLICATION, **GIVEN)
    actions = ["./#report", f"./#run/{FINISHED.run_id}", f"./#run/{DIVERGED.run_id}"]
    expected = [NO_PUBLISHER, *(["RECOMMENDED", action, NO_AGENT] for action in actions)]
    assert findings(archived_report, "process-run-crate", "RECOMMENDED") == expected
    package = graph(archived_report)["https://example.org/code"]
    assert package["url"] == package["codeRepository"] == "https://example.org/code"
