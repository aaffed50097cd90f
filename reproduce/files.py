"""Files written whole or not at all, their SHA-256, and rows as CSV."""

import csv
import hashlib
import io
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

# Bytes that are read at a time.
PART = 1 << 20


def file_sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file, None where no regular file is there."""
    # A pipe would be waited at without an end.
    if not path.is_file():
        return None
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(PART):
            found.update(part)
    return found.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it holds all of `content` or what it held before, whatever interrupts.

    The file has the permissions that the umask leaves.
    """
    whole = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with whole.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        whole.replace(path)
    except BaseException:
        whole.unlink(missing_ok=True)
        raise


def csv_text(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return rows under a head as CSV. A float has the digits that give the same float back."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()
