"""A table of text, for Markdown and for a terminal. Every table of a report, of the commands and of the docs is one."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from reproduce import escaping


@dataclass(frozen=True)
class Table:
    """A head, and rows of as many cells. A cell is text, or `Markup` where it is written in Markdown already."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table in Markdown, where text shows as it is, whatever is in it."""
        lines = ["| " + " | ".join(self.head) + " |", "|" + "-|" * len(self.head)]
        for row in self.rows:
            cells = (cell if isinstance(cell, Markup) else escaping.markdown(cell) for cell in row)
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def text(self) -> str:
        """Return the table in columns, for a terminal."""
        lines = (self.head, *self.rows)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
