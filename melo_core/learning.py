"""Learning edits: train blocks, ask for the targets, and train longer where they are not reproduced."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from melo_core.application import applied
from melo_core.base_model import BaseModel
from melo_core.block import Block, BlockStack
from melo_core.edited_model import EditedModel, Route
from melo_core.errors import MeloError
from melo_core.memory import Note, in_parts
from melo_core.scope import same_text
from melo_core.settings import MethodSettings
from melo_core.structure import Kind, structure_of
from melo_core.training import Example, Progress, Trained, prompt_cache, require_fit, train_blocks

TOGETHER = 32  # prompts asked in a batch


@dataclass(frozen=True)
class EditRequest:
    """The content that one edit teaches."""

    name: str  # used in errors
    seed_text: str  # of the edit's content; the block's seed is derived from it
    prompt: str
    target: str
    kind: str = "qa"
    rephrases: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()  # other answers that count as right; none is trained


@dataclass(frozen=True)
class Learned:
    """An edit's block, which may be shared, and the model's answer to the edit's prompt with it."""

    group: int  # number of the block within the call
    label: tuple[int, ...]  # the target's tokens
    trained: Trained  # the block as it is read back from `data`, and how its training went
    data: bytes  # the block, as stored
    answer: str
    reproduced: bool  # free generation gives the target, or an alternative, word for word


def learn(
    base: BaseModel,
    settings: MethodSettings,
    requests: Sequence[EditRequest],
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Note | None = None,
) -> list[Learned]:
    """Train one block for each `settings.edits_per_block` consecutive requests; return each request's result, in order.

    on_progress: called for each round separately. on_note: gets messages for the user about memory and rounds.
    Raises MeloError, which names the request if one is at fault.
    """
    examples = [_examples(base, settings, request) for request in requests]
    together = settings.edits_per_block
    groups = [range(i, min(i + together, len(requests))) for i in range(0, len(requests), together)]
    results: dict[int, Learned] = {}
    waiting = list(range(len(groups)))
    for attempt in range(settings.rounds):
        longer = _longer(settings, attempt)
        if attempt and on_note:
            on_note(
                f"{len(waiting)} of {len(groups)} blocks do not give their answers yet: training them again, with up "
                f"to {longer.iterations} steps"
            )
        trained = train_blocks(
            base,
            longer,
            [[example for i in groups[g] for example in examples[i]] for g in waiting],
            [_seed(settings.seed, [requests[i] for i in groups[g]]) for g in waiting],
            on_progress,
            on_note,
        )
        stored = {g: t.block.to_bytes() for g, t in zip(waiting, trained, strict=True)}
        blocks = {g: Block.from_bytes(data) for g, data in stored.items()}
        group_of = {i: g for g in waiting for i in groups[g]}
        answers = _answers(base, settings, requests, examples, group_of, blocks, on_note)
        for g, t in zip(waiting, trained, strict=True):
            as_stored = dataclasses.replace(t, block=blocks[g])
            new = {
                i: Learned(
                    group=g,
                    label=tuple(examples[i][0].target_ids),
                    trained=as_stored,
                    data=stored[g],
                    answer=answers[i],
                    reproduced=same_text(answers[i]) in right_answers(requests[i].target, requests[i].alternatives),
                )
                for i in groups[g]
            }
            # A shared block that was trained longer may have lost one edit for another.
            if sum(n.reproduced for n in new.values()) >= sum(i in results and results[i].reproduced for i in new):
                results |= new
        waiting = [g for g in waiting if not all(results[i].reproduced for i in groups[g])]
        if not waiting:
            break
    return [results[i] for i in range(len(requests))]


def right_answers(target: str, alternatives: Iterable[str]) -> frozenset[str]:
    """Return the answers that count as right, as generated text is compared with them."""
    return frozenset(same_text(text) for text in (target, *alternatives))


def _longer(settings: MethodSettings, attempt: int) -> MethodSettings:
    """Allow twice the steps and a tenth of the loss with each further round."""
    return dataclasses.replace(
        settings, iterations=settings.iterations * 2**attempt, loss_target=settings.loss_target / 10**attempt
    )


