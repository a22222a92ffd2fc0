"""The question of a conversation: its last user turn, and how that may be read where it has no subject of its own."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from melo_core.errors import MeloError
from melo_core.subjects import CALENDAR, PEOPLE, about, instead, named_in_stead, names_in, subjects_of
from melo_core.words import FUNCTION, TITLES, words

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
GOES_ON = re.compile(r"^\W*(?:and|or|but|also|what about|how about|und|et|y|en|e)\b", re.I)
# Words that a follow-up may contain without having a subject of its own.
COLOURLESS = FUNCTION | frozenset(
    words(
        """
    and or but also then before after next last first now else more about again exactly long much many old often far
    since until why how who whom whose which what where when ago later earlier ok okay so well thanks please
    """
    )
)
NAMELESS = COLOURLESS | POINTING | TITLES
POLITE = frozenset(words("ok okay so well thanks thank you please very much again now then yes no"))
SHORT = 8  # words of an answer that may be the name of a person


@dataclass(frozen=True)
class Question:
    """The last question of a conversation: its text, a follow-up's behind the turn before; and the ways to read it."""

    text: str
    readings: tuple[str, ...] = ()

    @property
    def query(self) -> str | tuple[str, ...]:
        """Return what scope decides on."""
        return self.readings or self.text


def question_of(messages: Sequence[Mapping[str, Any]]) -> Question:
    """Return the question by which a conversation is routed.

    A follow-up is read with each subject of the turn before in place of its pronoun; where it has no place for one,
    behind that turn.

    messages: objects with `role` and `content`, oldest first; the last is the user's, or what a tool gave for it.
    System prompts, documents and the model's answers are not questions, so they never lead to an edit.
    Raises MeloError.
    """
    turns = [(str(message.get("role")), str(message.get("content", ""))) for message in messages]
    asked = [i for i, (role, _) in enumerate(turns) if role == "user"]
    if not asked or turns[-1][0] not in ("user", "tool", "function") or not turns[asked[-1]][1].strip():
        raise MeloError("a conversation must end with what the user asks: a last message with the role user, and text")
    last = turns[asked[-1]][1]
    if len(asked) == 1 or not (is_follow_up(last) or goes_over(last)):
        return Question(last)
    followed, before = 0, ""  # the last question before that stands alone, or is one with what it goes over to
    for i in asked[:-1]:
        if goes_over(turns[i][1]):
            followed, before = i, instead(before, turns[i][1])
        elif not before or not is_follow_up(turns[i][1]):
            followed, before = i, turns[i][1]
    if goes_over(last):
        return Question(f"{before}\n{last}", tuple(filter(None, (last, instead(before, last)))))
    people = {word.casefold() for word in WORD.findall(last)} & PEOPLE
    named = list(_named(turns[followed + 1 : asked[-1]])) if people else []
    read = [about(last, subject) for subject in dict.fromkeys((*named, *subjects_of(before)))]
    return Question(f"{before}\n{last}", tuple(filter(None, read)))


def is_follow_up(text: str) -> bool:
    """Tell whether a question is understood only together with the one before, such as "and who before her?"."""
    said = [word.casefold() for word in WORD.findall(text)]
    if POLITE.issuperset(said):
        return False
    own = [word for word in said if word not in COLOURLESS and word not in POINTING]
    if not own:
        return True
    points_back = bool(GOES_ON.match(text)) or any(word in POINTING for word in said)
    return points_back and not _has_name(text) and len(own) <= 4


def goes_over(text: str) -> bool:
    """Tell whether a question only names something else that the one before is asked of: "What about Globex?"."""
    named = named_in_stead(text)
    return named != "" and _has_name(f"x {named}")


def _has_name(text: str) -> bool:
    capitals = [word for word in WORD.findall(text)[1:] if word[0].isupper()]
    plain = [word.casefold().removesuffix("'s") for word in capitals if word != "I"]
    return any(word not in NAMELESS and word.removesuffix("s") not in CALENDAR for word in plain)


def _named(turns: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield the names in short answers, the last first: who "she" may be."""
    for role, text in reversed(turns):
        if role == "assistant" and len(text.split()) <= SHORT:
            yield from names_in(f"it is {text}")[:1]
