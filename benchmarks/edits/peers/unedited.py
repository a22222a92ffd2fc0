"""The base model, with which all other answers are compared, and which peers that hook into it use."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from benchmarks.edits.peers import Reply
from melo_core.base_model import BaseModel, pad
from melo_core.edited_model import BASE, EditedModel
from melo_core.errors import UnsupportedModel
from melo_core.settings import MethodSettings
from melo_core.structure import Kind


class Unedited:
    """Free generation and teacher-forced losses of a model, including anything hooked into it."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._model = EditedModel(base, MethodSettings(), None, {}, {})

    def answer(self, prompts: Sequence[str], kind: str, longest: int) -> list[Reply]:
        """Answer greedily, in one batch."""
        answers = self._model.answer(prompts, [BASE] * len(prompts), kind, longest)
        return [Reply(answer.text, answer.token_ids) for answer in answers]

    def losses(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        """Return the mean cross-entropy of each continuation, fed token by token as generation does."""
        return continuation_losses(self.base, prompts, continuations)


@torch.no_grad()
def continuation_losses(base: BaseModel, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
    """Return losses in nats a token, without the end of sequence.

    Raises UnsupportedModel for a model that does not continue texts.
    """
    if base.kind is not Kind.CAUSAL:
        raise UnsupportedModel("perplexity needs a model that continues a text; use a causal LM")
    ids, mask = base.pad([base.prompt_ids(prompt, "completion") for prompt in prompts], "left")
    rows = [base.target_ids(text, "completion")[:-1] for text in continuations]
    labels, _ = pad(rows, -100, "right", base.device)  # (rows, longest)
    cache = DynamicCache(config=base.model.config)
    places = (mask.cumsum(1) - 1).clamp_min(0)
    found: list[Tensor] = []
    for t in range(labels.shape[1]):
        out = base.model(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        found.append(F.cross_entropy(out.logits[:, -1].float(), labels[:, t], reduction="none"))  # 0 where padded
        ids = labels[:, t : t + 1].clamp_min(0)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        places = places[:, -1:] + 1
    total = torch.stack(found, 1).double().sum(1)  # (rows,)
    return [float(loss) / len(row) for loss, row in zip(total, rows, strict=True)]
