"""Every version shows what its line of changes says, whatever came in between: compared with a plain model of it."""

import random

import pytest
from sqlalchemy import text

from registry.base.errors import InvalidRequest, WrongState

Content = dict[str, int]  # the active prompts, with their edits' ids


class Model:
    """What each version should show, as plain dictionaries."""

    def __init__(self):
        self.contents: list[Content] = [{}]

    @property
    def newest(self) -> Content:
        return self.contents[-1]

    def changed_by(self, number: int) -> tuple[Content, Content]:
        """What the version added, and what it took out."""
        before, after = self.contents[number - 1], self.contents[number]
        return (
            {prompt: edit for prompt, edit in after.items() if before.get(prompt) != edit},
            {prompt: edit for prompt, edit in before.items() if after.get(prompt) != edit},
        )

    def reverted(self, number: int) -> Content | None:
        """The newest content without what the version changed; None: it was changed again since."""
        added, taken_out = self.changed_by(number)
        free = {prompt for prompt in taken_out if prompt not in self.newest or prompt in added}
        if any(self.newest.get(prompt) != edit for prompt, edit in added.items()) or free != taken_out.keys():
            return None
        return {prompt: edit for prompt, edit in self.newest.items() if prompt not in added} | taken_out


def turn(workflow, model: Model, rng: random.Random) -> None:
    """One random operation, on the record and on the model."""
    newest, numbers = model.newest, len(model.contents) - 1
    act = rng.choice(["apply", "apply", "replace", "retire", "revert", "revert", "rollback", "rollback"])
    if act == "retire" and newest:
        chosen = rng.sample(sorted(newest), rng.randint(1, min(2, len(newest))))
        workflow.retire(*(newest[prompt] for prompt in chosen))
        model.contents.append({prompt: edit for prompt, edit in newest.items() if prompt not in chosen})
    elif act == "rollback" and numbers:
        to = rng.randrange(numbers)
        workflow.rollback(to)
        model.contents.append(model.contents[to])
    elif act == "revert" and numbers:
        number = rng.randint(max(1, numbers - 5), numbers)
        expected = model.reverted(number)
        if model.changed_by(number) == ({}, {}):
            with pytest.raises(InvalidRequest, match="changed no edit"):
                workflow.revert(number)
        elif expected is None:
            with pytest.raises(WrongState, match="changed again"):
                workflow.revert(number)
        else:
            workflow.revert(number)
            model.contents.append(expected)
    else:
        prompts = [f"question {numbers}.{nth}?" for nth in range(rng.randint(1, 3))]
        if act == "replace" and newest:
            prompts.append(rng.choice(sorted(newest)))
        workflow.correct(*((prompt, f"answer {numbers}") for prompt in prompts), on_conflict="replace")
        ids = workflow.active()
        model.contents.append(newest | {prompt: ids[prompt] for prompt in prompts})


@pytest.mark.parametrize("seed", [4, 11])
def test_any_sequence_of_operations_leaves_every_version_as_a_plain_model_has_it(workflow, sessions, seed):
    rng, model = random.Random(seed), Model()
    for _ in range(30):
        turn(workflow, model, rng)
        assert workflow.active() == model.newest
    digests: dict[frozenset[int], set[str]] = {}
    with sessions() as session:
        rows = session.execute(
            text("SELECT number, kind, edit_count, cluster_count, block_count FROM versions ORDER BY number")
        ).all()
    assert len(rows) == len(model.contents) - 1 > 20
    assert {kind for _, kind, *_ in rows} == {"apply", "retire", "revert", "rollback"}
    for number, _, *counts in rows:
        content, expected = workflow.content(number), model.contents[number]
        content.require_intact()  # the digest that came from the changes is the one from scratch
        assert {edit.prompt: edit.id for edit in content.edits.values()} == expected
        assert counts == [len(content.edits), len(content.clusters), len(content.blocks)]
        digests.setdefault(frozenset(content.edits), set()).add(content.content_digest)
    # What comes back is as it was, also through a revert: the same edits are the same content.
    assert {len(each) for each in digests.values()} == {1}
    assert workflow.verify().findings == []


def rows_of(engine, table):
    """Every row with where it lies and which transaction wrote it."""
    with engine.connect() as connection:
        return connection.execute(text(f"SELECT ctid, xmin, xmax, valid FROM {table} ORDER BY ctid")).all()


def test_a_rollback_writes_no_row_of_a_cluster_or_an_edit(workflow, engine):
    workflow.correct(("a?", "x"), ("b?", "y"))
    workflow.retire(workflow.active()["a?"])
    before = [rows_of(engine, table) for table in ("clusters", "activations")]
    for to in (1, 0, 2):
        workflow.rollback(to)
    assert [rows_of(engine, table) for table in ("clusters", "activations")] == before
    assert workflow.verify().findings == []


@pytest.mark.parametrize(
    "wrong",
    [
        "kind = 'rollback', restores = 1, content_version = 2",  # shows another state than the version it names
        "kind = 'rollback', restores = 1, content_version = 1, content_digest = repeat('0', 64)",
        "kind = 'rollback', restores = 7, content_version = 0",
        "content_version = 1",  # no rollback, and yet not its own state
        "content_state = NULL",
        "content_state = 'short'",
        "created_at = '2001-01-01'",
        "reason = ' '",
        "reverts = 2",
    ],
)
def test_the_database_refuses_a_version_that_does_not_follow(workflow, engine, wrong):
    workflow.correct(("a?", "x"))
    workflow.retire(workflow.active()["a?"])
    columns = (
        "collection_id, number, parent_id, kind, reason, author, content_version, content_digest, content_state, "
        "edit_count, cluster_count, block_count, restores, reverts, created_at"
    )
    good = (
        "CREATE TEMP TABLE one AS SELECT collection_id, 3 AS number, id AS parent_id, 'retire' AS kind, 'r' AS reason, "
        "'eve' AS author, 3 AS content_version, content_digest, content_state, 0 AS edit_count, 0 AS cluster_count, "
        "0 AS block_count, restores, reverts, now() AS created_at FROM versions WHERE number = 2"
    )
    insert = f"INSERT INTO versions ({columns}) SELECT {columns} FROM one"
    with engine.connect() as connection:
        connection.execute(text(good))
        with connection.begin_nested() as savepoint:
            connection.execute(text(insert))  # as it stands, it would do
            savepoint.rollback()
        connection.execute(text(f"UPDATE one SET {wrong}"))
        with pytest.raises(Exception, match=r"violates (check|not-null)|does not show|is older"):
            connection.execute(text(insert))
