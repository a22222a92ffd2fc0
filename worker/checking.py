"""What whoever approves should know of a batch: which edits meet others, and which change what must stay."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.edited_model import EditedModel, Route
from melo_core.errors import MeloError
from melo_core.index import ClusterIndex
from melo_core.settings import MethodSettings
from registry.digests import float32s
from registry.jobs.schemas import ChangedAnswer, ConflictView, EditReport
from registry.jobs.service import ClaimedEdit
from registry.versions.content import BlockContent, ClusterContent, PointContent, VersionContent
from registry.versions.training_result import Overlap, TrainingResult
from registry.vocabulary import EditKind
from worker.candidate import Scope
from worker.loader import index_of
from worker.training import TrainedEdit

MOST_TOKENS = 64  # of an answer
ASKED_TOGETHER = 8  # prompts; each is answered twice in one batch

Asked = tuple[str, EditKind]  # a prompt and the form in which it is given


@dataclass(frozen=True)
class _Moved:
    """A prompt that another block would answer than before."""

    prompt: str
    kind: EditKind
    before: Route
    after: Route


def require_askable(base: BaseModel, edits: Iterable[ClaimedEdit]) -> None:
    """Raise PromptTooLong, naming the edit, where a prompt that must not change does not fit the window."""
    for edit in edits:
        for prompt in edit.unchanged:
            try:
                base.prompt_ids(prompt, edit.kind)
            except MeloError as error:
                raise type(error)(f"edit {edit.id}, among what must not change: {error}") from error


def unchanged_keys(scope: Scope, edits: Iterable[ClaimedEdit]) -> dict[Asked, Tensor]:
    """The query keys (k, d) of every prompt that must not change."""
    wanted = dict.fromkeys((prompt, edit.kind) for edit in edits for prompt in edit.unchanged)
    return {(prompt, kind): scope.encoder.query_keys(prompt, kind) for prompt, kind in wanted}


def check_unchanged(
    base: BaseModel,
    settings: MethodSettings,
    keys: Mapping[Asked, Tensor],
    before: VersionContent,
    result: TrainingResult,
    stored_blocks: Callable[[Collection[int]], Mapping[int, Block]],
    on_progress: Callable[[int, int], None],
) -> dict[Asked, ChangedAnswer]:
    """The prompts that would be answered otherwise than in the version `before`, were the result applied to it.

    Only those that another block would answer are asked at all. keys: as unchanged_keys gives them. stored_blocks:
    gets ids of blocks of `before`. on_progress: gets how many prompts were asked, of how many. Raises CorruptBlock.
    """
    if not keys:
        return {}
    after = _applied(before, result)
    moved = _moved(keys, settings, before, after)
    changed: dict[Asked, ChangedAnswer] = {}
    done = 0
    for part in _parts(moved):
        used = {route.block for each in part for route in (each.before, each.after) if route.block is not None}
        blocks = dict(stored_blocks([number for number in used if number > 0]))
        blocks |= {number: Block.from_bytes(after.blocks[number].data or b"") for number in used if number < 0}
        model = EditedModel(base, settings, None, None, blocks, {})
        prompts, kind = [each.prompt for each in part], part[0].kind
        room = base.window - max(len(base.prompt_ids(prompt, kind)) for prompt in prompts)
        routes = [each.before for each in part] + [each.after for each in part]
        answers = model.answer(prompts * 2, routes, kind, min(MOST_TOKENS, room))
        for each, old, new in zip(part, answers[: len(part)], answers[len(part) :], strict=True):
            if old.token_ids != new.token_ids:
                match = each.after.match
                by_edit = after.points[match.point].edit_id if match and match.covers else None
                changed[each.prompt, kind] = ChangedAnswer(
                    prompt=each.prompt, before=old.text, after=new.text, by_edit=by_edit
                )
        done += len(part)
        on_progress(done, len(moved))
    return changed


def edit_reports(
    trained: Sequence[TrainedEdit],
    overlaps: Iterable[Overlap],
    standing: Mapping[int, str],
    changed: Mapping[Asked, ChangedAnswer],
) -> list[EditReport]:
    """One report for each edit, in order. standing: the prompts of the edits that were there before, by their ids."""
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
            answer=None if t.reproduced else t.answer,
            conflicts=list(met.get(t.edit.id, {}).values()),
            unchanged_checked=len(set(t.edit.unchanged)),
            unchanged_changed=[
                changed[prompt, t.edit.kind]
                for prompt in dict.fromkeys(t.edit.unchanged)
                if (prompt, t.edit.kind) in changed
            ],
        )
        for t in trained
    ]


def _applied(before: VersionContent, result: TrainingResult) -> VersionContent:
    """The version that the result would make. What is new has negative numbers, until the record gives others."""
    block_ids = {block.name: -n for n, block in enumerate(result.blocks, 1)}
    point_ids = {point.name: -n for n, point in enumerate(result.points, 1)}
    blocks = [BlockContent(block_ids[b.name], "", b.rank, b.scale, dict(b.shapes), b.data) for b in result.blocks]
    points = [
        PointContent(point_ids[p.name], p.edit_id, block_ids[p.block], p.role, float32s(p.key)) for p in result.points
    ]
    clusters = [
        ClusterContent(
            cluster_no=-n if c.cluster_no is None else c.cluster_no,
            centre=float32s(c.centre),
            radius=c.radius,
            label=tuple(c.label),
            members=tuple(point_ids[member] if isinstance(member, str) else member for member in c.members),
            digest="",
        )
        for n, c in enumerate(result.changed, 1)
    ]
    gone = {*result.removed, *(c.cluster_no for c in clusters)}
    kept = (c for c in before.clusters if c.cluster_no not in gone)
    return replace(
        before,
        clusters=(*kept, *clusters),
        points=before.points | {point.id: point for point in points},
        blocks=before.blocks | {block.id: block for block in blocks},
    )


def _moved(
    keys: Mapping[Asked, Tensor], settings: MethodSettings, before: VersionContent, after: VersionContent
) -> list[_Moved]:
    """Another block on both sides is another answer, perhaps; the same one, or none, is the same answer for sure."""
    dimension = next(iter(keys.values())).shape[-1]
    was, will_be = (index_of(content, settings, dimension) for content in (before, after))
    moved = []
    for (prompt, kind), query_keys in keys.items():
        old, new = route_of(was, before, query_keys), route_of(will_be, after, query_keys)
        if old.block != new.block:
            moved.append(_Moved(prompt, kind, old, new))
    return moved


def route_of(index: ClusterIndex, content: VersionContent, query_keys: Tensor) -> Route:
    match = index.lookup(query_keys)
    return Route(content.points[match.point].block_id if match and match.covers else None, match)


def _parts(moved: Sequence[_Moved]) -> Iterator[Sequence[_Moved]]:
    """Those of one kind together, a batch at a time."""
    for kind in sorted({each.kind for each in moved}):
        chosen = [each for each in moved if each.kind == kind]
        for start in range(0, len(chosen), ASKED_TOGETHER):
            yield chosen[start : start + ASKED_TOGETHER]
