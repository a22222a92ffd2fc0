"""`melo alias report`: what a server found when it compared an alias's shadow with the version that answers."""

from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer
from rich.text import Text

from cli.errors import CommandError
from cli.invocation import Invocation
from cli.options import Collection
from cli.server import server_at
from cli.show import fields, table, visible

if TYPE_CHECKING:
    from registry.versions.schemas import ShadowReport, ShadowSide

TIMEOUT_SECONDS = 30


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
    found = read_report(asked.url, asked.key, f"{collection}@{name}")
    call.emit(found, lambda: _show(call, found))


def read_report(url: str, key: str | None, alias: str) -> "ShadowReport":
    """Read an alias's report from a server. Raises CommandError."""
    import httpx
    from pydantic import ValidationError

    from registry.versions.schemas import ShadowReport

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(f"{url}/v1/shadow/{quote(alias, safe='@')}", headers=headers, timeout=TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandError(
            "No server answers",
            f"{url}: {str(error) or type(error).__name__}.",
            "Start one with `melo serve`, or name another with --server http://HOST:PORT.",
        ) from None
    try:
        if answer.is_error:
            raise CommandError("There is no report", str(answer.json()["error"]["message"]))
        return ShadowReport.model_validate_json(answer.content)
    except (ValueError, KeyError, TypeError, ValidationError):
        raise CommandError(
            "Not a server of this release",
            f"{answer.request.url} answered {answer.status_code} {answer.reason_phrase}, in another form.",
            "Give --server the address of a `melo serve` of the same release.",
        ) from None


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
