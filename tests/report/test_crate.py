"""What the RO-Crate says of a report, its runs and the paper."""

import hashlib
import shutil
from dataclasses import replace
from datetime import timedelta, timezone

import pytest

from helpers import PYPROJECT, ROOT
from helpers.crates import COMMIT, DIVERGED, ENVIRONMENT, FINISHED, GIVEN, PUBLICATION, graph, trial
from reproduce.data.datasets import SHA256
from reproduce.report import crate


def ids(references):
    return {reference["@id"] for reference in references}


def test_every_file_is_described_with_its_hash_and_its_size(described):
    entities = graph(described)
    names = {path.relative_to(described).as_posix() for path in described.rglob("*") if path.is_file()}
    names.remove(crate.METADATA)
    odd = "more/figure 1 é#?.bin"
    escaped = {name: "more/figure%201%20%C3%A9%23%3F.bin" if name == odd else name for name in names}
    assert [part["@id"] for part in entities["./"]["hasPart"]] == [escaped[name] for name in sorted(names)]
    for name, entity_id in escaped.items():
        content, entity = (described / name).read_bytes(), entities[entity_id]
        assert (entity["@type"], entity["name"]) == ("File", name)
        assert entity["sha256"] == hashlib.sha256(content).hexdigest()
        assert entity["contentSize"] == str(len(content))
    told = {name: (entities[name]["encodingFormat"], entities[name]["description"]) for name in names - {odd}}
    assert told["report.md"][0] == "text/markdown"
    assert told["index.html"] == ("text/html", "The report, as a page")
    assert told["figure-1.svg"] == ("image/svg+xml", "A figure of the report")
    assert told["figure-1.png"] == ("image/png", "A figure of the report")
    assert told["range-test.csv"] == (
        "text/csv", "Rate, loss and smoothed loss at every step of every range test"
    )  # fmt: skip
    assert "A file of the report" not in {description for _, description in told.values()}
    assert entities[escaped[odd]]["description"] == "A file of the report"