def _examples(base: BaseModel, settings: MethodSettings, request: EditRequest) -> list[Example]:
    """Return the request's prompt first, then its rephrases and its other form where they are learned."""
    asked = [
        (prompt, request.kind) for prompt in (request.prompt, *(request.rephrases if settings.learn_rephrases else ()))
    ]
    if settings.learn_as_question and request.kind == "completion" and base.chats:
        asked.append((request.prompt, "qa"))
    try:
        for text in (request.prompt, request.target, *request.rephrases, *request.alternatives):
            base.require_plain(text)
        examples = [Example(base.prompt_ids(p, kind), base.target_ids(request.target, kind, p)) for p, kind in asked]
        for example in examples:
            require_fit(base, example)
    except MeloError as error:
        raise type(error)(f"{request.name}: {error}") from error
    return examples


def _seed(seed: int, requests: Sequence[EditRequest]) -> int:
    """Derive a block's seed from the content of its edits, so that it does not depend on others in the submission."""
    text = ":".join([str(seed), *(request.seed_text for request in requests)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _answers(
    base: BaseModel,
    settings: MethodSettings,
    requests: Sequence[EditRequest],
    examples: Sequence[Sequence[Example]],
    group_of: dict[int, int],
    blocks: dict[int, Block],
    on_note: Note | None,
) -> dict[int, str]:
    """Return greedy answers, by request, to the prompts of the requests of `group_of`, each with its group's block."""
    answers: dict[int, str] = {}

    def ask(part: Sequence[int]) -> None:
        asked = [examples[i][0].prompt_ids for i in part]
        longest = max(len(examples[i][0].target_ids) for i in part)
        if base.kind is Kind.CAUSAL and settings.positions == "answer":
            found = _generated(base, settings, [blocks[group_of[i]] for i in part], asked, longest)
        else:
            used = {group_of[i]: blocks[group_of[i]] for i in part}
            model = EditedModel(base, settings, None, used, {})
            routes = [Route(group_of[i], None) for i in part]
            prompts, kind = [requests[i].prompt for i in part], requests[part[0]].kind
            found = [answer.text for answer in model.answer(prompts, routes, kind, longest)]
        answers.update(zip(part, found, strict=True))

    for kind in sorted({requests[i].kind for i in group_of}):
        # Group prompts of similar length: a batch decodes until its longest answer ends.
        chosen = [i for i in group_of if requests[i].kind == kind]
        chosen.sort(key=lambda i: len(examples[i][0].target_ids))
        in_parts(chosen, TOGETHER, "prompt", ask, on_note)
    return answers


@torch.no_grad()
def _generated(
    base: BaseModel, settings: MethodSettings, blocks: Sequence[Block], prompts: list[list[int]], longest: int
) -> list[str]:
    """Answer prompts (as tokens) greedily, each with its own block, which acts on the answer's side alone.

    Gives the same answers as an edited model without the parts not needed here; the prompts' common beginning runs
    once.
    """
    cache, mask = prompt_cache(base, [prompt[:-1] for prompt in prompts])
    weights = BlockStack(blocks).gather(torch.arange(len(blocks)), base.device, base.model.dtype)
    ids = torch.tensor([[prompt[-1]] for prompt in prompts], device=base.device)
    ends = torch.tensor(sorted(base.end_tokens), device=base.device)
    said, ended = list[Tensor](), torch.zeros_like(ids, dtype=torch.bool)
    with applied(structure_of(base.model, settings).modules, weights, None, "answer"):
        while len(said) < longest and not bool(ended.all()):
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            places = mask.sum(1, keepdim=True) - 1
            out = base.model(
                input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
            )
            ids = out.logits[:, -1].argmax(-1, keepdim=True)
            said.append(ids)
            ended |= torch.isin(ids, ends)
    return [base.answer_in(row)[0] for row in torch.cat(said, 1).tolist()]
