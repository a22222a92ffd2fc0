"""The verifier: whether a query asks what an edit's prompt asks, read together by a small cross-encoder."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from rapidfuzz import process
from rapidfuzz.distance import OSA
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import melo_core.quiet  # noqa: F401  # for its effect
from melo_core.errors import MeloError
from melo_core.spelling import SHORTEST, spelt_as
from melo_core.verifier_files import WEIGHTS

EMBEDDINGS = "bert.embeddings."  # frozen in training, so they are those of the encoder and not stored again
WINDOW = 512  # tokens of both texts together
ENDINGS = frozenset(f"##{ending}" for ending in ("s", "es", "ed", "d", "ing", "er", "ers", "ly", "y"))
EDIT_SHARE = 254  # of these, at most, for the edit's; of a longer text its end is read


@dataclass(frozen=True)
class Verifier:
    """A cross-encoder with one output: the logit that two texts ask the same.

    In float32 on the CPU and one pair at a time, wherever the edited model runs: a score never depends, not even in
    its last bit, on the device or on what else is scored.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, folder: Path, encoder: Path) -> "Verifier":
        """Load what `melo verifier train` wrote, or a cross-encoder's folder.

        encoder: the folder of MiniLM, whose embeddings and tokenizer the first shares. Raises MeloError.
        """
        if not (folder / WEIGHTS).is_file():
            return cls._foreign(folder)
        model = untrained(encoder)
        weights, embeddings = read_weights(folder / WEIGHTS)
        found = embeddings_digest(model)
        if embeddings != found:
            raise MeloError(
                f"the verifier in {folder} was trained on other embeddings ({embeddings[:12]}…) than those in "
                f"{encoder} ({found[:12]}…); install the encoder that it names"
            )
        missing, unknown = model.load_state_dict(weights, strict=False)
        if unknown or any(not name.startswith(EMBEDDINGS) for name in missing):
            raise MeloError(f"the weights in {folder} are not those of a verifier; train it again")
        return cls(model.train(False).requires_grad_(False), AutoTokenizer.from_pretrained(encoder))

    @classmethod
    def _foreign(cls, folder: Path) -> "Verifier":
        try:
            model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise MeloError(f"{folder} is not a cross-encoder that transformers reads: {error}") from error
        if model.config.num_labels != 1:
            raise MeloError(
                f"the cross-encoder in {folder} has {model.config.num_labels} outputs; a verifier has one, the logit "
                "that two texts ask the same"
            )
        return cls(model.train(False).requires_grad_(False), tokenizer)

    def is_word(self, word: str) -> bool:
        """Tell whether a word in small letters is an ordinary one, perhaps with an ending or a typing error."""
        first, *rest = self.tokenizer.tokenize(word) or [word]
        if not rest or (len(rest) == 1 and len(first) >= SHORTEST and rest[0] in ENDINGS):
            return True
        return process.extractOne(word, self._ordinary, scorer=OSA.distance, score_cutoff=1) is not None

    @cached_property
    def _ordinary(self) -> list[str]:
        return [word for word in sorted(self.tokenizer.get_vocab()) if len(word) >= SHORTEST and word.isalpha()]

    @torch.no_grad()
    def score(self, edit: str, query: str) -> float:
        """The probability that a query asks something else than an edit's prompt, to a millionth."""
        tokens = pair(self.tokenizer, edit, query)
        batch = {name: torch.tensor([ids]) for name, ids in tokens.items()}
        return round(float(torch.sigmoid(-self.model(**batch).logits[0, 0])), 6)


def pair(tokenizer: PreTrainedTokenizerBase, edit: str, query: str, window: int = WINDOW) -> dict[str, list[int]]:
    """Token ids, mask and types of [CLS] edit [SEP] query [SEP]; of texts too long, their ends.

    A word of the query that is none (the tokenizer does not know it whole) is read as the edit spells it, if it has one
    that is near.
    """
    query = spelt_as(edit, query, lambda word: len(tokenizer.tokenize(word)) == 1)
    a, b = (tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in (edit, query))
    a = a[-min(EDIT_SHARE, window // 2 - 2) :]
    b = b[-(window - 3 - len(a)) :]
    ids = [tokenizer.cls_token_id, *a, tokenizer.sep_token_id, *b, tokenizer.sep_token_id]
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "token_type_ids": [0] * (len(a) + 2) + [1] * (len(b) + 1),
    }


def untrained(encoder: Path) -> PreTrainedModel:
    """A verifier that begins with the encoder's weights. It has no dropout: what it is trained on is never twice the
    same. Raises MeloError."""
    config = AutoConfig.from_pretrained(
        encoder, num_labels=1, dtype="float32", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
        config, dtype=torch.float32
    )
    try:
        given = load_file(encoder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise MeloError(f"{encoder} is not an encoder with model.safetensors: {error}") from error
    own = model.state_dict()
    own.update({f"bert.{name}": tensor.float() for name, tensor in given.items() if f"bert.{name}" in own})
    model.load_state_dict(own)
    return model


def embeddings_digest(model: PreTrainedModel) -> str:
    """SHA-256 over the embeddings, by name and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(EMBEDDINGS) and tensor.is_floating_point():
            digest.update(name.encode() + tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """A verifier's tensors in float32, and the digest of the embeddings that it was trained on. Raises MeloError."""
    try:
        with safe_open(path, framework="pt") as stored:
            weights = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118  # no mapping
            return weights, (stored.metadata() or {}).get("embeddings", "")
    except (SafetensorError, OSError) as error:
        raise MeloError(f"{path} is not a verifier: {error}") from error
