"""What is wrong with the values of a study's file, in plain words instead of the validator's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from reproduce.errors import nearest, shown
from reproduce.study.own_code import REFERENCE
from reproduce.study.schedules import NAME

# The way to a value through mappings and lists.
Keys = tuple[int | str, ...]
# By the validator's name for what is wrong; the words in braces are its own values.
WORDS = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "dict_type": "expected keys with values",
    "finite_number": "expected a finite number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "invalid_key": "expected text as a key; on, off, yes and no are truth values in YAML",
    "int_from_float": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "list_type": "expected a list",
    "literal_error": "expected {expected}",
    "mapping_type": "expected keys with values",
    "model_type": "expected keys with values",
    "string_too_long": "expected at most {max_length} characters",
    "string_too_short": "expected at least {min_length} characters",
    "string_type": "expected text",
    "too_long": "expected a list of at most {max_length}",
    "too_short": "expected a list of at least {min_length}",
    "tuple_type": "expected a list",
}
# Of texts that have to have a form.
FORMS = {
    REFERENCE: "expected FILE.py:NAME of a file beside study.yaml",
    NAME: "expected small letters, digits, - and _",
    r"^[a-z0-9][a-z0-9-]*$": "expected small letters, digits and -",
    r"^[^\n]*$": "expected text in one line",
    r"^[A-Za-z_]\w*$": "expected a name as Python has them",
    r"^https?://[^\s]+$": "expected an address that begins with https:// or http://",
    "^[0-9a-f]{64}$": "expected the 64 digits, 0 to 9 and a to f, of a SHA-256",
}
MISSING = "is missing"
EXPECTED = "expected "


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
    misspelt = {
        (*keys[:-1], _near(str(keys[-1]), _fields(kind, keys[:-1])))
        for keys, (error, *_) in found.items()
        if error["type"] == "extra_forbidden"
    }
    result = []
    for keys, alternatives in found.items():
        is_deeper = any(len(other) > len(keys) and other[: len(keys)] == keys for other in found)
        if alternatives[0]["type"] == "extra_forbidden":
            known = sorted(_fields(kind, keys[:-1]))
            near = nearest(str(keys[-1]), known)
            result.append((keys, f"there is no such key{near or ', expected one of ' + ', '.join(known)}"))
        elif not is_deeper and not (alternatives[0]["type"] == "missing" and keys in misspelt):
            result.append((keys, _describe(alternatives)))
    return result


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


def _near(text: str, known: Iterable[str]) -> str:
    return nearest(text, known).removeprefix(", did you mean ").removesuffix("?")


def _describe(alternatives: Sequence[ErrorDetails]) -> str:
    """Return what is wrong with a value that could be one of these."""
    first = alternatives[0]
    if first["type"] == "missing":
        return MISSING
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    words = dict.fromkeys(_words(error).removeprefix(EXPECTED) for error in alternatives)
    names = [
        name for error in alternatives for name in re.findall("'([^']*)'", error.get("ctx", {}).get("expected", ""))
    ]
    near = nearest(first["input"], names) if isinstance(first["input"], str) else ""
    return f"{EXPECTED}{', or '.join(words)}, got {shown(first['input'])}{near}"


def _words(error: ErrorDetails) -> str:
    values = error.get("ctx", {})
    if (form := FORMS.get(values.get("pattern", ""))) is not None:
        return form
    words = WORDS.get(error["type"])
    # The validator's own words may have braces.
    return error["msg"] if words is None else words.format(**values)


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
