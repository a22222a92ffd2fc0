"""One process for each device, started by a small parent that passes signals on and restarts processes that died.

Nothing here imports torch: it reads CUDA_VISIBLE_DEVICES and OMP_NUM_THREADS on import, and the parent needs none.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from registry.base.errors import InvalidRequest
from registry.base.retry import Restarts

log = structlog.get_logger()

CPU = "cpu"
POLL_SECONDS = 0.25
PROBE = "import torch; print(torch.cuda.device_count())"


def named(text: str) -> list[str]:
    """Return the devices of MELO_DEVICES. Raises InvalidRequest for an invalid name, or a GPU that is named twice."""
    devices = [part.strip().lower() for part in text.split(",") if part.strip()]
    for device in devices:
        if device != CPU and not device.isdecimal():
            raise InvalidRequest(
                f"{device!r} is not a device.",
                "Name GPUs by their numbers, such as 0,1, or cpu, once for each process.",
            )
        if device != CPU and devices.count(device) > 1:
            raise InvalidRequest(f"GPU {device} is named twice.", "A GPU serves one process; cpu may be repeated.")
    return devices


def require_present(devices: Sequence[str]) -> None:
    """Raise InvalidRequest for a GPU that this machine does not have."""
    if all(device == CPU for device in devices):
        return
    found = _visible()
    missing = [device for device in devices if device != CPU and int(device) >= len(found)]
    if missing:
        there = ", ".join([CPU, *(str(number) for number in range(len(found)))])
        raise InvalidRequest(f"There is no GPU {missing[0]} here.", f"The devices of this machine are: {there}.")


def prepare(device: str) -> None:
    """Make only the given device visible to this process. Must be called before torch is imported."""
    if device == CPU:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else None  # numbers count among the devices that the user has left visible
    os.environ["CUDA_VISIBLE_DEVICES"] = device if names is None else names[int(device)] if _in(names, device) else "-1"


def run(devices: Sequence[str], options: Sequence[str]) -> int:
    """Run one worker for each device until told to stop, or until all have ended. Returns the exit status.

    options: passed to `python -m worker` for each of them.
    """
    crew = _Crew([_Process(_command(options), _environment(devices, place)) for place in range(len(devices))])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: crew.tell_to_stop())
    return crew.run()


def _command(options: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "worker", *options, "--tied", str(os.getpid())]


def _environment(devices: Sequence[str], place: int) -> dict[str, str]:
    environment = os.environ | {"MELO_DEVICES": devices[place]}
    if devices[place] == CPU:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // devices.count(CPU))))
    if port := int(os.environ.get("MELO_METRICS_PORT") or 0):
        environment["MELO_METRICS_PORT"] = str(port + place)
    return environment


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _visible() -> list[str]:
    """Return one item for each GPU that a fresh process sees."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    return [""] * int(done.stdout or 0)


def _in(names: Sequence[str], device: str) -> bool:
    return int(device) < len(names)


@dataclass
class _Process:
    """One worker process, restarted when it dies."""

    command: Sequence[str]
    environment: dict[str, str]
    child: subprocess.Popen[bytes] | None = None
    told: int = 0  # how often this child was told to stop
    started: float = 0.0  # time.monotonic()
    restarts: Restarts = field(default_factory=Restarts)
    status: int = 0  # exit status of its last run
    was_steady: bool = False

    def start(self) -> None:
        # A session of its own: Ctrl-C in the terminal reaches only the parent, which passes it on once.
        self.child = subprocess.Popen(self.command, env=self.environment, start_new_session=True)
        self.started, self.told = time.monotonic(), 0

    def look(self) -> None:
        """Note whether the process has ended, and when to restart it."""
        if self.child is None or (status := self.child.poll()) is None:
            return
        self.was_steady |= self.restarts.died(self.started)
        self.child, self.status = None, status

    @property
    def refused(self) -> bool:
        """Whether it ended by itself with an error before it was steady: it would do so again, and has said why."""
        return self.child is None and self.status > 0 and not self.was_steady


@dataclass
class _Crew:
    processes: list[_Process]
    asked: int = 0  # how often it was told to stop

    def run(self) -> int:
        for process in self.processes:
            if not self.asked:
                process.start()
        while not (self.asked and all(process.child is None for process in self.processes)):
            time.sleep(POLL_SECONDS)
            for process in self.processes:
                self._look_after(process)
        return max((process.status for process in self.processes if process.status > 0), default=0)

    def tell_to_stop(self) -> None:
        """Tell the workers to stop: once to finish their jobs if there is time, twice to give them back at once.

        Each process is told when it is next looked after: a signal handler may run while one is being started.
        """
        self.asked += 1

    def _look_after(self, process: _Process) -> None:
        process.look()
        if process.child is not None and process.told < self.asked:
            process.told += 1
            process.child.send_signal(signal.SIGTERM)
        if self.asked or process.child is not None:
            return
        if process.refused:
            self.tell_to_stop()
        elif time.monotonic() >= process.restarts.due:
            log.warning("a worker died and is started anew", status=process.status)
            process.start()
