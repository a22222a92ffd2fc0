"""Many concurrent writers in one collection: they submit, approve, train, retire, roll back and move an alias."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.record.synthetic import APPROVER, NAME, SUBMITTER, WORKER, corrections, trained
from registry.audit.actor import Actor
from registry.base.errors import RegistryError
from registry.base.vocabulary import Role
from registry.batches import deciding, submitting
from registry.collections import service as collections
from registry.jobs import service as queue
from registry.versions import aliases, service
from registry.versions import repository as version_rows

CONNECTIONS = 80  # PostgreSQL allows 100 by default; the other writers wait for their turn
ADMIN = Actor("admin", Role.ADMIN)

_OPEN_CLUSTERS_OF = """
SELECT cluster_no FROM clusters
WHERE upper_inf(valid) AND members && (SELECT array_agg(id) FROM points WHERE edit_id = ANY(:edits))
"""
# One of several: a writer that takes a different one does not wait.
_A_BATCH = "SELECT id FROM batches WHERE state = 'submitted' ORDER BY id LIMIT 1 OFFSET :skipped"
_AN_EDIT = """
SELECT edit_id FROM activations WHERE collection_id = :id AND upper_inf(valid) ORDER BY edit_id LIMIT 1 OFFSET :skipped
"""


@dataclass
class Tally:
    """Counts of what was done, what the record rightly refused as another writer was first, and what went wrong."""

    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, counter: Counter[str], what: str) -> None:
        with self._lock:
            counter[what] += 1

    def went_wrong(self, what: str, error: Exception) -> None:
        with self._lock:
            self.errors.append(f"{what}: {type(error).__name__}: {str(error).splitlines()[0]}")


@dataclass
class Writer:
    """A writer that repeats its action until the time is over. Actions return False where there is nothing to do."""

    sessions: sessionmaker[Session]
    number: int
    chance: random.Random
    turn: int = 0

    def submit(self) -> bool:
        records = corrections(self.chance, self.chance.randint(1, 5), f"w{self.number}-{self.turn}")
        with self.sessions.begin() as session:
            submitting.submit(session, collections.get(session, NAME), records, SUBMITTER)
        return True

    def approve(self) -> bool:
        batch = self._one(_A_BATCH)
        if batch is None:
            return False
        with self.sessions.begin() as session:
            deciding.approve(session, batch, APPROVER, "checked")
        return True

    def train(self) -> bool:
        with self.sessions.begin() as session:
            claims = queue.claim_next(
                session,
                worker=f"{WORKER}-{self.number}",
                device="cpu",
                libraries={},
                lease_seconds=600,
                models=None,
                loaded=(),
            )
        if not claims:
            return False
        (claim,) = claims
        with self.sessions.begin() as session:
            # A worker builds its index beforehand and starts again where another version came first; here it holds the
            # collection meanwhile, so that the time is spent on writing.
            held = queue.hold(session, claim)
            newest = version_rows.latest(session, claim.collection_id)
            replaced = [edit.replaces for edit in claim.edits if edit.replaces is not None]
            gone = list(session.scalars(text(_OPEN_CLUSTERS_OF), {"edits": replaced})) if replaced else []
            result = trained(claim.edits, newest.number if newest else 0, gone)
            service.apply(session, held, result, timings={}, loss_curve=[])
        return True

    def retire(self) -> bool:
        with self.sessions.begin() as session:
            collection = collections.get(session, NAME)
            facts = {"id": collection.id, "skipped": self.chance.randrange(50)}
            edit = session.scalars(text(_AN_EDIT), facts).one_or_none()
            if edit is None:
                return False
            service.retire(session, collection, [edit], ADMIN, "no longer true")
        return True

    def roll_back(self) -> bool:
        with self.sessions.begin() as session:
            collection = collections.get(session, NAME)
            newest = version_rows.latest(session, collection.id)
            if newest is None or newest.number < 2:
                return False
            back = newest.number - self.chance.randint(1, min(10, newest.number - 1))
            service.rollback(session, collection, back, ADMIN, "worked better")
        return True

    def move_alias(self) -> bool:
        with self.sessions.begin() as session:
            collection = collections.get(session, NAME)
            newest = version_rows.latest(session, collection.id)
            if newest is None:
                return False
            name = f"alias-{self.chance.randrange(5)}"
            aliases.set_alias(session, collection, name, self.chance.randint(1, newest.number), ADMIN, "released")
        return True

    def _one(self, query: str) -> int | None:
        with self.sessions() as session:
            return session.scalars(text(query), {"skipped": self.chance.randrange(20)}).one_or_none()


# How many of twenty writers take each action.
_SHARES = (("submit", 6), ("approve", 4), ("train", 4), ("retire", 2), ("roll_back", 2), ("move_alias", 2))
# Interleaved, so that all kinds occur even among a few writers.
_KINDS = [name for turn in range(20) for name, share in _SHARES if share > turn]


def write_at_once(
    sessions: sessionmaker[Session], writers: int, seconds: float, advance: Callable[[float], None]
) -> Tally:
    """Run the writers concurrently. advance: called with the seconds elapsed."""
    tally, turns = Tally(), threading.Semaphore(CONNECTIONS)
    start = time.monotonic()
    threads = [
        threading.Thread(target=_write, args=(sessions, number, start + seconds, tally, turns), name=f"writer {number}")
        for number in range(writers)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        advance(min(seconds, time.monotonic() - start))
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    return tally


def _write(
    sessions: sessionmaker[Session], number: int, until: float, tally: Tally, turns: threading.Semaphore
) -> None:
    kind = _KINDS[number % len(_KINDS)]
    writer = Writer(sessions, number, random.Random(number))
    act: Callable[[], bool] = getattr(writer, kind)
    while time.monotonic() < until:
        writer.turn += 1
        try:
            with turns:
                acted = act()
            if acted:
                tally.note(tally.done, kind)
            else:
                time.sleep(0.05)
        except RegistryError as refusal:
            tally.note(tally.refused, refusal.code)
        except Exception as error:
            tally.went_wrong(kind, error)
