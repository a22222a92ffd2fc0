"""Instructions about the form of an answer ("Answer as JSON."), which change nothing in what is asked.

A sentence or clause is one if each of its words speaks of answering or of form, and they name a form. Any other word
("Translate it.", "Answer in one word what it means.") makes it a part of the question.
"""

import re
from collections.abc import Sequence
from itertools import islice

from melo_core.words import words

ANSWERING = frozenset(words("answer answers reply replies respond response responses output result"))
SAYING = ANSWERING | frozenset(
    words(
        """
    be give return provide write say print state present format formatted phrase put express keep make show send tell
    use limit structure want need include add explain elaborate comment skip omit avoid
    """
    )
)
# Each names a form by itself.
FORMATS = frozenset(
    words("json yaml xml csv tsv html toml latex markdown prose plaintext bullet bullets lowercase uppercase")
)
MANNERS = frozenset(
    words(
        """
    brief briefly short shortly concise concisely succinct succinctly terse tersely precise precisely direct directly
    compact compactly polite politely formal formally plain
    """
    )
)
# These do together with a count or "in", "as", "with".
UNITS = frozenset(
    words(
        """
    word words sentence sentences line lines phrase phrases paragraph paragraphs character characters token tokens
    list table points text block object array string capitals caps digits numerals
    """
    )
)
COUNTS = frozenset(words("one two three four five six seven eight nine ten single few couple under than up"))
LEADING = frozenset(words("in as with using"))
# These do together with "only", "just", "nothing else".
ONE_WORD = frozenset(words("one-word one-line two-word single-word"))
NAMED = frozenset(words("answer name names number date year value result fact"))
ALONE = frozenset(words("only just alone nothing itself bare"))
# What an answer is to be without.
WITHOUT = frozenset(words("no without not don't dont skip omit avoid nothing"))
EXTRAS = frozenset(
    words(
        """
    explain explaining elaborate elaborating comment explanation explanations reasoning introduction preamble commentary
    comments text words detail details punctuation filler quotes sentences else more markdown
    """
    )
)
FILLING = frozenset(
    words(
        """
    please pls plz kindly thanks thank and also but or a an the your its my me us this that to of by valid pure raw
    strict simple small proper complete full whole clear exact final very really as so less fewer most least more max
    maximum no not do don't dont any further extra additional other else nothing about around exactly only just simply
    always can could would will you should must i is possible numbered bulleted code fence fences format form
    syntax notation case upper lower letters capital all question following point it's i'd like sure
    quick couple at less-than
    """
    )
)
KNOWN = SAYING | FORMATS | MANNERS | UNITS | COUNTS | LEADING | NAMED | ALONE | WITHOUT | EXTRAS | FILLING | ONE_WORD
# "Use it in a sentence" asks for something else than "put it in a sentence".
IT = re.compile(r"\b(keep|put|make|say|give|write|phrase|express|answer|format|return|state)(?:ting)? it\b", re.I)
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
QUESTION = frozenset(words("who whom whose what which when where why how is are was were does do did can has have"))
SENTENCES = re.compile(r"((?<=[.!?:;])[\"'”’)\]]*\s+|\s*\n\s*|(?<=[?!.])\s*(?=\())")
CLAUSES = re.compile(r"(,\s+|\s+[-–—]+\s+|\s+(?=\()|(?<=\))\s*)")
IN_UNITS = re.compile(r"in \w+ (?:\w+ )?(?:word|sentence|line)s?\W*$", re.I)
MOST = 16  # words of one instruction


def without_instructions(text: str) -> str:
    """Return a text without what it says of the answer's form; unchanged if that is all that it says."""
    kept = [_without_clauses(part) for part in _kept(SENTENCES.split(text), clause=False)]
    found = _without_ends("".join(kept).strip())
    return found if WORD.search(found) else text


def is_instruction(text: str, *, clause: bool = False) -> bool:
    """Tell whether a text says of what form an answer is to be, and nothing else.

    clause: of a longer sentence; a format alone may then belong to what is asked: "How do I export it, as JSON?"
    """
    said = _said(text)
    if not said or len(said) > MOST or not KNOWN.issuperset(word for word in said if not word.isdigit()):
        return False
    there = frozenset(said)
    says = bool(there & SAYING)
    counted = not there.isdisjoint(LEADING) or any(word in COUNTS or word.isdigit() for word in said)
    named = len(there & NAMED) > 0 and len(there & ALONE) > 0
    without = len(there & WITHOUT) > 0 and len(there & EXTRAS) > 0
    if there & MANNERS or there & ONE_WORD or named or without:
        return True
    if there & UNITS and counted:  # "Which is shorter, one word or two?"
        return not clause or says or bool(there & LEADING)
    return bool(there & FORMATS) and (not clause or says)


def _said(text: str) -> list[str]:
    return [word.casefold().replace("’", "'") for word in WORD.findall(IT.sub(r"\1", text))]


def _without_clauses(sentence: str) -> str:
    clauses = CLAUSES.split(sentence)
    kept = "".join(_kept(clauses, clause=True))
    if kept == sentence or not WORD.search(kept):
        return sentence
    mark = re.search(r"[?!.:]*$", sentence.rstrip())
    return kept.rstrip(" ,.-–—") + (mark.group() if mark and not kept.rstrip().endswith("?") else "")


def _kept(parts: Sequence[str], *, clause: bool) -> list[str]:
    """Drop the instructions among parts, each with the mark that joins it on. parts: texts and marks in turn."""
    found: list[str] = []
    for i in range(0, len(parts), 2):
        if not is_instruction(parts[i], clause=clause):
            found += [parts[i - 1], parts[i]] if found else [parts[i]]
    return found


def _without_ends(text: str) -> str:
    """Drop an instruction behind or before a question with no mark between: "who leads acme answer in one word"."""
    begin = max((mark.end() for mark in SENTENCES.finditer(text)), default=0)  # of the last sentence
    asks = False
    for at in WORD.finditer(text, begin):
        rest, word = text[at.start() :], at.group().casefold()
        if asks and (word in ANSWERING or IN_UNITS.match(rest)) and is_instruction(rest):
            mark = "?" if text.rstrip().endswith("?") else ""
            text = text[: at.start()].rstrip(" ,") + mark
            break
        asks |= word in QUESTION
    for at in islice(WORD.finditer(text), 1, MOST + 1):
        if at.group().casefold() in QUESTION and is_instruction(text[: at.start()]):
            return text[at.start() :]
    return text
