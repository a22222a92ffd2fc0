"""The edited model: a base model, an index that finds the edit covering a prompt, and the edits' blocks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from melo_core.application import applied
from melo_core.base_model import BaseModel
from melo_core.block import Block, BlockStack
from melo_core.conversation import question_of
from melo_core.index import Match
from melo_core.scope import Considered, Scope, same_text
from melo_core.settings import MethodSettings
from melo_core.structure import Kind, Structure, structure_of


@dataclass(frozen=True)
class Route:
    """The block that answers a prompt (None: the base model alone), the covering or else the nearest point, and the
    edits that were considered, best first. reading: the text that decided, where it is not the one prompt itself.
    """

    block: int | None
    match: Match | None
    considered: tuple[Considered, ...] = ()
    reading: str | None = None


@dataclass(frozen=True)
class Approved:
    """The target that an edit's block should give, and the prompt to which it was seen to give it."""

    prompt: str
    target: str
    kind: str = "qa"
    alternatives: tuple[str, ...] = ()  # other answers that count as right


SaidTo = Literal["query", "prompt", "base"]


@dataclass(frozen=True)
class Answer:
    """An answer and its origin."""

    text: str
    raw: str  # with the white space around it, as it continues its prompt
    token_ids: tuple[int, ...]  # as generated, including the end of sequence; for a classifier, the class
    route: Route
    said_to: SaidTo = "query"
    """Where a block is routed to: whether it gave its target to the query itself, only to its edit's prompt, or to
    neither, in which case this is the base model's answer."""


BASE = Route(None, None)
ASKED_TOGETHER = 16


