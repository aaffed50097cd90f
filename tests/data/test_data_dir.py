"""A data set is found in what a user names by what its files are, and what is wrong with others is said."""

import bz2
import gzip
import hashlib
import io
import os
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from helpers.archives import tarred, zipped
from reproduce.data import archives, data_dir, datasets

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = datasets.FILES
COUNTS = {"train": 3, "t10k": 2}


def small_files(seed):
    """Four IDX files of a few images, by their usual names."""
    rng = np.random.default_rng(seed)
    arrays = [
        array
        for count in COUNTS.values()
        for array in (rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8))
    ]
    return dict(zip(datasets.FILES, map(datasets.encode_idx, arrays), strict=True))


FILES, FASHION, UNKNOWN = map(small_files, (0, 1, 2))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The two data sets are those few images."""
    for name, files in {"mnist": FILES, "fashion-mnist": FASHION}.items():
        hashes = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        monkeypatch.setitem(datasets.SHA256, name, hashes)
    sizes = {file: len(content) for file, content in FILES.items()}
    monkeypatch.setattr(data_dir, "SIZES", sizes)
    monkeypatch.setattr(data_dir, "MAX_FILE_BYTES", 4 * max(sizes.values()))  # an archive in an archive too


def put(folder, files):
    """Write them, with the folders on the way."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def named(form, files=FILES, change=lambda content: content):
    """The files by names of that form, each changed."""
    return {form.format(name, dotted=name.replace("-idx", ".idx")): change(files[name]) for name in files}


def array_file(content, save):
    packed = io.BytesIO()
    save(packed, content)
    return packed.getvalue()


def arrays():
    return {name: datasets.read_idx(content, name) for name, content in FILES.items()}


SWAPPED = dict(zip(FILES, reversed(FILES.values()), strict=True))
MAC_FILES = {f"__MACOSX/._{name}": b"\0\5\x16\7" * 40 for name in FILES}
PLACES = {
    "as they are": named("{}"),
    "with a dot": named("{dotted}"),
    "in capitals": {name.upper(): content for name, content in FILES.items()},
    "as .gz": named("{}.gz", change=gzip.compress),
    "as .GZ": {f"{name.upper()}.GZ": gzip.compress(content) for name, content in FILES.items()},
    "as a browser names a second download": named("{} (1).gz", change=gzip.compress),
    "as .gz that a browser has unpacked": named("{}.gz"),
    "as .gz that a server packed again": named("{}.gz", change=lambda content: gzip.compress(gzip.compress(content))),
    "packed, and not named so": named("{}", change=gzip.compress),
    "in folders of their names": named("{0}/{0}"),
    "as Kaggle has them": named("archive/{dotted}") | named("archive/{0}/{0}"),
    "as torchvision has them": named("MNIST/raw/{}") | named("MNIST/raw/{}.gz", change=gzip.compress),
    "in torchvision's own folder": named("raw/{}"),
    "a folder below": named("downloads/{}"),
    "by each other's names": SWAPPED,
    "by names that say nothing": {f"{number}.bin": content for number, content in enumerate(FILES.values())},
    "beside another set's": named("{}", FASHION) | named("mnist/{}"),
    "beside damaged ones": named("{}", change=lambda content: content[:-1]) | named("good/{}"),
    "in a zip": {"archive.zip": zipped(FILES, compression=zipfile.ZIP_DEFLATED)},
    "in a zip of .gz": {"mnist.zip": zipped(named("data/{}.gz", change=gzip.compress))},
    "in a zip that a Mac made": {"archive.zip": zipped(named("{dotted}/{dotted}") | MAC_FILES)},
    "in a zip in a zip": {"all.zip": zipped({"notes.txt": b"", "mnist.zip": zipped(FILES)})},
    "in a tar": {"mnist.tar": tarred(FILES)},
    "in a tar.gz": {"mnist.tar.gz": tarred(named("package/data/{}"), "w:gz")},
    "in a tgz of .gz": {"a/mnist.tgz": tarred(named("{}.gz", change=gzip.compress), "w:gz")},
    "each in a zip": {f"{name}.zip": zipped({name: content}) for name, content in FILES.items()},
    "as Keras has them": {"mnist.npz": array_file(arrays(), lambda to, of: np.savez_compressed(to, **of))},
    "as NumPy's files": {
        f"{number}.npy": array_file(array, np.save) for number, array in enumerate(arrays().values())
    },
}  # fmt: skip


@pytest.mark.parametrize("files", PLACES.values(), ids=PLACES)
def test_the_files_are_found_by_what_they_are(tmp_path, files):
    found = data_dir.find_files("mnist", put(tmp_path, files))
    assert found.files == FILES
    assert (found.problems, found.damage) == ((), "")


