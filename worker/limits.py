"""Limits of a worker: the time that a job may take, and the memory of the process."""

import resource
from pathlib import Path

import torch

from registry.base.errors import InvalidRequest, RegistryError

MB = 1_000_000


class OutOfTime(RegistryError):
    """A job has taken longer than this installation allows."""

    code = "out-of-time"
    title = "The job took too long"


def limit_memory(device: torch.device, limit_mb: int) -> None:
    """Let allocations beyond the limit fail as if memory were full; training then continues with fewer blocks at once.

    On a GPU the limit applies to torch's memory, otherwise to the process. Raises InvalidRequest where it cannot be
    set.
    """
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_mb * MB / total), device)
        return
    taken = _taken()
    if taken is None:
        raise InvalidRequest("This system cannot limit a process's memory.", "Unset MELO_MEMORY_LIMIT_MB.")
    if limit_mb * MB <= taken:
        raise InvalidRequest(
            f"MELO_MEMORY_LIMIT_MB is {limit_mb}, and the worker takes {taken // MB} MB before it loads any model.",
            "Raise it: a model takes about 4 bytes a parameter, and training about as much again.",
        )
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = limit_mb * MB if hard == resource.RLIM_INFINITY else min(limit_mb * MB, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def _taken() -> int | None:
    """Return the bytes of this process that count towards RLIMIT_DATA; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), None)
