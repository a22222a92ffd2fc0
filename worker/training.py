"""From the edits of a job to blocks that were seen to work: train, ask, train longer where it was not enough."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.edited_model import EditedModel, Route
from melo_core.errors import MeloError
from melo_core.settings import MethodSettings
from melo_core.training import Example, Progress, Trained, train_blocks
from registry.jobs.service import ClaimedEdit

ROUNDS = 3  # of training, for a block whose answer is not yet the target
ASKED_TOGETHER = 16


@dataclass(frozen=True)
class TrainedEdit:
    """A trained edit and what the model answers to its prompt with the block as it will be stored."""

    edit: ClaimedEdit
    label: tuple[int, ...]  # the target's tokens
    trained: Trained
    data: bytes  # the block, as stored
    answer: str

    @property
    def reproduced(self) -> bool:
        """Free generation gives the target, word for word."""
        return self.answer == self.edit.target.strip()


def train_edits(
    base: BaseModel,
    settings: MethodSettings,
    edits: Sequence[ClaimedEdit],
    on_progress: Callable[[Progress], None],
) -> list[TrainedEdit]:
    """One block for each edit, in order. Raises MeloError naming the edit that cannot be trained."""
    examples = [_example(base, edit) for edit in edits]
    results: dict[int, TrainedEdit] = {}
    waiting = list(range(len(edits)))
    for attempt in range(ROUNDS):
        trained = train_blocks(
            base,
            _longer(settings, attempt),
            [[examples[i]] for i in waiting],
            [_seed(settings.seed, edits[i]) for i in waiting],
            on_progress,
        )
        stored = [t.block.to_bytes() for t in trained]
        answers = _answers(base, settings, [edits[i] for i in waiting], [examples[i] for i in waiting], stored)
        for i, result, data, answer in zip(waiting, trained, stored, answers, strict=True):
            results[i] = TrainedEdit(edits[i], tuple(examples[i].target_ids), result, data, answer)
        waiting = [i for i in waiting if not results[i].reproduced]
        if not waiting:
            break
    return [results[i] for i in range(len(edits))]


def _longer(settings: MethodSettings, attempt: int) -> MethodSettings:
    """Each further round may take twice the steps, to a tenth of the loss."""
    return dataclasses.replace(
        settings, iterations=settings.iterations * 2**attempt, loss_target=settings.loss_target / 10**attempt
    )


def _example(base: BaseModel, edit: ClaimedEdit) -> Example:
    try:
        return Example(base.prompt_ids(edit.prompt, edit.kind), base.target_ids(edit.target, edit.kind))
    except MeloError as error:
        raise type(error)(f"edit {edit.id}: {error}") from error


def _seed(seed: int, edit: ClaimedEdit) -> int:
    """From the edit's content, so that a block does not depend on the batch it is submitted in."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{edit.digest}".encode()).digest()[:7], "big")


def _answers(
    base: BaseModel,
    settings: MethodSettings,
    edits: Sequence[ClaimedEdit],
    examples: Sequence[Example],
    stored: Sequence[bytes],
) -> list[str]:
    """Greedy answers to the edits' own prompts, each with its own block."""
    blocks = {i: Block.from_bytes(data) for i, data in enumerate(stored)}
    model = EditedModel(base, settings, None, None, blocks, {})
    answers: dict[int, str] = {}
    for kind in sorted({edit.kind for edit in edits}):
        # Of about the same length together: a batch decodes until its longest answer ends.
        chosen = [i for i, edit in enumerate(edits) if edit.kind == kind]
        chosen.sort(key=lambda i: len(examples[i].target_ids))
        for start in range(0, len(chosen), ASKED_TOGETHER):
            part = chosen[start : start + ASKED_TOGETHER]
            longest = max(len(examples[i].target_ids) for i in part)
            prompts, routes = [edits[i].prompt for i in part], [Route(i, None) for i in part]
            for i, answer in zip(part, model.answer(prompts, routes, kind, longest), strict=True):
                answers[i] = answer.text
    return [answers[i] for i in range(len(edits))]
