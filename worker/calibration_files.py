"""Input files of `melo calibrate`: prompts with their rephrases, and prompts with their near misses."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cli.errors import CommandError
from melo_core.calibration import Rephrased
from melo_core.scope import same_text
from melo_core.thresholds import Asked

T = TypeVar("T")


def read_pairs(path: Path) -> list[Rephrased]:
    """Read JSONL with `prompt` and `rephrases`. Raises CommandError with the numbers of invalid lines."""

    def pair(record: Mapping[str, Any]) -> Rephrased:
        prompt, rephrases = _texts_of(record, "rephrases")
        return Rephrased(prompt, tuple(text for text in rephrases if text.strip() != prompt.strip()))

    return _records(path, pair)


def read_near_misses(path: Path, pairs: Sequence[Rephrased]) -> list[Asked]:
    """Read JSONL with `prompt`, one of `pairs`, and `near`. Raises CommandError with the numbers of invalid lines."""
    same = {pair.prompt: {same_text(text) for text in (pair.prompt, *pair.rephrases)} for pair in pairs}

    def near_misses(record: Mapping[str, Any]) -> list[Asked]:
        prompt, near = _texts_of(record, "near")
        if prompt not in same:
            raise ValueError(f"the prompt {prompt[:60]!r} is none of --pairs; write it as it stands there")
        if not near:
            raise ValueError("near is empty; give a near miss, or leave the line out")
        for text in near:
            if same_text(text) in same[prompt]:
                raise ValueError(f"the near miss {text[:60]!r} is the prompt or one of its rephrases; remove it")
        return [Asked(prompt, text) for text in near]

    return list(dict.fromkeys(asked for line in _records(path, near_misses) for asked in line))


def _records(path: Path, read: Callable[[Mapping[str, Any]], T]) -> list[T]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise CommandError(
            "The file cannot be read", f"{path}: {why}.", "Check its name; it is text in UTF-8."
        ) from None
    found: list[T] = []
    problems = []
    # Not splitlines: JSON may contain a line separator (U+2028) within a text.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("it is not a JSON object")
            found.append(read(record))
        except ValueError as error:
            problems.append({"line": number, "detail": str(error)})
    if problems:
        raise CommandError("The file has broken lines", str(path), "Correct these lines.", problems)
    if not found:
        raise CommandError("The file is empty", f"{path} holds no line.", "Write one JSON object a line.")
    return found


def _texts_of(record: Mapping[str, Any], several: str) -> tuple[str, list[str]]:
    """Return the prompt, and the distinct texts of the other field. Raises ValueError."""
    for name in ("prompt", several):
        if name not in record:
            raise ValueError(f"has no {name!r}")
    prompt, texts = record["prompt"], record[several]
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in (prompt, *texts)):
        raise ValueError(f"prompt must be a text and {several} a list of texts, none of them empty")
    return prompt, list(dict.fromkeys(texts))
