"""What is wrong with a setting, in one line and in the words of the settings file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel, ValidationError

from drover.coordinator.record import one_line

_SAID = {
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "string_type": "must be text",
    "path_type": "must be text: a path",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "literal_error": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must not be empty",
    "missing": "must be set",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}


class ConfigError(Exception):
    """A setting is wrong. The text is the one line for stderr: program, key, what is wrong, where it was set."""

    def __init__(self, key: str, wrong: str, origin: str = "") -> None:
        where = f"{key}: " if key else ""
        super().__init__(one_line(f"drover-agent: {where}{wrong}" + (f" (from {origin})" if origin else "")))


def described(error: ValidationError, model: type[BaseModel]) -> tuple[tuple[str, ...], str]:
    """The first finding: the path of keys that it is about, and what is wrong there."""
    first = error.errors()[0]
    path = tuple(part for part in first["loc"] if isinstance(part, str))
    if first["type"] == "extra_forbidden":
        return path, "unknown key" + _suggestion(path, model)
    if first["type"] == "value_error":
        return path, first["msg"].removeprefix("Value error, ")
    if first["type"] not in _SAID:
        return path, first["msg"]
    shown = first["input"]
    shown = repr(shown[:60]) if isinstance(shown, str) else repr(shown)[:60]
    said = _SAID[first["type"]].format(**first.get("ctx", {}))
    return path, said if first["type"] in ("too_short", "missing") else f"{said}, not {shown}"


def leaves(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all keys of a model; tables of their own are gone into, and count too."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from leaves(kind, (*above, name))


def _suggestion(path: tuple[str, ...], model: type[BaseModel]) -> str:
    known = [".".join(leaf) for leaf in leaves(model)]
    near = difflib.get_close_matches(".".join(path), known, n=1, cutoff=0.75)
    elsewhere = [key for key in known if key.rpartition(".")[2] == path[-1]]
    guess = (elsewhere or near or [""])[0]
    return f"; did you mean {guess}?" if guess else ""
