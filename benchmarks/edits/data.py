"""Readers of public editing data sets. Each loader is named after its format."""

import csv
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melo_core.errors import MeloError

Fields = Mapping[str, Any]


class UnreadableData(MeloError):
    """A file of edits is in an unknown format, or a record lacks a required field."""


@dataclass(frozen=True)
class BenchEdit:
    """A fact to correct, and the prompts that show what the correction changed."""

    prompt: str
    target: str
    subject: str
    rephrases: tuple[str, ...] = ()  # must also get the target
    neighbours: tuple[str, ...] = ()  # must be answered as before
    kind: str = "qa"
    unrelated_text: tuple[str, str] | None = None  # a text in two parts that must stay as likely as before


@dataclass(frozen=True)
class Place:
    """The position of a record, for messages."""

    file: Path
    line: int

    def missing(self, field: str, what: str = "a non-empty text") -> UnreadableData:
        return UnreadableData(f"{self.file}, line {self.line}, field {field!r}: {what} is missing")


def load_edits(task: str, file: Path) -> list[BenchEdit]:
    """Load the edits of a zsre, counterfact or hallucination file, in its order, each prompt once.

    The format is recognised by the fields of the first record. Raises UnreadableData.
    """
    records = list(records_of(file))
    if not records:
        raise UnreadableData(f"{file} holds no record; give a JSONL file or a JSON list")
    read = _format_of(task, records[0][1], records[0][0])
    edits: dict[str, BenchEdit] = {}
    for place, record in records:
        edit = read(record, place)
        if edit is not None:
            edits.setdefault(edit.prompt, edit)
    return list(edits.values())


def mend_zsre(record: Fields, place: Place) -> BenchEdit | None:
    """Read MEND's zsRE: src (or input), alt (the correction), rephrase, and loc, an unrelated question."""
    question = "src" if "src" in record else "input"
    rephrases = record.get("rephrase") or record.get("rephrases") or ()
    answers = record.get("answers") or [record.get("pred")]
    neighbour = str(record.get("loc") or "").removeprefix("nq question: ").strip()
    return _edit(
        _text(record, question, place), _text(record, "alt", place), _text(record, "subject", place, needed=False),
        _texts(rephrases), [_asked(neighbour)] if neighbour else [], answers,
    )  # fmt: skip


def structured_zsre(record: Fields, place: Place) -> BenchEdit | None:
    """Read zsRE as EasyEdit's forks write it: prompt, subject, target_new, ground_truth, and lists of rephrases.

    `filtered_rephrases`, where present, are those of the rephrases that were checked.
    """
    rephrases = record.get("filtered_rephrases") or record.get("rephrase_prompt") or ()
    return _edit(
        _text(record, "prompt", place), _text(record, "target_new", place),
        _text(record, "subject", place, needed=False), _texts(rephrases), [], _texts(record.get("ground_truth") or ()),
    )  # fmt: skip


def counterfact(record: Fields, place: Place) -> BenchEdit | None:
    """Read CounterFact as published: requested_rewrite, paraphrase_prompts and neighborhood_prompts."""
    rewrite = record["requested_rewrite"]
    if not isinstance(rewrite, Mapping):
        raise place.missing("requested_rewrite", "an object")
    subject = _text(rewrite, "subject", place)
    prompt = _text(rewrite, "prompt", place)
    target, truth = (_text(rewrite.get(name) or {}, "str", place) for name in ("target_new", "target_true"))
    return _edit(
        prompt.format(subject) if "{}" in prompt else prompt, target, subject,
        _texts(record.get("paraphrase_prompts") or ()), _texts(record.get("neighborhood_prompts") or ()), [truth],
        kind="completion",
    )  # fmt: skip


def flat_counterfact(record: Fields, place: Place) -> BenchEdit | None:
    """Read CounterFact in the fields of structured zsRE; `locality` holds the near neighbours."""
    return _edit(
        _text(record, "prompt", place), _text(record, "target_new", place), _text(record, "subject", place),
        _texts(record.get("rephrase_prompt") or ()), _prompts(record.get("locality"), place),
        _texts(record.get("ground_truth") or ()), kind="completion",
    )  # fmt: skip


def knowedit(record: Fields, place: Place) -> BenchEdit | None:
    """Read KnowEdit: portability and locality are objects of lists; a subject's alias is a rephrase."""
    aliases = [
        prompt
        for name, items in (record.get("portability") or {}).items()
        if name.replace(" ", "_").lower() == "subject_aliasing"
        for prompt in _prompts(items, place)
    ]
    neighbours = [p for items in (record.get("locality") or {}).values() for p in _prompts(items, place)]
    rephrases = _texts(record.get("rephrase_prompt") or record.get("rephrase") or ())
    prompt = _text(record, "prompt", place)
    return _edit(
        prompt, _text(record, "target_new", place), _text(record, "subject", place, needed=False),
        [*rephrases, *aliases], neighbours, _texts(record.get("ground_truth") or ()),
        kind="qa" if prompt.endswith("?") else "completion",
    )  # fmt: skip


