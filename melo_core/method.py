"""The method as the registry calls it through the entry point `melo.method`: see `Method` in the registry."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from melo_core import families
from melo_core.errors import MeloError
from melo_core.settings import MOST, PRESETS, MethodSettings
from melo_core.verifier_files import digest_of

Refused = MeloError


def complete(values: Mapping[str, Any], preset: str = "default") -> dict[str, Any]:
    """Return all settings as a JSON object: those given, and the preset's for the others.

    Raises MeloError for an unknown preset or setting, a value of another type, or one out of range.
    """
    if preset not in PRESETS:
        raise MeloError(f"unknown preset {preset!r}; the presets are {', '.join(PRESETS)}")
    settings = MethodSettings.from_json(PRESETS[preset].to_json() | dict(values))
    found = digest_of(settings.verifier)
    if settings.verifier_digest not in ("", found):
        raise MeloError(
            f"the verifier {settings.verifier!r} has the digest {found[:12]}…, not the given one "
            f"{settings.verifier_digest[:12]}…; leave verifier_digest out"
        )
    return _within_reason(dataclasses.replace(settings, verifier_digest=found), values)


# What may differ for some of a collection's edits: how a block is trained, not where it acts or how it is routed to.
OF_TRAINING = (
    "rank", "scale", "learning_rate", "iterations", "loss_target", "rounds", "edits_per_block", "learn_rephrases",
    "learn_as_question", "batch", "seed",
)  # fmt: skip


def for_training(method: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a collection's settings with changes for some of its edits.

    Raises MeloError, also for a setting that must not differ.
    """
    for name in changes:
        if name in method and name not in OF_TRAINING:
            raise MeloError(
                f"method setting {name} is the same for all edits of a collection; {', '.join(OF_TRAINING)} may differ"
            )
    return _within_reason(MethodSettings.from_json({**method, **changes}), changes)


def require_editable(config: Mapping[str, Any], method: Mapping[str, Any]) -> None:
    """Raise MeloError, with the reason, where no block can act in a model of this configuration."""
    families.require_editable(config, MethodSettings.from_json(method).modules)


def edits_together(settings: Mapping[str, Any]) -> int:
    """Return how many edits of several batches with these settings are trained in one go; 0: each batch by itself.

    Training more than one step can hold gains nothing. Where edits share blocks, a block could mix edits of two
    batches.
    """
    try:
        method = MethodSettings.from_json(settings)
    except MeloError:
        return 0  # the job itself reports what is wrong with the settings
    return method.batch if method.edits_per_block == 1 else 0


def _within_reason(settings: MethodSettings, given: Iterable[str]) -> dict[str, Any]:
    """Return the settings as a JSON object. Raises MeloError where a given one is implausibly large."""
    for name in given:
        value = getattr(settings, name)
        if name in MOST and value > MOST[name]:
            raise MeloError(f"method setting {name} must be at most {MOST[name]}, not {value!r:.80}")
        if name == "seed" and value < 0:
            raise MeloError(f"method setting seed must be at least 0, not {value!r:.80}")
    return settings.to_json()
