"""Rows of THE schema as callers send them: each a pydantic model with the columns of a table."""

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, create_model
from pydantic_core import PydanticCustomError

from feature_repo import validity
from feature_repo.events import Table, Type

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)  # epoch seconds begin there; of the year 1 not every time has a UTC
TEXT = 500  # characters
WRITTEN = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")  # RFC 3339


def _written(value: Any) -> Any:
    """A time as the OpenAPI document promises it: pydantic alone takes "0" for the beginning of 1970."""
    if isinstance(value, datetime) or (isinstance(value, str) and WRITTEN.fullmatch(value)):
        return value
    message = "a time is written out, with seconds and its timezone's offset, such as 2026-03-05T12:00:00Z"
    raise PydanticCustomError("datetime_parsing", message)


# Not strict: after a function of ours, pydantic no longer knows that the text came from JSON, where times are text.
Time = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_written)]
Text = Annotated[str, Field(max_length=TEXT)]
TYPES: Mapping[Type, Any] = {
    "string": Text,
    "double": Annotated[float, Field(allow_inf_nan=False)],
    "long": Annotated[int, Field(ge=-(2**63), lt=2**63)],
    "int": Annotated[int, Field(ge=-(2**31), lt=2**31)],
    "boolean": bool,
    "timestamp": Time,
    "array<string>": Annotated[list[Text], Field(max_length=100)],
}
FILLED = Annotated[Text, Field(min_length=1)]
Id = Annotated[str, Field(min_length=1, max_length=validity.ID_LENGTH, pattern=validity.ID)]


def model(
    name: str,
    doc: str,
    table: Table,
    *,
    own: Mapping[str, Any],
    example: Mapping[str, Any],
    ours: Collection[str] = (),
) -> type[BaseModel]:
    """A strict model of a table's rows; a required string is not empty, and what is not required may be left out.

    Args:
        name, doc: of the model, in the OpenAPI document.
        own: types by column, where one is narrower or wider than its type is elsewhere.
        example: a row.
        ours: columns that nobody sends.
    """
    fields: dict[str, Any] = {}
    for column in table.columns:
        if column.name in ours:
            continue
        common = FILLED if column.required and column.type == "string" else TYPES[column.type]
        type_ = own.get(column.name, Id if column.name in validity.IDS else common)
        if column.always:
            fields[column.name] = (type_, Field(description=column.doc))
        else:
            fields[column.name] = (type_ | None, Field(None, description=column.doc))
    config = ConfigDict(extra="forbid", frozen=True, strict=True, json_schema_extra={"example": dict(example)})
    return create_model(name, __config__=config, __doc__=doc, **fields)
