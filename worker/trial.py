"""Trials of near misses of a batch's edits: who would answer them in the version with the batch, and what."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from torch import Tensor

from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.edited_model import BASE, EditedModel, Route
from melo_core.errors import MeloError
from melo_core.scope import Scope, ScopedText
from melo_core.structure import Kind
from registry.base.vocabulary import EditKind, PointRole
from registry.jobs.claiming import ClaimedEdit
from registry.jobs.schemas import NearMiss
from registry.versions.content import EditContent, VersionContent
from worker.candidate import CollectionScope
from worker.evaluation import ASKED_TOGETHER, blocks_of, parts, serving
from worker.loader import index_of, point_content, texts_of
from worker.near_misses import MOST, QUESTIONS, Asked, Made, is_about, loose, near_misses, questions_in, subject_of
from worker.watch import Watch

MOST_ANSWERED = 200  # of those that an edit covers
ANSWER_TOKENS = 32
OTHERS = 200  # edits whose subjects replace others
ASKING = 20  # edits about whose subjects the base model is asked
QUESTION_TOKENS = 80

Keys = Mapping[int, Sequence[tuple[PointRole, Tensor]]]  # by edit id
StoredBlocks = Callable[[Collection[int]], Mapping[int, Block]]


@dataclass(frozen=True)
class _Routed:
    """A near miss and its route."""

    edit: ClaimedEdit  # of which it is a near miss
    made: Made
    by_edit: int | None
    score: float | None
    route: Route  # without a block where the base model would answer, or where none exists yet

    @property
    def kind(self) -> EditKind:
        return self.edit.kind


def try_near_misses(
    base: BaseModel,
    scope: CollectionScope,
    edits: Sequence[ClaimedEdit],
    seed: int,
    before: VersionContent,
    after: VersionContent | None,
    keys: Keys,
    stored_blocks: StoredBlocks,
    watch: Watch,
) -> dict[int, list[NearMiss]]:
    """Return, by edit, the near misses of its prompt, with who would answer each of them. Raises CorruptBlock.

    after: the version with the batch's blocks; None: they are not trained, so that only keys decide who answers.
    Leaves out what another edit asks, or covers and is about: that edit may rightly answer it.
    """
    asking = [edit for edit in edits if edit.kind is not EditKind.CLASSIFICATION]
    made = _within(base, asking, _made(base, scope, asking, seed, before, watch), watch)
    router = scope.of(after) if after else _with_keys(base, scope, before, edits, keys)
    subjects = {each.id: subject_of(each.prompt) for each in _all(before, edits)}
    content = after or before
    routed: list[_Routed] = []
    for done, edit in enumerate(asking, 1):
        for miss in made[edit.id]:
            found = _routed(router, content, edit, miss)
            about = None if found.by_edit in (None, edit.id) else subjects[found.by_edit]
            if about is None or not is_about(miss.text, about):
                routed.append(found)
        watch.count(done, len(asking))
    covered = [each for each in routed if each.route.block is not None][:MOST_ANSWERED]
    answers = _answers(base, scope, covered, content, stored_blocks)
    told: dict[int, list[NearMiss]] = {edit.id: [] for edit in asking}
    for each in routed:
        told[each.edit.id].append(_told(each, answers.get(each)))
    return told


def _routed(router: Scope, content: VersionContent, edit: ClaimedEdit, made: Made) -> _Routed:
    decision = router.decide(made.text, edit.kind)
    match = decision.match if decision.covered else None
    by_edit = router.texts[match.point].edit if match else None
    score = decision.considered[0].score if decision.considered else None
    point = content.points.get(match.point) if match else None
    route = Route(point.block_id, match, decision.considered) if point else BASE
    return _Routed(edit, made, by_edit, score, route)


def _told(routed: _Routed, answer: str | None) -> NearMiss:
    return NearMiss(
        kind=routed.made.kind,
        text=routed.made.text,
        by_edit=routed.by_edit,
        score=None if routed.score is None else round(routed.score, 4),
        answer=answer,
        subject_of=routed.made.subject_of,
    )


def _made(
    base: BaseModel,
    scope: CollectionScope,
    edits: Sequence[ClaimedEdit],
    seed: int,
    before: VersionContent,
    watch: Watch,
) -> dict[int, list[Made]]:
    """Make near misses, without those that one of the edits asks in its prompt or a rephrase."""
    prompts = {each.id: each.prompt for each in _all(before, edits)}
    ids = sorted(prompts)
    others = {id: Asked.of(prompts[id]) for id in sorted(Random(seed).sample(ids, min(OTHERS, len(ids))))}
    theirs = {loose(text) for each in _all(before, edits) for text in (each.prompt, *each.rephrases)}
    most = max(1, min(MOST, watch.budget.near_misses // max(1, len(edits))))
    questions = _questions(base, scope, edits[:ASKING], lambda: watch.count(0, len(edits)))
    made = {}
    for edit in edits:
        beside = {id: other for id, other in others.items() if id not in (edit.id, edit.replaces)}
        of_edit = near_misses(edit.prompt, edit.target, beside, seed, questions.get(edit.id, ()), most)
        made[edit.id] = [each for each in of_edit if loose(each.text) not in theirs]
    return made


def _within(
    base: BaseModel, edits: Sequence[ClaimedEdit], made: Mapping[int, Sequence[Made]], watch: Watch
) -> dict[int, list[Made]]:
    """Leave out near misses for which the budget does not suffice: first the later ones of each edit.

    So an edit with a prompt of thousands of tokens takes no other edit's near misses away.
    """
    tokens, count, left_out = watch.budget.tokens, watch.budget.near_misses, 0
    kept: dict[int, list[Made]] = {edit.id: [] for edit in edits}
    for turn in range(max(map(len, made.values()), default=0)):
        for edit in edits:
            for miss in made[edit.id][turn : turn + 1]:
                room = _room(base, [miss.text], edit.kind)
                if room == 0:  # longer than the prompt, it does not fit
                    continue
                needed = base.window - room
                if count == 0 or needed > tokens:
                    left_out += 1
                    continue
                kept[edit.id].append(miss)
                tokens, count = tokens - needed, count - 1
    if left_out:
        watch.note(
            f"{left_out} near misses are not tried: a preflight may try {watch.budget.near_misses:,}, with "
            f"{watch.budget.tokens:,} tokens together"
        )
    return kept


def _all(before: VersionContent, edits: Sequence[ClaimedEdit]) -> list[EditContent | ClaimedEdit]:
    return [*before.edits.values(), *edits]


def _questions(
    base: BaseModel, scope: CollectionScope, edits: Sequence[ClaimedEdit], on_progress: Callable[[], None]
) -> dict[int, list[str]]:
    """Return, by edit, the base model's questions about the subject of its prompt; none for a classifier."""
    if base.kind is Kind.CLASSIFIER:
        return {}
    prompts = {edit.id: QUESTIONS.format(s=subject) for edit in edits if (subject := subject_of(edit.prompt))}
    prompts = {id: prompt for id, prompt in prompts.items() if _room(base, [prompt], EditKind.QA) > QUESTION_TOKENS}
    model = EditedModel(base, scope.settings, None, {}, {})
    asked: dict[int, list[str]] = {}
    of_edit, ids = {edit.id: edit.prompt for edit in edits}, list(prompts)
    for start in range(0, len(ids), ASKED_TOGETHER):
        on_progress()
        part = ids[start : start + ASKED_TOGETHER]
        answers = model.answer([prompts[id] for id in part], [BASE] * len(part), EditKind.QA, QUESTION_TOKENS)
        asked |= {id: questions_in(each.text, of_edit[id]) for id, each in zip(part, answers, strict=True)}
    return asked


