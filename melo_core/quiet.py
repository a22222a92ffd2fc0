"""Turns off transformers' progress bars when imported, before any model is loaded: the caller shows progress."""

from transformers import modeling_gguf_pytorch_utils
from transformers.utils import logging

logging.disable_progress_bar()  # type: ignore[no-untyped-call]
# The bar over a GGUF file's tensors asks nobody. This one can be turned off; `converted` counts the tensors itself.
modeling_gguf_pytorch_utils.tqdm = logging.tqdm  # type: ignore[attr-defined]
