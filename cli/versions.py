"""`melo version`, and the commands of `melo edit` that make or read versions: every state, and ways back to it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cli.ask import in_this_process
from cli.commands import add_command, add_group
from cli.errors import CommandError
from cli.files.lines import lines_of
from cli.invocation import Invocation
from cli.options import Collection, Reason
from cli.server import Question
from cli.show import edits_in_words, fields, prompt_of, table, visible
from cli.times import TIME_HELP, moment

if TYPE_CHECKING:
    from registry.edits.schemas import EditView
    from registry.versions.schemas import DiffView, PlannedVersion, VersionView

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change; change nothing.")]


GROUP = "version"


def register(app: typer.Typer) -> None:
    """Add the group `version`."""
    group = add_group(app, GROUP, "Versions: list, show and compare them, go back to one.", "melo version list facts")
    add_command(group, list_, "melo version list facts")
    add_command(group, show, "melo version show facts 3   (or: melo version show facts@production)")
    add_command(group, diff, "melo version diff facts@3 facts@production --answers questions.txt")
    add_command(group, at, "melo version at facts 2026-11-17T14:05")
    add_command(group, revert, "melo version revert facts 3 --reason 'batch 7 was wrong, the ones after it are right'")
    add_command(group, rollback, "melo version rollback facts 3 --reason 'batch 7 was wrong'")


def group_of(app: typer.Typer) -> typer.Typer:
    """Return the group, so that other packages can add to it."""
    return next(each.typer_instance for each in app.registered_groups if each.name == GROUP and each.typer_instance)


def list_(
    call: Invocation,
    collection: Collection,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 50,
) -> None:
    """List a collection's versions, newest first."""
    found = call.client.versions(collection, limit=limit)
    columns = ["version#", "kind", "edits#", "aliases", "author", "made", "why", "content digest"]
    rows = [
        [each.number, _kind(each), each.edit_count, ", ".join(each.aliases), each.author, each.created_at,
         each.purpose or None, each.content_digest[:12]]
        for each in found
    ]  # fmt: skip
    call.emit(found, lambda: table(call.out, columns, rows, empty="No versions yet: the base model answers."))


def show(
    call: Invocation,
    where: Annotated[
        list[str], typer.Argument(metavar="VERSION", help="COLLECTION@VERSION, or COLLECTION and VERSION.")
    ],
) -> None:
    """Show one version: what it holds, what it changed, by whom and why."""
    collection, version = _one_version(where)
    wanted = number(call, collection, version)
    if wanted == 0:
        raise CommandError(
            "Nothing to show", f"{collection}@base is the model without edits.", "Name a version from 1 on."
        )
    found = call.client.version(collection, wanted)
    changed = found.changed
    rows = [
        ("version", f"{collection}@{found.number}, after {found.parent or 'the base model'}"),
        ("kind", _kind(found)),
        ("why", found.purpose),
        ("author", found.author),
        ("made", found.created_at),
        ("batch", found.batch_id),
        ("approved by", "\n".join(": ".join(filter(None, (each.actor, each.reason))) for each in found.approvals)),
        ("edits", f"{found.edit_count} act"),
        ("changed", f"{changed.added} added, {changed.retired} retired, {changed.replaced} replaced"),
        ("blocks", found.block_count),
        ("clusters", found.cluster_count),
        ("aliases", ", ".join(found.aliases)),
        ("content", found.content_digest),
    ]
    call.emit(found, lambda: fields(call.out, rows))


def diff(
    call: Invocation,
    where: Annotated[
        list[str],
        typer.Argument(metavar="A B", help="COLLECTION@VERSION twice, or COLLECTION VERSION VERSION."),
    ],
    limit: Annotated[int, typer.Option(min=0, max=10_000, help="The most edits of a kind that are listed.")] = 100,
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also ask both versions each line of a file; - is the standard input."),
    ] = None,
) -> None:
    """Show what changed between two versions; a version is a number, an alias, base or latest."""
    collection, first, second = _two_versions(where)
    prompts = lines_of(answers) if answers else []
    a, b = number(call, collection, first), number(call, collection, second)
    found = call.client.diff(collection, a, b, limit=limit)
    questions = [Question.of(prompt) for prompt in prompts]
    models = [f"{collection}@{version or 'base'}" for version in (a, b)]
    said = in_this_process(call, models, questions) if prompts else []
    pairs = [
        {"prompt": prompt, "a": old["answer"], "b": new["answer"]}
        for prompt, old, new in zip(prompts, *said, strict=True)
    ]

    def show() -> None:
        _show_diff(call, collection, found)
        if prompts:
            rows = [[pair["prompt"], pair["a"], _marked(pair["a"], pair["b"])] for pair in pairs]
            table(call.out, ["prompt", f"@{first}", f"@{second}"], rows, empty="")
            changed = sum(pair["a"] != pair["b"] for pair in pairs)
            call.out.print(f"answers: {changed} of {len(pairs)} differ")

    call.emit(found.model_dump(mode="json") | ({"answers": pairs} if prompts else {}), show)


def log(
    call: Invocation,
    edit: Annotated[int, typer.Argument(metavar="EDIT", min=1, help="The edit's number.")],
) -> None:
    """Show an edit's history: submitted, decided on, applied, replaced, retired, reverted, rolled back."""
    found = call.client.edit_log(edit)
    state = "acts" if found.active else "does not act"
    prompt = repr(found.edit.prompt) if found.edit.erased_at is None else "its content was erased"
    columns = ["at", "what", "acts", "version#", "other edit#", "who", "why"]
    rows = [
        [each.at, each.what, each.acts, each.version, each.other_edit, each.who, each.why] for each in found.entries
    ]
    call.say(visible(f"Edit {found.edit.id} of {found.collection} {state}: {prompt}"))
    call.emit(found, lambda: table(call.out, columns, rows, empty="Nothing is recorded."))


