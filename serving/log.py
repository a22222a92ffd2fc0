"""Logs answers in the background, as far as their collection's policy keeps them: no answer waits for the database."""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from melo_core.edited_model import Route
from registry.answers.keeping import OFF, Answered, LogPolicy
from registry.answers.schemas import Considered
from registry.base.errors import first_line
from serving.router import Asked
from serving.sources.port import Source, SourceUnavailable

log = structlog.get_logger("melo.serve")

TURN_SECONDS = 0.5  # between two looks at the policies; answers are written as often
MOST_WAITING = 2_000  # answers, of up to 2 * keeping.MOST_CHARACTERS characters; one more is dropped
AT_ONCE = 200


@dataclass
class Asking:
    """A response that is being given: what all of its answers share."""

    response_id: str
    model: str
    asked_by: str
    asked_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    began: float = field(default_factory=time.perf_counter)
    first_token_ms: int | None = None

    def first_text(self) -> float:
        """Note that the first text is there. Returns the seconds until then."""
        seconds = time.perf_counter() - self.began
        self.first_token_ms = round(seconds * 1000)
        return seconds

    def answered(
        self, choice: int, asked: Asked, text: str, tokens: int, *, canary: bool, kind: str | None = None
    ) -> Answered:
        """Return an answer for the log. kind: of the question, where it is not the one asked in."""
        edit, content = asked.edit, asked.served.content
        return Answered(
            response_id=self.response_id,
            choice=choice,
            collection_id=content.collection.id,
            model=self.model,
            version=content.number,
            digest=content.content_digest,
            asked_at=self.asked_at,
            asked_by=self.asked_by,
            kind=kind or asked.kind,
            edit_id=edit.id if edit else None,
            said_to=asked.said_to if asked.route.block is not None else None,
            considered=considered_in(asked.route),
            prompt_tokens=len(asked.ids),
            completion_tokens=tokens,
            canary=canary,
            first_token_ms=self.first_token_ms,
            question=asked.question.text,
            answer=text,
        )


class AnswerLog:
    """A bounded queue of answers, and the thread that writes them.

    Where the database does not answer, they wait; where too many wait, more are dropped, which is counted and logged.
    The policies are read every half second, and again with each write: none is written that the policy of that moment
    does not keep.
    """

    def __init__(self, source: Source, metrics: CollectorRegistry) -> None:
        self._source = source
        self._waiting = deque[Answered]()
        self._policies: Mapping[int, LogPolicy] | None = None  # None: not read yet
        self._changed = threading.Condition()
        self._added = self._settled = self._wanted = 0  # answers, since the start: queued, done with, waited for
        self._stopping = False
        self._told = set[str]()  # troubles that the server's log tells of already
        self._thread = threading.Thread(target=self._run, name="melo-log", daemon=True)
        self._logged = Counter("melo_answers_logged", "Answers that the log keeps", registry=metrics)
        self._dropped = Counter("melo_answers_dropped", "Answers that the log should have kept", registry=metrics)
        waiting = Gauge("melo_answers_waiting", "Answers that wait to be logged", registry=metrics)
        waiting.set_function(lambda: len(self._waiting))

    def start(self) -> None:
        self._thread.start()

    def add(self, answers: Sequence[Answered]) -> None:
        """Queue answers, as far as their policy keeps them. Returns at once."""
        policies = self._policies
        if policies is not None:
            stripped = (each.under(policies.get(each.collection_id, OFF)) for each in answers)
            answers = [each for each in stripped if each is not None]
        with self._changed:
            room = max(MOST_WAITING - len(self._waiting), 0)
            self._waiting += answers[:room]
            self._added += len(answers[:room])
        self._drop(len(answers[room:]), "too many wait for the registry")

    def flush(self, seconds: float) -> None:
        """Wait until what was queued before is written, at most so long, and while the database answers."""
        with self._changed:
            target = self._wanted = self._added
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._settled >= target or self._told, seconds)

    def close(self, seconds: float) -> None:
        """Write what waits, at most so long, and stop."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            left = len(self._waiting)
            self._waiting.clear()
        self._drop(left, "the server stops")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._wanted > self._settled, TURN_SECONDS)
                stopping = self._stopping
            while self._turn():
                pass
            if stopping:
                return

    def _turn(self) -> bool:
        """Read the policies and write some answers. Returns whether more wait."""
        with self._changed:
            taken = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
        try:
            kept = self._source.keep(taken)
        except SourceUnavailable as error:
            self._tell("the log of answers waits for the database", error=first_line(error))
            with self._changed:
                self._waiting.extendleft(reversed(taken))
                self._wanted = 0  # whoever waits for a flush waits in vain
                self._changed.notify_all()
            return False
        except Exception as error:
            self._tell("the log of answers cannot be written", error=first_line(error))
            self._drop(len(taken), "the database refuses them")
        else:
            self._policies = kept.policies
            self._told.clear()
            self._logged.inc(kept.count)
        with self._changed:
            self._settled += len(taken)
            self._changed.notify_all()
            return bool(self._waiting)

    def _tell(self, trouble: str, **more: object) -> None:
        """Tell of a trouble once, until it is over."""
        if trouble not in self._told:
            self._told.add(trouble)
            log.warning(trouble, **more)

    def _drop(self, count: int, why: str) -> None:
        """Count answers that are lost; melo_answers_dropped_total says how many."""
        if count:
            self._dropped.inc(count)
            self._tell(f"answers are not logged: {why}")


def considered_in(route: Route) -> list[Considered]:
    """Return the edits that a route considered, best first, without any text."""
    return [
        Considered(
            edit=found.edit,
            distance=round(found.distance, 6),
            score=found.score,
            rule=found.difference.rule if found.difference else None,
            guard=found.guard is not None,
            covers=found.covers,
        )
        for found in route.considered
    ]
