"""The question of a conversation: its last user turn, joined with the one before where it has no subject of its own."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from melo_core.errors import MeloError
from melo_core.words import FUNCTION, words

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# Words that refer to something mentioned before, and openings that continue from it.
POINTING = frozenset(
    words(
        """
    he she it they him her them his hers its their theirs there that this those these then one ones same previous
    former latter er sie es ihn ihm ihr deren dessen dort dann il elle ils elles lui leur y el ella ellos hij zij het
    """
    )
)
GOING_ON = re.compile(r"^\W*(?:and|or|but|also|what about|how about|und|et|y|en|e)\b", re.I)
# Words that a follow-up may contain without having a subject of its own.
COLOURLESS = FUNCTION | frozenset(
    words(
        """
    and or but also then before after next last first now else more about again exactly long much many old often far
    since until why how who whom whose which what where when ago later earlier ok okay so well thanks please
    """
    )
)

CALENDAR = frozenset(
    words(
        """
    monday tuesday wednesday thursday friday saturday sunday january february march april may june july august
    september october november december christma easter
    """
    )
)


def question_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text by which a conversation is routed.

    messages: objects with `role` and `content`, oldest first; the last is the user's, or what a tool gave for it.
    System prompts, documents and the model's answers are not questions, so they never lead to an edit.
    Raises MeloError.
    """
    asked = [str(message.get("content", "")) for message in messages if message.get("role") == "user"]
    if not asked or messages[-1].get("role") not in ("user", "tool", "function") or not asked[-1].strip():
        raise MeloError("a conversation must end with what the user asks: a last message with the role user")
    if len(asked) > 1 and is_follow_up(asked[-1]):
        return f"{asked[-2]}\n{asked[-1]}"
    return asked[-1]


def is_follow_up(text: str) -> bool:
    """Tell whether a question is understood only together with the one before, such as "and who before her?"."""
    said = [word.casefold() for word in WORD.findall(text)]
    own = [word for word in said if word not in COLOURLESS and word not in POINTING]
    if not own:
        return True
    capitals = [word for word in WORD.findall(text)[1:] if word[0].isupper()]
    names = [word for word in capitals if word != "I" and word.casefold().removesuffix("s") not in CALENDAR]
    points_back = bool(GOING_ON.match(text)) or any(word in POINTING for word in said)
    return points_back and not names and len(own) <= 4
