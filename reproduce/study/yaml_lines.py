"""YAML that hides nothing, with the line of every value. Whatever is wrong is a UserError that names the line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from reproduce.errors import UserError, shown
from reproduce.study.text_file import UnreadableError, read_text

# A line and a column, both from 1.
Place = tuple[int, int]
MERGE = "tag:yaml.org,2002:merge"


class Document:
    """A file's only document: `data` as Python has it, and the lines it came from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = read_text(path)
        except UnreadableError as error:
            raise UserError(str(error)) from error
        loader: _Loader | None = None
        try:
            loader = _Loader(text)
            root = loader.get_single_node()
            if root is None:
                raise self.error((1, 1), "is empty")
            self._root: yaml.Node = root
            self.data = loader.construct_document(root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise self.error(at, error.problem or error.context or "is no YAML") from error
        except ReaderError as error:
            before = text[: error.position]
            at = (before.count("\n") + 1, len(before) - before.rfind("\n"))
            raise self.error(at, f"no text has the character {error.character:#06x}") from error
        except RecursionError as error:
            at = (loader.line + 1, loader.column + 1) if loader else (1, 1)
            raise self.error(at, "is nested too deeply") from error

    def error(self, at: Place, message: str) -> UserError:
        """Return the error for what is wrong at that line and column."""
        return UserError(f"{self.path}:{at[0]}:{at[1]}: {message}")

    def place(self, keys: Sequence[int | str]) -> Place:
        """Return the line and column that keys and positions lead to; where one is missing, those of the previous."""
        node, found = self._root, self._root.start_mark
        # Pydantic may put the name of a type among the keys.
        for key in keys:
            pairs = []
            if isinstance(node, yaml.MappingNode):
                pairs = [pair for pair in node.value if pair[0].value == str(key)]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
                pairs = [(value, value) for value in node.value[key : key + 1]]
            for place, below in pairs:
                found, node = place.start_mark, below
        return found.line + 1, found.column + 1


class _Loader(yaml.SafeLoader):
    """A loader that refuses what hides a value's origin: keys given twice, merged keys, anchors of more than a word."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # The stubs leave out a type, and the mark of PyYAML's own parser in C.
        event: yaml.Event | None = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.CollectionStartEvent) and event.anchor is not None:
            raise ComposerError(None, None, "only a text may have an anchor", event.start_mark)  # type: ignore[arg-type]
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                raise ComposerError(None, None, "a key is a word, and written out", key.start_mark)
            if key.value in seen:
                raise ComposerError(None, None, f"{shown(key.value)} is given twice", key.start_mark)
            seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        # PyYAML raises some of these for values such as 2022-13-45.
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            what = f"{shown(node.value)} cannot be read as {node.tag.removeprefix('tag:yaml.org,2002:')}"
            raise ConstructorError(None, None, what, node.start_mark) from error