@pytest.mark.parametrize("name", ["in a zip", "in a tar", "in a tar.gz", "as Keras has them"])
def test_one_archive_may_be_named_itself(tmp_path, name):
    ((archive, content),) = PLACES[name].items()
    put(tmp_path, {archive: content} | named("{}", FASHION))
    assert data_dir.find_files("mnist", tmp_path / archive).files == FILES


def test_nothing_is_written(tmp_path):
    put(tmp_path, PLACES["in a zip"] | PLACES["in a tar.gz"])
    before = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    data_dir.find_files("mnist", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]} == before


def but(name, content):
    """The right files with another one in the place of one."""
    return FILES | {name: content}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


WRONG = f"{{place}}/{TRAIN_IMAGES} is not the right file: "
AGAIN = "are missing: download it again"
PAGE = b"<!DOCTYPE html>\n<title>Sign in</title>"
LINES = {
    "half of it": (but(TRAIN_IMAGES, FILES[TRAIN_IMAGES][:1000]),
                   WRONG + f"it ends after 1,000 of 2,368 bytes, 1,368 {AGAIN}"),
    "half a .gz": (FILES | {TRAIN_IMAGES: b"", f"{TRAIN_IMAGES}.gz": gzip.compress(FILES[TRAIN_IMAGES], 0)[:1000]},
                   "{place}/" + f"{TRAIN_IMAGES}.gz cannot be read (damaged or not completely downloaded, "
                   "it unpacks to 985 of 2,368 bytes: download it again)"),
    "nothing in it": (but(TRAIN_IMAGES, b""), WRONG + "it is empty"),
    "a web page": (but(TRAIN_IMAGES, PAGE), WRONG + "it is a web page, not the file: download it again"),
    "a pointer": (but(TRAIN_IMAGES, b"version https://git-lfs.github.com/spec/v1\noid sha256:0"),
                  WRONG + "it only points to the file: type git lfs pull to get it"),
    "one byte more": (but(TRAIN_IMAGES, FILES[TRAIN_IMAGES] + b"\n"), WRONG + "it holds more than 2,368 bytes"),
    "of another set": (but(TRAIN_IMAGES, UNKNOWN[TRAIN_IMAGES]),
                       WRONG + f"SHA-256 {sha256(UNKNOWN[TRAIN_IMAGES])}, expected {sha256(FILES[TRAIN_IMAGES])}"),
    "of more images": (but(TRAIN_IMAGES, datasets.encode_idx(np.zeros((4, 28, 28), np.uint8))),
                       WRONG + "it is an IDX file of 4×28×28, of another data set"),
    "of floats": (but(TRAIN_IMAGES, b"\0\0\x0d" + FILES[TRAIN_IMAGES][3:]),
                  WRONG + "it is no IDX file of bytes, as it begins with 00000d03"),
    "a copy of another": (but(TEST_LABELS, FILES[TRAIN_LABELS]),
                          "{place}/" + f"{TEST_LABELS} holds {TRAIN_LABELS}"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "line"), LINES.values(), ids=LINES)
def test_what_is_wrong_with_a_file_is_said(tmp_path, files, line):
    found = data_dir.find_files("mnist", put(tmp_path, files))
    assert len(found.files) == 3
    assert line.format(place=tmp_path) in found.problems
    assert found.remedy == f"put the right files into {tmp_path}"
    assert found.damage.startswith(found.problems)


def test_another_data_sets_files_are_named_as_that(tmp_path):
    put(tmp_path, named("MNIST/raw/{}"))
    found = data_dir.find_files("fashion-mnist", tmp_path)
    assert found.problems == (f"{tmp_path} holds the files of mnist, and fashion-mnist was asked for",)
    what = f"leave out --dataset to use what {tmp_path} holds"
    assert found.remedy == f"{what}, or set --data-dir to the place of fashion-mnist is"

    put(tmp_path, {"MNIST/raw/" + TEST_LABELS: FASHION[TEST_LABELS]})
    found = data_dir.find_files("mnist", tmp_path)
    assert found.problems == (f"{tmp_path} holds {TEST_LABELS} of fashion-mnist, and mnist was asked for",)
    assert found.remedy.startswith(f"add --dataset fashion-mnist to use what {tmp_path} holds")


def none_of(place):
    return f"{place} has no {', '.join(FILES)}: neither plain, nor as .gz, nor in a zip or tar"


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("mnist_train.csv", "which this command cannot read: it reads only the four IDX files"),
        ("training/0/1.png", "which this command cannot read: it reads only the four IDX files"),
        ("mnist.pkl", "which this command cannot read: it reads only the four IDX files"),
        ("archive.rar", "an archive of a kind that this command cannot read: unpack it"),
    ],
)
def test_another_form_of_the_images_is_told_from_none(tmp_path, file, line):
    found = data_dir.find_files("mnist", put(tmp_path, {file: b"1"}))
    assert found.problems == (none_of(tmp_path), f"{tmp_path} has {file}, {line}")


