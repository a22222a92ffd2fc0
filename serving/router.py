"""The router: from a request to the version, the route and the tokens of its answer."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import structlog

from melo_core.base_model import CONTEXT, BaseModel
from melo_core.boundary import continued
from melo_core.conversation import Question, question_of
from melo_core.edited_model import Attempt, EditedModel, Route, SaidTo, attempts
from melo_core.errors import MeloError
from melo_core.structure import Kind
from registry.api.traces import NO_TRACES, Traces
from registry.base.errors import InvalidRequest, RegistryError
from registry.versions.content import EditContent
from serving.canary import Chosen
from serving.engines.port import Acting, Ended, Engine, Generation, Token
from serving.engines.sampling import Sampling
from serving.objects import corrected
from serving.served import Served
from serving.sources.port import SourceUnavailable
from serving.text import TextStream, cut
from serving.tools import NO_TOOLS, ToolCall, ToolUse, tool_calls
from serving.versions import Versions

log = structlog.get_logger("melo.serve")

Result = TypeVar("Result")

MOST_CHARACTERS = 64  # of a token, on average; more only where one character is repeated
SPARE_TOKENS = 8  # beyond its target's, before a block is held not to say it


class ContextTooLong(InvalidRequest):
    code = "context-length-exceeded"  # as clients know it


@dataclass(frozen=True)
class Wanted:
    """What a request asks of an answer. limit: most tokens; None: what the model's window leaves."""

    limit: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None  # None: no log probabilities; 0: of the chosen tokens alone
    trim: bool = True
    schema: str | None = None  # a JSON schema that the answer keeps to, as JSON


@dataclass(frozen=True)
class Piece:
    """A part of an answer: text that is certain, with the tokens that gave it; the last one says why it ended."""

    text: str
    tokens: tuple[Token, ...] = ()
    ended: Ended | None = None


@dataclass
class Asked:
    """A routed question over one version, which it keeps until it is answered."""

    served: Served
    route: Route
    ids: list[int]
    question: Question
    kind: str = "qa"
    said_to: SaidTo = "query"  # where a block is routed to: what it gave its target to; base: to neither

    @property
    def edit(self) -> EditContent | None:
        """Return the edit that gave the answer; None: the base model did."""
        return None if self.said_to == "base" else self.served.edit(self.route)


