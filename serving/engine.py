"""The engine: one thread that owns the model and generates for many requests at once, each with its own block."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

import structlog
import torch
from torch import Tensor

from melo_core.application import applied
from melo_core.base_model import BaseModel
from melo_core.block import Block, BlockStack
from melo_core.settings import Positions
from registry.base.errors import RegistryError
from serving.slots import Prefixes, Rows

log = structlog.get_logger("melo.serve")

Ended = Literal["stop", "length", "cancelled"]


class Overloaded(RegistryError):
    status = 429
    code = "overloaded"
    title = "Too many requests are waiting"
    headers: Mapping[str, str] = {"Retry-After": "1"}


class Stopping(RegistryError):
    status = 503
    code = "stopping"
    title = "The server is stopping"


@dataclass(eq=False)
class Generation:
    """Tokens to generate after a prompt.

    block: acts from the last prompt token on; None: the base model alone. choose: returns the next token, given the
    logits (vocabulary,); None: the most probable. on_token: called with each token and its logits, in the engine's
    thread; True ends the generation. on_end: called once, with the reason or with the error.
    """

    ids: list[int]
    limit: int
    block: Block | None
    on_token: Callable[[int, Tensor], bool]
    on_end: Callable[[Ended | Exception], None]
    positions: Positions = "answer"
    choose: Callable[[Tensor], int] | None = None
    out: list[int] = field(default_factory=list)
    cancelled: bool = False
    ended: Ended | Exception | None = None

    @property
    def unedited(self) -> int:
        """Return how many of the first tokens have keys and values of the base model alone."""
        if self.block is None:
            return len(self.ids) + max(0, len(self.out) - 1)
        return len(self.ids) - 1 if self.positions == "answer" else 0


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

    rows: requests at once. together: prompt tokens in a step, so that a long prompt delays nobody for long.
    """

    def __init__(self, base: BaseModel, *, rows: int = 16, together: int = 512, prefix_bytes: int = 256 << 20) -> None:
        self.base, self.slots, self.together = base, rows, together
        self.waiting: deque[Generation] = deque()
        self.running: list[Generation] = []
        self.prefixes = Prefixes(prefix_bytes)
        self._modules = dict(base.model.named_modules())
        self._ends = end_tokens(base)
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
            _end(request, error)
        self.running, self._arriving = [], None
        self._rows = Rows(self.base.model, self.slots, 256)

    def _arrive(self) -> None:
        if self._arriving is None:
            self._arriving = self._next()
        arriving = self._arriving
        if arriving is None:
            return
        try:
            width = max(1, self.together // len(arriving.requests))
            last = arriving.done + width >= arriving.ids.shape[1]
            chunk = arriving.ids[:, arriving.done : arriving.done + width]
            with self._edited(arriving.requests, None if last else "all"):
                logits = arriving.rows.forward(chunk, arriving.done)
        except Exception as error:
            self._arriving = None
            for request in arriving.requests:
                _end(request, error)
            log.exception("a prompt could not be computed")
            return
        arriving.done += chunk.shape[1]
        if last:
            self._arriving = None
            for row, request in enumerate(arriving.requests):
                self._remember(arriving.rows, row, request, request.unedited)
            self._rows.adopt(arriving.rows)
            self.running += arriving.requests
            self._take(arriving.requests, logits)

    def _next(self) -> _Arriving | None:
        """Take requests from the queue whose prompts are computed together; what is known of them is copied."""
        found: list[Generation] = []
        known = []
        width = 0  # columns to compute
        while self.waiting and len(self.running) + len(found) < self.slots:
            request = self.waiting[0]
            if request.cancelled:
                _end(self.waiting.popleft(), "cancelled")
                continue
            tokens, prefix = self.prefixes.longest(request.ids[: request.unedited])
            need = len(request.ids) - min(tokens, len(request.ids) - 1)
            if found and max(width, need) * (len(found) + 1) > self.together:
                break
            found.append(self.waiting.popleft())
            known.append(prefix)
            width = max(width, need)
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
                _end(request, "cancelled")
            if request.ended is None:
                continue
            if request.block is None and request.ended in ("stop", "length"):
                self._remember(self._rows, row, request, request.unedited)
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
                token = best[i] if request.choose is None else request.choose(logits[i])
                request.out.append(token)
                stopped = request.on_token(token, logits[i])
            except Exception as error:
                log.exception("a request failed")
                _end(request, error)
                continue
            if stopped or token in self._ends:
                _end(request, "stop")
            elif len(request.out) >= request.limit:
                _end(request, "length")

    @contextmanager
    def _edited(self, requests: Sequence[Generation], only: Positions | None = None) -> Iterator[None]:
        """Attach the requests' blocks; `only`: those that act at these positions."""
        wanted = [(i, r.block, r.positions) for i, r in enumerate(requests) if r.block and only in (None, r.positions)]
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


def end_tokens(base: BaseModel) -> frozenset[int]:
    """Return the tokens that end an answer: the tokenizer's, and all of the model's generation settings."""
    settings = getattr(base.model.generation_config, "eos_token_id", None)
    listed = settings if isinstance(settings, list) else [settings]
    return frozenset(token for token in (*listed, base.tokenizer.eos_token_id) if token is not None)


def _end(request: Generation, why: Ended | Exception) -> None:
    if request.ended is None:
        request.ended = why
        request.on_end(why)


class Engine:
    """A loop in its own thread. Requests come by queue; a full queue refuses instead of growing."""

    def __init__(self, loop: Loop, most_waiting: int = 256) -> None:
        self.loop, self.most_waiting = loop, most_waiting
        self._inbox: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="melo-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return self._inbox.qsize() + len(self.loop.waiting)

    @property
    def running(self) -> int:
        return sum(request.ended is None for request in self.loop.active)

    def submit(self, request: Generation) -> None:
        """Queue a request. Raises Overloaded or Stopping."""
        if self._stopping:
            raise Stopping("The server is stopping.", "Ask again in a moment: another one may have taken over.")
        if self.waiting >= self.most_waiting:
            raise Overloaded(
                f"{self.most_waiting} requests are waiting already.", "Ask again in a second, or add a server."
            )
        self._inbox.put(request)

    def stop(self, seconds: float) -> None:
        """Take nothing new in, and end when what is there has been answered, or after some time."""
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
