"""MELO: scoped LoRA editing of transformers models (Yu et al., AAAI 2024, arXiv 2312.11795).

This package holds the method alone, without database or web. Start reading at `edited_model.EditedModel`.
"""
