"""The cache is made whole by one command at a time, from whichever source has each file."""

import hashlib

import pytest

from reproduce.data import datasets, mirrors, verified_cache
from reproduce.errors import UserError


def test_what_is_whole_is_kept_and_the_next_source_is_asked_for_the_rest(mnist_cache, tmp_path, monkeypatch):
    files = {file: (mnist_cache / "data" / "mnist" / file).read_bytes() for file in datasets.FILES}
    asked = []

    def breaks_off(attempt):
        yield datasets.TEST_LABELS, files[datasets.TEST_LABELS]
        yield datasets.TEST_IMAGES, b"wrong"
        raise mirrors.SourceError("the line was cut")

    def gives(attempt):
        asked.append(attempt.files)
        return ((file, files[file]) for file in attempt.files)

    monkeypatch.setitem(
        mirrors.SOURCES, "mnist", {"the first": mirrors.Source(breaks_off), "the next": mirrors.Source(gives, 3)}
    )
    said = []
    verified_cache.prepare("mnist", tmp_path, say=said.append)
    assert asked == [(datasets.TRAIN_IMAGES, datasets.TRAIN_LABELS, datasets.TEST_IMAGES)]
    cache = tmp_path / "data" / "mnist"
    assert said == [
        "fetching mnist from the first, for at most 600 s, and 10 s without an answer",
        f"{datasets.TEST_IMAGES} from the first: SHA-256 {hashlib.sha256(b'wrong').hexdigest()}, "
        f"expected {datasets.SHA256['mnist'][datasets.TEST_IMAGES]}; not used",
        "the first: the line was cut",
        "fetching mnist from the next, for at most 600 s, and 3 s without an answer",
        f"making {cache / datasets.RESIZED[datasets.TRAIN_IMAGES]}, once",
        f"making {cache / datasets.RESIZED[datasets.TEST_IMAGES]}, once",
    ]


def test_without_any_source_the_error_says_what_helps_here(tmp_path, monkeypatch):
    monkeypatch.setitem(mirrors.SOURCES, "fashion-mnist", {})
    (tmp_path / "empty").mkdir()
    said = []
    with pytest.raises(UserError) as refused:
        verified_cache.prepare("fashion-mnist", tmp_path, tmp_path / "empty", said.append)
    assert str(refused.value).endswith(f": put the right files into {tmp_path / 'empty'}")
    with pytest.raises(UserError) as refused:
        verified_cache.prepare("fashion-mnist", tmp_path, None, said.append)
    assert str(refused.value).endswith(": put the files into a directory and name it with --data-dir")


def test_who_waits_for_another_command_says_so(own_home, monkeypatch):
    cache = own_home / "data" / "mnist"
    (cache / datasets.TEST_LABELS).unlink()
    said = []
    lock = verified_cache.FileLock(cache / "lock")
    lock.acquire()

    def say(line):
        said.append(line)
        lock.release()

    monkeypatch.setitem(mirrors.SOURCES, "mnist", {})
    with pytest.raises(UserError, match=datasets.TEST_LABELS):
        verified_cache.prepare("mnist", own_home, say=say)
    assert said == [f"another command is preparing the data in {cache}; waiting for it, for up to 1800 s"]
