"""What every record stored in etcd is: JSON that a person can read and type, and errors of one line. No I/O, no clock.

Records that users write refuse unknown fields, so that a typing error is reported and not ignored; records that agents
write ignore what a newer agent may have added.
"""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from drover.coordinator.keys import name_error


class InvalidRecord(ValueError):
    """A stored value is not what its key promises; the text is one line, fit for a user."""


def _name(value: str) -> str:
    if reason := name_error(value):
        raise ValueError(reason)
    return value


Name = Annotated[str, AfterValidator(_name)]


def one_line(text: str) -> str:
    """What a user typed may be in it: nothing of that breaks the line, or is longer than a line."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:301])
    return shown if len(text) <= 300 else shown[:300] + "…"


def timestamp(now: datetime) -> str:
    """UTC, to the millisecond: for people and logs; nothing is decided on it."""
    return now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Record(BaseModel):
    """Base of what agents write: unknown fields of newer agents are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Raises InvalidRecord with one line that names the field and says what is wrong with it."""
        try:
            return cls.model_validate_json(value)
        except ValidationError as error:
            first, *others = error.errors()
            if first["type"] == "json_invalid":
                shown = value[:60].decode(errors="replace")
                raise InvalidRecord(f"the value is not JSON: {shown!r}") from None
            # A field that is missing is mostly one that was misspelt.
            first = next((one for one in (first, *others) if one["type"] == "extra_forbidden"), first)
            where = ".".join(str(part) for part in first["loc"])
            said = first["msg"].removeprefix("Value error, ")
            if first["type"] == "too_short" and first["ctx"]["min_length"] == 1:
                said = "must have at least one entry"
            if first["type"] == "extra_forbidden":
                said = cls._no_field(where)
            raise InvalidRecord(one_line(f"{where}: {said}" if where else said)) from None

    @classmethod
    def _no_field(cls, typed: str) -> str:
        near = difflib.get_close_matches(typed[:64].lower(), cls.model_fields, n=1)
        return "there is no such field; " + (
            f"did you mean {near[0]}?" if near else f"there are {', '.join(cls.model_fields)}"
        )


class UserRecord(Record):
    """Base of what users write: unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=Record)