def test_a_place_with_nothing_says_what_was_looked_for(tmp_path):
    put(tmp_path, {"notes.txt": b"", "._train-images": b"of a Mac"})
    assert data_dir.find_files("mnist", tmp_path).problems == (none_of(tmp_path),)


def test_a_link_that_leads_nowhere_names_where(tmp_path):
    put(tmp_path, {name: content for name, content in FILES.items() if name != TEST_LABELS})
    (tmp_path / TEST_LABELS).symlink_to("/mnt/gone/labels")
    (told,) = data_dir.find_files("mnist", tmp_path).problems
    assert told == f"{tmp_path / TEST_LABELS} cannot be read (it is a link to /mnt/gone/labels, which is not there)"


BROKEN = {
    "an encrypted zip": (
        {"a.zip": zipped(FILES)}, lambda content: content.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"),
        "{place}/a.zip/" + TRAIN_IMAGES + " cannot be read (it is encrypted)",
    ),
    "half a zip": (
        {"a.zip": zipped(FILES)}, lambda content: content[:500],
        "{place}/a.zip cannot be read (File is not a zip file)",
    ),
    "half a tar": (
        {"a.tar": tarred(FILES)}, lambda content: content[:1500],
        "{place}/a.tar cannot be read (unexpected end of data)",
    ),
    "a zip whose unpacking has no bound": (
        {"a.zip": zipped(FILES, compression=zipfile.ZIP_BZIP2)}, lambda content: content,
        "{place}/a.zip/" + TRAIN_IMAGES + " cannot be read (it is compressed in a way that this command cannot read)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "change", "line"), BROKEN.values(), ids=BROKEN)
def test_an_archive_that_cannot_be_read_is_named(tmp_path, files, change, line):
    put(tmp_path, {name: change(content) for name, content in files.items()})
    assert line.format(place=tmp_path) in data_dir.find_files("mnist", tmp_path).problems


def pax_of(size):
    """A tar whose first header says that a list of so many bytes follows."""
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, size
    return member.tobuf(tarfile.GNU_FORMAT)


def test_no_size_that_an_archive_claims_is_read_in_one(tmp_path):
    put(tmp_path, {"a.tgz": gzip.compress(pax_of(1 << 33) + bytes(3 << 20))})
    (told, _) = data_dir.find_files("mnist", tmp_path).problems
    assert told == f"{tmp_path}/a.tgz cannot be read (its list of contents is too long)"

    directory = 2 << 20
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, directory, 4, 0)
    put(tmp_path, {"a.tgz": b"PK\3\4" + bytes(directory) + end})
    (told, _) = data_dir.find_files("mnist", tmp_path).problems
    assert told == f"{tmp_path}/a.tgz cannot be read (its list of contents is too long)"


def test_a_bomb_is_unpacked_no_further_than_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_READ_BYTES", 4 << 20)
    put(tmp_path, {"a.tgz": tarred({"big": bytes(16 << 20)} | FILES, "w:gz")})
    (told, _) = data_dir.find_files("mnist", tmp_path).problems
    assert told == f"{tmp_path}/a.tgz cannot be read (it would take more than 4 MiB to read)"
    # One in which each layer is packed is left at a depth.
    nested = FILES[TRAIN_LABELS]
    for _ in range(archives.MAX_LAYERS + 1):
        nested = gzip.compress(nested)
    put(tmp_path, {"a.tgz": nested})
    assert data_dir.find_files("mnist", tmp_path).files == {}


def test_a_large_directory_is_not_wandered_through(tmp_path, monkeypatch):
    monkeypatch.setattr(data_dir, "MAX_ENTRIES", 30)
    put(tmp_path, {f"photos/{number}": b"" for number in range(40)} | named("zoo/{}"))
    found = data_dir.find_files("mnist", tmp_path)
    assert found.files == {}
    assert found.problems[0] == (
        f"{tmp_path} holds more than 30 files and folders, and not all were looked at: "
        "set --data-dir to the folder that holds the four"
    )
    put(tmp_path, named("MNIST/raw/{}"))  # before all else
    assert data_dir.find_files("mnist", tmp_path).files == FILES


def test_folders_that_lead_to_each_other_come_to_an_end(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "other").symlink_to(tmp_path)
    os.mkfifo(tmp_path / TRAIN_IMAGES)
    os.mkfifo(tmp_path / "something else")
    found = data_dir.find_files("mnist", tmp_path)
    assert found.problems[0] == f"{tmp_path / TRAIN_IMAGES} cannot be read (it is no file)"


def test_bz2_is_an_archive_of_a_kind_that_is_not_read(tmp_path):
    put(tmp_path, {"mnist.tar.bz2": bz2.compress(tarred(FILES))})
    assert data_dir.find_files("mnist", tmp_path).problems[1].endswith("that this command cannot read: unpack it")
