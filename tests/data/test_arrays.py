"""Data sets that are arrays: scikit-learn's digits and a study's own, held to their hash and kept for all processes."""

import hashlib

import numpy as np
import pytest

from reproduce.data import arrays, datasets, study_data
from reproduce.errors import UserError
from reproduce.study.own_code import OwnCode

OWN = """
import numpy as np

def load():
    images = np.arange(3 * 4 * 4).reshape(3, 4, 4)
    return (images / 2, [0, 1, 2]), (images[:1] / 2, [1])
"""
LOAD = "data.py:load"


def code_of(tmp_path, source):
    (tmp_path / "data.py").write_text(source)
    return OwnCode.read(tmp_path, [LOAD])


def test_digits_are_as_scikit_learn_has_them_and_split_in_order(tmp_path):
    from sklearn.datasets import load_digits

    said = []
    arrays.prepare("digits", None, tmp_path, OwnCode(), said.append)
    images, labels, test_images, test_labels = arrays.open_arrays(arrays.DIGITS_SHA256, tmp_path)
    known = load_digits()
    assert (images.shape, test_images.shape, images.dtype) == ((1437, 1, 8, 8), (360, 1, 8, 8), np.uint8)
    np.testing.assert_array_equal(np.concatenate([images, test_images])[:, 0], known.images)
    np.testing.assert_array_equal(np.concatenate([labels, test_labels]), known.target)
    assert said == ["making the arrays of digits, once"]


def test_a_studys_own_arrays_are_kept_under_their_hash_and_made_once(tmp_path, monkeypatch):
    code, said = code_of(tmp_path, OWN), []
    made = arrays.load_own(code, LOAD)
    stated = arrays.sha256(made)
    arrays.prepare(LOAD, stated, tmp_path, code, said.append)
    again = code_of(tmp_path, OWN.replace("def load", "# Three images.\ndef load"))
    monkeypatch.setattr(arrays, "load_own", None)
    arrays.prepare(LOAD, stated, tmp_path, again, said.append)
    assert said == ["making the arrays of data.py:load, once"]
    images, labels, _, test_labels = arrays.open_arrays(stated, tmp_path)
    assert (images.shape, images.dtype, labels.dtype) == ((3, 1, 4, 4), np.float32, np.int64)
    assert images[2, 0, 3, 3] == 23.5
    assert test_labels.tolist() == [1]


def test_the_hash_is_of_types_shapes_and_values_in_order():
    made = (np.zeros((1, 2), np.uint8), np.array([0]), np.ones((1, 2), np.uint8), np.array([1]))
    digest = hashlib.sha256()
    for text, content in (
        ("|u1 (1, 2)\n", b"\0\0"), ("<i8 (1,)\n", bytes(8)), ("|u1 (1, 2)\n", b"\1\1"), ("<i8 (1,)\n", b"\1" + bytes(7))
    ):  # fmt: skip
        digest.update(text.encode() + content)
    assert arrays.sha256(made) == digest.hexdigest()


def test_arrays_that_are_damaged_are_made_again(tmp_path):
    code, said = code_of(tmp_path, OWN), []
    stated = arrays.sha256(arrays.load_own(code, LOAD))
    arrays.prepare(LOAD, stated, tmp_path, code, said.append)
    np.save(arrays.directory(stated, tmp_path) / "test-labels.npy", np.array([2]))
    said.clear()
    arrays.prepare(LOAD, stated, tmp_path, code, said.append)
    folder = arrays.directory(stated, tmp_path)
    assert said == [f"{folder} is damaged; making it again"]
    assert arrays.open_arrays(stated, tmp_path)[3].tolist() == [1]


@pytest.mark.parametrize("kept", [False, True])
def test_data_that_has_changed_since_is_refused_with_both_hashes(tmp_path, kept):
    stated = arrays.sha256(arrays.load_own(code_of(tmp_path, OWN), LOAD))
    code = code_of(tmp_path, OWN.replace("/ 2, [0, 1, 2]", "/ 4, [0, 1, 2]"))
    actual = arrays.sha256(arrays.load_own(code, LOAD))
    if kept:
        arrays.prepare(LOAD, stated, tmp_path, code_of(tmp_path, OWN), lambda line: None)
        code = code_of(tmp_path, OWN.replace("/ 2, [0, 1, 2]", "/ 4, [0, 1, 2]"))
    with pytest.raises(UserError) as refused:
        arrays.prepare(LOAD, stated, tmp_path, code)
    assert str(refused.value) == (
        f"data.py:load returns other data than the study states: SHA-256 {actual}, expected {stated}; correct "
        "data_sha256 in study.yaml if the data is meant to have changed"
    )
    assert arrays.are_kept(stated, tmp_path) == kept


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def load():\n    return [1][2]\n", "data.py:load failed: data.py:2: IndexError: list index out of range"),
        ("def load():\n    return 3\n", "cannot unpack non-iterable int object"),
        ("def load():\n    return ([[1.0]], [0]), ([[1.0]], [0.5])\n",
         "labels are float64 (1,), expected whole numbers (1,)"),
        ("def load():\n    return ([[1.0]], [0, 1]), ([[1.0]], [0])\n",
         "labels are int64 (2,), expected whole numbers (1,)"),
        ("def load():\n    return ([[1.0]], [-1]), ([[1.0]], [0])\n", "labels begin at -1, expected 0"),
        ("def load():\n    return ([['a']], [0]), ([[1.0]], [0])\n", "images are <U1 (1, 1), expected numbers (n, …)"),
        ("def load():\n    return ([[float('nan')]], [0]), ([[1.0]], [0])\n", "images have values that are not finite"),
        ("def load():\n    return ([[1.0]], [0]), ([[1.0, 2.0]], [0])\n", "images (1,) to train on and (2,) to test"),
    ],
)  # fmt: skip
def test_what_is_no_data_is_one_line(tmp_path, source, said):
    with pytest.raises(UserError) as refused:
        arrays.load_own(code_of(tmp_path, source), LOAD)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_only_images_of_bytes_with_one_channel_are_resized():
    resized = study_data.resize(np.full((2, 1, 4, 4), 7, np.uint8), 6)
    assert resized.shape == (2, 1, 6, 6)
    assert (resized == 7).all()
    with pytest.raises(UserError, match=r"and these are float32 \(1, 4, 4\): leave it out"):
        study_data.resize(np.zeros((2, 1, 4, 4), np.float32), 6)
    with pytest.raises(UserError, match=r"and these are uint8 \(3, 4, 4\)"):
        study_data.resize(np.zeros((2, 3, 4, 4), np.uint8), 6)


def test_files_are_opened_at_any_size(mnist_cache):
    raw = datasets.open_files("mnist", mnist_cache, None).test
    assert raw.images.shape == (10000, 1, 28, 28)
    small = datasets.open_files("mnist", mnist_cache, 14).test.images
    np.testing.assert_array_equal(small[:9], datasets.resize(raw.images[:9, 0], 14))
