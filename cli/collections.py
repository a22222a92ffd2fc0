"""`melo collection`: series of versions, each over one base model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cli import queues
from cli.commands import add_command, add_group
from cli.errors import CommandError
from cli.follow import go_on
from cli.invocation import Invocation
from cli.options import Approve, Collection, Wait
from cli.options import settings as json_settings
from cli.show import edits_in_words, fields, table
from registry.base.model_files import MODELS
from registry.base.vocabulary import Preflight

Approvals = typer.Option("--approvals", min=1, max=10, help="How many different people have to approve a batch.")
Approver = typer.Option("--approver", metavar="NAME", help="Who may approve; may be repeated. Default: anyone.")
PreflightDepth = typer.Option(
    "--preflight", help="What a worker does before the decision: nothing, keys, or training too."
)
LeftAlone = typer.Option(
    "--left-alone", metavar="SHARE", min=0, max=1, help="Share of near misses that a batch has to leave alone; 0: any."
)

PreflightLimit = typer.Option(
    "--preflight-limit",
    metavar="NAME=MOST",
    help="The most seconds, near_misses, tokens or steps of a preflight; may be repeated. none: the operator's.",
)

LogShare = typer.Option(
    "--log", metavar="off|full|SHARE", help="What the server logs of answers: nothing, all, or a share such as 0.1."
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from registry.collections.schemas import CollectionView


def register(app: typer.Typer) -> None:
    group = add_group(
        app,
        "collection",
        "Collections: lines of versions over one base model, and the queue of each.",
        "melo collection create facts --model smollm2-135m-instruct",
    )
    add_command(group, create, "melo collection create facts --model smollm2-135m-instruct --self-approval")
    add_command(group, copy, "melo collection copy facts facts-large --model smollm2-360m-instruct")
    add_command(group, policy, "melo collection policy facts --approvals 2 --reason 'two pairs of eyes'")
    add_command(group, list_, "melo collection list --json")
    add_command(group, show, "melo collection show facts")
    queues.add_to(group)


def create(
    call: Invocation,
    name: Annotated[str, typer.Argument(metavar="COLLECTION", help="Its name: small letters, digits, dots, dashes.")],
    model: Annotated[
        str, typer.Option(help="A packaged model's name, a transformers folder, a GGUF file or a hub id.")
    ],
    encoder: Annotated[
        str | None, typer.Option(help="Sentence encoder of the keys. Default: all-minilm-l6-v2.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Where settings come from that are not given: default or paper.")
    ] = None,
    settings: Annotated[
        str | None,
        typer.Option("--method", metavar="JSON", help="Settings of the method, as a JSON object."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Whitening of the keys, as `melo calibrate --out FILE` wrote it."),
    ] = None,
    self_approval: Annotated[
        bool, typer.Option("--self-approval", help="Submitters may approve their own batches.")
    ] = False,
    approvals: Annotated[int | None, Approvals] = None,
    approver: Annotated[list[str] | None, Approver] = None,
    preflight: Annotated[Preflight | None, PreflightDepth] = None,
    left_alone: Annotated[float | None, LeftAlone] = None,
) -> None:
    """Create a collection."""
    made = call.client.create_collection(
        name,
        _located(model),
        encoder=encoder,
        preset=preset,
        method=json_settings(settings, "--method", '{"rank": 4}'),
        calibration=_calibration(calibration),
        self_approval=self_approval,
        approvals_needed=approvals,
        approvers=approver,
        preflight=preflight,
        left_alone_needed=left_alone,
    )
    call.emit(made, lambda: call.out.print(f"Collection {made.name} was made, over {made.model}."))


def copy(
    call: Invocation,
    source: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection to copy.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new collection's name.")],
    model: Annotated[str | None, typer.Option(help="Its base model. Default: the same.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Sentence encoder of its keys. Default: the same.")] = None,
    radius: Annotated[float | None, typer.Option(help="Its radius. Default: the same.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="JSON", help="Other settings of the method that are to differ.")
    ] = None,
    approve: Approve = False,
    wait: Wait = False,
) -> None:
    """Copy a collection's active edits into a new one, over another base model or with other settings.

    Everything is trained anew: the edits are one batch, which is decided on as the policy says, which is the source's.
    """
    changes = (json_settings(method, "--method", '{"rank": 4}') or {}) | ({} if radius is None else {"radius": radius})
    made = call.client.copy_collection(source, name, model=model and _located(model), encoder=encoder, method=changes)
    call.say(f"Collection {name} was made, over {made.collection.model}.")
    batch = made.batch
    if batch is None:
        call.say(f"{source} has no active edit to copy.")
    else:
        count = edits_in_words(batch.edit_count)
        call.say(f"Batch {batch.id} was submitted with {count}.")
        batch = go_on(call, batch, approve=approve, wait=wait)
    call.emit({"collection": made.collection, "batch": batch})


def _located(model: str) -> str:
    """Return a model's name as the registry finds it: a path of this folder as an absolute one."""
    path = Path(model).expanduser()
    return str(path.resolve()) if model not in MODELS and path.exists() else model