def wikibio(record: Fields, place: Place) -> BenchEdit | None:
    """Read WikiBio hallucinations: the passage so far, the corrected next sentence, and an unrelated web text."""
    prompt = _text(record, "prompt" if "prompt" in record else "text", place)
    target = _text(record, "target_new" if "target_new" in record else "labels", place)
    subject = _text(record, "subject" if "subject" in record else "concept", place, needed=False)
    before, after = record.get("locality_prompt"), record.get("locality_ground_truth")
    text = (str(before), str(after)) if before and after else None
    return BenchEdit(prompt, target, subject, kind="completion", unrelated_text=text)


@dataclass(frozen=True)
class Case:
    """A case of the US Supreme Court."""

    text: str
    year: int  # of its term
    issue: str


def load_scotus(file: Path) -> list[Case]:
    """Load a SCOTUS CSV (Oyez and SCDB): facts (HTML), term, issue_area; cases without an issue are left out.

    Raises UnreadableData.
    """
    cases = []
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream)
            for field in ("facts", "term", "issue_area"):
                if field not in (rows.fieldnames or ()):
                    raise UnreadableData(f"{file}, line 1: there is no column {field!r}")
            for row in rows:
                text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", row["facts"] or "")).split())
                year = re.match(r"\d{4}", row["term"] or "")
                if not year:
                    raise Place(file, rows.line_num).missing("term", "a year")
                if text and row["issue_area"]:
                    cases.append(Case(text, int(year[0]), row["issue_area"]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableData(f"{file} cannot be read: {error}") from error
    return cases


def load_questions(file: Path) -> list[str]:
    """Load unrelated questions: a JSONL file with the field question, prompt or text, or a text file, one a line."""
    if file.suffix not in (".jsonl", ".json"):
        return [line.strip() for line in _read(file).splitlines() if line.strip()]
    questions = []
    for place, record in records_of(file):
        field = next((name for name in ("question", "prompt", "text") if name in record), "question")
        questions.append(_asked(_text(record, field, place)))
    return questions


def _format_of(task: str, record: Fields, place: Place) -> Callable[[Fields, Place], BenchEdit | None]:
    if task == "hallucination" and ({"prompt", "target_new"} <= record.keys() or {"text", "labels"} <= record.keys()):
        return wikibio
    if "requested_rewrite" in record:
        return counterfact
    if "alt" in record:
        return mend_zsre
    if "prompt" in record and "target_new" in record:
        if isinstance(record.get("locality"), Mapping) or isinstance(record.get("portability"), Mapping):
            return knowedit
        return flat_counterfact if task == "counterfact" else structured_zsre
    raise UnreadableData(
        f"{place.file}, line {place.line}: the fields {', '.join(sorted(record))} are none of a known {task} format "
        "(MEND zsRE: src, alt; structured zsRE and KnowEdit: prompt, target_new; CounterFact: requested_rewrite; "
        "WikiBio: prompt, target_new or text, labels)"
    )


def records_of(file: Path) -> Iterator[tuple[Place, Fields]]:
    """Yield the objects of a JSONL file, or of a JSON list, for which the line is the record's number."""
    text = _read(file)
    if text.lstrip().startswith("["):
        try:
            items: Iterator[tuple[int, Any]] = iter(enumerate(json.loads(text), 1))
        except json.JSONDecodeError as error:
            raise UnreadableData(f"{file}, line {error.lineno}: not JSON ({error.msg})") from error
    else:
        items = _lines(file, text)
    for number, item in items:
        if not isinstance(item, Mapping):
            raise UnreadableData(f"{file}, line {number}: an object with fields is expected, not {str(item)[:40]!r}")
        yield Place(file, number), item


def _lines(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise UnreadableData(f"{file}, line {number}: not JSON ({error.msg})") from error


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableData(f"{file} cannot be read: {error}") from error


def _edit(
    prompt: str, target: str, subject: str, rephrases: Sequence[str], neighbours: Sequence[str],
    truth: Sequence[Any], kind: str = "qa",
) -> BenchEdit | None:  # fmt: skip
    """Make an edit; None where the target was true before, so that the fact does not change."""
    if any(isinstance(t, str) and t.strip().lower() == target.lower() for t in truth):
        return None
    others = dict.fromkeys(r for r in rephrases if r != prompt)
    return BenchEdit(prompt, target, subject, tuple(others), tuple(dict.fromkeys(neighbours)), kind)


def _text(record: Fields, field: str, place: Place, needed: bool = True) -> str:
    value = record.get(field)
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        if needed:
            raise place.missing(field)
        return ""
    return value.strip()


def _texts(value: Any) -> list[str]:
    return [v.strip() for v in ([value] if isinstance(value, str) else value) if isinstance(v, str) and v.strip()]


def _prompts(items: Any, place: Place) -> list[str]:
    return [_text(item, "prompt", place) for item in items or () if isinstance(item, Mapping)]


def _asked(question: str) -> str:
    return question if question.endswith(("?", ".", "!")) else question + "?"
