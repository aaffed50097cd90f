"""A record of a report's runs that is damaged in any way that Hypothesis finds is read or refused in one line."""

import copy
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helpers import ROOT
from helpers.fuzzing import ODD, changed, fuzzed, places
from reproduce.errors import UserError
from reproduce.results.archive import Archive
from reproduce.results.run_collection import RunCollection
from reproduce.study import planning
from reproduce.study.loading import load_paper

RUNS = json.loads((ROOT / "report" / "reference" / "runs.json").read_text())
# Two runs of either kind, short: what there is to damage is the same.
SMALL = RUNS | {"runs": [run for run in RUNS["runs"] if run["name"] in (
    "range_test adam seed 0", "step 6e-4 seed 0")]}  # fmt: skip


def read(folder, content):
    """Read a record whole, as a check does; what is said where it cannot be, without the directory."""
    path = folder / "runs.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    said = None
    try:
        recorded = Archive(path)
        collection = RunCollection(recorded, load_paper(), recorded.config, recorded.smoothing)
        for trial in planning.trials(collection.paper, collection.config):
            collection.result(trial)
        for test in planning.range_tests(collection.paper, collection.config):
            collection.suggested(test)
    except UserError as error:
        said = str(error)
    assert said is None or ("\n" not in said and len(said) < 700)
    return said and said.removeprefix(f"{folder}/")


def test_a_record_as_it_was_written_is_read(tmp_path):
    assert read(tmp_path, SMALL) is None


@given(st.sampled_from([way for way in places(SMALL) if len(way) < 6]), ODD)
@example(("runs", 0, "made_with"), 10**6)
@example(("runs", 0, "ramp"), -1)
@example(("runs", 0, "losses"), [1e308])
@example(("runs", 0, "started_at"), "0001-01-01T00:00:00+14:00")
@example(("runs", 0, "name"), "\ud800")
@example(("wishes", "seeds"), [])
@example(("wishes", "rates_by_seed"), {"7": [0.1]})
@example(("wishes", "schedule_parameters"), {"milestones": "no"})
@fuzzed
def test_a_record_with_another_value_is_read_or_refused_in_one_line(tmp_path, way, odd):
    read(tmp_path, changed(SMALL, way, lambda container, key: container.__setitem__(key, odd)))


@given(st.sampled_from([way for way in places(SMALL) if len(way) == 1 or (way[0] == "runs" and len(way) == 3)]))
@fuzzed
def test_a_record_without_a_key_is_refused_in_one_line(tmp_path, way):
    def drop(container, key):
        del container[key]

    assert read(tmp_path, changed(SMALL, way, drop)).startswith("runs.json is no record of runs: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("[]", "Input should be a valid dictionary or instance of _Record"),
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ('{"format": NaN}', "NaN is no number of JSON"),
        ('{"format": 9}', "format 9, this version reads 1"),
        ('{"format": 1}', "wishes: Field required"),
        ("[" * 100_000, "maximum recursion depth exceeded while decoding a JSON array from a unicode string"),
    ],
)
def test_what_is_no_record_is_told(tmp_path, content, message):
    assert read(tmp_path, content) == f"runs.json is no record of runs: {message}"


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (("runs", 0, "made_with"), 10**6, "{run} points at made_with 1000000, which is not there"),
        (("runs", 0, "ramp"), 10**6, "{run} points at ramp 1000000, which is not there"),
        (("runs", 0, "started_at"), "0001-01-01T00:00:00+14:00",
         "runs.0.started_at: expected a time from 1970 on, with its time zone"),
        (("runs", 0, "ended_at"), "2026-01-01T00:00:00",
         "runs.0.ended_at: expected a time from 1970 on, with its time zone"),
        (("runs", 1, "specification"), SMALL["runs"][0]["specification"], "two runs have the same specification"),
        (("ramps", 0, 1), 1e-9, "ramps.0: the rates of a ramp must rise"),
        (("smoothing",), 1, "smoothing: Input should be less than 1"),
        (("ui",), "javascript:alert(1)", "ui: String should match pattern '^https?://'"),
    ],
)  # fmt: skip
def test_a_record_that_does_not_go_together_is_refused(tmp_path, way, value, message):
    record = changed(SMALL, way, lambda container, key: container.__setitem__(key, value))
    told = message.format(run=SMALL["runs"][0]["name"])
    assert read(tmp_path, record) == f"runs.json is no record of runs: {told}"


def test_a_run_of_another_length_than_its_trial_is_refused(tmp_path):
    record = copy.deepcopy(SMALL)
    run = next(run for run in record["runs"] if "ramp" not in run)
    run["epochs"] = {name: values[:9] for name, values in run["epochs"].items()}
    assert read(tmp_path, record) == (
        f"runs.json is no record of runs: {run['name']} does not have what a run of its kind has"
    )
    run["outcome"] = "diverged"
    assert read(tmp_path, record) is None