def test_a_run_is_an_action_with_its_id_its_parameters_and_its_final_values(described):
    entities, run = graph(described), f"#run/{FINISHED.run_id}"
    assert entities[run] == {
        "@id": run,
        "@type": "CreateAction",
        "name": "step 6e-4 seed 0",
        "description": "A training run of the study; it finished",
        "identifier": FINISHED.run_id,
        "instrument": {"@id": "#package"},
        "object": [
            *({"@id": f"#dataset/mnist/{name}"} for name in sorted(SHA256["mnist"])),
            {"@id": "study.yaml"},
            {"@id": "#parameter/learning_rate/0.0006"},
            {"@id": "#parameter/milestones/%5B2500%2C%207500%5D"},
            {"@id": "#parameter/optimizer/adam"},
        ],
        "result": [
            {"@id": f"{run}/outcome"},
            {"@id": f"{run}/test_accuracy_batch_mean"},
            {"@id": f"{run}/train_loss"},
        ],
        "startTime": "2026-03-01T12:00:00.250+00:00",
        "endTime": "2026-03-01T12:01:30.250+00:00",
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
    found = {entity_id: (entities[entity_id]["name"], entities[entity_id]["value"]) for entity_id in entities
             if entities[entity_id]["@type"] == "PropertyValue"}  # fmt: skip
    assert found["#parameter/milestones/%5B2500%2C%207500%5D"] == ("milestones", "[2500, 7500]")
    assert found["#parameter/optimizer/adam"] == ("optimizer", "adam")
    assert found[f"{run}/test_accuracy_batch_mean"] == ("test_accuracy_batch_mean", 0.9885)
    assert found[f"{run}/train_loss"] == ("train_loss", 0.0312)


def test_a_run_that_diverged_is_completed_and_says_so(described):
    entities, run = graph(described), f"#run/{DIVERGED.run_id}"
    assert entities[run]["actionStatus"] == "http://schema.org/CompletedActionStatus"
    values = {
        name: entities[f"{run}/{name}"]["value"] for name in ("outcome", "train_loss", "test_accuracy_batch_mean")
    }
    assert values == {"outcome": "diverged", "train_loss": "nan", "test_accuracy_batch_mean": 0.0}


def test_the_report_is_made_of_what_the_runs_gave_and_gives_every_file(described):
    entities = graph(described)
    report = entities["#report"]
    of_runs = [result for action in (FINISHED, DIVERGED) for result in entities[f"#run/{action.run_id}"]["result"]]
    assert report["object"] == [{"@id": "study.yaml"}, *of_runs]
    assert report["result"] == [part for part in entities["./"]["hasPart"] if part["@id"] != "study.yaml"]
    assert "`reproduce main --seeds 0,1,2`" in report["description"]
    assert report["endTime"] == "2026-03-01T12:01:30.250+00:00"
    actions = {f"#run/{FINISHED.run_id}", f"#run/{DIVERGED.run_id}", "#report"}
    assert ids(entities["./"]["mentions"]) == actions | {"#dataset/mnist"}


def test_what_went_in_is_named_by_its_hash_and_is_not_in_the_crate(described):
    entities = graph(described)
    for name, sha256 in SHA256["mnist"].items():
        entity = entities[f"#dataset/mnist/{name}"]
        assert (entity["@type"], entity["name"], entity["sha256"]) == ("File", name, sha256)
    paper = (ROOT / "reproduce" / "studies" / "lenet5_mnist" / "study.yaml").read_bytes()
    assert entities["study.yaml"]["sha256"] == hashlib.sha256(paper).hexdigest()
    assert entities["study.yaml"]["encodingFormat"] == "application/yaml"
    assert not [entity_id for entity_id in ids(entities["./"]["hasPart"]) if entity_id.startswith("#")]


def test_the_package_is_named_with_its_commit_and_what_it_ran_on(described):
    entities = graph(described)
    package = entities["#package"]
    project = PYPROJECT["project"]
    assert [package["name"], package["version"]] == [project["name"], project["version"]]
    assert package["license"] == {"@id": f"https://spdx.org/licenses/{project['license']}"}
    assert package["identifier"] == COMMIT
    assert "changes" not in package["description"]
    sites = [reference["@id"] for reference in package["softwareRequirements"]]
    assert [(entities[site]["name"], entities[site]["softwareVersion"], site) for site in sites] == [
        ("colossalai", "0.5.0", "https://colossalai.org/"),
        ("python", "3.11.7", "https://www.python.org/"),
        ("torch", "2.5.1+cpu", "https://pytorch.org/"),
    ]


def test_a_package_that_may_not_be_the_commits_says_so(archived_report):
    def package(**environment):
        given = GIVEN | {"environment": ENVIRONMENT | environment}
        crate.write(archived_report, [FINISHED], PUBLICATION, **given)
        return graph(archived_report)["#package"]

    changed = package(**{"uncommitted changes": ["yes"]})
    assert changed["identifier"] == COMMIT
    assert changed["description"].endswith(" (changes that are not in the commit: yes)")
    unknown = package(**{"commit": ["unknown"], "uncommitted changes": ["unknown"]})
    assert "identifier" not in unknown
    assert unknown["description"].endswith(" (changes that are not in the commit: unknown)")


def test_the_whole_names_the_paper_and_is_dated_by_the_last_run(described):
    entities = graph(described)
    root = entities["./"]
    assert root["datePublished"] == "2026-03-01T12:01:30.250+00:00"
    assert root["license"] == {"@id": "https://spdx.org/licenses/Apache-2.0"}
    assert root["conformsTo"] == {"@id": "https://w3id.org/ro/wfrun/process/0.5"}
    assert entities[root["author"]["@id"]]["name"] == "The authors of lenet5-reproduction"
    paper = entities[root["citation"]["@id"]]
    assert (paper["name"], paper["datePublished"]) == ("CS5260 Assignment 6", "2022")
    assert entities[paper["author"]["@id"]]["name"] == "P. Manocha"
    assert entities[paper["publisher"]["@id"]]["name"] == "National University of Singapore"


def test_a_report_on_no_runs_bears_the_date_of_nothing(archived_report):
    crate.write(archived_report, [], PUBLICATION, **GIVEN)
    assert graph(archived_report)["./"]["datePublished"] == "1970-01-01T00:00:00.000+00:00"
    assert crate.stale(archived_report) == []


def test_the_same_inputs_give_the_same_bytes_wherever_and_whenever(described, tmp_path, monkeypatch):
    first = (described / crate.METADATA).read_bytes()
    assert str(tmp_path).encode() not in first
    assert str(ROOT).encode() not in first
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(described, elsewhere)  # with the crate: it does not describe itself
    monkeypatch.setattr("rocrate.model.root_dataset.iso_now", lambda: "1999-12-31T23:59:59+00:00")
    singapore = timezone(timedelta(hours=8))
    turned = replace(
        FINISHED,
        started_at=FINISHED.started_at.astimezone(singapore),
        trial=trial("step 6e-4 seed 0", **dict(reversed(FINISHED.trial.parameters().items()))),
        epochs=dict(reversed(FINISHED.epochs.items())),
    )
    given = GIVEN | {"environment": dict(reversed(ENVIRONMENT.items()))}
    crate.write(elsewhere, [DIVERGED, turned], PUBLICATION, **given)
    assert (elsewhere / crate.METADATA).read_bytes() == first


def test_nothing_is_stale_in_a_folder_just_described(described):
    assert crate.stale(described) == []


def test_a_changed_a_missing_and_an_undescribed_file_are_stale(described):
    content = bytearray((described / "summary.csv").read_bytes())
    content[-2] ^= 1
    (described / "summary.csv").write_bytes(content)
    (described / "claims.json").unlink()
    (described / "figure-6.svg").write_text("<svg/>")
    (described / "more" / "figure 1 é#?.bin").write_bytes(b"\x00\x02")
    assert crate.stale(described) == ["claims.json", "figure-6.svg", "more/figure 1 é#?.bin", "summary.csv"]


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "{}", '{"@graph": [1]}', '{"@graph": [{"@type": "File", "@id": 1}]}',
             '{"@graph": [{"@type": "File", "@id": "report.md"}]}'],
)  # fmt: skip
def test_without_a_crate_that_can_be_read_everything_is_stale(tmp_path, text):
    (tmp_path / "report.md").write_text("# A report\n")
    if text is not None:
        (tmp_path / crate.METADATA).write_text(text)
    assert crate.stale(tmp_path) == ["report.md", crate.METADATA]


def test_what_runs_have_in_common_is_there_once_for_three_hundred(tmp_path):
    actions = [
        replace(FINISHED, run_id=f"{number:032x}", trial=trial("one", **FINISHED.trial.parameters(), seed=number))
        for number in range(300)
    ]
    (tmp_path / "study.yaml").touch()
    crate.write(tmp_path, actions, PUBLICATION, **GIVEN)
    kinds = [entity["@type"] for entity in graph(tmp_path).values()]
    assert kinds.count("CreateAction") == 301
    assert kinds.count("PropertyValue") == 300 * 3 + 300 + 3  # results, seeds, and what all have in common
