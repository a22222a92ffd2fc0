"""A process that has imported what a worker needs, and forks one on request: some 0.1 s instead of some 5.

    python -m benchmarks.queue.fork_server FILE_DESCRIPTOR FREEZE_SECONDS

It reads requests from the socket, a JSON object a line, and reports there how each child ended. A frozen child is
resumed after that many seconds, unless its request says that somebody else resumes it. When the other end is gone,
children are killed: none outlives the bench. Nothing here has a thread, a connection or a model when it forks, so a
child is as if it had been started by itself.
"""

import gc
import json
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from typing import Any

import torch
from celery import Celery

from benchmarks.queue.bare import train_bare
from benchmarks.queue.orders import Order, obeying
from registry.base.settings import Settings
from worker import celery_app

POLL_SECONDS = 0.02


def main() -> None:
    line, freeze_seconds = socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the bench decides when it ends
    gc.freeze()  # keeps the memory shared with the children shared: collecting garbage would write to it
    children = dict[int, float]()  # when each is to be resumed, if it is frozen
    held = set[int]()  # those that somebody else resumes
    _say(line, {"ready": os.getpid()})
    pending = b""
    try:
        while True:
            if select.select([line], [], [], POLL_SECONDS)[0]:
                if not (got := line.recv(1 << 16)):
                    return
                *wishes, pending = (pending + got).split(b"\n")
                for wish in wishes:
                    child = _fork(line, told := json.loads(wish))
                    children[child] = math.inf
                    if told.get("held"):
                        held.add(child)
                    _say(line, {"started": child})
            _look_after(line, children, held, freeze_seconds)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def _say(line: socket.socket, word: dict[str, Any]) -> None:
    line.sendall(json.dumps(word).encode() + b"\n")


def _look_after(line: socket.socket, children: dict[int, float], held: Set[int], freeze_seconds: float) -> None:
    for child, thaw_at in list(children.items()):
        found, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if found and os.WIFSTOPPED(status):
            children[child] = math.inf if child in held else time.monotonic() + freeze_seconds
        elif found:
            del children[child]
            _say(line, {"ended": child, "status": os.waitstatus_to_exitcode(status)})
        elif time.monotonic() > thaw_at:
            children[child] = math.inf
            os.kill(child, signal.SIGCONT)


def _fork(line: socket.socket, wish: Mapping[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        line.close()
        log = os.open(wish["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(1)
        os.environ |= wish["environment"]
        _TASKS[wish["task"]](wish)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)  # cleanup at exit is the fork server's to do, not the child's


def _work(wish: Mapping[str, Any]) -> None:
    settings, make_app = Settings(), celery_app.make_app

    def with_options(settings: Settings) -> Celery:
        app = make_app(settings)
        app.conf.broker_transport_options |= wish["transport"]
        return app

    celery_app.make_app = with_options
    orders = [Order.from_json(each) for each in wish["orders"]]
    celery_app.serve(settings, at=obeying(orders, settings))


_TASKS: dict[str, Callable[[Mapping[str, Any]], None]] = {"work": _work, "bare": train_bare}

if __name__ == "__main__":
    main()
