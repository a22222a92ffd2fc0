"""Formats of records: by which fields each is recognised, and what of it becomes which field of an edit.

The table in docs/submitting.md says the same for readers.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.errors import CommandError
from cli.files.cells import Unusable
from cli.files.rows import Remarks

FIELDS = (
    "prompt", "target", "alternatives", "rephrases", "unchanged", "kind", "author", "reason", "source", "replaces",
)  # fmt: skip
# Other names of fields, the most certain ones first: the first group of which a file has a name decides.
NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "prompt": (("prompt",), ("question", "query"), ("input", "instruction", "user_input", "user_message", "q")),
    "target": (
        ("target",),
        ("target_new", "correct_answer", "corrected_answer", "right_answer", "new_answer", "expected_answer",
         "correction", "expected", "expected_output", "corrected_output", "ideal", "ground_truth", "reference",
         "chosen", "targets"),
        ("answer", "answers", "completion", "response", "output", "reply", "a"),
    ),
    "alternatives": (
        ("alternatives",),
        ("accepted", "accepted_answers", "acceptable_answers", "other_answers", "aliases", "answer_aliases"),
    ),
    "rephrases": (("rephrases",), ("rephrase", "rephrase_prompt", "rephrasings", "paraphrases", "paraphrase_prompts")),
    "unchanged": (("unchanged",), ("guards", "locality_prompt", "neighborhood_prompts")),
}  # fmt: skip
INDEX = re.compile(r"(unnamed_\d+|index|level_\d+|index_level_\d+|row_idx|line)?$")
QUESTIONS = ("question", "query", "prompt", "input", "text", "message", "content")
ANSWERS = ("corrected_output", "answer", "output", "response", "text", "content", "value")

Fields = Mapping[str, Any]  # by normal names
Values = dict[str, tuple[str, Any]]  # by an edit's field: the column that it comes from, and what stands there


@dataclass(frozen=True)
class Shape:
    """A format: its name, how a record becomes edits, and the columns that are read."""

    name: str
    read: Callable[[Fields, Remarks, int], Iterable[Values]]
    used: frozenset[str]  # normal names
    told: Mapping[str, str]  # for people: an edit's field, and what it is read from
    is_own: bool = False


def normal(name: str) -> str:
    """Return a column's name without case, spaces and punctuation: corrected_output for correctedOutput."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"\W+", "_", parted.casefold()).strip("_")


def recognised(columns: Sequence[str], mapped: Mapping[str, str]) -> Shape | None:
    """Return the format of records with these columns. mapped: an edit's field to the column's name.

    None: they have no prompt or no target. Raises CommandError where two columns could be the same field.
    """
    names = {normal(name) for name in columns}
    if mapped or {"prompt", "target"} <= names:
        return _own(columns, mapped)
    return next((shape for has, shape in KNOWN if has(names)), None) or _own(columns, mapped)


def is_index(column: str) -> bool:
    """Return whether a column only counts rows, so that nothing needs to be said of its being ignored."""
    return INDEX.match(normal(column)) is not None


