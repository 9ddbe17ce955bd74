"""Rows of THE schema as callers send them: each a pydantic model with the columns of a table."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, create_model

from feature_repo.events import Table, Type

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)  # epoch seconds begin there; of the year 1 not every time has a UTC
TEXT = 500  # characters
Text = Annotated[str, Field(max_length=TEXT)]
TYPES: Mapping[Type, Any] = {
    "string": Text,
    "double": Annotated[float, Field(allow_inf_nan=False)],
    "long": Annotated[int, Field(ge=-(2**63), lt=2**63)],
    "int": Annotated[int, Field(ge=-(2**31), lt=2**31)],
    "boolean": bool,
    "timestamp": AwareDatetime,
    "array<string>": Annotated[list[Text], Field(max_length=100)],
}
FILLED = Annotated[Text, Field(min_length=1)]


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
        type_ = own.get(column.name, common)
        if column.required:
            fields[column.name] = (type_, Field(description=column.doc))
        else:
            fields[column.name] = (type_ | None, Field(None, description=column.doc))
    config = ConfigDict(extra="forbid", frozen=True, strict=True, json_schema_extra={"example": dict(example)})
    return create_model(name, __config__=config, __doc__=doc, **fields)
