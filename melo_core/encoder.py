"""Keys: where a prompt lies, for deciding whether an edit covers it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from melo_core.errors import CorruptCalibration

SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")


@dataclass(frozen=True)
class Whitening:
    """x -> normalised (x - mean) W, with W = (C + ε λ_max I)^(-1/2), from the keys of ordinary questions.

    With a metric M, learned from rephrases, w -> normalised w M follows.
    """

    mean: Tensor  # (d,)
    matrix: Tensor  # (d, d)
    metric: Tensor | None = None  # (d, d)

    @classmethod
    def fit(cls, keys: Tensor, epsilon: float) -> "Whitening":
        """keys: (n, d), of questions such as the model is asked every day."""
        keys = keys.double()
        mean = keys.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((keys - mean).T))
        scale = (values.clamp_min(0) + epsilon * values.max()).rsqrt()
        return cls(mean.float(), (vectors @ torch.diag(scale) @ vectors.T).float())

    def __call__(self, keys: Tensor) -> Tensor:
        """(n, d) -> (n, d) of length 1."""
        white = F.normalize((keys - self.mean) @ self.matrix, dim=-1)
        return white if self.metric is None else F.normalize(white @ self.metric, dim=-1)

    def to_bytes(self) -> bytes:
        """As safetensors."""
        tensors = {"mean": self.mean, "matrix": self.matrix}
        return save_safetensors(tensors if self.metric is None else tensors | {"metric": self.metric})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Whitening":
        """Raises CorruptCalibration."""
        try:
            tensors = load_safetensors(data)
            return cls(tensors["mean"], tensors["matrix"], tensors.get("metric"))
        except (SafetensorError, KeyError) as error:
            raise CorruptCalibration(
                f"these {len(data)} bytes are no calibration ({error}); make one with `melo calibrate --out FILE`"
            ) from error


@dataclass
class SentenceEncoder:
    """A BERT-like sentence encoder: the mean of its last hidden states, whitened.

    Every text is encoded by itself: a key never depends, not even in its last bit, on what else is encoded.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    whitening: Whitening | None = None
    last_sentence: bool = True  # whether a query's last sentence is a second key

    @classmethod
    def load(cls, folder: Path) -> "SentenceEncoder":
        """In float32 on the CPU, wherever the edited model runs, so that routes are the same on every device."""
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        return cls(model, AutoTokenizer.from_pretrained(folder))

    @property
    def dimension(self) -> int:
        return int(self.model.config.hidden_size)

    def calibrate(self, epsilon: float, on_progress: Callable[[int, int], None] | None = None) -> Whitening:
        """Whiten on the packaged ordinary questions. on_progress: gets how many of how many are encoded."""
        questions = ordinary_questions()
        raw = []
        for i, question in enumerate(questions):
            raw.append(self.raw_key(question))
            if on_progress:
                on_progress(i + 1, len(questions))
        self.whitening = Whitening.fit(torch.stack(raw), epsilon)
        return self.whitening

    def key(self, text: str) -> Tensor:
        """The key of one text: (d,) float32, of length 1 if whitened."""
        raw = self.raw_key(text)
        return self.whitening(raw[None])[0] if self.whitening else raw

    def query_keys(self, text: str) -> Tensor:
        """The keys of a query, of which the nearest counts: (1 or 2, d), the whole text and its last sentence."""
        return torch.stack([self.key(part) for part in self.query_texts(text)])

    def query_texts(self, text: str) -> list[str]:
        """What a query's keys are the keys of."""
        sentences = SENTENCE_END.split(text.strip())
        return [text, sentences[-1]] if self.last_sentence and len(sentences) > 1 else [text]

    @torch.no_grad()
    def raw_key(self, text: str) -> Tensor:
        """The key before whitening: (d,) float32."""
        tokens = self.tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
        hidden: Tensor = self.model(**tokens).last_hidden_state  # (1, tokens, d)
        return hidden[0].mean(0)


def ordinary_questions() -> Sequence[str]:
    """Questions of everyday use, packaged with the method."""
    text = files("melo_core").joinpath("ordinary_questions.txt").read_text("utf-8")
    return [line for line in text.splitlines() if line.strip()]
