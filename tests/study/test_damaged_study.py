"""A study.yaml that is damaged in any way that Hypothesis finds ends in one line with the place, never otherwise."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzzing import ODD, changed, fuzzed_a_little, places
from reproduce.errors import UserError
from reproduce.study.loading import load_paper
from reproduce.study.location import DEFAULT, find

PAPER = find(DEFAULT).read_text()
PAPER_LINES = PAPER.splitlines()


def refused(path):
    """What is said of a paper that is wrong, without the directory; None where nothing is wrong."""
    said = None
    try:
        load_paper(str(path))
    except UserError as error:
        said = str(error)
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
        ("  epochs: 30 ", "  epochs: -3", 0, "protocol.epochs: expected more than 0, got -3"),
        ("  epochs: 30 ", "  epochs: yes", 0, "protocol.epochs: expected a whole number, got True"),
        ("  epochs: 30 ", '  epochs: "30"', 0, "protocol.epochs: expected a whole number, got '30'"),
        ("  epochs: 30 ", "  epochs: 10001", 0,
         "protocol.epochs: expected at most 10000, got 10001"),
        ("  epochs: 30 ", "  epochs: 30\n  epochs: 30", 1, "'epochs' is given twice"),
        ("  epochs: 30 ", '  epochs: 30\n  "epochs": 30', 1, "'epochs' is given twice"),
        ("  epochs: 30 ", "  epoch: 30", 0, "protocol.epoch: there is no such key, did you mean epochs?"),
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
         f"protocol.epochs: expected a whole number, got {str([1] * 200)[:100]}…"),
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
         "sweeps.0.reported.0.test_accuracy: expected a finite number, got nan"),
        ("    expected: [600, 650]", "    expected: [650, 600]", 0,
         "claims.0.expected: expected goes from low to high"),
        ("    expected: [600, 650]", "    expected: [-.inf, .inf]", 0,
         "claims.0.expected: expected has a number on one side at least"),
        ("  - id: C1b", "  - id: C1a", 0, "claims.1.id: C1a is there twice"),
        ("  - id: C1b", "  - id:", 0, "claims.1.id: expected text, got None"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_paper_is_told_with_its_line_and_key(tmp_path, start, replacement, below, message):
    path = tmp_path / "paper.yaml"
    text, number = with_line(start, replacement)
    path.write_text(text)
    # The columns are held in test_own_study.py.
    assert re.sub(r"^(paper.yaml:\d+):\d+:", r"\1:", refused(path)) == f"paper.yaml:{number + below}: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "paper.yaml:1:1: is empty"),
        (b"# nothing\n", "paper.yaml:1:1: is empty"),
        (b"- a\n", "paper.yaml:1:1: expected keys with values, got ['a']"),
        (b"a: 1\n--- \nb: 2\n", "paper.yaml:2:1: but found another document"),
        (b"a: 1\nb: \xff\n", "paper.yaml:2: is not UTF-8 from byte 0xff on"),
        (b"x" * (2**20 + 1), "paper.yaml is larger than 1048576 bytes"),
    ],
)
def test_what_is_no_paper_at_all_is_told(tmp_path, content, message):
    path = tmp_path / "paper.yaml"
    path.write_bytes(content)
    assert refused(path) == message


def test_a_paper_that_is_absent_or_a_directory_is_told(tmp_path):
    with pytest.raises(UserError, match=r"^the study is '.*paper.yaml', which is not there; expected a folder with a "):
        load_paper(str(tmp_path / "paper.yaml"))
    (tmp_path / "mine" / "study.yaml").mkdir(parents=True)
    with pytest.raises(UserError, match=r"study.yaml cannot be read: Is a directory"):
        load_paper(str(tmp_path / "mine"))


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
