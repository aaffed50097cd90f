import gzip
import hashlib
import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from torchvision import transforms

from reproduce import files
from reproduce.data import datasets, mirrors, verified_cache
from reproduce.errors import UserError


def raw(cache, file):
    return datasets.read_idx((cache / "data" / "mnist" / file).read_bytes(), file)


def test_the_cache_holds_the_papers_data_to_the_bit(mnist_cache):
    for file, expected in datasets.SHA256["mnist"].items():
        assert hashlib.sha256((mnist_cache / "data" / "mnist" / file).read_bytes()).hexdigest() == expected


def test_splits_have_the_papers_sizes_and_first_labels(whole_mnist):
    assert whole_mnist.train.images.shape == (60_000, 1, 32, 32)
    assert whole_mnist.test.images.shape == (10_000, 1, 32, 32)
    assert whole_mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(whole_mnist.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_resized_images_are_torchvisions_to_the_bit(mnist_cache, whole_mnist):
    resize = transforms.Compose([transforms.ToPILImage(), transforms.Resize((32, 32))])
    expected = np.stack([np.asarray(resize(image)) for image in raw(mnist_cache, datasets.TRAIN_IMAGES)[:2000]])
    np.testing.assert_array_equal(whole_mnist.train.images[:2000, 0], expected)


def test_an_epochs_batches_hold_every_image_once_and_the_last_is_short():
    batches = list(datasets.batches(60_000, 128, seed=0, epoch=1))
    assert [len(batch) for batch in batches] == [128] * 468 + [96]
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(60_000))


def test_the_order_is_fixed_by_seed_and_epoch():
    def order(seed, epoch):
        return next(datasets.batches(1000, 1000, seed, epoch)).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (1, 2)}) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x0d\1" + bytes(8), "not an IDX file"),
        (b"\0\0\x08\1\0\0\0\5" + bytes(4), r"holds 12 bytes, its header says \(5,\) and so 13"),
        (b"\0\0\x08\3\0\0\0\5", r"holds 8 bytes"),
    ],
)
def test_a_malformed_idx_file_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        datasets.read_idx(content, "some-file")


@pytest.fixture
def only_cache_of(mnist_cache, monkeypatch):
    """The only source left hands out the checked files, and counts how often it was asked."""
    asked = []

    def fetch(attempt):
        asked.append(attempt.files)
        return ((file, (mnist_cache / "data" / "mnist" / file).read_bytes()) for file in attempt.files)

    monkeypatch.setitem(mirrors.SOURCES, "mnist", {"the test's source": mirrors.Source(fetch)})
    return asked


def test_a_truncated_file_is_named_with_both_hashes_set_aside_and_fetched_afresh(own_home, only_cache_of):
    file = own_home / "data" / "mnist" / datasets.TEST_LABELS
    whole = file.read_bytes()
    file.unlink()  # a link to the shared cache
    file.write_bytes(whole[:-1])
    said = []
    verified_cache.prepare("mnist", own_home, say=said.append)
    wrong = hashlib.sha256(whole[:-1]).hexdigest()
    assert wrong in said[0]
    assert datasets.SHA256["mnist"][datasets.TEST_LABELS] in said[0]
    assert file.with_name(f"{file.name}.wrong-{wrong[:8]}").read_bytes() == whole[:-1]
    assert file.read_bytes() == whole
    assert only_cache_of == [(datasets.TEST_LABELS,)]


def test_a_damaged_resized_cache_is_made_again(own_home, only_cache_of):
    file = own_home / "data" / "mnist" / datasets.RESIZED[datasets.TEST_IMAGES]
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    verified_cache.prepare("mnist", own_home, say=lambda line: None)
    assert file.read_bytes() == whole
    assert only_cache_of == []


def test_a_whole_cache_is_used_without_asking_anyone(own_home, only_cache_of):
    verified_cache.prepare("mnist", own_home)
    assert only_cache_of == []


