"""Keys from the base model's own hidden states, as in the paper."""

from dataclasses import dataclass
from threading import get_ident
from typing import Any, Literal

import torch
from torch import Tensor, nn

from melo_core.base_model import BaseModel
from melo_core.encoder import KeyEncoder, Whitening
from melo_core.errors import MeloError
from melo_core.structure import Kind, Structure, layers_of


@dataclass
class HiddenEncoder(KeyEncoder):
    """Keys from a text's hidden state at the output of one of the base model's layers (MELO §3.3).

    layer: 0 for the embeddings, n for the nth layer; in an encoder-decoder, of the encoder. pooling: the last token's
    state, or the mean over the tokens. Each text runs by itself, without padding, and only up to that layer. The base
    model keeps its precision and device, and keys are equal bit for bit only where both are the same.

    Raises MeloError for a layer that the model does not have.
    """

    base: BaseModel
    layer: int
    pooling: Literal["last", "mean"]
    whitening: Whitening | None = None
    in_parts: bool = True

    def __post_init__(self) -> None:
        _, self._layers = layers_of(self.base.model, "encoder" if self.base.kind is Kind.SEQ2SEQ else "")
        if not 0 <= self.layer <= len(self._layers):
            raise MeloError(
                f"key_layer {self.layer} is no layer of the model: choose one from 0, the embeddings, to "
                f"{len(self._layers)}"
            )
        super().__post_init__()

    @property
    def dimension(self) -> int:
        return int(self.base.model.config.get_text_config().hidden_size)

    def require_unedited(self, structure: Structure) -> None:
        """Raise MeloError where a block of this structure lies in a layer that keys depend on."""
        edited = {id(module) for module in structure.modules.values()}
        holding = (i for i, layer in enumerate(self._layers) if any(id(m) in edited for m in layer.modules()))
        first = next(holding, len(self._layers))
        if self.layer > first:
            raise MeloError(
                f"key_layer {self.layer} does not lie before the first edited layer, which is layer {first + 1}: a "
                f"block could change where a prompt lies. Set key_layer to {first} or less, or edit fewer layers"
            )

    @torch.no_grad()
    def raw_key(self, text: str, kind: str = "qa") -> Tensor:
        """Return the key before whitening: (d,) float32, on the CPU. Raises PromptTooLong, or MeloError on overflow."""
        ids = torch.tensor([self.base.prompt_ids(text, kind)], device=self.base.device)  # (1, tokens)
        hidden = self._run(ids)[0].float()  # (tokens, d)
        key = hidden[-1] if self.pooling == "last" else hidden.mean(0)
        if not key.isfinite().all():
            raise MeloError(
                f"the state of {text[:60]!r} after layer {self.layer} is no finite number in {self.base.model.dtype}; "
                "load the model in float32 or bfloat16"
            )
        return key.cpu()

    def _run(self, ids: Tensor) -> Tensor:
        """Run token ids (1, tokens) up to the layer; return its hidden states (1, tokens, d)."""
        thread = get_ident()

        def take(hidden: Any) -> None:
            if get_ident() == thread:  # another thread may be answering with the same model
                raise _Reached(hidden[0] if isinstance(hidden, tuple) else hidden)

        if self.layer == 0:
            handle = self._layers[0].register_forward_pre_hook(lambda _, inputs: take(inputs))
        else:
            handle = self._layers[self.layer - 1].register_forward_hook(lambda _, inputs, out: take(out))
        model: Any = self.base.model
        body: nn.Module = model.get_encoder() if self.base.kind is Kind.SEQ2SEQ else model
        try:
            body(input_ids=ids, attention_mask=torch.ones_like(ids))
        except _Reached as reached:
            return reached.hidden
        finally:
            handle.remove()
        raise AssertionError("every layer of a model runs")


class _Reached(Exception):
    """Raised once the layer has run."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden
