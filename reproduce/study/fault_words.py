"""What is wrong with the values of a study's file, in plain words instead of the validator's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from reproduce.errors import nearest, nearest_word, shown
from reproduce.study.own_code import REFERENCE
from reproduce.study.schedules import NAME

# The way to a value through mappings and lists.
Keys = tuple[int | str, ...]
# What is expected, by the validator's name for what is wrong; the words in braces are its own values.
WORDS = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "keys with values",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "invalid_key": "text as a key; on, off, yes and no are truth values in YAML",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "mapping_type": "keys with values",
    "model_type": "keys with values",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
    "string_type": "text",
    "too_long": "a list of at most {max_length}",
    "too_short": "a list of at least {min_length}",
    "tuple_type": "a list",
}
# Of texts that have to have a form.
FORMS = {
    REFERENCE: "FILE.py:NAME of a file beside study.yaml",
    NAME: "small letters, digits, - and _",
    r"^[a-z0-9][a-z0-9-]*$": "small letters, digits and -",
    r"^[^\n]*$": "text in one line",
    r"^[A-Za-z_]\w*$": "a name as Python has them",
    r"^https?://[^\s]+$": "an address that begins with https:// or http://",
    "^[0-9a-f]{64}$": "the 64 digits, 0 to 9 and a to f, of a SHA-256",
}
MISSING = "is missing"


def describe(kind: type[BaseModel], data: object, errors: Sequence[ErrorDetails]) -> list[tuple[Keys, str]]:
    """Return each error of a validation as the keys that lead to the value, and what is wrong with it.

    What a value could have been instead is one line. A key that is missing is left out where one beside it is its
    misspelling.

    Args:
        kind: What the data was validated as.
        data: The data.
        errors: What is wrong with it.
    """
    found: dict[Keys, list[ErrorDetails]] = {}
    for error in errors:
        found.setdefault(_keys(data, error), []).append(error)
    result: list[tuple[Keys, str]] = []
    misspelt = set[Keys]()
    for keys, alternatives in found.items():
        if alternatives[0]["type"] == "extra_forbidden":
            known = sorted(_fields(kind, keys[:-1]))
            if near := nearest_word(str(keys[-1]), known):
                misspelt.add((*keys[:-1], near))
            instead = f"did you mean {near}?" if near else f"expected one of {', '.join(known)}"
            result.append((keys, f"there is no such key, {instead}"))
        elif not any(len(other) > len(keys) and other[: len(keys)] == keys for other in found):
            result.append((keys, _describe(alternatives)))
    return [(keys, said) for keys, said in result if not (said == MISSING and keys in misspelt)]


def _keys(data: object, error: ErrorDetails) -> Keys:
    """Return the way to an error's value without the names of types that the validator puts between."""
    found: list[int | str] = []
    for position, key in enumerate(error["loc"], start=1):
        inside = data if isinstance(data, Mapping) else dict(enumerate(data)) if isinstance(data, list) else {}
        if key in inside:
            data = inside[key]
        elif error["type"] != "missing" or position < len(error["loc"]):
            continue
        found.append(key)
    return tuple(found)


def _describe(alternatives: Sequence[ErrorDetails]) -> str:
    """Return what is wrong with a value that could be one of these."""
    first = alternatives[0]
    if first["type"] == "missing":
        return MISSING
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    words = list(dict.fromkeys(filter(None, map(_words, alternatives))))
    names = [
        name for error in alternatives for name in re.findall("'([^']*)'", error.get("ctx", {}).get("expected", ""))
    ]
    near = nearest(first["input"], names) if isinstance(first["input"], str) else ""
    said = f"expected {', or '.join(words)}" if words else first["msg"]
    return f"{said}, got {shown(first['input'])}{near}"


def _words(error: ErrorDetails) -> str | None:
    """Return what is expected, None where only the validator has words for it."""
    values = error.get("ctx", {})
    words = WORDS.get(error["type"])
    return FORMS.get(values.get("pattern", "")) or (words and words.format(**values))


def _fields(model: type[BaseModel], keys: Keys) -> set[str]:
    """Return the names that a value may have that keys lead to."""
    kind: Any = model
    for key in keys:
        # A position in a list, a key that the study chose and the name of a type lead to the same kinds.
        kind = next((each.model_fields[key].annotation for each in _models(kind) if key in each.model_fields), kind)
    return {name for each in _models(kind) for name in each.model_fields}


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    else:
        for part in get_args(kind):
            yield from _models(part)
