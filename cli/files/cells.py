"""Texts of cells and fields: cleaned of what programs leave in them, or refused with what to do."""

import ast
import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from cli.files.rows import Remarks
from cli.files.workbooks import Formatted, Unread

# What programs write where there is nothing. "none", in small letters, may well be an answer.
MISSING = frozenset({
    "nan", "NaN", "NAN", "-nan", "None", "null", "NULL", "Null", "<NA>", "NA", "NaT", "N/A", "n/a", "#N/A", "undefined",
    "(null)", "<null>", "[null]", "\\N", "inf", "-inf",
})  # fmt: skip
PENDING = frozenset({"-", "–", "—", "?", "??", "???", "...", "…", "TBD", "TBA", "TODO", "tbd", "tba", "todo"})
TRUTHS = frozenset({"True", "False", "TRUE", "FALSE", "WAHR", "FALSCH", "VRAI", "FAUX", "VERDADERO", "FALSO", "VERO"})
UNFILLED = re.compile(r"\{\}|\{\d\}|\{[a-z_][a-z0-9_.]*\}|\{\{\s*[a-z_][a-z0-9_.]*\s*\}\}", re.IGNORECASE)
WHOLE_FLOAT = re.compile(r"-?\d+\.0+")
SURELY_WHOLE = 3  # digits: 1987.0 is no number of a version, as 2.0 may be
FORMULA = re.compile(r"=\s*(?:[A-Z][A-Z0-9._]*\(|\$?[A-Z]{1,3}\$?\d+\b)", re.IGNORECASE)
QUOTED = re.compile(r'="([^"]*)"$')  # how a number is kept as text in CSV
BREAKLESS = re.compile("[\u00a0\u2007\u202f]")
UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff]")
BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
ESCAPED = re.compile("'(?=[=+@-])")  # an apostrophe that keeps a spreadsheet from taking a text for a formula
MIDNIGHT = re.compile(r"(\d{4}-\d\d-\d\d)[ T]00:00:00(?:\.0+)?(?:Z|\+00:00)?$")
HTML = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,6}|#x[0-9a-f]{1,5});|</?(?:b|i|em|strong|br|p|div|span|a|ul|li)\b[^<>]*>", re.I
)
OBJECT = re.compile(r"\{\s*(['\"])[^\n]{0,200}?\1\s*:")  # how one begins, as JSON or Python write it
CALLS = ("array(", "set(", "frozenset(")  # collections as numpy and Python write them
MOMENTS = range(10**12, 2 * 10**12)  # milliseconds since 1970
SEVERAL = re.compile(r"[?.!]\s*[|;/]\s*\S")  # "Who leads it? | Who runs it?"
NO_COMMAS = re.compile(r"""['"]\s+['"]""")  # a list as numpy writes it
ERROR = re.compile(
    r"#(?:N/A|REF!|NAME\?|VALUE!|DIV/0!|NUM!|NULL!|SPILL!|CALC!|ERROR!)$|#{3,}$|Loading\.\.\.$|Err:\d{3}$"
)  # of a spreadsheet
ROUNDED = re.compile(r"-?\d(?:[.,]\d+)?(?:E[+-]?|e\+)\d{2,}$")  # a long number, as a spreadsheet shows it
AS_IS = "If that is what it should say, submit with --as-is."
ONE_A_LINE = 'Write one a line within the cell, or a JSON list: ["…", "…"].'


