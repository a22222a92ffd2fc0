"""Records with columns of their own: which column becomes which field, by its usual names or by the user's word."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cli.errors import CommandError
from cli.files.cells import Unusable
from cli.files.conversations import UNDESIRED_LEFT_OUT, answer, question
from cli.files.platforms import expected
from cli.files.rows import Remarks
from cli.files.shapes import FIELDS, LABELS, Fields, Shape, Values, as_mapping, is_undesired, normal, parsed

# Names of fields, the most certain ones first: the first group of which a file has a name decides.
NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "prompt": (
        ("prompt",),
        ("question", "query", "frage", "pregunta", "domanda", "vraag", "pergunta", "вопрос", "问题", "質問",
         "질문"),
        ("input", "instruction", "user_input", "user_message", "input_text", "inputs", "problem", "user", "human", "q"),
    ),
    "target": (
        ("target",),
        ("target_new", "correct_answer", "corrected_answer", "right_answer", "new_answer", "expected_answer",
         "correction", "corrected", "expected", "expected_output", "corrected_output", "ideal", "ground_truth",
         "reference", "reference_answer", "gold_answer", "best_answer", "chosen", "targets"),
        ("answer", "answers", "completion", "response", "output", "output_text", "reply", "assistant",
         "possible_answers", "answer_key", "antwort", "réponse", "reponse", "respuesta", "risposta", "antwoord",
         "resposta", "ответ", "答案", "回答", "답변", "a"),
    ),
    "alternatives": (
        ("alternatives",),
        ("accepted", "accepted_answers", "acceptable_answers", "other_answers", "correct_answers", "aliases",
         "answer_aliases"),
    ),
    "rephrases": (
        ("rephrases",),
        ("rephrase", "rephrase_prompt", "rephrasings", "paraphrase", "paraphrases", "paraphrase_prompts"),
    ),
    "unchanged": (("unchanged",), ("guards", "locality_prompt", "neighborhood_prompts")),
}  # fmt: skip
CHOICES = ("choices", "options")
SEVERAL = ("alternatives", "rephrases", "unchanged")


def own(columns: Sequence[str], mapped: Mapping[str, str]) -> Shape | None:
    """Return the format of records whose columns are fields of an edit; None: they have no prompt or no target.

    mapped: an edit's field to the column's name. Raises CommandError where two columns could be the same field.
    """
    by_name = {normal(name): name for name in columns}
    taken = {normal(name) for name in mapped.values()}
    found = {}
    for field in FIELDS:
        name = normal(mapped[field]) if field in mapped else _named(field, by_name, taken)
        if name is None:
            continue
        if name not in by_name:
            return None
        found[field] = name
    if not {"prompt", "target"} <= found.keys():
        return None
    told = {field: by_name[name] for field, name in found.items()}
    numbered = {field: _numbered(field, by_name) for field in SEVERAL if field not in found}
    told |= {field: ", ".join(by_name[name] for name in names) for field, names in numbered.items() if names}

    def read(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
        if is_undesired(fields, numbers=is_completion):
            remarks.note(UNDESIRED_LEFT_OUT, line)
            return []
        values = {field: (told[field], fields.get(name)) for field, name in found.items()}
        for field, names in numbered.items():
            if names:
                values[field] = (told[field], [fields[name] for name in names if fields.get(name)])
        asked = values["prompt"][1]
        if not exact or not isinstance(asked, str):
            values["prompt"] = (told["prompt"], question(asked, remarks, line))
        values["target"] = (told["target"], _target(fields, *values["target"]))
        return [values]

    exact = found["prompt"] == "prompt" and found["target"] == "target"
    is_completion = {"prompt", "completion"} == {found["prompt"], found["target"]}
    if exact:
        name = "prompt and target"
    elif is_completion:
        name = "OpenAI prompt and completion"
    else:
        name = f"{told['prompt']} and {told['target']}"
    used = {*found.values(), *(each for names in numbered.values() for each in names)}
    more = {each for each in (*(LABELS if is_completion else ()), *CHOICES) if each in by_name}
    return Shape(name, read, frozenset(used | more), told, is_own=exact)


def _named(field: str, by_name: Mapping[str, str], taken: set[str]) -> str | None:
    """Return the column that is a field by its name. Raises CommandError where it could be two."""
    for group in NAMES.get(field, ((field,),)):
        there = [name for name in group if name in by_name and name not in taken]
        if len(there) > 1 and field in ("prompt", "target"):
            both = " and ".join(repr(by_name[name]) for name in there[:2])
            raise CommandError(
                "The columns are not clear",
                f"Both {both} could be the {field}.",
                f"Say which is: --map {field}={by_name[there[0]]}",
            )
        if there:
            return there[0]
    return None


def _numbered(field: str, by_name: Mapping[str, str]) -> list[str]:
    """Return the columns that are one text of a field each: rephrase 1, rephrase 2."""
    stems = {stem for group in NAMES[field] for name in group for stem in (name, name.removesuffix("s"))}
    return [name for name in by_name if name.rstrip("0123456789").rstrip("_") in stems and name[-1].isdecimal()]


def _target(fields: Fields, column: str, value: Any) -> Any:
    choices = next((parsed(fields[name]) for name in CHOICES if fields.get(name)), None)
    if choices is not None:
        return _chosen(choices, value)
    if column.startswith("__expected"):
        return expected(value)
    read = value if normal(column) == "target" else parsed(value)
    is_list = isinstance(read, list) and normal(column).endswith("s")  # of answers, as a column named so is
    found = answer(read if isinstance(read, Mapping) or is_list else value)
    return value if isinstance(found, Mapping) else found


def _chosen(choices: Any, value: Any) -> Any:
    """Return the text of the choice that is meant by its number from 0, its label or its text. Raises Unusable."""
    texts = as_mapping(choices).get("text", choices)
    texts = texts if isinstance(texts, list) else []
    labels = as_mapping(choices).get("label") or [chr(ord("A") + n) for n in range(len(texts))]
    if value in texts:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(texts):
        return texts[value]
    if str(value).strip() in labels:
        return texts[labels.index(str(value).strip())]
    raise Unusable(f"is {value!r}, which names none of its choices", "Write the text of the right one.")