def at(
    call: Invocation, collection: Collection, time: Annotated[str, typer.Argument(metavar="TIME", help=TIME_HELP)]
) -> None:
    """Say which version was the newest at a given moment. For aliases: `melo alias at`."""
    asked = moment(time)
    found = call.client.version_at(collection, asked)
    version = found.version
    if version is None:
        told = f"At {asked:%Y-%m-%d %H:%M:%S %z}, {collection} had no version: the base model."
        call.emit(found, lambda: call.out.print(told))
        return
    pairs = [
        ("kind", _kind(version)),
        ("why", version.purpose),
        ("author", version.author),
        ("made", version.created_at),
        ("edits", version.edit_count),
    ]
    call.say(f"At {asked:%Y-%m-%d %H:%M:%S %z}, the newest was {collection}@{found.number}.")
    call.emit(found, lambda: fields(call.out, pairs))


def retire(
    call: Invocation,
    collection: Collection,
    edits: Annotated[list[int], typer.Argument(metavar="EDIT...", min=1, help="The edits' numbers.")],
    reason: Reason,
    dry_run: DryRun = False,
) -> None:
    """Make a version in which the edits no longer act. Nothing is retrained."""
    made = (call.client.plan_retire if dry_run else call.client.retire)(collection, edits, reason)
    call.emit(made, lambda: _show_made(call, collection, made))


def revert(
    call: Invocation,
    collection: Collection,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A number, or an alias.")],
    reason: Reason,
    dry_run: DryRun = False,
) -> None:
    """Make a version that undoes what one version changed, and nothing else."""
    target = number(call, collection, version)
    made = (call.client.plan_revert if dry_run else call.client.revert)(collection, target, reason)
    call.emit(made, lambda: _show_made(call, collection, made))


def rollback(
    call: Invocation,
    collection: Collection,
    to: Annotated[str, typer.Argument(metavar="VERSION", help="A number, an alias, or base.")],
    reason: Reason,
    dry_run: DryRun = False,
) -> None:
    """Make a version whose content equals an older one's, bit for bit."""
    target = number(call, collection, to)
    made = (call.client.plan_rollback if dry_run else call.client.rollback)(collection, target, reason)
    call.emit(made, lambda: _show_made(call, collection, made))


def _marked(before: str, after: str) -> Text:
    return Text(visible(after), style="green" if before != after else "dim")


def number(call: Invocation, collection: str, version: str) -> int:
    """Return the number that a version's name stands for."""
    if version.isdecimal():
        return int(version)
    return call.client.resolve(f"{collection}@{version}").number


def _kind(version: "VersionView") -> str:
    if version.restores is not None:
        return f"{version.kind.value} to {version.restores or 'the base model'}"
    return version.kind.value if version.reverts is None else f"{version.kind.value} of {version.reverts}"


def _one_version(where: list[str]) -> tuple[str, str]:
    words = where if len(where) == 2 else where[0].split("@") if len(where) == 1 else []
    if len(words) == 2 and all(words):
        return words[0], words[1]
    raise typer.BadParameter("write COLLECTION@VERSION, or COLLECTION VERSION.")


def _two_versions(where: list[str]) -> tuple[str, str, str]:
    if len(where) == 3:
        return where[0], where[1], where[2]
    names = [word.partition("@") for word in where]
    if len(where) == 2 and all(name and version for name, _, version in names):
        (first_name, _, first), (second_name, _, second) = names
        if first_name != second_name:
            raise typer.BadParameter(f"{first_name} and {second_name} are two collections; name one.")
        return first_name, first, second
    raise typer.BadParameter("write COLLECTION@VERSION twice, or COLLECTION VERSION VERSION.")


def _show_made(call: Invocation, collection: str, made: "VersionView | PlannedVersion") -> None:
    from registry.versions.schemas import PlannedVersion

    if isinstance(made, PlannedVersion):
        call.out.print(f"It would make {collection}@{made.number}; nothing was changed.")
        _show_diff(call, collection, made.diff)
    else:
        edits = edits_in_words(made.edit_count)
        call.out.print(Text(f"{collection}@{made.number} was made: {edits} act, content {made.content_digest[:12]}."))


def _show_diff(call: Invocation, collection: str, found: "DiffView") -> None:
    if found.same_content:
        call.out.print(f"{collection}@{found.a} and @{found.b} have the same content.")
        return

    def row(sign: str, edit: "EditView", colour: str) -> list[object]:
        return [Text(sign, style=colour), edit.id, prompt_of(edit), Text(edit.target, style=colour), edit.author]

    rows = [row("+", edit, "green") for edit in found.added]
    rows += [row("-", edit, "red") for edit in found.retired]
    for pair in found.replaced:
        rows += [row("-", pair.old, "red"), row("+", pair.new, "green")]
    table(call.out, ["", "edit#", "prompt", "target", "author"], rows, empty=_no_rows(found))
    listed = len(found.added), len(found.retired), len(found.replaced)
    counts = found.edits
    all_listed = listed == (counts.added, counts.retired, counts.replaced)
    call.out.print(
        f"edits: {counts.added} added, {counts.retired} retired, {counts.replaced} replaced"
        + ("" if all_listed else "; not all are listed (--limit)"),
    )
    for name, count in (("clusters", found.clusters), ("blocks", found.blocks)):
        call.out.print(f"{name}: {count.added} added, {count.removed} removed, {count.changed} changed")


def _no_rows(found: "DiffView") -> str:
    counts = found.edits
    return "The same edits." if not (counts.added or counts.retired or counts.replaced) else ""
