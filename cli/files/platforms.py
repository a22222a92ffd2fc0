"""Exports of what people annotate and evaluate models with: Langfuse, LangSmith, Argilla, Label Studio, promptfoo."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from cli.files.cells import Unusable
from cli.files.conversations import answer, question
from cli.files.rows import Remarks
from cli.files.shapes import Fields, Values, as_list, as_mapping, normal_fields, parsed

WITHOUT = "Records without a corrected output were left out"
NO_ANSWER = "Records without a text of an annotator were left out"
ARCHIVED = "Archived items were left out"
ASSERTION = re.compile(r"\s*(?:not-)?([a-z][a-z0-9-]*)(?:\([^)]*\))?:\s*(.*)", re.DOTALL)
ASSERTIONS = frozenset({
    "equals", "contains", "icontains", "contains-any", "contains-all", "icontains-any", "icontains-all", "starts-with",
    "regex", "is-json", "contains-json", "javascript", "fn", "eval", "python", "file", "similar", "levenshtein",
    "llm-rubric", "grade", "factuality", "model-graded-closedqa", "answer-relevance", "webhook", "rouge-n", "cost",
    "latency", "g-eval",
})  # fmt: skip


def langfuse(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    """Read a trace or an observation with its corrected output, or an item of a dataset with what is expected."""
    if str(fields.get("status")).upper() == "ARCHIVED":
        remarks.note(ARCHIVED, line)
        return []
    trace = normal_fields(parsed(fields.get("trace")))
    column = next((name for name in ("corrected_output", "expected_output") if _is_there(fields.get(name))), None)
    if column is not None:
        return [_corrected(column, fields[column], fields.get("input", trace.get("input")), remarks, line)]
    scores = [fields] if _is_correction(fields) else _corrections(parsed(fields.get("scores", trace.get("scores"))))
    if not scores:
        remarks.note(WITHOUT, line)
        return []
    seen = [normal_fields(each) for each in as_list(parsed(fields.get("observations", trace.get("observations"))))]
    by_id = {each.get("id"): each for each in seen}
    found = []
    for score in scores:
        value = next(
            (score[n] for n in ("long_string_value", "string_value", "value") if isinstance(score.get(n), str)), None
        )
        about = by_id.get(score.get("observation_id"), {})
        asked = about.get("input", fields.get("input", trace.get("input")))
        found.append(_corrected("scores", value, asked, remarks, line))
    return found


def _is_there(value: Any) -> bool:
    return value is not None and (not isinstance(value, str) or value.strip() not in ("", "null", "nan"))


def _corrected(column: str, value: Any, asked: Any, remarks: Remarks, line: int) -> Values:
    if asked is None:
        raise Unusable(
            "is a corrected output without what was asked",
            "Export traces or observations together with their scores, so that each has its input.",
        )
    return {"prompt": ("input", question(parsed(asked), remarks, line)), "target": (column, answer(parsed(value)))}


def _corrections(scores: Any) -> list[Fields]:
    found = [normal_fields(each) for each in as_list(scores) if isinstance(each, Mapping)]
    return [each for each in found if _is_correction(each)]


def _is_correction(score: Fields) -> bool:
    return str(score.get("data_type")).upper() == "CORRECTION"


def langsmith(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    """Read an example of LangSmith: what goes in, and what should come out."""
    asked, expected = parsed(fields.get("inputs")), parsed(fields.get("outputs"))
    return [{"prompt": ("inputs", question(asked, remarks, line)), "target": ("outputs", answer(expected))}]


def argilla(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    """Read a record of Argilla with what its annotators wrote."""
    given = parsed(fields.get("responses"))
    if isinstance(given, Mapping):  # by question
        by_question = {name: [each.get("value") for each in as_list(said)] for name, said in given.items()}
    else:  # by annotator
        by_question = {}
        for said in as_list(given):
            if said.get("status", "submitted") == "submitted":
                for name, each in as_mapping(said.get("values")).items():
                    by_question.setdefault(name, []).append(as_mapping(each).get("value"))
    texts = {name: [each for each in said if isinstance(each, str)] for name, said in by_question.items()}
    return _written(parsed(fields.get("fields")), texts, "responses", remarks, line)


def label_studio(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    """Read a task of Label Studio with what its annotators wrote into a text area."""
    texts: dict[str, list[str]] = {}
    for annotation in as_list(fields.get("annotations")):
        if not annotation.get("was_cancelled"):
            for result in as_list(annotation.get("result")):
                if result.get("type") == "textarea":
                    said = texts.setdefault(str(result.get("from_name")), [])
                    said += as_list(as_mapping(result.get("value")).get("text"))
    return _written(fields.get("data"), texts, "annotations", remarks, line)


def _written(shown: Any, texts: Mapping[str, list[str]], column: str, remarks: Remarks, line: int) -> Iterable[Values]:
    """Return the edit of what was shown to annotators and what they wrote; none where they wrote nothing."""
    texts = {name: list(dict.fromkeys(said)) for name, said in texts.items() if said}
    if not texts:
        remarks.note(NO_ANSWER, line)
        return []
    if len(texts) > 1:
        raise Unusable(
            f"has texts for several questions: {', '.join(texts)}",
            f"Say which is the answer: --map prompt=… --map target={column}.…",
        )
    ((_, said),) = texts.items()
    if len(said) > 1:
        raise Unusable(f"has {len(said)} answers that differ", "Leave the right one.")
    return [{"prompt": ("input", question(shown, remarks, line)), "target": (column, said[0])}]


def promptfoo(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    """Read a test of promptfoo, whose assertion is a whole answer."""
    whole = [each for each in as_list(fields.get("assert")) if as_mapping(each).get("type") == "equals"]
    if len(whole) != 1:
        raise Unusable("has no assertion of the type equals, which alone holds a whole answer", "Write the answer.")
    return [{"prompt": ("vars", question(fields.get("vars"), remarks, line)), "target": ("assert", whole[0]["value"])}]


def expected(value: Any) -> Any:
    """Return the answer that promptfoo's column __expected holds. Raises Unusable for a check that is none."""
    found = ASSERTION.fullmatch(value) if isinstance(value, str) else None
    if not found or found[1] not in ASSERTIONS:
        return value
    if found[1] != "equals" or value.lstrip().startswith("not-"):
        raise Unusable(f"is a check ({found[1]}) and no answer", "Write the answer.")
    return found[2]
