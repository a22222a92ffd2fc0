"""Which devices a worker takes, and how it is held to its memory and its time to stop."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from registry.base.errors import InvalidRequest
from tests.patience import PATIENCE
from worker import devices
from worker.limits import limit_memory
from worker.stopping import Stop

BEYOND = """
import torch
from melo_core.memory import is_out_of_memory
from worker.limits import limit_memory

limit_memory(torch.device("cpu"), 2000)
torch.ones(100_000_000)  # 400 MB
try:
    torch.ones(1_000_000_000)
except Exception as error:
    assert is_out_of_memory(error), error
else:
    raise SystemExit("there was no limit")
torch.ones(100_000_000)
"""


@pytest.mark.parametrize(
    ("text", "meant"), [("", []), ("cpu", ["cpu"]), (" 0, 1 ", ["0", "1"]), ("cpu,CPU", ["cpu", "cpu"])]
)
def test_devices_are_read_from_a_list(text, meant):
    assert devices.named(text) == meant


@pytest.mark.parametrize(("text", "told"), [("cpu,gpu", "'gpu' is not a device"), ("1,0,1", "GPU 1 is named twice")])
def test_what_is_no_device_is_refused(text, told):
    with pytest.raises(InvalidRequest, match=told):
        devices.named(text)


@pytest.mark.parametrize(("visible", "device", "seen"), [(None, "1", "1"), ("4,7", "1", "7"), ("4,7", "cpu", "")])
def test_a_gpus_number_counts_among_those_that_the_user_left_visible(monkeypatch, visible, device, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    devices.prepare(device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_a_memory_limit_below_what_the_worker_has_already_is_refused():
    with pytest.raises(InvalidRequest, match="MELO_MEMORY_LIMIT_MB is 50, and the worker takes"):
        limit_memory(torch.device("cpu"), 50)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not limit a process's data")
def test_beyond_its_memory_limit_a_worker_finds_memory_full_and_goes_on():
    done = subprocess.run([sys.executable, "-c", BEYOND], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("started", [1, 2])
def test_a_signal_that_comes_while_a_process_is_being_started_reaches_it_too(monkeypatch, started):
    made, start = [], subprocess.Popen

    def interrupted(*args, **options):
        made.append(start(*args, **options))
        if len(made) == started:
            crew.tell_to_stop()  # as its handler does, before anyone holds the new process
        return made[-1]

    monkeypatch.setattr(devices.subprocess, "Popen", interrupted)
    sleeping = [sys.executable, "-c", "import time; time.sleep(1000)"]
    crew = devices._Crew([devices._Process(sleeping, dict(os.environ)) for _ in range(2)])
    parent = threading.Thread(target=crew.run, daemon=True)
    parent.start()
    parent.join(PATIENCE)
    ended = not parent.is_alive()
    for child in made:
        child.kill()
    assert ended
    assert len(made) == started  # none is started after it


def test_who_is_told_to_stop_has_some_time_and_who_is_told_twice_has_none():
    stop = Stop(seconds=60)
    assert not stop.asked
    stop.ask()
    assert stop.asked and not stop.is_due()
    stop.ask()
    assert stop.is_due() and not stop.is_due(grace_seconds=1)
