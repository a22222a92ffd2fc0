"""The engine: one thread that owns the model and generates for many requests at once, each with its own block."""

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import structlog
import torch
from torch import Tensor

from melo_core.application import applied
from melo_core.base_model import BaseModel
from melo_core.block import Block, BlockStack
from melo_core.settings import Positions
from serving.engines.grammar import Grammars
from serving.engines.port import Acting, Generation, Overloaded, Stopping, Token
from serving.engines.sampling import Chooser
from serving.engines.slots import Prefixes, Rows

log = structlog.get_logger("melo.serve")


AT_REST = 4


@dataclass
class _Arriving:
    """Requests whose prompts are being computed, a chunk in each step."""

    requests: list[Generation]
    rows: Rows
    ids: Tensor  # (requests, longest), padded on the left
    done: int  # columns


_Wanted = tuple[int, Block, Positions]  # a row of the pass, and the block that acts on it
_Gathered = tuple[Tensor, Positions, dict[str, tuple[Tensor, Tensor]]]  # rows, and their weights by module


class Loop:
    """Generates token by token; requests join and leave between steps.

    rows: requests at once. together: prompt tokens in a step, so that a long prompt delays nobody for long; while
    nothing else runs, AT_REST times as many.
    """

    def __init__(self, base: BaseModel, *, rows: int = 16, together: int = 512, prefix_bytes: int = 256 << 20) -> None:
        self.base, self.slots, self.together = base, rows, together
        self.waiting: deque[Generation] = deque()
        self.running: list[Generation] = []
        self.prefixes = Prefixes(prefix_bytes)
        self._modules = dict(base.model.named_modules())
        self._grammars = Grammars(base)
        self._choosers: WeakKeyDictionary[Generation, Chooser | None] = WeakKeyDictionary()
        self._rows = Rows(base.model, rows, 256)
        self._arriving: _Arriving | None = None
        self._wanted: list[_Wanted] = []  # of the last pass; their weights are gathered anew only when these change
        self._gathered: list[_Gathered] = []

    @property
    def active(self) -> list[Generation]:
        return [*self.running, *(self._arriving.requests if self._arriving else ())]

    @torch.no_grad()
    def step(self) -> bool:
        """Retire what has ended, compute a chunk of what arrives, and one token of what runs; False: nothing to do."""
        self._retire()
        self._arrive()
        self._retire()
        if self.running:
            if self._rows.end + 1 > self._rows.columns and min(self._rows.starts):
                self._rows.shift(-min(self._rows.starts))
            ids = torch.tensor([[request.out[-1]] for request in self.running], device=self.base.device)
            with self._edited(self.running):
                logits = self._rows.forward(ids, self._rows.end)
            self._take(self.running, logits)
        return bool(self.running or self.waiting or self._arriving)

    def fail(self, error: Exception) -> None:
        """End all that is active with an error, and begin anew with an empty cache."""
        for request in self.active:
            request.end(error)
        self.running, self._arriving = [], None
        self._rows = Rows(self.base.model, self.slots, 256)

    @property
    def _most_together(self) -> int:
        return self.together if self.running else self.together * AT_REST

    def _arrive(self) -> None:
        if self._arriving is None:
            self._arriving = self._next()
        arriving = self._arriving
        if arriving is None:
            return
        try:
            width = max(1, self._most_together // len(arriving.requests))
            last = arriving.done + width >= arriving.ids.shape[1]
            chunk = arriving.ids[:, arriving.done : arriving.done + width]
            with self._edited(arriving.requests, None if last else "all"):
                logits = arriving.rows.forward(chunk, arriving.done)
        except Exception as error:
            self._arriving = None
            for request in arriving.requests:
                request.end(error)
            log.exception("a prompt could not be computed")
            return
        arriving.done += chunk.shape[1]
        if last:
            self._arriving = None
            for row, request in enumerate(arriving.requests):
                self._remember(arriving.rows, row, request, _unedited(request))
            self._rows.adopt(arriving.rows)
            self.running += arriving.requests
            self._take(arriving.requests, logits)

    def _next(self) -> _Arriving | None:
        """Take requests from the queue whose prompts are computed together; what is known of them is copied."""
        found: list[Generation] = []
        known = []
        width = total = 0  # columns to compute, and tokens in them
        while self.waiting and len(self.running) + len(found) < self.slots:
            request = self.waiting[0]
            if request.cancelled:
                self.waiting.popleft().end("cancelled")
                continue
            tokens, prefix = self.prefixes.longest(request.ids[: _unedited(request)])
            need = len(request.ids) - min(tokens, len(request.ids) - 1)
            size = max(width, need) * (len(found) + 1)
            if found and (size > self._most_together or size - total - need > self.together):  # the rest is padding
                break
            found.append(self.waiting.popleft())
            known.append(prefix)
            width, total = max(width, need), total + need
        if not found:
            return None
        longest = max(len(request.ids) for request in found)
        rows = Rows(self.base.model, len(found), longest)
        rows.starts = [longest - len(request.ids) for request in found]
        ids, _ = self.base.pad([request.ids for request in found], "left")
        for row, (request, prefix) in enumerate(zip(found, known, strict=True)):
            copied = len(request.ids) - width
            self.prefixes.asked += len(request.ids)
            if copied > 0:
                rows.put(row, prefix, copied, rows.starts[row])
                self.prefixes.reused += copied
        return _Arriving(found, rows, ids, longest - width)

    def _retire(self) -> None:
        for row in reversed(range(len(self.running))):
            request = self.running[row]
            if request.cancelled:
                request.end("cancelled")
            if request.ended is None:
                continue
            if request.block is None and request.ended in ("stop", "length"):
                self._remember(self._rows, row, request, _unedited(request))
            self._rows.free(row)
            self.running[row] = self.running[-1]
            self.running.pop()

    def _remember(self, rows: Rows, row: int, request: Generation, tokens: int) -> None:
        ids = [*request.ids, *request.out][:tokens]
        if ids and not self.prefixes.knows(ids):
            self.prefixes.keep(ids, rows.copy_of(row, len(ids)))

    def _take(self, requests: Sequence[Generation], logits: Tensor) -> None:
        """Choose each request's next token. An error in one ends that one alone."""
        best = logits.argmax(-1).tolist()
        for i, request in enumerate(requests):
            try:
                if request not in self._choosers:
                    grammar = None if request.schema is None else self._grammars.of(request.schema)
                    self._choosers[request] = request.sampling.chooser(self.base.device, grammar)
                choose = self._choosers[request]
                token = best[i] if choose is None else choose(logits[i])
                request.out.append(token)
                stopped = request.on_token(_token(token, logits[i], request.top_logprobs))
            except Exception as error:
                log.exception("a request failed")
                request.end(error)
                continue
            if stopped or token in self.base.end_tokens:
                request.end("stop")
            elif len(request.out) >= request.limit:
                request.end("length")

    @contextmanager
    def _edited(self, requests: Sequence[Generation], only: Positions | None = None) -> Iterator[None]:
        """Attach the requests' blocks; `only`: those that act at these positions."""
        acting = [(i, request.block) for i, request in enumerate(requests) if request.block is not None]
        wanted = [(i, _weights(b), b.positions) for i, b in acting if only in (None, b.positions)]
        if not _same(wanted, self._wanted):
            self._wanted = wanted
            self._gathered = [self._gather(wanted, positions) for positions in sorted({each[2] for each in wanted})]
        with ExitStack() as attached:
            for rows, positions, weights in self._gathered:
                attached.enter_context(applied(self._modules, weights, rows, positions))
            yield

    def _gather(self, wanted: list[_Wanted], positions: Positions) -> _Gathered:
        mine = [(i, block) for i, block, its in wanted if its == positions]
        stack = BlockStack([block for _, block in mine])
        weights = stack.gather(torch.arange(len(mine)), self.base.device, self.base.model.dtype)
        return torch.tensor([i for i, _ in mine], device=self.base.device), positions, weights


def _same(a: Sequence[_Wanted], b: Sequence[_Wanted]) -> bool:
    """Tell whether two passes have the same blocks; blocks are compared by identity, not by their weights."""
    return len(a) == len(b) and all(x[0] == y[0] and x[1] is y[1] and x[2] == y[2] for x, y in zip(a, b, strict=True))


def _unedited(request: Generation) -> int:
    """Return how many of the first tokens have keys and values of the base model alone."""
    if request.block is None:
        return len(request.ids) + max(0, len(request.out) - 1)
    return len(request.ids) - 1 if request.block.positions == "answer" else 0


def _weights(acting: Acting) -> Block:
    assert acting.weights is not None  # as `by_digest` says
    return acting.weights


def _token(token: int, logits: Tensor, top: int | None) -> Token:
    if top is None:
        return Token(token)
    logprobs = logits.log_softmax(-1)
    best = logprobs.topk(top) if top else None
    others = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best else ()
    return Token(token, float(logprobs[token]), others)


class EmbeddedEngine:
    """A loop in its own thread. Requests come by queue; a full queue refuses instead of growing."""

    by_digest = False

    def __init__(self, loop: Loop, most_waiting: int = 256) -> None:
        self.loop, self.most_waiting = loop, most_waiting
        self._inbox: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="melo-engine", daemon=True)
        self._thread.start()

    @property
    def slots(self) -> int:
        return self.loop.slots

    @property
    def waiting(self) -> int:
        return self._inbox.qsize() + len(self.loop.waiting)

    @property
    def running(self) -> int:
        return sum(request.ended is None for request in self.loop.active)

    @property
    def prompt_tokens(self) -> tuple[int, int]:
        return self.loop.prefixes.asked, self.loop.prefixes.reused

    def submit(self, request: Generation) -> None:
        if self._stopping:
            raise Stopping("The server is stopping.", "Ask again in a moment: another one may have taken over.")
        if self.waiting >= self.most_waiting:
            raise Overloaded(
                f"{self.most_waiting} requests are waiting already.", "Ask again in a second, or add a server."
            )
        self._inbox.put(request)

    def forget(self, digests: frozenset[str]) -> None:
        """Do nothing: each generation brings its block."""

    def stop(self, seconds: float) -> None:
        self._stopping = True
        self._inbox.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        busy = False
        while True:
            try:
                while (request := self._inbox.get(block=not busy)) is not None:
                    self.loop.waiting.append(request)
                    busy = True
            except queue.Empty:
                pass
            try:
                busy = self.loop.step()
            except Exception as error:
                log.exception("a step failed")
                self.loop.fail(error)
                busy = bool(self.loop.waiting)
            if self._stopping and not busy and self._inbox.empty():
                return
