"""Archives made of files by name, as bytes."""

import io
import tarfile
import zipfile


def zipped(files, **how):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", **how) as members:
        for name, content in files.items():
            members.writestr(name, content)
    return packed.getvalue()


def tarred(files, mode="w"):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as members:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
    return packed.getvalue()
