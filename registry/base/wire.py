"""Types that every request and answer share: storable texts, possible ids, allowed names."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NOT_BLANK = r"\S"
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
RESERVED = frozenset(("base", "latest"))  # always the model without edits, and the newest version
NAMES_ALLOWED = (
    "Use lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit; no number, and neither base "
    "nor latest."
)


def means_a_version(name: str) -> bool:
    """Tell whether `@name` is read as a version that is not an alias, or may be taken for its number."""
    if name in RESERVED:
        return True
    try:
        float(name)
    except ValueError:
        return False
    return name[0].isdigit()  # but nan and inf are words


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("it contains the character NUL, which PostgreSQL cannot store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it contains half of a surrogate pair, which is not a character") from None
    return text


def _storable_settings(settings: dict[str, Any]) -> dict[str, Any]:
    try:
        _storable(json.dumps(settings, ensure_ascii=False, allow_nan=False).replace("\\u0000", "\x00"))
    except ValueError as error:
        raise ValueError(f"it cannot be stored: {error}") from None
    return settings


Text = Annotated[str, AfterValidator(_storable)]
Settings = Annotated[dict[str, Any], AfterValidator(_storable_settings)]
ShortText = Annotated[Text, Field(max_length=2_000)]
Reason = Annotated[Text, Field(min_length=1, max_length=2_000, pattern=NOT_BLANK, examples=["the source was wrong"])]


def _not_a_version(name: str) -> str:
    if means_a_version(name):
        raise ValueError(f"{name!r} names a version. {NAMES_ALLOWED}")
    return name


Name = Annotated[str, Field(pattern=NAME_PATTERN, examples=["facts"])]
NewName = Annotated[Name, AfterValidator(_not_a_version)]  # of what stands beside versions: a collection
Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
VersionNumber = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Answer(BaseModel):
    """An answer of the API, read straight from rows."""

    model_config = ConfigDict(from_attributes=True)


class Body(BaseModel):
    """A request body. An unknown field is an error, which names the field."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """An error as described by RFC 9457, with a remedy."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    remedy: str
    problems: list[dict[str, object]] = Field(description="what is wrong with each record, where records were sent")


def in_words(error: Mapping[str, Any]) -> str:
    """Describe what is wrong with a value: an error of pydantic, in its words where they say it well."""
    limits = error.get("ctx", {})
    if limits.get("min_length") == 1 or limits.get("pattern") == NOT_BLANK:
        return "it is empty"
    if error["type"] == "too_long" and limits.get("field_type") == "Value":  # a text, which pydantic counts as items
        return f"it has {limits['actual_length']:,} characters, and may have {limits['max_length']:,}"
    return str(error["msg"]).removeprefix("Value error, ")


def standalone_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema with references inlined, so that it can be used anywhere in another document."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def inlined(value: Any) -> Any:
        if isinstance(value, list):
            return [inlined(item) for item in value]
        if not isinstance(value, dict):
            return value
        part = parts[value["$ref"].rpartition("/")[2]] if "$ref" in value else {}
        return {name: inlined(item) for name, item in {**part, **value}.items() if name != "$ref"}

    whole: dict[str, Any] = inlined(schema)
    return whole
