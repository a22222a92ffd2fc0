"""Records of conversations and preferences: OpenAI chat, ShareGPT, Gemini, DPO, and what else holds messages."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from cli.files.cells import Unusable
from cli.files.rows import Remarks
from cli.files.shapes import ANSWERS, QUESTIONS, Fields, Values, as_list, is_undesired, named_value, parsed, words

ROLES = {
    "human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "chatbot": "assistant", "ai": "assistant", "bard": "assistant", "bing": "assistant",
    "developer": "system",
}  # fmt: skip
MESSAGES = ("messages", "conversations", "conversation", "contents")
SPOKEN = re.compile(r"(?:^|\n\n)(Human|Assistant|User|System): ?")  # in the transcripts of Anthropic's data sets
WRITE_ONE = "Write one question and its answer: a correction is of one prompt."
UNDESIRED_LEFT_OUT = "Answers that are labelled as bad ones were left out"


def chat(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    """Read the messages of a conversation with one question."""
    if is_undesired(fields):
        remarks.note(UNDESIRED_LEFT_OUT, line)
        return []
    column = next((name for name in MESSAGES if fields.get(name) is not None), MESSAGES[0])
    return [_answered(column, parsed(fields.get(column)), remarks, line)]


def openai_preferences(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    asked = parsed(fields.get("input"))
    asked = asked.get("messages") if isinstance(asked, Mapping) else asked
    messages = [*as_list(asked), *as_list(parsed(fields.get("preferred_output")))]
    return [_answered("preferred_output", messages, remarks, line)]


def preferences(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    """Read a pair of answers, as for DPO: the chosen one, after a prompt of its own or within a conversation."""
    chosen = parsed(fields.get("chosen"))
    names = ("prompt", "question", "query", "instruction", "conversations", "messages", "input")
    column = next((name for name in names if fields.get(name)), "chosen")
    asked = parsed(fields.get(column)) if column != "chosen" else None
    said = chosen if isinstance(chosen, list) else [chosen] if isinstance(chosen, Mapping) else transcript(chosen)
    if said is not None and any(isinstance(each, Mapping) and role(each) == "user" for each in said):
        return [_answered("chosen", said, remarks, line)]
    prompt = question(asked, remarks, line)
    if column == "instruction":
        prompt = joined(prompt, fields.get("input"))
    if prompt is None:
        raise Unusable("has no prompt", 'Write {"prompt": …, "chosen": …, "rejected": …}.')
    return [{"prompt": (column, prompt), "target": ("chosen", answer(chosen))}]


def alpaca(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    """Read an instruction with what it is about, in Alpaca's words or in Dolly's."""
    if parsed(fields.get("history")):
        raise Unusable("is a conversation with a history", WRITE_ONE)
    output = "output" if "output" in fields else "response"
    prompt = joined(fields.get("instruction"), fields.get("input") or fields.get("context"))
    return [{"prompt": ("instruction", prompt), "target": (output, fields.get(output))}]


def joined(instruction: Any, about: Any) -> Any:
    if not isinstance(instruction, str) or not isinstance(about, str) or not about.strip():
        return instruction
    return f"{instruction.strip()}\n\n{about.strip()}"


def question(value: Any, remarks: Remarks, line: int) -> Any:
    """Return what is asked in a value that may be messages, a transcript or an object. Raises Unusable for several."""
    said = value.get("messages", value) if isinstance(value, Mapping) else transcript(value) or value
    if isinstance(said, Mapping) and _speaks(said):
        return words(said)
    if isinstance(said, list) and said and all(isinstance(each, Mapping) and _speaks(each) for each in said):
        return _turn(said, remarks, line)[0]
    return named_value(value, QUESTIONS)


def answer(value: Any) -> Any:
    """Return what is answered in a value that may be messages or an object. Raises Unusable for several answers."""
    if isinstance(value, list) and value and all(isinstance(each, Mapping) and _speaks(each) for each in value):
        return _only([words(each) for each in value if role(each) == "assistant"])
    if isinstance(value, list):
        return [named_value(each, ANSWERS) for each in value]
    if not isinstance(value, Mapping):
        return value
    found = words(value) if _speaks(value) else named_value(value, ANSWERS)
    return [found, *as_list(value["aliases"])] if isinstance(found, str) and "aliases" in value else found


def transcript(text: Any) -> list[dict[str, str]] | None:
    """Return the messages of a text such as «Human: … Assistant: …»; None: it is another text."""
    parts = SPOKEN.split(text) if isinstance(text, str) else []
    if len(parts) < 5 or parts[0].strip() or ("Human" not in parts and "User" not in parts):
        return None
    said = [{"role": who, "content": what.strip()} for who, what in zip(parts[1::2], parts[2::2], strict=True)]
    return [each for each in said if each["content"]]


def role(message: Fields) -> str:
    named = str(message.get("role", message.get("from", ""))).casefold()
    return ROLES.get(named, named)


def _speaks(message: Fields) -> bool:
    return "role" in message or "from" in message


def _answered(column: str, messages: Any, remarks: Remarks, line: int) -> Values:
    prompt, target = _turn(messages, remarks, line)
    if target is None:
        raise Unusable(f"({column}) has no answer of the assistant", "End with a message of the role assistant.")
    return {"prompt": (column, prompt), "target": (column, target)}


def _turn(messages: Any, remarks: Remarks, line: int) -> tuple[Any, Any]:
    """Return what the user asks and what the assistant answers, or None. Raises Unusable for more than one question."""
    if not isinstance(messages, list) or not all(isinstance(each, Mapping) for each in messages):
        raise Unusable("holds no messages", 'Write [{"role": "user", "content": …}, {"role": "assistant", …}].')
    said = [(role(each), each) for each in messages]
    if any(who == "system" for who, _ in said):
        remarks.note("Messages of the role system were ignored", line)
    said = [(who, each) for who, each in said if who != "system"]
    asked = [each for who, each in said if who == "user"]
    if len(asked) != 1:
        raise Unusable(f"is a conversation with {len(asked) or 'no'} questions", WRITE_ONE)
    if any(who not in ("user", "assistant") for who, _ in said):
        raise Unusable("has messages that neither the user nor the assistant wrote", WRITE_ONE)
    # OpenAI's weight 0: this answer is not to be learned.
    answers = [words(each) for who, each in said if who == "assistant" and each.get("weight") != 0]
    return words(asked[0]), _only(answers)


def _only(answers: list[Any]) -> Any:
    found = [each for each in answers if isinstance(each, str) and each.strip()]
    if len(found) > 1:
        raise Unusable(f"has {len(found)} answers", "Leave one answer to the question.")
    return found[0] if found else None