class EditedModel:
    """A base model with edits that correct some of its answers.

    blocks: by their identity. block_of: the block of each point in the scope's index. Without a scope every prompt
    is routed to the base model. approved: by edit; where a verifier decides, a block answers with its edit's
    target or not at all. Otherwise, and for an edit missing from it, the block's output is the answer.
    Raises MeloError where a block could change the encoder's keys.
    """

    def __init__(
        self,
        base: BaseModel,
        settings: MethodSettings,
        scope: Scope | None,
        blocks: Mapping[int, Block],
        block_of: Mapping[int, int],
        approved: Mapping[int, Approved] | None = None,
    ) -> None:
        self.base, self.settings, self.scope = base, settings, scope
        self.structure: Structure = structure_of(base.model, settings)
        if scope is not None:
            scope.encoder.require_unedited(self.structure)
        self._block_of, self._approved = dict(block_of), dict(approved or {})
        self._row = {block: row for row, block in enumerate(blocks)}
        self._stack = BlockStack(list(blocks.values()))
        self._lock = Lock()  # one pass at a time: blocks are attached to the model for its duration

    def route(self, prompt: str | Sequence[str], kind: str = "qa") -> Route:
        """Choose the block that answers a prompt, by the prompt alone and never by others asked with it.

        prompt: a text, or the ways to read one. kind: the form in which the model gets it.
        Raises PromptTooLong.
        """
        return route_of(self.scope, self._block_of, prompt, kind)

    def ask(
        self,
        prompts: Sequence[str],
        *,
        kind: str = "qa",
        max_new_tokens: int = 64,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Route each prompt, then answer in batches of `ASKED_TOGETHER`. on_progress: called with the number done."""
        answers: list[Answer] = []
        for start in range(0, len(prompts), ASKED_TOGETHER):
            part = prompts[start : start + ASKED_TOGETHER]
            answers += self.answer(part, [self.route(prompt, kind) for prompt in part], kind, max_new_tokens)
            if on_progress:
                on_progress(len(answers))
        return answers

    def converse(self, messages: Sequence[Mapping[str, str]], max_new_tokens: int = 64) -> Answer:
        """Answer the last turn of a conversation, routed by the user's question.

        messages: objects with `role` and `content`, oldest first. Raises MeloError.
        """
        route = self.route(question_of(messages).query)
        rows = [self.base.conversation_ids(messages)]
        with self._lock, torch.no_grad():
            return self._approved_answers(rows, [route], max_new_tokens)[0]

    def answer(
        self, prompts: Sequence[str], routes: Sequence[Route], kind: str = "qa", max_new_tokens: int = 64
    ) -> list[Answer]:
        """Answer greedily with the given routes, which stay fixed while decoding.

        kind: the form in which the model gets the prompts (`qa` or `completion`).
        Raises PromptTooLong.
        """
        if not prompts:
            return []
        rows = [self.base.prompt_ids(prompt, kind) for prompt in prompts]
        with self._lock, torch.no_grad():
            if self.base.kind is Kind.CLASSIFIER:
                return self._classify(rows, routes)
            return self._approved_answers(rows, routes, max_new_tokens)

    def _approved_answers(self, rows: list[list[int]], routes: Sequence[Route], most: int) -> list[Answer]:
        """Return the blocks' answers where they give the approved target, and else the base model's."""
        tries = [attempts(self.base, *each, self._approved) for each in zip(rows, routes, strict=True)]
        answers = self._generate(rows, routes, most)
        for i, each in enumerate(tries):
            attempt, answer = next(each), answers[i]
            while not attempt.is_answered_by(answer.text, len(answer.token_ids), most):
                attempt = next(each)
                answer = self._generate([attempt.ids], [attempt.route], most)[0]
            answers[i] = replace(answer, route=routes[i], said_to=attempt.said_to)
        return answers

    def _generate(self, rows: list[list[int]], routes: Sequence[Route], max_new_tokens: int) -> list[Answer]:
        tokenizer = self.base.tokenizer
        ids, mask = self.base.pad(rows, "left" if self.base.kind is Kind.CAUSAL else "right")
        greedy = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(self.base.end_tokens),
            decoder_start_token_id=getattr(self.base.model.config, "decoder_start_token_id", None),
        )
        model: Any = self.base.model
        with self.attached(routes):
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy)
        start = ids.shape[1] if self.base.kind is Kind.CAUSAL else 1  # a decoder begins with its start token
        answers = [self.base.answer_in(row) for row in out[:, start:].tolist()]
        before = rows if self.base.kind is Kind.CAUSAL else [[]] * len(rows)
        return [
            Answer(text, self.base.raw_in(prompt, ids), ids, route)
            for prompt, (text, ids), route in zip(before, answers, routes, strict=True)
        ]

    def _classify(self, rows: list[list[int]], routes: Sequence[Route]) -> list[Answer]:
        ids, mask = self.base.pad(rows, "right")
        with self.attached(routes):
            classes = self.base.model(input_ids=ids, attention_mask=mask).logits.argmax(-1).tolist()
        names: Mapping[Any, Any] = self.base.model.config.id2label or {}
        return [Answer(str(names[c]), str(names[c]), (c,), route) for c, route in zip(classes, routes, strict=True)]

    @contextmanager
    def attached(self, routes: Sequence[Route]) -> Iterator[None]:
        edited = [(i, self._row[route.block]) for i, route in enumerate(routes) if route.block is not None]
        if not edited:  # nothing is attached, so this is the base model itself
            yield
            return
        device = self.base.device
        rows = torch.tensor([i for i, _ in edited], device=device)
        weights = self._stack.gather(torch.tensor([row for _, row in edited]), device, self.base.model.dtype)
        positions = self.settings.positions if self.base.kind is Kind.CAUSAL else "all"
        with applied(self.structure.modules, weights, rows, positions):
            yield


def route_of(scope: Scope | None, block_of: Mapping[int, int], prompt: str | Sequence[str], kind: str = "qa") -> Route:
    """Choose the block that answers a prompt, or the ways to read it. block_of: of each point. Raises PromptTooLong."""
    if scope is None:
        return BASE
    decision = scope.decide(prompt, kind)
    block = block_of[decision.match.point] if decision.covered and decision.match else None
    return Route(block, decision.match, decision.considered, decision.reading)


@dataclass(frozen=True)
class Attempt:
    """One way to answer. target: what the answer must be to count; None: any answer counts."""

    said_to: SaidTo
    ids: list[int]  # the model's prompt
    route: Route
    target: str | None = None
    alternatives: tuple[str, ...] = ()  # other answers that count

    def is_answered_by(self, text: str, tokens: int, most: int) -> bool:
        """Tell whether an answer of so many tokens is right, letter by letter but for white space around it.

        An answer cut off at `most` tokens need only be the beginning of a right one.
        """
        if self.target is None:
            return True
        right = [same_text(each) for each in (self.target, *self.alternatives)]
        said = same_text(text)
        return said in right or (tokens >= most and any(each.startswith(said) for each in right))


def attempts(base: BaseModel, ids: list[int], route: Route, approved: Mapping[int, Approved]) -> Iterator[Attempt]:
    """Yield the ways to answer a routed prompt (as tokens): the first that counts is used, and the last always does.

    A block was trained on its edit's prompt, and occasionally stops early or runs on when asked in other words. Its
    answer to that prompt is then used, since the query was found to ask the same. Where it does not give its target
    there either, the base model answers.
    """
    verified = route.block is not None and bool(route.considered) and route.considered[0].score is not None
    edit = approved.get(route.considered[0].edit) if verified else None
    if edit is None:
        yield Attempt("query", ids, route)
    else:
        yield Attempt("query", ids, route, edit.target, edit.alternatives)
        yield Attempt("prompt", base.prompt_ids(edit.prompt, edit.kind), route, edit.target, edit.alternatives)
        yield Attempt("base", ids, BASE)
