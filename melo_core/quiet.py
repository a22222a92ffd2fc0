"""Imported for its effect, before anything loads a model: progress is the caller's to show, not transformers'."""

from transformers.utils import logging

logging.disable_progress_bar()  # type: ignore[no-untyped-call]
