"""MELO: scoped LoRA editing of transformers models (Yu et al., AAAI 2024, arXiv 2312.11795).

The method alone: no database, no web. `edited_model.EditedModel` is where a reader should begin.
"""