def _with_keys(
    base: BaseModel, scope: CollectionScope, before: VersionContent, edits: Sequence[ClaimedEdit], keys: Keys
) -> Scope:
    """Return the scope with the batch's keys in the index, before a block is trained. New points are negative."""
    index = index_of(before, scope.settings, scope.encoder.dimension)
    replaced = {edit.replaces for edit in edits}
    texts = {point: text for point, text in texts_of(before).items() if text.edit not in replaced}
    for point in before.points.values():
        if point.edit_id in replaced:
            index.remove(point.id)
    number = 0
    for edit in edits:
        label = _label(base, edit)
        for (_, key), text in zip(keys[edit.id], (edit.prompt, *edit.rephrases), strict=True):
            number -= 1
            texts[number] = ScopedText(edit.id, text, edit.unchanged, text != edit.prompt, edit.kind)
            for forgotten in index.insert(number, key, label, point_content(edit.digest, text)).forgotten:
                texts.pop(forgotten, None)
    return Scope(scope.encoder, index, scope.settings, texts, scope.verifier)


def _label(base: BaseModel, edit: ClaimedEdit) -> tuple[int, ...]:
    try:
        return tuple(base.target_ids(edit.target, edit.kind, edit.prompt))
    except MeloError:  # a class that the model does not have: its training will report it
        return ()


def _answers(
    base: BaseModel,
    scope: CollectionScope,
    covered: Sequence[_Routed],
    content: VersionContent,
    stored_blocks: StoredBlocks,
) -> dict[_Routed, str]:
    answers: dict[_Routed, str] = {}
    for part in parts(covered, lambda each: each.kind):
        texts, routes, kind = [each.made.text for each in part], [each.route for each in part], part[0].kind
        used = {route.block for route in routes if route.block is not None}
        model = serving(base, scope.settings, blocks_of(used, content, stored_blocks), content)
        room = min(ANSWER_TOKENS, _room(base, texts, kind))
        answers |= {each: said.text for each, said in zip(part, model.answer(texts, routes, kind, room), strict=True)}
    return answers


def _room(base: BaseModel, prompts: Sequence[str], kind: EditKind) -> int:
    """Return the tokens left in the window beside the longest prompt; 0 where one does not fit."""
    try:
        return base.window - max(len(base.prompt_ids(prompt, kind)) for prompt in prompts)
    except MeloError:
        return 0