def _own(columns: Sequence[str], mapped: Mapping[str, str]) -> Shape | None:
    by_name = {normal(name): name for name in columns}
    found = {}
    for field in FIELDS:
        if field in mapped:
            name = normal(mapped[field])
            if name not in by_name:
                return None
            found[field] = name
            continue
        taken = {normal(name) for name in mapped.values()}
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
                found[field] = there[0]
                break
    if not {"prompt", "target"} <= found.keys():
        return None
    told = {field: by_name[name] for field, name in found.items()}

    def read(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
        values = {field: (told[field], fields.get(name)) for field, name in found.items()}
        values["prompt"] = (told["prompt"], _words(values["prompt"][1], ("user",)))
        values["target"] = (told["target"], _words(values["target"][1], ("assistant",)))
        return [values]

    exact = {field for field, name in found.items() if field == name} >= {"prompt", "target"}
    if exact:
        name = "prompt and target"
    elif {"prompt", "completion"} == {found["prompt"], found["target"]}:
        name = "OpenAI prompt and completion"
    else:
        name = f"{told['prompt']} and {told['target']}"
    return Shape(name, read, frozenset(found.values()), told, is_own=exact)


def _words(value: Any, roles: tuple[str, ...]) -> Any:
    """Return the text of a value that may be a message, messages, or SQuAD's answers; other values as they are."""
    if isinstance(value, Mapping):
        if isinstance(value.get("content"), str | list):
            return _words(value["content"], roles)
        return value.get("text", value)
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        if all("role" in each for each in value):
            said = [each.get("content") for each in value if each["role"] in roles]
            return _words(said[-1], roles) if said else value
        if all("text" in each for each in value):  # the parts of one message
            return "\n".join(str(each["text"]) for each in value)
    return value


def _parsed(value: Any) -> Any:
    """Return what a cell's JSON says; other values as they are."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


# OpenAI chat, and ShareGPT


def _chat(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    column = "messages" if fields.get("messages") is not None else "conversations"
    if fields.get("preferred_output") is not None:
        asked = _parsed(fields.get("input"))
        asked = asked.get("messages") if isinstance(asked, Mapping) else asked
        messages = [*(asked or []), *(_parsed(fields["preferred_output"]) or [])]
        column = "preferred_output"
    else:
        messages = _parsed(fields.get(column))
    prompt, target = _turn(messages, remarks, line)
    if target is None:
        raise Unusable(f"({column}) has no answer of the assistant", "End with a message of the role assistant.")
    return [{"prompt": (column, prompt), "target": (column, target)}]


def _turn(messages: Any, remarks: Remarks, line: int) -> tuple[Any, Any]:
    """Return what the user asks and what the assistant answers, or None. Raises Unusable for more than one question."""
    if not isinstance(messages, list) or not all(isinstance(each, Mapping) for each in messages):
        raise Unusable("holds no messages", 'Write [{"role": "user", "content": …}, {"role": "assistant", …}].')
    said = [(_role(each), _words(each.get("content", each.get("value")), ())) for each in messages]
    if any(role in ("system", "developer") for role, _ in said):
        remarks.note("Messages of the role system were ignored", line)
    said = [(role, text) for role, text in said if role not in ("system", "developer")]
    asked = [text for role, text in said if role == "user"]
    if len(asked) != 1 or any(role not in ("user", "assistant") for role, _ in said):
        raise Unusable(
            f"is a conversation with {len(asked)} questions"
            if len(asked) != 1
            else "has messages that neither the user nor the assistant wrote",
            "Write one question and its answer: a correction is of one prompt.",
        )
    answers = [text for role, text in said if role == "assistant"]
    return asked[0], answers[-1] if answers else None


def _role(message: Fields) -> str:
    role = str(message.get("role", message.get("from", ""))).casefold()
    return {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}.get(role, role)


# Alpaca


def _alpaca(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    more = fields.get("input")
    parts = [fields.get("instruction"), more if isinstance(more, str) and more.strip() else None]
    prompt = "\n\n".join(str(part).strip() for part in parts if part is not None)
    return [{"prompt": ("instruction", prompt), "target": ("output", fields.get("output"))}]


# EasyEdit, KnowEdit, zsRE, CounterFact, MQuAKE


def _easyedit(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    prompt = fields.get("prompt")
    if isinstance(prompt, str) and isinstance(fields.get("subject"), str):
        prompt = prompt.replace("{}", fields["subject"])
    rephrases = [*_list(_parsed(fields.get("rephrase_prompt"))), *_list(_parsed(fields.get("rephrase")))]
    for name, items in _mapping(_parsed(fields.get("portability"))).items():
        if normal(name) == "subject_aliasing":
            rephrases += _prompts(items)
    unchanged = [*_prompts(_parsed(fields.get("locality"))), *_list(_parsed(fields.get("locality_prompt")))]
    return [
        {
            "prompt": ("prompt", prompt),
            "target": ("target_new", _parsed(fields.get("target_new"))),
            "rephrases": ("rephrase_prompt", rephrases),
            "unchanged": ("locality", unchanged),
            "kind": ("prompt", _kind_of(prompt)),
        }
    ]


def _zsre(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    question = "src" if fields.get("src") is not None else "input"
    beside = str(fields.get("loc") or "").removeprefix("nq question: ").strip()
    rephrases = [*_list(_parsed(fields.get("rephrase"))), *_list(_parsed(fields.get("rephrases")))]
    return [
        {
            "prompt": (question, fields.get(question)),
            "target": ("alt", _parsed(fields.get("alt"))),
            "rephrases": ("rephrase", rephrases),
            "unchanged": ("loc", [beside if beside.endswith("?") else f"{beside}?"] if beside else []),
        }
    ]


def _rewrites(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    """Read CounterFact, where one fact is rewritten, and MQuAKE, where it may be several."""
    found = _parsed(fields.get("requested_rewrite"))
    for rewrite in found if isinstance(found, list) else [found]:
        if not isinstance(rewrite, Mapping) or not isinstance(rewrite.get("target_new"), Mapping | str):
            raise Unusable(
                "has no requested_rewrite with target_new",
                'Write {"requested_rewrite": {"prompt": …, "subject": …, "target_new": {"str": …}}}.',
            )
        new, prompt, asked = rewrite["target_new"], rewrite.get("prompt"), rewrite.get("question")
        target = new.get("str") if isinstance(new, Mapping) else new
        if isinstance(prompt, str) and isinstance(rewrite.get("subject"), str):
            prompt = prompt.replace("{}", rewrite["subject"])
        values: Values = {
            "prompt": ("requested_rewrite", asked if isinstance(asked, str) and asked.strip() else prompt),
            "target": ("requested_rewrite.target_new", [target, *_aliases(fields, asked, target)]),
            "kind": ("requested_rewrite", _kind_of(asked or prompt)),
        }
        if not isinstance(found, list):
            values["rephrases"] = ("paraphrase_prompts", _parsed(fields.get("paraphrase_prompts")))
            values["unchanged"] = ("neighborhood_prompts", _parsed(fields.get("neighborhood_prompts")))
        yield values


def _aliases(fields: Fields, question: Any, target: Any) -> list[Any]:
    """Return MQuAKE's other names of an answer: those of the hop that asks the same."""
    hops = _parsed(fields.get("new_single_hops"))
    for hop in hops if isinstance(hops, list) else []:
        if isinstance(hop, Mapping) and hop.get("question") == question and hop.get("answer") == target:
            return _list(hop.get("answer_alias"))
    return []


def _kind_of(prompt: Any) -> str:
    return "qa" if str(prompt).rstrip().endswith(("?", "？", "؟")) else "completion"


def _list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _prompts(value: Any) -> list[Any]:
    """Return the prompts in whatever lists and objects EasyEdit and KnowEdit nest them."""
    if isinstance(value, list):
        return [prompt for each in value for prompt in _prompts(each)]
    if isinstance(value, Mapping):
        return _list(value["prompt"]) if "prompt" in value else [p for each in value.values() for p in _prompts(each)]
    return []


# Langfuse


def _langfuse(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    """Read a trace or an observation with its corrected output, or an item of a dataset with what is expected."""
    trace = {normal(name): value for name, value in _mapping(_parsed(fields.get("trace"))).items()}
    column = next((name for name in ("corrected_output", "expected_output") if fields.get(name) is not None), None)
    if column is not None:
        return [_corrected(column, fields[column], fields.get("input", trace.get("input")), remarks, line)]
    scores = [fields] if _is_correction(fields) else _corrections(_parsed(fields.get("scores", trace.get("scores"))))
    if not scores:
        remarks.note("Records without a corrected output were left out", line)
        return []
    seen = [_normal_fields(each) for each in _list(_parsed(fields.get("observations", trace.get("observations"))))]
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


def _corrected(column: str, value: Any, asked: Any, remarks: Remarks, line: int) -> Values:
    if asked is None:
        raise Unusable(
            "is a corrected output without what was asked",
            "Export traces or observations together with their scores, so that each has its input.",
        )
    return {"prompt": ("input", _question(_parsed(asked), remarks, line)), "target": (column, _answer(_parsed(value)))}


def _question(value: Any, remarks: Remarks, line: int) -> Any:
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
        value = value["messages"]
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return _turn(value, remarks, line)[0]
    if isinstance(value, Mapping):
        return next((value[name] for name in QUESTIONS if isinstance(value.get(name), str)), value)
    return value


def _answer(value: Any) -> Any:
    if isinstance(value, Mapping):
        return next((value[name] for name in ANSWERS if isinstance(value.get(name), str)), value)
    return _words(value, ("assistant",))


def _corrections(scores: Any) -> list[Fields]:
    found = [_normal_fields(each) for each in _list(scores) if isinstance(each, Mapping)]
    return [each for each in found if _is_correction(each)]


def _is_correction(score: Fields) -> bool:
    return str(score.get("data_type")).upper() == "CORRECTION"


def _normal_fields(value: Any) -> Fields:
    return {normal(name): each for name, each in _mapping(value).items()}


def _shape(name: str, read: Any, told: Mapping[str, str], *more: str) -> Shape:
    used = {part.split(".")[0] for each in told.values() for part in each.split(", ")}
    return Shape(name, read, frozenset(used | set(more)), told)


CHAT = {"prompt": "messages", "target": "messages"}
EASYEDIT = {
    "prompt": "prompt", "target": "target_new", "rephrases": "rephrase_prompt", "unchanged": "locality",
}  # fmt: skip
LANGFUSE = {"prompt": "input", "target": "corrected_output, scores"}

# In the order in which they are tried.
KNOWN: tuple[tuple[Callable[[set[str]], bool], Shape], ...] = (
    (
        lambda names: {"requested_rewrite", "questions"} <= names,
        _shape("MQuAKE", _rewrites, {"prompt": "requested_rewrite", "target": "requested_rewrite.target_new"},
               "new_single_hops"),
    ),
    (
        lambda names: "requested_rewrite" in names,
        _shape("CounterFact", _rewrites,
               {"prompt": "requested_rewrite", "target": "requested_rewrite.target_new",
                "rephrases": "paraphrase_prompts", "unchanged": "neighborhood_prompts"}),
    ),
    (
        lambda names: "alt" in names and bool({"src", "input"} & names),
        _shape("zsRE", _zsre, {"prompt": "src, input", "target": "alt", "rephrases": "rephrase, rephrases",
                               "unchanged": "loc"}),
    ),
    (
        lambda names: {"prompt", "target_new", "portability"} <= names and "rephrase_prompt" not in names,
        _shape("KnowEdit", _easyedit, EASYEDIT, "portability", "subject", "rephrase"),
    ),
    (
        lambda names: {"prompt", "target_new"} <= names,
        _shape("EasyEdit", _easyedit, EASYEDIT, "locality_prompt", "subject", "rephrase"),
    ),
    (
        lambda names: {"input", "preferred_output"} <= names,
        _shape("OpenAI preferences", _chat, {"prompt": "input", "target": "preferred_output"}),
    ),
    (lambda names: "messages" in names, _shape("OpenAI chat", _chat, CHAT)),
    (
        lambda names: "conversations" in names,
        _shape("ShareGPT", _chat, {"prompt": "conversations", "target": "conversations"}),
    ),
    (
        lambda names: {"instruction", "output"} <= names,
        _shape("Alpaca", _alpaca, {"prompt": "instruction, input", "target": "output"}),
    ),
    (
        lambda names: "scores" in names or {"input", "corrected_output"} <= names
        or {"data_type", "trace_id"} <= names,
        _shape("Langfuse corrections", _langfuse, LANGFUSE, "trace", "observations", "data_type", "value",
               "string_value", "long_string_value", "observation_id"),
    ),
    (
        lambda names: {"input", "expected_output"} <= names,
        _shape("Langfuse dataset", _langfuse, {"prompt": "input", "target": "expected_output"}),
    ),
)  # fmt: skip


def described(shape: Shape) -> Iterator[str]:
    """Yield, for people, what each field of an edit is read from."""
    for field, name in shape.told.items():
        yield f"{field} ← {name}"
