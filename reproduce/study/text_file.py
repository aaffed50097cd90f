"""A text file that a user wrote, read within bounds."""

from pathlib import Path

MAX_BYTES = 2**20


class UnreadableError(ValueError):
    """The reason why a file is no text that can be used, in one line that names it."""


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file of at most MAX_BYTES. UnreadableError for anything else."""
    try:
        # A pipe would be waited at without an end.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UnreadableError(f"{path} is no file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise UnreadableError(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UnreadableError(f"{path}:{line}: is not UTF-8 from byte {content[error.start]:#04x} on") from error
