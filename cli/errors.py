"""Errors shown to the user, caused by a mistake or an outside failure: title, detail and remedy."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from cli.show import visible
from registry.base.errors import UserError

SHOWN_PROBLEMS = 50
FIELD = re.compile(r"`([a-z_]+)(?:=([^`]+))?`")  # `on_conflict=skip`
PLACE = re.compile(r"(?:^|(?<=; ))(?:body|query)\.(?=[a-z])")  # body.reason: it is empty
HTTP = {"`Authorization: Bearer KEY`": "MELO_API_KEY", "`X-Melo-Actor`": "--as or MELO_ACTOR", "`/docs`": "--help"}
IN_FILES = ("replaces",)  # fields that keep their names where a file's line is meant
NEEDS_WORKER = "pip install 'melo-registry[worker]'"
NEEDS_SOURCE = "pip install --editable '.[worker]' in a checkout of MELO's source"


class CommandError(UserError):
    """Shown in red on stderr; the command then ends with status 1."""

    def __init__(self, title: str, detail: str, remedy: str = "", problems: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail, remedy)
        self.title = title
        self.problems = list(problems)

    def __str__(self) -> str:
        return f"{self.title}: {self.detail}"


def in_flags(text: str, kept: Sequence[str] = ()) -> str:
    """Return a remedy of the registry in the words of the command line: --on-conflict skip for `on_conflict=skip`."""

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name in kept:
            return found[0]
        return f"--{name.replace('_', '-')}{'' if value is None else f' {value}'}"

    for header, option in HTTP.items():
        text = text.replace(header, option)
    return FIELD.sub(flag, text)


def show_error(console: Console, error: UserError) -> None:
    """Print an error with its remedy, and the records that it concerns."""
    detail = PLACE.sub("", error.detail)
    said = detail.removeprefix(error.title)  # some begin with their title
    told = Text(visible(said if said != detail else f": {detail}"))
    console.print(Text(visible(error.title), style="bold red"), told, sep="")
    problems = list(getattr(error, "problems", ()))
    for problem in problems[:SHOWN_PROBLEMS]:
        console.print(problem_text(problem))
    if len(problems) > SHOWN_PROBLEMS:
        console.print(f"  … and {len(problems) - SHOWN_PROBLEMS} more")
    if error.remedy:
        console.print(Text(visible(in_flags(error.remedy)), style="yellow"))


def problem_text(problem: Mapping[str, Any]) -> Text:
    """Describe one record's problem: its line, the cause, the two records that collide, the remedy."""
    lines = [Text.assemble(("  " + _where(problem) + ": ", "bold"), visible(str(problem.get("detail", ""))))]
    if problem.get("prompt") is not None and problem.get("target") is not None:
        lines.append(_pair("this", problem["prompt"], problem["target"]))
    if problem.get("other_prompt") is not None:
        other = _other(problem)
        lines.append(_pair(other, problem["other_prompt"], problem.get("other_target", "")))
    if problem.get("remedy"):
        remedy = in_flags(str(problem["remedy"]), IN_FILES if problem.get("line") else ())
        lines.append(Text("    " + visible(remedy), style="yellow"))
    return Text("\n").join(lines)


def _where(problem: Mapping[str, Any]) -> str:
    place = problem.get("place") or (
        f"line {problem['line']}" if problem.get("line") else f"edit {problem.get('position', '?')}"
    )
    return f"{place}, {problem['field']}" if problem.get("field") else place


def _other(problem: Mapping[str, Any]) -> str:
    if problem.get("other_edit_id") is not None:
        return f"edit {problem['other_edit_id']}"
    return f"record {problem.get('other_position', '?')} of this submission"


def _pair(name: str, prompt: object, target: object) -> Text:
    return Text(f"    {name}: {_short(prompt)} → {_short(target)}", style="dim")


def _short(text: object, longest: int = 200) -> str:
    shown = visible(str(text))
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
