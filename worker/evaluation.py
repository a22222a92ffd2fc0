"""Findings on a batch for its approvers: edits that conflict with others, and edits that change protected answers."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.edited_model import EditedModel, Route
from melo_core.errors import MeloError
from melo_core.learning import right_answers
from melo_core.scope import Considered, Decision, Scope, same_text
from melo_core.settings import MethodSettings
from registry.base.digests import float32s
from registry.base.vocabulary import EditKind
from registry.jobs.claiming import ClaimedEdit
from registry.jobs.schemas import ChangedAnswer, ConflictView, EditReport, NotReached
from registry.versions.content import BlockContent, ClusterContent, EditContent, PointContent, VersionContent
from registry.versions.training_result import Overlap, TrainingResult
from worker.candidate import CollectionScope
from worker.loader import approved_of
from worker.training import TrainedEdit

MOST_TOKENS = 64  # of an answer
ASKED_TOGETHER = 8  # prompts; each is answered twice in one batch

Asked = tuple[str, EditKind]  # a prompt and the form in which it is given
T = TypeVar("T")


@dataclass(frozen=True)
class _Moved:
    """A prompt that another block would answer than before."""

    prompt: str
    kind: EditKind
    before: Route
    after: Route


def require_askable(base: BaseModel, edits: Iterable[ClaimedEdit]) -> None:
    """Raise MeloError, naming the edit, where a prompt that must not change does not fit the window, or where a text
    holds a control token.
    """
    for edit in edits:
        for text in (edit.prompt, *edit.rephrases, edit.target, *edit.alternatives):
            try:
                base.require_plain(text)
            except MeloError as error:
                raise type(error)(f"edit {edit.id}: {error}") from error
        for prompt in edit.unchanged:
            try:
                base.require_plain(prompt)
                base.prompt_ids(prompt, edit.kind)
            except MeloError as error:
                raise type(error)(f"edit {edit.id}, among what must not change: {error}") from error


def guards_of(edits: Iterable[ClaimedEdit]) -> list[Asked]:
    """Return every prompt that must not change, once."""
    return list(dict.fromkeys((prompt, edit.kind) for edit in edits for prompt in edit.unchanged))


def reports_of(
    base: BaseModel,
    scope: CollectionScope,
    trained: Sequence[TrainedEdit],
    before: VersionContent,
    result: TrainingResult,
    stored_blocks: Callable[[Collection[int]], Mapping[int, Block]],
    on_progress: Callable[[int, int], None],
) -> list[EditReport]:
    """Report on each trained edit, as if the result were applied to the version `before`. Raises CorruptBlock."""
    edits = [t.edit for t in trained]
    after = applied(before, result, edits)
    changed = changed_answers(base, scope, guards_of(edits), before, after, stored_blocks, on_progress)
    missed = missed_prompts(base, scope, trained, after, stored_blocks, on_progress)
    standing = {edit.id: edit.prompt for edit in before.edits.values()}
    return edit_reports(trained, result.overlaps, standing, changed, missed)


def changed_answers(
    base: BaseModel,
    scope: CollectionScope,
    asked: Sequence[Asked],
    before: VersionContent,
    after: VersionContent,
    stored_blocks: Callable[[Collection[int]], Mapping[int, Block]],
    on_progress: Callable[[int, int], None],
) -> dict[Asked, ChangedAnswer]:
    """Return the prompts whose answer would change from the version `before` to `after`.

    Only prompts that another block would answer are asked. stored_blocks: called with ids of blocks of `before`.
    on_progress: called with the number of prompts asked and the total. Raises CorruptBlock.
    """
    if not asked:
        return {}
    moved = _moved(asked, scope, before, after)
    changed: dict[Asked, ChangedAnswer] = {}
    done = 0
    for part in parts(moved, lambda each: each.kind):
        used = {route.block for each in part for route in (each.before, each.after) if route.block is not None}
        model = serving(base, scope.settings, blocks_of(used, after, stored_blocks), before, after)
        prompts, kind = [each.prompt for each in part], part[0].kind
        room = base.window - max(len(base.prompt_ids(prompt, kind)) for prompt in prompts)
        routes = [each.before for each in part] + [each.after for each in part]
        answers = model.answer(prompts * 2, routes, kind, min(MOST_TOKENS, room))
        for each, old, new in zip(part, answers[: len(part)], answers[len(part) :], strict=True):
            if old.token_ids != new.token_ids:
                match = each.after.match
                by_edit = after.points[match.point].edit_id if match else None
                changed[each.prompt, kind] = ChangedAnswer(
                    prompt=each.prompt, before=old.text, after=new.text, by_edit=by_edit
                )
        done += len(part)
        on_progress(done, len(moved))
    return changed


def serving(
    base: BaseModel, settings: MethodSettings, blocks: Mapping[int, Block], *contents: VersionContent
) -> EditedModel:
    """Make an edited model that answers along given routes as the versions would."""
    approved = {id: each for content in contents for id, each in approved_of(content).items()}
    return EditedModel(base, settings, None, blocks, {}, approved)


def missed_prompts(
    base: BaseModel,
    scope: CollectionScope,
    trained: Sequence[TrainedEdit],
    after: VersionContent,
    stored_blocks: Callable[[Collection[int]], Mapping[int, Block]],
    on_progress: Callable[[int, int], None],
) -> dict[int, list[NotReached]]:
    """Return, by edit, its prompt and rephrases that the version `after` would not answer with the edit's target.

    They are asked as in use: through routing and by free generation. Raises CorruptBlock.
    """
    router = scope.of(after)
    missed: dict[int, list[NotReached]] = {}
    asked: list[tuple[TrainedEdit, str, Route]] = []
    for t in trained:
        for text in dict.fromkeys((t.edit.prompt, *t.edit.rephrases)):
            decision = router.decide(text, t.edit.kind)
            if decision.considered and decision.considered[0].edit == t.edit.id and decision.covered:
                asked_in_training = text == t.edit.prompt and not t.is_kept
                if not asked_in_training and decision.match is not None:
                    block = after.points[decision.match.point].block_id
                    asked.append((t, text, Route(block, decision.match, decision.considered)))
                continue
            missed.setdefault(t.edit.id, []).append(_not_reached(text, decision))
    done = 0
    for part in parts(asked, lambda each: each[0].edit.kind):
        kind, prompts = part[0][0].edit.kind, [text for _, text, _ in part]
        used = {route.block for _, _, route in part if route.block is not None}
        model = serving(base, scope.settings, blocks_of(used, after, stored_blocks), after)
        room = base.window - max(len(base.prompt_ids(prompt, kind)) for prompt in prompts)
        longest = max(len(base.target_ids(t.edit.target, kind)) for t, _, _ in part) + 1
        answers = model.answer(prompts, [route for _, _, route in part], kind, max(1, min(longest, room)))
        for (t, text, _), answer in zip(part, answers, strict=True):
            if same_text(answer.text) not in right_answers(t.edit.target, t.edit.alternatives):
                why = "its block does not say its target"
                told = NotReached(text=text, by_edit=t.edit.id, why=why, answer=answer.text)
                missed.setdefault(t.edit.id, []).append(told)
        done += len(part)
        on_progress(done, len(asked))
    return missed


def _not_reached(text: str, decision: Decision) -> NotReached:
    if decision.covered:
        return NotReached(text=text, by_edit=decision.considered[0].edit, why="another edit covers it")
    why = "no edit lies near it"
    for found in decision.considered[:1]:
        why = told_of(found)
    return NotReached(text=text, by_edit=None, why=why)


def told_of(found: Considered) -> str:
    """Explain in words why an edit does not cover a query."""
    if found.guard is not None:
        return f"it is nearer to the guard {found.guard!r}"
    if found.difference is not None:
        return f"it differs by {found.difference}"
    if found.score is not None:
        return f"the verifier gives {found.score:.3f} that it asks something else"
    return f"its distance is {found.distance:.3f}"


def blocks_of(
    used: Collection[int], after: VersionContent, stored_blocks: Callable[[Collection[int]], Mapping[int, Block]]
) -> dict[int, Block]:
    """Return blocks by their ids; those of `after` that are not stored yet have negative ids. Raises CorruptBlock."""
    blocks = dict(stored_blocks([number for number in used if number > 0]))
    return blocks | {number: Block.from_bytes(after.blocks[number].data or b"") for number in used if number < 0}


def edit_reports(
    trained: Sequence[TrainedEdit],
    overlaps: Iterable[Overlap],
    standing: Mapping[int, str],
    changed: Mapping[Asked, ChangedAnswer],
    missed: Mapping[int, Sequence[NotReached]],
) -> list[EditReport]:
    """Make one report for each edit, in order. standing: the prompts of the edits that were active before, by id."""
    prompts = {**standing, **{t.edit.id: t.edit.prompt for t in trained}}
    met: dict[int, dict[int, ConflictView]] = {}
    for overlap in overlaps:
        of_edit = met.setdefault(overlap.edit_id, {})
        earlier = of_edit.get(overlap.other_edit_id)
        of_edit[overlap.other_edit_id] = ConflictView(
            edit_id=overlap.other_edit_id,
            prompt=prompts[overlap.other_edit_id],
            distance=round(min(overlap.distance, earlier.distance if earlier else math.inf), 6),
            forgotten=overlap.forgotten or (earlier is not None and earlier.forgotten),
        )
    return [
        EditReport(
            edit_id=t.edit.id,
            loss=round(t.trained.loss, 5) if math.isfinite(t.trained.loss) else None,
            iterations=t.trained.iterations,
            reached=t.trained.reached,
            reproduced=t.reproduced,
            answer=None if t.answer == t.edit.target.strip() else t.answer,
            conflicts=list(met.get(t.edit.id, {}).values()),
            not_reached=list(missed.get(t.edit.id, ())),
            unchanged_asked=len(set(t.edit.unchanged)),
            unchanged_changed=[
                changed[prompt, t.edit.kind]
                for prompt in dict.fromkeys(t.edit.unchanged)
                if (prompt, t.edit.kind) in changed
            ],
        )
        for t in trained
    ]


def applied(before: VersionContent, result: TrainingResult, edits: Iterable[ClaimedEdit]) -> VersionContent:
    """Return the version that the result would make. New items have negative numbers until it is recorded."""
    edits = list(edits)
    blocks = [BlockContent(b.number, "", b.rank, b.scale, dict(b.shapes), b.data) for b in result.blocks]
    points = [PointContent(p.number, p.edit_id, p.block, p.role, float32s(p.key)) for p in result.points]
    clusters = [
        ClusterContent(
            cluster_no=-n if c.cluster_no is None else c.cluster_no,
            centre=float32s(c.centre),
            radius=c.radius,
            label=tuple(c.label),
            members=tuple(c.members),
            digest="",
        )
        for n, c in enumerate(result.changed, 1)
    ]
    gone = {*result.removed, *(c.cluster_no for c in clusters)}
    kept = (c for c in before.clusters if c.cluster_no not in gone)
    replaced = {edit.replaces for edit in edits}
    acting = {id: edit for id, edit in before.edits.items() if id not in replaced}
    return replace(
        before,
        edits=acting | {edit.id: _as_content(edit) for edit in edits},
        clusters=(*kept, *clusters),
        points=before.points | {point.id: point for point in points},
        blocks=before.blocks | {block.id: block for block in blocks},
    )


def _as_content(edit: ClaimedEdit) -> EditContent:
    return EditContent(
        id=edit.id, batch_id=0, prompt=edit.prompt, target=edit.target, alternatives=edit.alternatives,
        rephrases=edit.rephrases, unchanged=edit.unchanged, kind=edit.kind,
        author="", reason="", source="", digest=edit.digest,
    )  # fmt: skip


def _moved(
    asked: Sequence[Asked], scope: CollectionScope, before: VersionContent, after: VersionContent
) -> list[_Moved]:
    """Return the prompts routed to another block than before: only their answers can change."""
    was, will_be = scope.of(before), scope.of(after)
    moved = []
    for prompt, kind in asked:
        old, new = route_of(was, before, prompt, kind), route_of(will_be, after, prompt, kind)
        if old.block != new.block:
            moved.append(_Moved(prompt, kind, old, new))
    return moved


def route_of(scope: Scope, content: VersionContent, prompt: str, kind: str) -> Route:
    decision = scope.decide(prompt, kind)
    match = decision.match if decision.covered else None
    block = content.points[match.point].block_id if match else None
    return Route(block, match, decision.considered, decision.reading)


def parts(items: Sequence[T], kind_of: Callable[[T], EditKind]) -> Iterator[Sequence[T]]:
    """Yield batches of items, each of a single kind."""
    for kind in sorted({kind_of(each) for each in items}):
        chosen = [each for each in items if kind_of(each) == kind]
        for start in range(0, len(chosen), ASKED_TOGETHER):
            yield chosen[start : start + ASKED_TOGETHER]
