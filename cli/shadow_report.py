"""`melo alias report`: what a server found when it compared an alias's shadow with the version that answers."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cli.invocation import Invocation
from cli.options import Collection
from cli.server import server_at
from cli.show import fields, table, visible

if TYPE_CHECKING:
    from registry.versions.schemas import ShadowReport, ShadowSide


def report(
    call: Invocation,
    collection: Collection,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="The alias, such as production.")],
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The server (`melo serve`) to ask. Default: this machine's, MELO_SERVE_PORT."),
    ] = None,
) -> None:
    """Show what a server found when it compared an alias's shadow. Each server has its own report, in memory alone."""
    asked = server_at(call, server or f"http://127.0.0.1:{call.settings.serve_port}")
    found = asked.shadow_report(f"{collection}@{name}")
    call.emit(found, lambda: _show(call, found))


def _show(call: Invocation, found: "ShadowReport") -> None:
    pairs = [
        ("answers", found.first),
        ("shadow", found.second),
        ("since", found.since),
        ("compared", found.compared),
        ("same answer, same edit", found.same),
        ("another text", found.other_text),
        ("another edit", found.other_edit),
        ("not compared, server busy", found.dropped),
        ("failed", found.failed),
        ("the shadow is not asked", found.error),
    ]
    fields(call.out, pairs)
    rows = [
        [each.at, each.question, _answer(each.first, "red"), _answer(each.second, "green")]
        for each in found.differences
    ]
    columns = ["asked", "question", found.first, found.second]
    table(call.out, columns, rows, empty="No question is known to which they answer differently.")


def _answer(side: "ShadowSide", colour: str) -> Text:
    origin = "base model" if side.edit is None else f"edit {side.edit}"
    return Text.assemble((visible(side.text or ""), colour), (f" ({origin})", "dim"))
