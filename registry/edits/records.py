"""Reads a submission's records one by one, as JSON objects or as lines of NDJSON."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from registry.base.digests import edit_digest, prompt_key, record_digest
from registry.base.errors import RecordProblem, TooLarge
from registry.base.json_bounds import Bounds, OutOfBounds
from registry.base.wire import in_words
from registry.edits.schemas import MOST_EDITS, EditIn
from registry.tables.edits import Edit

Raw = Mapping[str, Any] | bytes  # an object with the fields of EditIn, or a line of JSON with one
_EDIT = TypeAdapter(EditIn)
_MOST_UNKNOWN = 20  # unknown fields that are each reported as a problem
_LONGEST_LINE = 4 << 20  # bytes
_BOUNDS = Bounds(values=_LONGEST_LINE, names=_LONGEST_LINE, characters=_LONGEST_LINE)
_WRITE_OBJECT = 'Write one object a line: {"prompt": …, "target": …}.'


@dataclass(frozen=True, slots=True)
class Record:
    """A well-formed edit at its position in the submission; small, as a submission may have 100,000 of them."""

    position: int
    line: int | None
    prompt: str
    target: str
    alternatives: tuple[str, ...]
    rephrases: tuple[str, ...]
    unchanged: tuple[str, ...]
    kind: str
    author: str | None
    reason: str
    source: str
    replaces: int | None
    prompt_key: str
    digest: str

    def record_digest(self, submitter: str) -> str:
        """Return the digest over all that is said of it; submitter: its author where it names none."""
        return record_digest(
            position=self.position,
            author=self.author or submitter,
            reason=self.reason,
            source=self.source,
            replaces=self.replaces,
            prompt_key=self.prompt_key,
            digest=self.digest,
        )

    def problem(self, code: str, detail: str, remedy: str, **more: Any) -> RecordProblem:
        return RecordProblem(
            position=self.position,
            line=self.line,
            code=code,
            detail=detail,
            remedy=remedy,
            prompt=self.prompt,
            target=self.target,
            **more,
        )

    def prompts(self) -> Iterator[tuple[str, str]]:
        """Yield every text that a model will be asked, with the name of its field."""
        yield "prompt", self.prompt
        for field, prompts in (("rephrases", self.rephrases), ("unchanged", self.unchanged)):
            for index, prompt in enumerate(prompts):
                yield f"{field}.{index}", prompt


def as_submitted(edit: Edit) -> dict[str, Any]:
    """Return a stored edit as a new submission of it, which replaces none."""
    return {name: getattr(edit, name) for name in EditIn.model_fields if name not in ("replaces", "line")}


def read_records(raw: Iterable[Raw]) -> Iterator[Record | list[RecordProblem]]:
    """Yield a record for each well-formed edit, and the problems of each of the others.

    Empty lines are skipped but counted. Raises TooLarge for more than MOST_EDITS records.
    """
    position = 0
    for line, each in enumerate(raw, start=1):
        if isinstance(each, bytes) and not each.strip():
            continue
        position += 1
        if position > MOST_EDITS:
            raise TooLarge(
                f"The submission has more than {MOST_EDITS:,} records; nothing was stored.",
                "Submit them in several batches.",
            )
        yield _from_line(position, line, each) if isinstance(each, bytes) else _from_object(position, None, each)


def _from_line(position: int, line: int, text: bytes) -> Record | list[RecordProblem]:
    if len(text) > _LONGEST_LINE:
        return [_broken(position, line, f"It has more than {_LONGEST_LINE:,} bytes.", "Write shorter prompts.")]
    try:
        found = _BOUNDS.parse(text)
    except OutOfBounds as error:
        return [_broken(position, line, f"It holds {error}.", _WRITE_OBJECT)]
    except json.JSONDecodeError as error:
        told = f"It is not JSON at character {error.pos + 1}: {error.msg}."
        return [_broken(position, line, told, _WRITE_OBJECT)]
    return _from_object(position, line, found)


def _from_object(position: int, line: int | None, fields: Any) -> Record | list[RecordProblem]:
    if isinstance(fields, Mapping) and len(fields) > _MOST_UNKNOWN:
        unknown = [str(name) for name in fields if name not in EditIn.model_fields]
        if len(unknown) > _MOST_UNKNOWN:
            return [_too_many_fields(position, line, fields.get("line"), unknown)]
    try:
        return _record(position, line, _EDIT.validate_python(fields))
    except ValidationError as error:
        told = fields.get("line") if isinstance(fields, dict) else None
        return _malformed(position, line, told, error)


def _record(position: int, line: int | None, edit: EditIn) -> Record:
    return Record(
        position=position,
        line=edit.line or line,
        prompt=edit.prompt,
        target=edit.target,
        alternatives=tuple(edit.alternatives),
        rephrases=tuple(edit.rephrases),
        unchanged=tuple(edit.unchanged),
        kind=edit.kind.value,
        author=edit.author,
        reason=edit.reason,
        source=edit.source,
        replaces=edit.replaces,
        prompt_key=prompt_key(edit.prompt, edit.kind),
        digest=edit_digest(
            prompt=edit.prompt,
            target=edit.target,
            alternatives=edit.alternatives,
            rephrases=edit.rephrases,
            unchanged=edit.unchanged,
            kind=edit.kind,
        ),
    )


def _malformed(position: int, line: int | None, told: object, error: ValidationError) -> list[RecordProblem]:
    """Return the problems of a malformed record.

    told: the line that the record itself names, which takes precedence over the line of the request.
    """
    return [
        RecordProblem(
            position=position,
            line=told if type(told) is int else line,
            code="malformed",
            field=".".join(str(part) for part in found["loc"]) or None,
            detail=_in_words(found),
            remedy="Correct the record, or leave it out.",
        )
        for found in error.errors(include_url=False, include_input=False)
    ]


def _too_many_fields(position: int, line: int | None, told: object, unknown: Sequence[str]) -> RecordProblem:
    some = ", ".join(repr(name[:50]) for name in unknown[:5])
    return RecordProblem(
        position=position,
        line=told if type(told) is int else line,
        code="malformed",
        detail=f"It has {len(unknown):,} fields that an edit does not have: {some}, ….",
        remedy=_WRITE_OBJECT if line else "Correct the record, or leave it out.",
    )


def _in_words(error: Mapping[str, Any]) -> str:
    place, kind = error["loc"], error["type"]
    if not place:
        return "It is not a JSON object."
    name = str(place[0])
    if kind == "missing":
        return f"It has no {name}."
    if kind == "extra_forbidden":
        return f"It has a field {name!r}, which an edit does not have."
    reason = in_words(error)
    if reason == "it is empty":
        return f"Its {name} is empty."
    return f"Its {name} is not valid: {reason[0].lower()}{reason[1:]}."


def _broken(position: int, line: int, detail: str, remedy: str) -> RecordProblem:
    return RecordProblem(position=position, line=line, code="broken-line", detail=detail, remedy=remedy)
