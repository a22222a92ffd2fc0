"""Orders that a worker of the bench gets at its start: the points at which it dies, freezes, or is told to stop."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from registry.base.settings import Settings
from worker.fault_points import FaultPoint


class Act(StrEnum):
    KILL = "kill"  # SIGKILL
    FREEZE = "freeze"  # SIGSTOP: no time passes for it until SIGCONT
    REST = "rest"  # idle for longer than a frozen worker, while its lease is kept
    STOP = "stop"  # SIGTERM, then idle until its time to stop has passed


@dataclass(frozen=True)
class Order:
    at: FaultPoint
    act: Act = Act.KILL
    time: int = 1  # which passing of the point

    @property
    def trace(self) -> str:
        """The worker's log message once the order was carried out."""
        return f"ordered: {self.act} at {self.at}\n"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        return cls(FaultPoint(values["at"]), Act(values["act"]), values["time"])


def obeying(orders: Sequence[Order], settings: Settings) -> Callable[[FaultPoint], None]:
    """Return the hook of a worker that carries the orders out, each once."""
    passed = dict.fromkeys(FaultPoint, 0)

    def at(point: FaultPoint) -> None:
        passed[point] += 1
        for order in orders:
            if order.at == point and order.time == passed[point]:
                os.write(2, f"\n{order.trace}".encode())
                _obey(order.act, settings)

    return at


def _obey(act: Act, settings: Settings) -> None:
    match act:
        case Act.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Act.FREEZE:
            os.kill(os.getpid(), signal.SIGSTOP)
        case Act.REST:
            time.sleep(2 * settings.lease_seconds + 1)
        case Act.STOP:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(settings.stop_seconds + 0.2)  # no longer: else its second thread gives the job back
