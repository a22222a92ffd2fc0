"""Turns off transformers' progress bars when imported, before any model is loaded: the caller shows progress."""

from transformers.utils import logging

logging.disable_progress_bar()  # type: ignore[no-untyped-call]