class Unusable(Exception):
    """A value that is not stored: why, and what to do."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.why, self.remedy = why, remedy


@dataclass
class Cells:
    """Reads the values of one file. as_is: texts that look like leftovers are taken as they stand."""

    remarks: Remarks
    is_table: bool
    as_is: bool
    whole_columns: frozenset[str] = frozenset()  # all of whose numbers end in .0

    def text(self, line: int, column: str, value: Any, *, keeps_start: bool = False) -> str:
        """Return a text, empty where nothing is there. Raises Unusable.

        keeps_start: its indentation and line breaks at the ends matter, as for a prompt that is to be continued.
        """
        text = self._written(line, value)
        if self.as_is:
            return text
        text = self._cleaned(line, column, text, keeps_start)
        if text.strip() in MISSING:
            raise Unusable(
                f"is {text.strip()!r}, which programs write where a value is missing", f"Fill it in. {AS_IS}"
            )
        if text.strip() in PENDING:
            raise Unusable(f"is {text.strip()!r}, which stands for what is not known yet", f"Fill it in. {AS_IS}")
        if found := UNFILLED.search(text):
            raise Unusable(f"holds {found[0]!r}, a place that was not filled in", f"Fill it in. {AS_IS}")
        return text

    def optional(self, line: int, column: str, value: Any) -> str:
        """Return a text, empty where it is missing. Raises Unusable."""
        return "" if self.is_missing(value) else self.text(line, column, value)

    def several(self, line: int, column: str, value: Any) -> list[str]:
        """Return the texts of a list: of an array, of a cell with one a line, or of one text. Raises Unusable."""
        if self.is_missing(value):
            return []
        if isinstance(value, str):
            found: list[Any] | None = listed(value)
            if found is None and self.is_table:
                if not self.as_is and (_is_collection(value.strip()) or _is_bracketed(value)):
                    raise Unusable("looks like a list, and cannot be read as one", ONE_A_LINE)
                if not self.as_is and "\n" not in value.strip() and SEVERAL.search(value):
                    raise Unusable("seems to hold several texts in one line", f"{ONE_A_LINE} {AS_IS}")
                found = value.splitlines()
            values = [value] if found is None else found
        else:
            values = list(flat(value)) if isinstance(value, list | tuple) else [value]
        texts = (self.text(line, column, each) for each in values if not self.is_missing(each))
        return list(dict.fromkeys(text for text in texts if text.strip()))

    def number(self, value: Any) -> int | None:
        """Return the number of an edit. Raises Unusable."""
        if self.is_missing(value):
            return None
        found = re.fullmatch(r"(\d{1,18})(?:\.0+)?", str(value).strip())
        if not found or isinstance(value, bool):
            raise Unusable(f"is {str(value)[:40]!r}, which is no number of an edit", "Write the number of an edit.")
        return int(found[1])

    def is_missing(self, value: Any) -> bool:
        """Return whether there is nothing, or what programs write for nothing."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return True
        return isinstance(value, str) and (not value.strip() or (value.strip() in MISSING | PENDING and not self.as_is))

    def _written(self, line: int, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, Formatted):
            self.remarks.note("Numbers were taken as their format shows them, with a point before decimals", line)
        if isinstance(value, str):
            return value
        if isinstance(value, Unread):
            raise Unusable(value.why, value.remedy)
        if isinstance(value, bool):
            raise Unusable(f"is the truth value {str(value).lower()}", "Write the answer as text, such as Yes.")
        if isinstance(value, int):
            if value in MOMENTS and value % 1000 == 0 and not self.as_is:
                raise Unusable(
                    f"is {value}, which pandas writes for a date (milliseconds since 1970)",
                    f"Write the date as text. {AS_IS}",
                )
            self.remarks.note("Numbers were taken as text", line)
            return str(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise Unusable(f"is {value}, which is no text", "Fill it in.")
            self.remarks.note("Numbers were taken as text", line)
            text = str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
            if "e" in text and not self.as_is:
                raise Unusable(f"is the number {text}, whose digits cannot be told", f"Write it as text. {AS_IS}")
            return text
        if isinstance(value, date | time | timedelta):
            raise Unusable(f"is a date or a time ({value})", "Write it as text, as it is to be answered.")
        if isinstance(value, Decimal):
            return str(value)
        if isinstance(value, bytes):
            with suppress(UnicodeDecodeError):
                return value.decode()
        kind = "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "something else"
        raise Unusable(f"is {kind} and not a text", "Write a text.")

    def _cleaned(self, line: int, column: str, text: str, keeps_start: bool) -> str:
        if "\ufffd" in text:
            raise Unusable("holds \ufffd: letters were lost when it was written", "Write the file again as UTF-8.")
        text = BREAKS.sub("\n", text)
        if BREAKLESS.search(text):
            self.remarks.note("Non-breaking spaces became ordinary ones", line)
            text = BREAKLESS.sub(" ", text)
        if UNSEEN.search(text):
            self.remarks.note("Letters that nobody sees (byte order marks, soft hyphens) were left out", line)
            text = UNSEEN.sub("", text)
        bare = text.rstrip(" \t") if keeps_start else text.strip()
        if bare != text and bare.strip():
            self.remarks.note("Spaces at the ends were removed", line)
        if meant := _ungarbled(bare):
            raise Unusable(
                f"holds garbled letters: {bare[:40]!r} for {meant[:40]!r}", f"Write the file again as UTF-8. {AS_IS}"
            )
        if HTML.search(bare):
            self.remarks.note("HTML (&amp;, <br>) stands in texts, and was taken as it is", line)
        if self.is_table and (found := QUOTED.match(bare)):
            return found[1].strip()
        if self.is_table and ESCAPED.match(bare):
            self.remarks.note("An apostrophe before =, +, - or @ was removed", line)
            bare = bare[1:]
        if self.is_table and FORMULA.match(bare):
            raise Unusable("is a formula", f"Write what it comes to. {AS_IS}")
        if self.is_table and (ERROR.match(bare) or ROUNDED.match(bare)):
            why = "is an error of a spreadsheet" if ERROR.match(bare) else "is a number of which digits were lost"
            raise Unusable(f"{why}, {bare!r}", f"Write the text. {AS_IS}")
        if self.is_table and bare in TRUTHS:
            raise Unusable(f"is the truth value {bare}", f"Write the answer as text, such as Yes. {AS_IS}")
        if self.is_table and bare.endswith("}") and OBJECT.match(bare):
            raise Unusable("is an object that a program wrote into the cell", f"Write a text. {AS_IS}")
        if date_ := MIDNIGHT.match(bare):
            self.remarks.note(f"{bare} and the like were read as {date_[1]}, a date", line)
            return date_[1]
        if WHOLE_FLOAT.fullmatch(bare):
            return self._whole(line, column, bare)
        return bare

    def _whole(self, line: int, column: str, text: str) -> str:
        whole = text.partition(".")[0]
        if column not in self.whole_columns and len(whole.lstrip("-")) < SURELY_WHOLE:
            raise Unusable(f"is {text!r}, which may stand for {whole}", f"Write {whole}. {AS_IS}")
        self.remarks.note(f"{text} and the like were read as {whole}, a whole number", line)
        return whole


def listed(text: str) -> list[Any] | None:
    """Return the list that a text writes out in JSON or in Python; None: it is another text. Raises Unusable."""
    bare = text.strip()
    if not _is_bracketed(bare) and not _is_collection(bare):
        return None
    try:
        found = json.loads(bare)
    except (ValueError, RecursionError):
        if NO_COMMAS.search(bare):
            raise Unusable("is a list without commas", ONE_A_LINE) from None
        try:
            found = ast.literal_eval(bare)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        found = sorted(found) if isinstance(found, set) else list(found) if isinstance(found, tuple) else found
    is_of_texts = isinstance(found, list) and found and all(isinstance(each, str | int | float) for each in flat(found))
    return found if is_of_texts else ([] if found == [] else None)


def _is_collection(text: str) -> bool:
    """Return whether a text is a list, a tuple or a set of texts, as a program writes it out."""
    if text.startswith(CALLS):
        return text.endswith(")")
    inside = text[1:-1].strip().removesuffix(",").rstrip()
    is_quoted = len(inside) > 1 and inside[0] in "\"'" and inside[-1] in "\"'"
    return text[:1] + text[-1:] in ("()", "[]", "{}") and is_quoted


def _is_bracketed(text: str) -> bool:
    return text.strip().startswith("[") and text.strip().endswith("]")


def _ungarbled(text: str) -> str | None:
    """Return the text that was meant where UTF-8 was read as cp1252 and written so; None: it was not."""
    if text.isascii():
        return None
    try:
        # cp1252 leaves five bytes out, which programs take as they are.
        raw = b"".join(letter.encode("cp1252" if ord(letter) > 159 else "latin-1") for letter in text)
        return raw.decode()
    except UnicodeError:
        return None


def flat(values: Any) -> Iterator[Any]:
    """Yield the values of a list, and of the lists in it."""
    for each in values:
        if isinstance(each, list | tuple):
            yield from flat(each)
        else:
            yield each
