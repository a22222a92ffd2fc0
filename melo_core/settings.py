"""The settings of the method: meaning, default, and the paper's value."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from melo_core.errors import MeloError
from melo_core.verifier_files import NONE, PACKAGED

Positions = Literal["answer", "all"]
Clustering = Literal["nearest-point", "melo"]


@dataclass(frozen=True)
class MethodSettings:
    """Settings by which a collection's edits are trained, applied and scoped, fixed for the collection's life."""

    modules: tuple[str, ...] = ()
    """Linear layers that carry a block, by module name. Empty: those that `families.py` names in the last `layers`
    layers, the MLP output in most families."""
    layers: int = 8
    """How many of the last layers carry a block, when `modules` is empty. Paper: 2 to 8, by model."""
    rank: int = 1
    """Rank r of a block: A (r, d_in), B (d_out, r). Paper: 2 per edit."""
    scale: float = 1.0
    """s in s · (x Aᵀ) Bᵀ. Belongs to the block and never changes, however many blocks there are."""
    positions: Positions = "answer"
    """Where a block acts: from the last prompt token on, or at all positions (paper: all).
    For encoder-decoders this means all positions of the decoder, for classifiers all positions."""
    learning_rate: float = 2.5e-2
    """Adam's step size. Paper: 1e-3 to 1e-2."""
    iterations: int = 80
    """Most steps for a block in its first round. Paper: 40 to 100, always all of them."""
    loss_target: float = 0.002
    """A block stops training at this mean cross-entropy (nats a token). 0: never before its last step, as in the
    paper."""
    rounds: int = 3
    """Most rounds of training for a block, each from the start and with twice the steps, until free generation gives
    its targets. Paper: 1 (generation by the edited model is not tested)."""
    edits_per_block: int = 1
    """How many edits of a batch share a block, in their order. With one, each can be retired alone, and does not depend
    on the others. Paper: 4 to 100."""
    learn_rephrases: bool = False
    """Whether a block is also trained on its edits' rephrases. They are points of the index in either case.
    Paper: no."""
    learn_as_question: bool = True
    """Whether a completion is also learned as a chat turn, where the model has a chat template, so that the fact is
    also known when it is asked for. Paper: no."""
    batch: int = 64
    """Most blocks trained together: fewer where memory does not suffice. Paper: 1."""
    key_encoder: Literal["sentence", "hidden"] = "sentence"
    """Source of keys: a sentence encoder, or the base model's own hidden states. Paper: hidden."""
    key_layer: int = 0
    """Hidden keys only: they are the output of this layer (0: the token embeddings, n: the nth layer). It
    lies before the first edited layer, so that no block can change a key. An encoder-decoder's keys are its
    encoder's. Paper: a layer before the edited ones, by model."""
    key_pooling: Literal["last", "mean"] = "mean"
    """Hidden keys only: the last token's state, or the mean over tokens. Paper: last."""
    whitened: bool = True
    """Whether keys are whitened and scaled to length 1. Paper: no (plain Euclidean distance)."""
    radius: float = 0.9
    """Initial radius R of a cluster, in key units. Whitened keys have length 1, so distances are 0 to 2; other keys
    have their encoder's own scale, and `melo calibrate` finds the radius. Paper: by model."""
    clustering: Clustering = "nearest-point"
    """How points form clusters. `nearest-point`: each point is the centre of its own, and where clusters of two answers
    overlap the nearest decides, so that an edit's own prompt always finds it. `melo` (paper): points with one answer
    join, and where two answers meet both radii shrink, which can leave points uncovered."""
    query_keys: Literal["whole", "parts"] = "parts"
    """Keys of a query: of the whole text, or also of the text after its last ends of sentences and lines. Paper: one
    key, of the whole text."""
    verifier: str = PACKAGED
    """Decides whether a query asks about the same as an edit near it: `packaged`, a folder with a cross-encoder, or
    `none`: then the nearest edit covers every query within its radius. Classifiers have none. Paper: none."""
    verifier_digest: str = ""
    """SHA-256 of the verifier's files and word rules, filled in when a collection is created."""
    threshold: float = 0.7
    """An edit covers a query if the verifier gives at most this probability that it asks something else, which is
    raised for a query far away."""
    candidate_radius: float = 1.22
    """Distance within which edits are candidates for the verifier, in key units."""
    candidates: int = 8
    """Most edits that the verifier reads for a query, nearest first."""
    whiten_epsilon: float = 0.01
    """ε in (C + ε λ_max I)^(-1/2)."""
    seed: int = 0
    """Seed of the blocks' initial A; with the same seed, edits and machine, training gives the same bytes."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return dataclasses.asdict(self) | {"modules": list(self.modules)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "MethodSettings":
        """Read stored or given settings; missing ones take their default.

        Raises MeloError for an unknown setting, a value of another type, or one out of range.
        """
        types = get_type_hints(cls)
        unknown = sorted(set(values) - set(types))
        if unknown:
            raise MeloError(f"unknown method setting {unknown[0]!r}; the settings are {', '.join(sorted(types))}")
        settings = cls(**{name: _read(name, value, types[name]) for name, value in values.items()})
        for name, least in LEAST.items():
            if getattr(settings, name) < least:
                raise MeloError(f"method setting {name} must be at least {least}, not {getattr(settings, name)}")
        for name in ("radius", "candidate_radius", "learning_rate", "scale", "whiten_epsilon"):
            if getattr(settings, name) <= 0:
                raise MeloError(f"method setting {name} must be positive, not {getattr(settings, name)}")
        if not 0 <= settings.threshold < 1:
            raise MeloError(f"method setting threshold must be at least 0 and below 1, not {settings.threshold}")
        return settings


# Larger numbers are mistakes: nothing can be trained with them. They are refused where they are given.
MOST: Mapping[str, float] = {
    "layers": 2**31 - 1,
    "rank": 4096,
    "scale": 1_000_000,
    "learning_rate": 10,
    "iterations": 1_000_000,
    "rounds": 1_000_000,
    "edits_per_block": 1_000_000,
    "batch": 1_000_000,
    "candidates": 1_000,
    "key_layer": 2**31 - 1,
    "seed": 2**63 - 1,
}

LEAST = {
    "layers": 1,
    "rank": 1,
    "iterations": 1,
    "loss_target": 0,
    "rounds": 1,
    "edits_per_block": 1,
    "batch": 1,
    "candidates": 1,
    "key_layer": 0,
}

PRESETS: Mapping[str, MethodSettings] = {
    "default": MethodSettings(),
    # The paper's choices. Those that it makes by model must be set by the user: `key_layer`, `layers`, and `radius`,
    # which depends on the model's own units. The radius here is so small that little besides an edit's own prompt is
    # within it.
    "paper": MethodSettings(
        layers=4,
        rank=8,  # 2 for each edit of the block
        positions="all",
        learning_rate=5e-3,
        iterations=100,
        loss_target=0,
        rounds=1,
        edits_per_block=4,
        learn_as_question=False,
        batch=1,
        key_encoder="hidden",
        key_layer=6,
        key_pooling="last",
        whitened=False,
        radius=1.0,
        clustering="melo",
        query_keys="whole",
        verifier=NONE,
    ),
}


def _read(name: str, value: Any, wanted: Any) -> Any:
    """Read a setting's value from JSON as the type `wanted`. Raises MeloError."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if get_origin(wanted) is Literal:
        form, fits = f"one of {', '.join(get_args(wanted))}", isinstance(value, str) and value in get_args(wanted)
    elif wanted is bool:
        form, fits = "true or false", isinstance(value, bool)
    elif wanted is int:
        form, fits = "a whole number", number and isinstance(value, int)
    elif wanted is float:
        form, fits = "a finite number", number and abs(value) <= sys.float_info.max
        value = float(value) if fits else value
    elif wanted is str:
        form, fits = "a text", isinstance(value, str)
    else:
        form = "a list of module names"
        fits = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
        value = tuple(value) if fits else value
    if not fits:
        raise MeloError(f"method setting {name} must be {form}, not {value!r:.80}")
    return value
