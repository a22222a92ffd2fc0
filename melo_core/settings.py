"""The settings of the method: what each means, its default, and the paper's value."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from melo_core.errors import MeloError

Positions = Literal["answer", "all"]
Clustering = Literal["nearest-point", "melo"]


@dataclass(frozen=True)
class MethodSettings:
    """How a collection's edits are trained, applied and scoped. Fixed for the life of a collection."""

    modules: tuple[str, ...] = ()
    """Linear layers that carry a block, by module name. Empty: the MLP output of the last `layers` layers."""
    layers: int = 8
    """How many of the last layers carry a block, when `modules` is empty. Paper: 2 to 8, by model."""
    rank: int = 1
    """Rank r of a block: A (r, d_in), B (d_out, r). Paper: 2 per edit."""
    scale: float = 1.0
    """s in s · (x Aᵀ) Bᵀ. A block's own and never changed, however many blocks there are."""
    positions: Positions = "answer"
    """Where a block acts: from the last prompt token on, or at all positions (paper: all).
    Encoder-decoders take it as all positions of the decoder, classifiers as all positions."""
    learning_rate: float = 1e-2
    """Adam's step size. Paper: 1e-3 to 1e-2."""
    iterations: int = 80
    """Most steps for a block. Paper: 40 to 100, always all of them."""
    loss_target: float = 0.002
    """A block stops by itself at this mean cross-entropy (nats a token). Paper: 0 (no early stop)."""
    batch: int = 64
    """Blocks trained together."""
    radius: float = 0.85
    """Start radius R of a cluster, in key units (whitened keys have length 1, so distances are 0 to 2)."""
    clustering: Clustering = "nearest-point"
    """How points make clusters. `nearest-point`: each point is the centre of its own, and where two answers'
    clusters overlap the nearest decides, so that an edit's own prompt always finds it. `melo` (paper): points
    with one answer join, and where two answers meet both radii shrink, which can leave points uncovered."""
    query_keys: Literal["whole", "whole-and-last-sentence"] = "whole-and-last-sentence"
    """Keys of a query: the nearest of them counts. Paper: one key, of the whole text."""
    whiten_epsilon: float = 0.01
    """ε in (C + ε λ_max I)^(-1/2)."""
    seed: int = 0
    """Starts the blocks' A; with the same seed, edits and machine, training gives the same bytes."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, in the form `from_json` reads."""
        return dataclasses.asdict(self) | {"modules": list(self.modules)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "MethodSettings":
        """Read stored or given settings; those not given take their default.

        Raises MeloError for a name that is no setting or a value out of range.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise MeloError(f"unknown method setting {unknown[0]!r}; the settings are {', '.join(sorted(known))}")
        settings = cls(**(values | {"modules": tuple(values.get("modules", ()))}))
        for name in ("layers", "rank", "iterations", "batch"):
            if getattr(settings, name) < 1:
                raise MeloError(f"method setting {name} must be at least 1, not {getattr(settings, name)}")
        for name in ("radius", "learning_rate", "scale", "whiten_epsilon"):
            if not getattr(settings, name) > 0:
                raise MeloError(f"method setting {name} must be positive, not {getattr(settings, name)}")
        return settings