def policy(
    call: Invocation,
    name: Collection,
    reason: Annotated[str, typer.Option(help="Why it is changed.")],
    approvals: Annotated[int | None, Approvals] = None,
    approver: Annotated[list[str] | None, Approver] = None,
    anyone: Annotated[bool, typer.Option("--anyone", help="Whoever has the role may approve.")] = False,
    self_approval: Annotated[
        bool | None, typer.Option("--self-approval/--no-self-approval", help="May submitters approve their own?")
    ] = None,
    preflight: Annotated[Preflight | None, PreflightDepth] = None,
    left_alone: Annotated[float | None, LeftAlone] = None,
    preflight_limit: Annotated[list[str] | None, PreflightLimit] = None,
    log: Annotated[str | None, LogShare] = None,
    log_text: Annotated[
        bool | None, typer.Option("--log-text/--no-log-text", help="Does the log keep questions and answers?")
    ] = None,
    log_days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="After how many days logged answers are deleted.")
    ] = None,
) -> None:
    """Change what batches need and what is logged of answers; what is not given stays as it is."""
    if anyone and approver:
        raise typer.BadParameter("it contradicts --approver", param_hint="--anyone")
    found = call.client.change_policy(
        name,
        reason,
        approvals_needed=approvals,
        approvers=[] if anyone else approver,
        self_approval=self_approval,
        preflight=preflight,
        left_alone_needed=left_alone,
        preflight_limits=_limits(preflight_limit),
        log_share=_share(log),
        log_text=log_text,
        log_days=log_days,
    )
    call.say(Text(f"Batches of {name}: {_policy(found)}."))
    call.say(Text(f"Answers of {name}: {_logged(found)}."))
    call.emit(found)


def list_(call: Invocation) -> None:
    """List all collections."""
    found = call.client.collections()
    columns = [
        "name", "model", "latest#", "active edits#", "aliases", "approvals#", "preflight", "queue", "created",
    ]  # fmt: skip
    rows = [
        [each.name, each.model, each.latest, each.active_edits,
         ", ".join(f"{alias}→{number}" for alias, number in sorted(each.aliases.items())),
         each.approvals_needed, each.preflight.value, each.queue.value, each.created_at]
        for each in found
    ]  # fmt: skip
    call.emit(
        found,
        lambda: table(call.out, columns, rows, empty="No collection yet: make one with `melo collection create`."),
    )


def show(call: Invocation, name: Collection) -> None:
    """Show a collection."""
    found = call.client.collection(name)
    call.emit(found, lambda: _show(call.out, found))


def _calibration(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError("The file cannot be read", f"{path}: {error.strerror}.", "Check its name.") from None


def _policy(found: "CollectionView") -> str:
    """Describe the policy in words."""
    many = "1 approval" if found.approvals_needed == 1 else f"{found.approvals_needed} approvals"
    who = f"by {', '.join(found.approvers)}" if found.approvers else "by anyone with the role"
    own = "submitters may approve their own" if found.self_approval else "not by who submitted"
    preflight = {
        Preflight.NONE: "no preflight",
        Preflight.KEYS: "a preflight shows answers and near edits",
        Preflight.TRAIN: "a preflight trains too, so that its answers can be seen",
    }
    needed = found.left_alone_needed
    alone = "" if needed is None else f", and at least {needed:.0%} of near misses are to be left alone"
    least = ", ".join(f"{most:,} {name.replace('_', ' ')}" for name, most in sorted(found.preflight_limits.items()))
    within = f", within {least}" if least else ""
    return f"{many} {who}, {own}; {preflight[found.preflight]}{within}{alone}"


def _limits(given: "Sequence[str] | None") -> dict[str, int] | None:
    """Read limits of preflights, each as NAME=MOST; the word none stands for no limits. Raises typer.BadParameter."""
    if given is None:
        return None
    if given == ["none"]:
        return {}
    try:
        return {name.replace("-", "_"): int(most) for name, most in (each.split("=") for each in given)}
    except ValueError:
        raise typer.BadParameter(
            "give seconds=300, near_misses=500, tokens=20000 or steps=1000, or none", param_hint="--preflight-limit"
        ) from None


def _share(text: str | None) -> float | None:
    """Return the share of responses to log. Raises typer.BadParameter."""
    try:
        share = None if text is None else float({"off": "0", "full": "1"}.get(text, text))
    except ValueError:
        share = -1
    if share is None or 0 <= share <= 1:
        return share
    raise typer.BadParameter("it is neither off, full, nor a share from 0 to 1", param_hint="--log")


def _logged(found: "CollectionView") -> str:
    """Describe in words what is logged."""
    if found.log_share == 0:
        return "none is logged"
    many = "all are" if found.log_share == 1 else f"{found.log_share:.3g} of them are"
    with_text = "with question and answer" if found.log_text else "without their text"
    days = "1 day" if found.log_days == 1 else f"{found.log_days} days"
    return f"{many} logged for {days}, {with_text}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _show(console: "Console", found: "CollectionView") -> None:
    fields(
        console,
        [
            ("name", found.name),
            ("model", found.model),
            ("model digest", found.model_digest),
            ("window", f"{found.window} tokens"),
            ("encoder", found.encoder),
            ("encoder digest", found.encoder_digest),
            ("calibration", found.calibration_sha256),
            ("method", ", ".join(f"{name}={_shown(value)}" for name, value in sorted(found.method.items()))),
            ("policy", _policy(found)),
            ("answers", _logged(found)),
            ("queue", found.queue.value),
            ("latest version", found.latest),
            ("active edits", found.active_edits),
            ("aliases", ", ".join(f"{name}→{number}" for name, number in sorted(found.aliases.items()))),
            ("created", found.created_at),
            ("created by", found.created_by),
        ],
    )
