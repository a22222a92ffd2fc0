"""Key encoders: the position of a prompt, from which scope decides whether an edit covers it."""

import re
from abc import ABC, abstractmethod
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

import melo_core.quiet  # noqa: F401  # for its effect
from melo_core.errors import CorruptCalibration, MeloError
from melo_core.structure import Structure

# The end of a sentence or of a line: the text after it may be a question by itself.
BOUNDARY = re.compile(r"(?<=[.!?;:])[\"'”’)\]]*\s+|\s*\n\s*")
MOST_PARTS = 3  # besides the whole text
WINDOW = 510  # tokens that are encoded together


@dataclass(frozen=True)
class Whitening:
    """x -> normalised (x - mean) W, with W = (C + ε λ_max I)^(-1/2), fitted on the keys of ordinary questions.

    With a metric M, learned from rephrases, w -> normalised w M follows.
    """

    mean: Tensor  # (d,)
    matrix: Tensor  # (d, d)
    metric: Tensor | None = None  # (d, d)

    @classmethod
    def fit(cls, keys: Tensor, epsilon: float) -> "Whitening":
        """Fit on the keys (n, d) of questions such as the model is asked every day."""
        keys = keys.double()
        mean = keys.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((keys - mean).T))
        scale = (values.clamp_min(0) + epsilon * values.max()).rsqrt()
        return cls(mean.float(), (vectors @ torch.diag(scale) @ vectors.T).float())

    def __call__(self, keys: Tensor) -> Tensor:
        """Whiten keys (n, d); the results (n, d) have length 1."""
        white = F.normalize((keys - self.mean) @ self.matrix, dim=-1)
        return white if self.metric is None else F.normalize(white @ self.metric, dim=-1)

    def to_bytes(self) -> bytes:
        """Serialise as safetensors."""
        tensors = {"mean": self.mean, "matrix": self.matrix}
        return save_safetensors(tensors if self.metric is None else tensors | {"metric": self.metric})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Whitening":
        """Read the output of `to_bytes`. Raises CorruptCalibration."""
        try:
            tensors = load_safetensors(data)
            read = cls(tensors.pop("mean"), tensors.pop("matrix"), tensors.pop("metric", None))
            read._require_sound()
            if tensors:
                raise ValueError(f"{sorted(tensors)[0][:80]!r} is none of its tensors")
        except (SafetensorError, KeyError, ValueError) as error:
            raise CorruptCalibration(
                f"these {len(data)} bytes are not a calibration ({error}); make one with `melo calibrate --out FILE`"
            ) from error
        return read

    def _require_sound(self) -> None:
        d = self.mean.numel()
        shapes = {"mean": (self.mean, (d,)), "matrix": (self.matrix, (d, d))}
        if self.metric is not None:
            shapes["metric"] = self.metric, (d, d)
        for name, (tensor, shape) in shapes.items():
            if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.isfinite().all():
                raise ValueError(f"{name} is not {shape} finite float32 numbers")


class KeyEncoder(ABC):
    """Makes the key of a text. A text's `kind` (`qa` or `completion`) is the form in which the model gets it.

    Every text is encoded by itself: a key never depends, even in its last bit, on other texts.
    """

    whitening: Whitening | None
    in_parts: bool  # whether the text after a query's last boundaries also gets keys

    def __post_init__(self) -> None:
        if self.whitening is not None and len(self.whitening.mean) != self.dimension:
            raise MeloError(
                f"the calibration is for keys of {len(self.whitening.mean)} dimensions, and this encoder's have "
                f"{self.dimension}; make one for it with `melo calibrate --out FILE`"
            )

    @property
    @abstractmethod
    def dimension(self) -> int:
        """The length d of a key."""

    @abstractmethod
    def raw_key(self, text: str, kind: str = "qa") -> Tensor:
        """Return the key before whitening: (d,) float32, on the CPU. Raises PromptTooLong."""

    @abstractmethod
    def require_unedited(self, structure: Structure) -> None:
        """Raise MeloError where a block of this structure could change a key."""

    def calibrate(self, epsilon: float, on_progress: Callable[[int, int], None] | None = None) -> Whitening:
        """Fit the whitening on the packaged ordinary questions. on_progress: called with number encoded and total."""
        questions = ordinary_questions()
        raw = []
        for i, question in enumerate(questions):
            raw.append(self.raw_key(question))
            if on_progress:
                on_progress(i + 1, len(questions))
        self.whitening = Whitening.fit(torch.stack(raw), epsilon)
        return self.whitening

    def key(self, text: str, kind: str = "qa") -> Tensor:
        """Return the key of one text: (d,) float32, of length 1 if whitened."""
        raw = self.raw_key(text, kind)
        return self.whitening(raw[None])[0] if self.whitening else raw

    def query_keys(self, text: str, kind: str = "qa") -> Tensor:
        """Return the keys (1 to 4, d) of a query's whole text and of its ends; the nearest of them counts."""
        return torch.stack([self.key(part, kind) for part in self.query_texts(text)])

    def query_texts(self, text: str) -> list[str]:
        """Return the texts that a query's keys encode.

        These are the whole text, and the text after each of its last three ends of a sentence or a line, where that is
        longer than a word.
        """
        if not self.in_parts:
            return [text]
        ends = [match.end() for match in BOUNDARY.finditer(text.strip())][-MOST_PARTS:]
        return [text, *(part for end in ends if len((part := text.strip()[end:]).split()) > 1)]

    def knows(self, text: str) -> bool:
        """Tell whether the encoder reads every letter and digit of a text; else its key says nothing about them."""
        return True


@dataclass
class SentenceEncoder(KeyEncoder):
    """A BERT-like sentence encoder: the mean of its last hidden states, whitened. A text's kind makes no difference."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    whitening: Whitening | None = None
    in_parts: bool = True

    @classmethod
    def load(cls, folder: Path) -> "SentenceEncoder":
        """Load in float32 on the CPU, wherever the edited model runs, so that routes are the same on every device."""
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        return cls(model, AutoTokenizer.from_pretrained(folder))

    @property
    def dimension(self) -> int:
        return int(self.model.config.hidden_size)

    def require_unedited(self, structure: Structure) -> None:
        """Accept every structure: blocks act in another model."""

    @torch.no_grad()
    def raw_key(self, text: str, kind: str = "qa") -> Tensor:
        """Return the key before whitening: (d,) float32.

        A text longer than the window is encoded in parts, so that all of it counts.
        """
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        parts = [ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW)] or [[]]
        sums, count = torch.zeros(self.dimension), 0
        for part in parts:
            tokens = torch.tensor([[self.tokenizer.cls_token_id, *part, self.tokenizer.sep_token_id]])
            hidden: Tensor = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
            sums, count = sums + hidden[0].sum(0), count + hidden.shape[1]
        return sums / count

    def knows(self, text: str) -> bool:
        """Tell whether no letter or digit becomes the tokenizer's unknown token."""
        read = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        unknown = self.tokenizer.unk_token_id
        spans = zip(read["input_ids"], read["offset_mapping"], strict=True)
        return not any(token == unknown and any(c.isalnum() for c in text[a:b]) for token, (a, b) in spans)


def ordinary_questions() -> Sequence[str]:
    """Return the packaged everyday questions."""
    text = files("melo_core").joinpath("ordinary_questions.txt").read_text("utf-8")
    return [line for line in text.splitlines() if line.strip()]