def test_a_named_directory_comes_first_and_a_damaged_file_in_it_is_an_error(mnist_cache, tmp_path, only_cache_of):
    named, home = tmp_path / "named" / "MNIST" / "raw", tmp_path / "home"
    named.mkdir(parents=True)
    for file in datasets.SHA256["mnist"]:
        shutil.copy(mnist_cache / "data" / "mnist" / file, named / file)
    content = (named / datasets.TEST_IMAGES).read_bytes()
    (named / datasets.TEST_IMAGES).unlink()
    (named / (datasets.TEST_IMAGES + ".gz")).write_bytes(gzip.compress(content, 1))
    verified_cache.prepare("mnist", home, tmp_path / "named")
    assert only_cache_of == []  # nothing had to be fetched

    (named / datasets.TEST_LABELS).write_bytes(b"not this")
    shutil.rmtree(home)
    with pytest.raises(UserError) as refused:
        verified_cache.prepare("mnist", home, tmp_path / "named")
    assert str(refused.value) == (
        f"{named / datasets.TEST_LABELS} is not the right file: it is no IDX file of bytes, as it begins with "
        f"6e6f7420; expected SHA-256 {datasets.SHA256['mnist'][datasets.TEST_LABELS]}: put the right files into "
        f"{tmp_path / 'named'}, or name no data directory, to fetch them"
    )
    assert (named / datasets.TEST_LABELS).read_bytes() == b"not this"
    assert only_cache_of == []
    assert not home.exists()

    (named / datasets.TEST_LABELS).unlink()
    verified_cache.prepare("mnist", home, tmp_path / "named", lambda line: None)
    assert only_cache_of == [(datasets.TEST_LABELS,)]  # what is only missing is fetched


def test_the_command_puts_a_named_directorys_files_into_the_home(mnist_cache, workshop):
    ours, source = workshop(), mnist_cache / "data" / "mnist"
    shutil.rmtree(ours.home / "data")
    assert "fetching" not in ours.run("data", "--data-dir", str(source))
    for name in datasets.SHA256["mnist"]:
        assert (ours.home / "data" / "mnist" / name).read_bytes() == (source / name).read_bytes()


def test_what_a_source_gives_wrong_is_never_kept(tmp_path, monkeypatch):
    wrong = dict.fromkeys(datasets.SHA256["mnist"], b"\x00\x00\x08\x01\x00\x00\x00\x00")
    monkeypatch.setitem(mirrors.SOURCES, "mnist", {"a bad source": mirrors.Source(lambda attempt: wrong.items())})
    with pytest.raises(UserError, match=r"no source has .* \(tried a bad source\): put the files"):
        verified_cache.prepare("mnist", tmp_path, say=lambda line: None)
    assert [path.name for path in (tmp_path / "data" / "mnist").iterdir()] == ["lock"]


def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "file"
    target.write_bytes(b"before")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(target, b"after")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"before")]


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        verified_cache.prepare("mnist", tmp_path, tmp_path / "nowhere")


class Malicious:
    def __reduce__(self):
        return (eval, ("1 + 1",))


def test_the_unpickler_makes_arrays_and_nothing_else():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    pickled = (  # as Python 2 wrote it, with bytes for text
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x18" + array.tobytes() + b"tb."
    )
    np.testing.assert_array_equal(mirrors.ArrayUnpickler(io.BytesIO(pickled), encoding="latin1").load(), array)
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.eval is not part of a NumPy array"):
        mirrors.ArrayUnpickler(io.BytesIO(pickle.dumps(Malicious(), protocol=4))).load()


def test_idx_files_are_written_as_they_are_read():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(datasets.read_idx(datasets.encode_idx(array), "it"), array)


def test_fashion_mnist_loads_through_the_same_code(tmp_path):
    installed = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
    if not installed.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    verified_cache.prepare("fashion-mnist", tmp_path, installed)
    found = datasets.open_files("fashion-mnist", tmp_path)
    assert found.train.images.shape == (60_000, 1, 32, 32)
    assert np.bincount(found.test.labels).tolist() == [1000] * 10
