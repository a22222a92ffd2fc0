"""The machine that the figures were measured on, and the memory used."""

import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

BYTES_PER_MB = 1 << 20


def machine(device: torch.device) -> dict[str, object]:
    """Return the processor, its cores, the device, and torch's version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": name,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def resident() -> float:
    """Return this process's memory, in MB."""
    return float(psutil.Process().memory_info().rss) / BYTES_PER_MB


@dataclass
class Peak:
    """The peak memory in MB while it was watched: of the device if it has its own, else of the process."""

    mb: float = 0.0


@contextmanager
def watched(device: torch.device, every: float = 0.01) -> Iterator[Peak]:
    """Watch memory while the context is open."""
    peak, done = Peak(), threading.Event()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.mb = torch.cuda.max_memory_allocated(device) / BYTES_PER_MB
        return

    def look() -> None:
        while not done.is_set():
            peak.mb = max(peak.mb, resident())
            done.wait(every)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak.mb = max(peak.mb, resident())
