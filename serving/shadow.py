"""Shadows: an alias's second version answers in the background what the first was asked, and the two are compared.

Answers are compared as the versions give them, without chance: both are asked once more, always with the most probable
token. Where both would let the same block answer, or both the base model, they are equal without being asked.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

import structlog
from prometheus_client import Counter

from melo_core.errors import MeloError
from registry.base.errors import NotFound, RegistryError, first_line
from registry.versions.schemas import ShadowDifference, ShadowReport, ShadowSide
from serving.canary import Pointing
from serving.engines.port import Overloaded
from serving.engines.sampling import Sampling
from serving.router import Asked, Router, Wanted
from serving.sources.port import SourceUnavailable

log = structlog.get_logger("melo.serve")

MOST_WAITING = 64  # questions
MOST_KEPT = 50  # differences in a report
MOST_TOKENS = 256  # of an answer that is compared
PAUSE_SECONDS = 0.05  # between two looks whether the engine is free


@dataclass
class _Report:
    """A ShadowReport that grows."""

    alias: str
    first: str
    second: str
    since: datetime
    compared: int = 0
    same: int = 0
    other_text: int = 0
    other_edit: int = 0
    dropped: int = 0
    failed: int = 0
    error: str | None = None
    differences: deque[ShadowDifference] = field(default_factory=lambda: deque(maxlen=MOST_KEPT))

    def add(self, difference: ShadowDifference) -> Iterator[str]:
        """Count one comparison. Yields its outcomes, for the metrics."""
        self.compared += 1
        before, after = difference.first, difference.second
        if (before.text, before.edit) == (after.text, after.edit):
            self.same += 1
            yield "same"
            return
        if before.text != after.text:
            self.other_text += 1
            yield "other_text"
        if before.edit != after.edit:
            self.other_edit += 1
            yield "other_edit"
        self.differences.append(difference)


@dataclass(frozen=True)
class _Question:
    pointing: Pointing
    asked: Asked
    wanted: Wanted


class Shadows:
    """Compares what is offered, one question at a time, while the engine has room; what does not fit is dropped.

    A report is held as long as the server's versions hold where the alias points: it goes when the shadow ends, and
    with it the text of the questions.
    """

    def __init__(self, router: Router, outcomes: Counter) -> None:
        """outcomes: a counter by alias and outcome."""
        self._router, self._outcomes = router, outcomes
        self._questions = asyncio.Queue[_Question](MOST_WAITING)
        self._reports: WeakKeyDictionary[Pointing, _Report] = WeakKeyDictionary()

    def offer(self, pointing: Pointing, asked: Asked, wanted: Wanted) -> None:
        """Queue a question that was answered, if its alias has a shadow. Returns at once."""
        if not pointing.has_shadow or self._report(pointing).error is not None:
            return
        limit = min(MOST_TOKENS, self._router.room(asked, wanted.limit))
        greedy = replace(wanted, sampling=Sampling(), top_logprobs=None, limit=limit)
        try:
            self._questions.put_nowait(_Question(pointing, asked, greedy))
        except asyncio.QueueFull:
            self._drop(pointing)

    def report(self, pointing: Pointing) -> ShadowReport:
        """Return an alias's report. Raises NotFound where it has no shadow."""
        if not pointing.has_shadow:
            raise NotFound(
                f"{pointing.name} has no shadow, so nothing is compared.",
                f"Begin one: `melo alias shadow {pointing.name.replace('@', ' ')} VERSION`.",
            )
        return ShadowReport.model_validate(self._report(pointing))

    async def run(self) -> None:
        """Compare until cancelled."""
        while True:
            question = await self._questions.get()
            pointing = question.pointing
            try:
                await self._compare(question)
            except Overloaded:
                self._drop(pointing)
            except (RegistryError, MeloError) as error:
                self._fail(pointing, first_line(error))
            except Exception:
                log.exception("a shadow could not be compared", name=pointing.name)
                self._fail(pointing, "see the server's log")
            del question, pointing  # nothing of it is kept while the next one is waited for

    async def _compare(self, question: _Question) -> None:
        pointing = question.pointing
        assert pointing.second is not None
        report = self._report(pointing)
        if report.error is not None:
            return
        await self._until_free()
        try:
            served = await asyncio.wrap_future(self._router.versions.load(pointing.second))
        except SourceUnavailable:
            raise
        except (RegistryError, MeloError) as error:
            report.error = str(error)
            log.error("shadow refused: it is not asked", name=pointing.name, version=report.second, error=str(error))
            raise
        first = replace(question.asked, said_to="query")  # as it was before it was answered
        second = await self._router.rerouted(question.asked, served)
        texts: list[str | None] = [None, None]
        if _acting(first) != _acting(second) and self._router.engine is not None:
            texts = [await self._text(each, question.wanted) for each in (first, second)]
        difference = ShadowDifference(
            at=_now(), question=first.question.text, first=_side(first, texts[0]), second=_side(second, texts[1])
        )
        for outcome in report.add(difference):
            self._outcomes.labels(pointing.name, outcome).inc()

    async def _text(self, asked: Asked, wanted: Wanted) -> str:
        """Return an answer. Raises Overloaded if a request begins to wait for what it takes."""
        await self._until_free()
        engine, text = self._router.engine, ""
        async with aclosing(self._router.answer(asked, wanted)) as pieces:
            async for piece in pieces:
                text += piece.text
                if engine and engine.waiting and engine.running >= engine.slots and not piece.ended:
                    raise Overloaded("Requests wait for what a shadow has.")
        return text

    async def _until_free(self) -> None:
        """Wait until nothing waits for the engine, and less than half of it is in use."""
        engine = self._router.engine
        while engine is not None and (engine.waiting or engine.running * 2 >= engine.slots):
            await asyncio.sleep(PAUSE_SECONDS)

    def _report(self, pointing: Pointing) -> _Report:
        assert pointing.second is not None
        found = self._reports.get(pointing)
        if found is None:
            collection = pointing.name.partition("@")[0]
            first, second = (f"{collection}@{number or 'base'}" for _, number in (pointing.first, pointing.second))
            found = self._reports[pointing] = _Report(pointing.name, first, second, _now())
        return found

    def _drop(self, pointing: Pointing) -> None:
        self._report(pointing).dropped += 1
        self._outcomes.labels(pointing.name, "dropped").inc()

    def _fail(self, pointing: Pointing, error: str) -> None:
        self._report(pointing).failed += 1
        self._outcomes.labels(pointing.name, "failed").inc()
        log.warning("a shadow was not compared", name=pointing.name, error=error)


def _acting(asked: Asked) -> tuple[int | None, str] | None:
    """Return the edit and the block that a question is routed to: the same ones give the same answer."""
    if asked.route.block is None:
        return None
    edit = asked.served.edit(asked.route)
    return edit.id if edit else None, asked.served.content.blocks[asked.route.block].sha256


def _side(asked: Asked, text: str | None) -> ShadowSide:
    said_to = asked.said_to if asked.route.block is not None and text is not None else None
    return ShadowSide(version=asked.served.name, edit=asked.edit.id if asked.edit else None, said_to=said_to, text=text)


def _now() -> datetime:
    return datetime.now(UTC)