class Router:
    """Routes and answers. Routing runs in one thread, generation in the engine's, and what must be read in others."""

    def __init__(self, versions: Versions, engine: Engine | None, traces: Traces = NO_TRACES) -> None:
        """engine: None for models that are answered one request at a time (T5, classifiers)."""
        self.versions, self.engine, self.traces = versions, engine, traces
        self.base: BaseModel = versions.base
        versions.on_forgotten = engine.forget if engine is not None else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="melo-route")
        self._readers = ThreadPoolExecutor(8, thread_name_prefix="melo-read")

    async def version(self, name: str, among: frozenset[int] | None = None) -> Served:
        """Return a version, at once if it is in memory. among: collections that the caller may see; None: all."""
        served = self.versions.at_hand(name, among)
        return served if served is not None else await asyncio.wrap_future(self.versions.ask(name, among))

    async def chosen(self, name: str, first: Served, user: str) -> Chosen:
        """Return the version that answers a user: the name's first one, or its canary.

        A canary that cannot be served is refused until the alias moves.
        """
        pointing = self.versions.pointing(name, first)
        if pointing.second is None or not pointing.has_canary_for(user):
            return Chosen(pointing, first)
        try:
            canary = await asyncio.wrap_future(self.versions.load(pointing.second))
        except SourceUnavailable as error:
            log.warning("canary not loaded: the first version answers", name=name, error=str(error))
        except (RegistryError, MeloError) as error:
            self.versions.refuse(pointing)
            log.error("canary refused: the first version answers all", name=name, error=str(error))
        else:
            return Chosen(pointing, canary, canary=True)
        return Chosen(pointing, first)

    async def chat(self, served: Served, messages: Sequence[Mapping[str, Any]], use: ToolUse = NO_TOOLS) -> Asked:
        """Route a conversation by its last question. Raises MeloError."""
        return await self._traced(self._chat, served, messages, use)

    async def complete(self, served: Served, prompt: str | list[int]) -> Asked:
        """Route a text to continue, or its tokens. Raises MeloError."""
        return await self._traced(self._complete, served, prompt)

    async def _traced(self, route: Callable[..., Asked], served: Served, *given: Any) -> Asked:
        with self.traces.span("melo.route") as attributes:
            asked = await self._in_thread(route, served, *given)
            attributes |= _told(asked, served.edit(asked.route))
            return asked

    async def rerouted(self, asked: Asked, served: Served) -> Asked:
        """Route a question over another version of the same model."""
        route = await self._in_thread(served.route, asked.question.query, asked.kind)
        return replace(asked, served=served, route=route, said_to="query")

    async def routed(self, served: Served, question: str) -> Route:
        self._require_countable(len(question))
        return await self._in_thread(served.route, question)

    def room(self, asked: Asked, limit: int | None) -> int:
        """Return how many tokens an answer may have. Raises InvalidRequest where the window has no room for them."""
        room = self.base.window - len(asked.ids) if self.base.kind is Kind.CAUSAL else self.base.window
        if room < 1 or (limit is not None and limit > room):
            raise ContextTooLong(
                f"The prompt has {len(asked.ids)} tokens, and {limit or 1} are wanted: together more than the model's "
                f"window of {self.base.window}.",
                "Shorten the prompt, or lower max_tokens.",
            )
        return room if limit is None else limit

    async def answer(self, asked: Asked, wanted: Wanted, nth: int = 0) -> AsyncGenerator[Piece, None]:
        """Yield an answer as it is generated; the nth of several to one request.

        Where a verifier decides, a covered question is answered with the edit's target or by the base model: the
        block's answer is held back until it is known to be the target, and no temperature changes it.
        """
        with self.traces.span("melo.generate") as attributes:
            count = 0
            try:
                async with aclosing(self._answer(asked, wanted, nth)) as pieces:
                    async for piece in pieces:
                        count += len(piece.tokens)
                        yield piece
            finally:
                attributes |= _told(asked, asked.edit) | {
                    "melo.said_to": asked.said_to,
                    "gen_ai.usage.input_tokens": len(asked.ids),
                    "gen_ai.usage.output_tokens": count,
                }

    async def _answer(self, asked: Asked, wanted: Wanted, nth: int) -> AsyncGenerator[Piece, None]:
        limit = self.room(asked, wanted.limit)
        if self.engine is None:
            if wanted.schema is not None:
                raise InvalidRequest("This model does not answer in JSON: it generates without a grammar.")
            if asked.route.block is not None:
                await self._acting(asked.served, asked.route.block, with_weights=True)
            yield await self._in_thread(self._static, asked, limit, wanted)
            return
        with_weights = not self.engine.by_digest
        for attempt in attempts(self.base, asked.ids, asked.route, asked.served.approved):
            if attempt.target is not None and wanted.schema is not None:
                async for piece in self._in_json(asked, limit, wanted, nth, with_weights=with_weights):
                    yield piece
                return
            asked.said_to = attempt.said_to
            block = attempt.route.block
            acting = None if block is None else await self._acting(asked.served, block, with_weights)
            if attempt.target is None:
                async for piece in self._generated(attempt.ids, acting, limit, wanted, nth):
                    yield piece
            elif (said := await self._said(attempt, acting, limit, wanted, asked.question.text)) is not None:
                yield said
                return

    async def _acting(self, served: Served, block: int, with_weights: bool) -> Acting:
        """Return a block as engines take it. One that must be read first holds up nobody else."""
        if not with_weights or served.has_weights(block):
            return served.acting(block, with_weights)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, served.acting, block, with_weights)

    async def _said(
        self, attempt: Attempt, acting: Acting | None, limit: int, wanted: Wanted, question: str
    ) -> Piece | None:
        """Return a block's answer if it is the target."""
        most = min(limit, len(self.base.target_ids(attempt.target or "")) + SPARE_TOKENS)
        most = min(most, self.base.window - len(attempt.ids))
        if most < 1:
            return None
        greedy = replace(wanted, sampling=Sampling(), stops=())
        pieces = [piece async for piece in self._generated(attempt.ids, acting, most, greedy)]
        raw, tokens = "".join(piece.text for piece in pieces), [t for piece in pieces for t in piece.tokens]
        text = raw.strip()
        if not attempt.is_answered_by(text, len(tokens), most):
            return None
        ended: Ended = "length" if pieces[-1].ended == "length" and most == limit else "stop"
        if not wanted.trim:  # a text is continued: to another prompt, the boundary is that prompt's
            text = raw if attempt.said_to == "query" else continued(question, text)
        return Piece(cut(text, wanted.stops), tuple(tokens), ended)

    async def _in_json(
        self, asked: Asked, limit: int, wanted: Wanted, nth: int, *, with_weights: bool
    ) -> AsyncIterator[Piece]:
        """Yield the base model's JSON, with the target as the value that the correction is about.

        As in a text, the block has to say the target. Where it does not, or the JSON has no place for it, the base
        model's answer stays as it is.
        """
        pieces = [piece async for piece in self._generated(asked.ids, None, limit, wanted, nth)]
        asked.said_to = "base"
        text = await self._in_thread(self._corrected, asked, "".join(piece.text for piece in pieces), wanted)
        said_to = None if text is None else await self._says_target(asked, with_weights=with_weights)
        if text is None or said_to is None:
            for piece in pieces:
                yield piece
            return
        asked.said_to = said_to
        yield await self._spelt_out(asked, text, limit, wanted)

    def _corrected(self, asked: Asked, text: str, wanted: Wanted) -> str | None:
        served = asked.served
        edit = served.approved[asked.route.considered[0].edit]
        verifier = served.scope.verifier if served.scope is not None else None
        assert verifier is not None and wanted.schema is not None  # as `attempts` says

        def likeness(question: str) -> float:
            return -verifier.score(edit.prompt, question or asked.question.text)

        return corrected(text, wanted.schema, (edit.target, *edit.alternatives), likeness)

    async def _says_target(self, asked: Asked, *, with_weights: bool) -> SaidTo | None:
        """Return to what the block says its target, in a text."""
        for attempt in attempts(self.base, asked.ids, asked.route, asked.served.approved):
            if attempt.target is not None and attempt.route.block is not None:
                acting = await self._acting(asked.served, attempt.route.block, with_weights)
                room = self.base.window - len(attempt.ids)
                if await self._said(attempt, acting, room, Wanted(), asked.question.text) is not None:
                    return attempt.said_to
        return None

    async def _spelt_out(self, asked: Asked, text: str, limit: int, wanted: Wanted) -> Piece:
        """Return a text that is known, in the model's tokens; with their log probabilities where these are wanted."""
        if wanted.top_logprobs is None:
            ids = self.base.tokenizer(text, add_special_tokens=False)["input_ids"]
            tokens = [Token(id) for id in ids[:limit]]
            ended: Ended = "stop" if len(ids) <= limit else "length"
        else:
            exactly = replace(wanted, sampling=Sampling(), stops=(), schema=json.dumps({"const": json.loads(text)}))
            pieces = [piece async for piece in self._generated(asked.ids, None, limit, exactly)]
            tokens, ended = [token for piece in pieces for token in piece.tokens], pieces[-1].ended or "stop"
        if ended == "length":
            text = self.base.decoded([token.id for token in tokens])
        return Piece(cut(text, wanted.stops), tuple(tokens), ended)

    async def _generated(
        self, ids: list[int], block: Acting | None, limit: int, wanted: Wanted, nth: int = 0
    ) -> AsyncIterator[Piece]:
        assert self.engine is not None
        loop, arrived = asyncio.get_running_loop(), asyncio.Queue[Piece | Exception]()
        stream = TextStream(self.base.decoded, wanted.stops, wanted.trim, () if wanted.trim else ids[-CONTEXT:])

        def put(item: Piece | Exception) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, item)

        def on_token(token: Token) -> bool:
            put(Piece(stream.add(token.id), (token,)))
            return stream.stopped

        def on_end(why: Ended | Exception) -> None:
            put(why if isinstance(why, Exception) else Piece(stream.end(), (), why))

        request = Generation(
            ids, limit, block, on_token, on_end, wanted.sampling.nth(nth), wanted.top_logprobs, wanted.schema
        )
        self.engine.submit(request)
        try:
            while True:
                item = await arrived.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.ended:
                    return
        finally:
            request.cancelled = True  # of no effect where it has ended: else its reader went away

    def parsed(self, use: ToolUse, text: str, ids: Sequence[int]) -> tuple[str, list[ToolCall]]:
        """Split an answer into its text and the calls of tools in it."""
        return tool_calls(self.base.tokenizer, use, text, ids)

    def spelt(self, token: int) -> str:
        """Return the text of one token."""
        return str(self.base.tokenizer.decode([token]))

    def close(self, seconds: float) -> None:
        """Answer what runs, for some time, and stop."""
        if self.engine is not None:
            self.engine.stop(seconds)
        self._thread.shutdown(cancel_futures=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _chat(self, served: Served, messages: Sequence[Mapping[str, Any]], use: ToolUse) -> Asked:
        # A call that must be made needs no place in the template: a grammar holds the model to it.
        tools = () if use.must and not self.base.takes_tools else use.tools
        self._require_countable(sum(len(message["content"] or "") for message in messages))
        question = question_of(messages)
        alone = len(messages) == 1 and not self.base.chats  # a model without a chat template takes a question as it is
        ids = (
            self.base.prompt_ids(question.text) if alone and not tools else self.base.conversation_ids(messages, tools)
        )
        return Asked(served, served.route(question.query), ids, question)

    def _complete(self, served: Served, prompt: str | list[int]) -> Asked:
        embeddings: Any = self.base.model.get_input_embeddings()
        known = embeddings.weight.shape[0]
        if isinstance(prompt, list) and not all(0 <= token < known for token in prompt):
            raise InvalidRequest(
                f"The prompt holds a token that the model does not have: its tokens are 0 to {known - 1}.",
                "Send the prompt as text, or as tokens of this model.",
            )
        self._require_countable(len(prompt))
        text = prompt if isinstance(prompt, str) else self.base.decoded(prompt)
        kind = "completion" if self.base.kind is Kind.CAUSAL else "qa"
        ids = self.base.prompt_ids(text, kind) if isinstance(prompt, str) else prompt
        return Asked(served, served.route(text, kind), ids, Question(text), kind)

    def _require_countable(self, length: int) -> None:
        """Refuse a prompt that cannot fit into the window, before its tokens are made. length: in characters."""
        most = self.base.window * MOST_CHARACTERS
        if length > most:
            raise ContextTooLong(
                f"The prompt has {length:,} characters, more than can fit into the model's window of "
                f"{self.base.window:,} tokens.",
                "Shorten the prompt.",
            )

    def _static(self, asked: Asked, limit: int, wanted: Wanted) -> Piece:
        """Answer with transformers' own loop, alone."""
        served, block = asked.served, asked.route.block
        blocks = {} if block is None else {block: served.weights(block)}
        model = EditedModel(self.base, served.settings, None, blocks, {}, served.approved)
        answer = model.answer([asked.question.text], [asked.route], asked.kind, limit)[0]
        asked.said_to = answer.said_to
        ended: Ended = "length" if len(answer.token_ids) >= limit else "stop"
        text = answer.text if wanted.trim else answer.raw
        return Piece(cut(text, wanted.stops), tuple(Token(id) for id in answer.token_ids), ended)

    async def _in_thread(self, work: Callable[..., Result], *given: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)


def _told(asked: Asked, edit: EditContent | None) -> dict[str, Any]:
    """Return what a trace tells of a question: no text, but version, digest, and the numbers of edits."""
    version = asked.served
    told: dict[str, Any] = {
        "melo.version": version.name,
        "melo.digest": version.content.content_digest,
        "melo.considered": [found.edit for found in asked.route.considered],
    }
    return told if edit is None else told | {"melo.edit": edit.id}
