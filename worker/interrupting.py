"""Interrupts models at work: a long prompt takes minutes, in which a job may be rejected, cancelled or out of time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def asked_by_models(may_go_on: Callable[[], None]) -> Iterator[None]:
    """Call `may_go_on` before each layer of every model that this thread runs; what it raises ends the model's work."""
    thread = threading.get_ident()

    def ask(module: nn.Module, given: object) -> None:
        if threading.get_ident() == thread:
            may_go_on()

    hook = register_module_forward_pre_hook(ask)
    try:
        yield
    finally:
        hook.remove()
