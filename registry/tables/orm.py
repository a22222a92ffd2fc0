"""What all tables share: the metadata, its naming rule and the common column types."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

from sqlalchemy import BigInteger, DateTime, Identity, MetaData, Select, Text, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

Key = Annotated[int, mapped_column(BigInteger, Identity(always=True), primary_key=True)]
Moment = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.now())]
LaterMoment = Annotated[datetime | None, mapped_column(DateTime(timezone=True))]
Json = Annotated[dict[str, Any], mapped_column(JSONB)]
Sha256 = Annotated[str, mapped_column(Text)]  # lower-case hex; the migration's CHECK holds the form

_NAMES = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "ck": "%(table_name)s_%(constraint_name)s_check",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {str: Text, int: BigInteger, dict[str, Any]: JSONB}  # noqa: RUF012 (SQLAlchemy's name)


Value = TypeVar("Value")


def listed(ids: Sequence[int]) -> Select[int]:
    """Select ids for `column.in_(…)` from a single parameter: one parameter per id would cost more than the query."""
    return select(func.unnest(literal(list(ids), ARRAY(BigInteger)), type_=BigInteger))


def in_parts(values: Sequence[Value], size: int = 10_000) -> Iterator[Sequence[Value]]:
    """Split values for `IN (…)`: a statement takes at most 65,535 parameters."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
