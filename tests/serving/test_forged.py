"""What the database's owner writes without a key is not served: the last good version goes on, and that is told."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC
from itertools import count

import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from registry.audit.details import AliasSet
from registry.audit.signing import public_text
from registry.audit.trust import signing_of
from registry.base.database import make_engine
from registry.base.settings import Settings
from registry.tables.versions import Alias
from serving.sources.database import DatabaseSource
from serving.sources.http import HttpSource
from serving.sources.port import Source
from tests.operators_key import KEY as OPERATORS
from tests.operators_key import SECRET
from tests.patience import until
from tests.registry.test_signing import KEY, append
from tests.registry.workflow import Workflow
from tests.serving.conftest import OTHER, Site, running
from tests.serving.test_answers import chat

_numbers = count()
BOTH = pytest.mark.parametrize("kind", ["database", "registry"])


@pytest.fixture
def trusting(site: Site, tmp_path) -> Iterator[Callable[[str], Source]]:
    """Open a source of either kind that knows the key with which every event from now on has to be signed."""
    first = Workflow(site.sessions).verify().head_seq + 1
    keys = f"{public_text(KEY)} {first}-"
    given = Settings(database_url=site.url, home=tmp_path, api_key=SECRET, public_keys=keys)
    with ExitStack() as open_servers:

        def make(kind: str) -> Source:
            if kind == "database":
                return DatabaseSource(make_engine(site.url), signing_of(given))
            return HttpSource(open_servers.enter_context(running(given)), OPERATORS)

        yield make


def forge(site: Site, statement: str) -> None:
    with site.sessions.begin() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text(statement))


def point(site: Site, name: str, number: int) -> None:
    """Change an alias's row, and have every server look."""
    forge(site, f"UPDATE aliases SET number = {number} WHERE name = '{name}' AND replaced_at IS NULL")
    site.alias(f"after-{next(_numbers)}", 1)


@pytest.fixture
def told(site: Site) -> None:
    """An alias that was set before there was a key."""
    site.alias("told", 1)


@BOTH
def test_a_forged_alias_is_not_followed_and_the_log_health_and_metrics_name_it(kind, start, site, told, trusting):
    alias, name = "told", "facts@told"
    server = start(source=trusting(kind))

    def unfollowed(asked=server):
        return asked.get("/health").json()["not_followed"]

    assert chat(server, name, OTHER)["melo"]["version"] == "facts@1" and unfollowed() == []
    with capture_logs() as logged:
        point(site, alias, 2)
        until(lambda: unfollowed() == [name])
    assert any(each.get("name") == name and "its row says version 2" in each["error"] for each in logged)
    assert f'melo:not_followed{{name="{name}"}} 1.0' in server.get("/metrics").text
    assert chat(server, name, OTHER)["melo"]["version"] == "facts@1"

    started_now = start(source=trusting(kind))
    refused = chat(started_now, name, OTHER, status=503)["error"]
    assert refused["code"] == "unverified" and name in refused["message"]
    assert unfollowed(started_now) == [name]

    point(site, alias, 1)
    until(lambda: unfollowed() == unfollowed(started_now) == [])
    assert chat(started_now, name, OTHER)["melo"]["version"] == "facts@1"
    assert "name=" not in server.get("/metrics").text.partition("melo:not_followed{")[2]


def test_an_event_that_is_not_signed_moves_no_alias(start, site, told, trusting):
    server = start(source=trusting("database"))
    assert chat(server, "facts@told", OTHER)["melo"]["version"] == "facts@1"
    forge(site, "UPDATE aliases SET number = 2 WHERE name = 'told' AND replaced_at IS NULL")
    with site.sessions() as session:
        row = session.scalars(select(Alias).where(Alias.name == "told", Alias.replaced_at.is_(None))).one()
    moment = row.set_at.astimezone(UTC).isoformat(timespec="microseconds")
    append(Workflow(site.sessions), AliasSet(from_=1, to=2, set_at=moment), "alias/facts/told")
    until(lambda: server.get("/health").json()["not_followed"] == ["facts@told"])
    assert chat(server, "facts@told", OTHER)["melo"]["version"] == "facts@1"
    refused = chat(start(source=trusting("database")), "facts@told", OTHER, status=503)["error"]["message"]
    assert "it is not signed" in refused
