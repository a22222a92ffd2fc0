"""Blocks over HTTP: their very bytes, to those who may see a version that has them, and to nobody else."""

import pytest

from registry.base.digests import sha256_hex
from tests.registry.keys import key, other_collection
from tests.registry.private import FRANCE, PRIVATE, correct, erase
from tests.registry.problem import is_problem
from tests.registry.trainings import sql


@pytest.fixture
def digests(workflow):
    """The digests of the blocks of two edits, in version 1."""
    correct(workflow, PRIVATE, FRANCE)
    return sql(workflow, "SELECT sha256 FROM blocks ORDER BY id")


def test_a_block_is_answered_byte_for_byte_and_may_be_kept_for_ever(api, digests):
    answer = api.get(f"/v1/blocks/{digests[0]}")
    assert sha256_hex(answer.content) == digests[0]
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["ETag"] == f'"{digests[0]}"'
    assert "immutable" in answer.headers["Cache-Control"]
    again = api.get(f"/v1/blocks/{digests[0]}", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content, again.headers["Cache-Control"]) == (
        304,
        b"",
        answer.headers["Cache-Control"],
    )
    assert api.get(f"/v1/blocks/{digests[0]}", headers={"If-None-Match": f'"{digests[1]}"'}).status_code == 200


def test_a_key_gets_the_blocks_of_collections_that_it_may_see_and_is_not_told_of_others(
    api, remote, digests, model_folder
):
    other_collection(api, model_folder)
    path = f"/v1/blocks/{digests[0]}"
    assert remote.get(path, headers=key(api, "mine", "viewer", "facts")).status_code == 200
    assert remote.get(path, headers=key(api, "all", "viewer")).status_code == 200
    foreign = remote.get(path, headers=key(api, "theirs", "admin", "other"))
    missing = remote.get(f"/v1/blocks/{'0' * 64}", headers=key(api, "theirs-too", "admin", "other"))
    is_problem(foreign, 404, "not-found")
    assert foreign.json()["detail"].replace(digests[0], "0" * 64) == missing.json()["detail"]
    is_problem(remote.get(path), 401, "unauthorized")


def test_a_block_that_no_version_has_is_not_there(api, workflow, digests):
    sql(
        workflow,
        "INSERT INTO blocks (collection_id, job_id, data, sha256, shapes, rank, scale, loss, iterations) "
        "SELECT collection_id, job_id, '\\x01', encode(sha256('\\x01'), 'hex'), shapes, rank, scale, loss, iterations "
        "FROM blocks WHERE id = 1",
    )
    is_problem(api.get(f"/v1/blocks/{sha256_hex(bytes([1]))}"), 404, "not-found")


def test_a_retired_block_is_still_in_its_version_until_it_is_erased(api, workflow, digests):
    workflow.retire(1)
    assert api.get(f"/v1/blocks/{digests[0]}").status_code == 200
    erase(workflow, 1)
    is_problem(api.get(f"/v1/blocks/{digests[0]}"), 410, "erased")
    assert api.get(f"/v1/blocks/{digests[1]}").status_code == 200


def test_bytes_that_were_changed_in_the_database_are_not_sent(api, digests, tamper):
    tamper("ALTER TABLE blocks DROP CONSTRAINT blocks_sha256_check")
    tamper("UPDATE blocks SET data = 'other' WHERE id = 1")
    answer = api.get(f"/v1/blocks/{digests[0]}")
    is_problem(answer, 500, "digest-mismatch")
    assert b"other" not in answer.content


def test_a_text_that_is_no_digest_is_refused(api, digests):
    is_problem(api.get(f"/v1/blocks/{digests[0].upper()}"), 422, "invalid-request")
