"""Warnings for a batch's reviewers: about its edits' texts, and about where the encoder sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from registry.base.vocabulary import PointRole
from registry.edits import repository as edit_rows
from registry.edits.appearance import in_words, warnings_of
from registry.edits.schemas import EditWarning, WarningCode
from registry.jobs.claiming import Claim, ClaimedEdit
from registry.tables.edits import Edit
from registry.versions.content import VersionContent
from worker.candidate import CollectionScope
from worker.watch import Watch, Worker

Keys = Mapping[int, Sequence[tuple[PointRole, Tensor]]]  # by edit id


@dataclass(frozen=True)
class Theirs:
    """Another edit near one of an edit's keys."""

    edit_id: int
    prompt: str
    distance: float


def warnings_and_distances(
    worker: Worker,
    claim: Claim,
    scope: CollectionScope,
    content: VersionContent,
    keys: Keys,
    theirs: Mapping[int, Sequence[Sequence[Theirs]]],
    watch: Watch,
) -> tuple[dict[int, list[EditWarning]], dict[int, float]]:
    """Return, by edit, its warnings, and the distance between its prompt and that of the edit that it replaces.

    theirs: by edit, the edits near the key of its prompt and then of each rephrase.
    """
    with worker.sessions() as session:
        named = {edit.replaces for edit in claim.edits if edit.replaces is not None}
        replaced = {edit.id: edit for edit in edit_rows.by_ids(session, named)}
    warned: dict[int, list[EditWarning]] = {edit.id: [] for edit in claim.edits}
    for warning in warnings_of(claim.edits, [*content.edits.values(), *replaced.values()]):
        warned[warning.edit_id].append(warning)
    distances: dict[int, float] = {}
    for done, edit in enumerate(claim.edits, 1):
        old = replaced.get(edit.replaces or 0)
        if old is not None and old.erased_at is None:
            distances[edit.id] = away = _distance(scope, keys[edit.id][0][1], old)
            if away > scope.settings.radius:
                warned[edit.id].append(_far(edit, old, away, scope.settings.radius))
        warned[edit.id] += _belonging(scope, edit, keys, theirs[edit.id], warned[edit.id])
        watch.count(done, len(claim.edits))
    return warned, distances


def _distance(scope: CollectionScope, key: Tensor, old: Edit) -> float:
    return round(float((key - scope.encoder.key(old.prompt, old.kind)).norm()), 6)


def _far(edit: ClaimedEdit, old: Edit, away: float, radius: float) -> EditWarning:
    return EditWarning(
        edit_id=edit.id,
        code=WarningCode.FAR,
        field="replaces",
        other_edit_id=old.id,
        detail=f"It replaces edit {old.id}, which is asked something else: their prompts lie {away:.2f} apart, and the "
        f"collection's radius is {radius:g}. What edit {old.id} corrects would be answered by the base model again.",
    )


def _belonging(
    scope: CollectionScope,
    edit: ClaimedEdit,
    keys: Keys,
    theirs: Sequence[Sequence[Theirs]],
    told: Sequence[EditWarning],
) -> list[EditWarning]:
    """Return warnings of rephrases that lie nearer to another edit's prompt, and ask the same, than to their own."""
    known = {(warning.field, warning.other_edit_id) for warning in told}
    own = keys[edit.id][0][1]
    found = []
    for index, (_, key) in enumerate(keys[edit.id][1:]):
        field, mine = f"rephrases.{index}", float((key - own).norm())
        for other in theirs[index + 1]:
            if other.edit_id == edit.replaces or other.distance >= mine or (field, other.edit_id) in known:
                continue
            if scope.same_question(other.prompt, edit.rephrases[index]):
                found.append(_belongs(edit, field, other, mine))
    return found


def _belongs(edit: ClaimedEdit, field: str, other: Theirs, mine: float) -> EditWarning:
    return EditWarning(
        edit_id=edit.id,
        code=WarningCode.ANOTHERS,
        field=field,
        other_edit_id=other.edit_id,
        detail=f"{in_words(field)} lies nearer to edit {other.edit_id} ({other.distance:.2f}) than to its own prompt "
        f"({mine:.2f}), and asks the same as that edit.",
    )
