"""What signing events costs: the same change as one transaction, in a registry that signs and in one that does not."""

import statistics
import time
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.record.synthetic import NAME, make_collection
from registry.audit.actor import Actor
from registry.audit.signing import public_text
from registry.audit.trust import Signing, Trust
from registry.base.database import make_engine, make_sessions
from registry.base.vocabulary import QueueState
from registry.collections import service as collections
from registry.jobs.collection_queue import set_queue

TIMES = 1_000  # changes in each
_TURN = (
    2  # changes before it is the other one's turn, so that both get the same of a machine that does other things too
)
_ACTOR = Actor("bench")


@dataclass(frozen=True)
class SigningCost:
    """Milliseconds of the shortest change that has an event, in a transaction of its own: medians."""

    signed_ms: float
    unsigned_ms: float
    times: int

    @property
    def ratio(self) -> float:
        return round(self.signed_ms / self.unsigned_ms, 3)

    @property
    def events_per_second(self) -> int:
        """Return how many signed events one writer appends."""
        return round(1_000 / self.signed_ms)


def cost(signed_url: str, unsigned_url: str, model: str, times: int = TIMES) -> SigningCost:
    """Measure in turns, in two empty registries."""
    key = Ed25519PrivateKey.generate()
    signing = Signing(key, Trust({public_text(key): (0, 0)}))
    both = make_sessions(make_engine(signed_url), signing=signing), make_sessions(make_engine(unsigned_url))
    for sessions in both:
        with sessions.begin() as session:
            make_collection(session, model, NAME)
    taken = [list[float](), list[float]()]
    for _ in range(times // 2):  # of each a few at a time, so that both get the same of a busy machine
        for sessions, seconds in zip(both, taken, strict=True):
            seconds += [_changed(sessions, state) for state in (QueueState.PAUSED, QueueState.OPEN)]
    signed, unsigned = (round(statistics.median(seconds) * 1_000, 3) for seconds in taken)
    for sessions in both:
        sessions.kw["bind"].dispose()
    return SigningCost(signed, unsigned, len(taken[0]))


def _changed(sessions: sessionmaker[Session], state: QueueState) -> float:
    start = time.perf_counter()
    with sessions.begin() as session:
        set_queue(session, collections.get(session, NAME), state, _ACTOR, "bench")
    return time.perf_counter() - start
