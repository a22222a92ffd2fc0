"""MELO: scoped LoRA editing of transformers models (Yu et al., AAAI 2024, arXiv 2312.11795).

The method alone: no database, no web. `edited_model.EditedModel` is where a reader should begin.
"""

from transformers.utils import logging as _transformers_logging

_transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # progress is the caller's to show
