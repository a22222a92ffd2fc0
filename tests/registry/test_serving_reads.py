"""What a serving host reads of the record without a database: content, changes, and who a key belongs to."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from registry.audit.changes import listening, since
from registry.audit.schemas import ChangesView
from registry.base.errors import DigestMismatch, InvalidRequest
from registry.erasure import service as erasure
from registry.versions import reading
from registry.versions.aliases import set_alias
from registry.versions.content_lines import content_in, lines_of
from tests.registry.keys import carrying, key, other_collection
from tests.registry.workflow import BEN, merged, trained

ASKED = [("Who leads Rome?", "Mara"), ("Who leads Oslo?", "Nils"), ("Wer führt Köln?", "Jürgen")]


@pytest.fixture
def corrected(workflow):
    workflow.correct(*ASKED)
    workflow.correct(("Who leads Bern?", "Ida"))
    return workflow


def test_content_read_over_http_is_the_content_of_the_version_and_verifies(corrected, api):
    for number in (0, 1, 2):
        read = api.get(f"/v1/collections/facts/versions/{number}/content", headers={"Accept-Encoding": "identity"})
        assert read.headers["Content-Type"].startswith("application/x-ndjson")
        content = content_in(read.content.splitlines())
        with corrected.open() as (session, collection):
            assert content == reading.content(session, collection, number)
        content.require_intact()
    packed = api.get("/v1/collections/facts/versions/2/content")
    assert packed.headers["Content-Encoding"] == "gzip" and packed.content == read.content


def test_clusters_of_several_points_are_read_with_their_own_centres(workflow):
    batch = workflow.submit(*({"prompt": prompt, "target": "Mara"} for prompt, _ in ASKED)).batch
    claim = workflow.claim(workflow.approve(batch.id))
    with workflow.open() as (session, collection):
        result = trained(claim, reading.content(session, collection, 0))
    workflow.finish(claim, merged(result, [point.number for point in result.points[:2]]))
    with workflow.open() as (session, collection):
        content = reading.content(session, collection, 1)
    assert content_in(lines_of(content)) == content


@pytest.mark.parametrize("spoil", [lambda lines: lines[:-1], lambda lines: lines[1:], lambda lines: [*lines, b'["x"']])
def test_content_that_arrives_in_part_is_refused(corrected, spoil):
    with corrected.open() as (session, collection):
        lines = list(lines_of(reading.content(session, collection, 2)))
    with pytest.raises(DigestMismatch, match="incomplete"):
        content_in(spoil(lines))


def test_content_that_was_erased_or_never_was_is_refused(corrected, api):
    assert api.get("/v1/collections/facts/versions/9/content").json()["code"] == "not-found"
    assert api.get("/v1/resolve", params={"model": "facts@2"}).json()["servable"] is True
    edit = corrected.active()[ASKED[0][0]]
    corrected.retire(edit)
    with corrected.sessions.begin() as session:
        erasure.erase(session, [edit], BEN, "asked for by its subject", dry_run=False)
    gone = api.get("/v1/collections/facts/versions/2/content")
    assert (gone.status_code, gone.json()["code"]) == (410, "erased")
    assert api.get("/v1/resolve", params={"model": "facts@2"}).json()["servable"] is False
    assert api.get("/v1/resolve", params={"model": "facts@3"}).json()["servable"] is True


def test_a_name_can_be_the_version_that_was_newest_at_a_time(corrected):
    with corrected.open() as (session, collection):
        made = [version.created_at for version in reading.page(session, collection, before=None, limit=9)][::-1]

        def at(moment: datetime) -> int:
            return reading.resolve(session, f"facts@as-of:{moment.isoformat()}").number

        assert [at(moment) for moment in made] == [1, 2]
        assert at(made[1] - timedelta(microseconds=1)) == 1 and at(made[0] - timedelta(days=1)) == 0
        assert at(datetime.now(UTC) + timedelta(days=1)) == 2
        assert reading.resolve(session, "facts@as-of:1999-01-01T00:00Z").number == 0
        for wrong in ("", "yesterday", "2026-11-17T14:05"):
            with pytest.raises(InvalidRequest, match="no time with a zone"):
                reading.resolve(session, f"facts@as-of:{wrong}")


def test_changes_are_told_by_collection_once_and_only_to_those_who_see_it(corrected, api, remote, model_folder):
    def changes(client, **query) -> ChangesView:
        return ChangesView.model_validate(client.get("/v1/audit/changes", params=query).raise_for_status().json())

    first = changes(api)
    assert first.collections is None and first.seq > 0
    assert changes(api, after=first.seq) == ChangesView(seq=first.seq, collections=[], keys=False)
    assert changes(api, after=first.seq + 100).collections is None  # of a log that was restored
    with corrected.open() as (session, collection):
        set_alias(session, collection, "production", 1, BEN)
    moved = changes(api, after=first.seq, wait=30)
    assert moved.collections == ["facts"] and not moved.keys
    other_collection(api, model_folder)
    own, foreign = (key(api, name, "viewer", name) for name in ("facts", "other"))
    made = changes(api, after=moved.seq)
    assert made.keys and made.collections == ["other"]
    with corrected.open() as (session, collection):
        set_alias(session, collection, "production", 2, BEN)
    for headers, seen in ((own, ["facts"]), (foreign, [])):
        found = remote.get("/v1/audit/changes", params={"after": made.seq}, headers=headers)
        assert found.json()["collections"] == seen


def test_a_listener_is_woken_by_a_commit_and_told_what_it_missed(corrected, engine):
    with engine.connect() as connection:
        head = since(connection, None).seq
    with listening(engine) as listener:
        assert listener.next(head, 0).seq == head
        woken = []
        waiting = threading.Thread(target=lambda: woken.append(listener.next(head, 60)))
        waiting.start()
        with corrected.open() as (session, collection):
            set_alias(session, collection, "production", 1, BEN)
            known = collection.id
        waiting.join(30)
        assert not waiting.is_alive() and woken[0].collections == {known}
    with engine.connect() as connection:
        assert since(connection, head).collections == {known}
        assert connection.scalar(text("SELECT count(*) FROM pg_listening_channels()")) == 0


def test_a_key_says_whose_it_is_and_what_it_may(corrected, api, remote, model_folder):
    assert api.get("/v1/whoami").json()["roles"] == [{"role": "admin", "collection": None, "collection_id": None}]
    headers = key(api, role="viewer", collection="facts")
    said = remote.get("/v1/whoami", headers=headers).json()
    assert said["identity"] == "key/1" and said["key_name"] == "ci"
    with corrected.open() as (_, collection):
        assert said["roles"] == [{"role": "viewer", "collection": "facts", "collection_id": collection.id}]
    assert remote.get("/v1/whoami", headers=carrying("melo_000000000000_" + "x" * 43)).status_code == 401
