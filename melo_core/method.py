"""The method as the registry asks for it, by the entry point `melo.method`: see `Method` in the registry."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from melo_core.errors import MeloError
from melo_core.errors import MeloError as Refused
from melo_core.settings import MOST, PRESETS, MethodSettings
from melo_core.verifier_files import digest_of

__all__ = ["Refused", "complete", "edits_together", "for_training"]


def complete(values: Mapping[str, Any], preset: str = "default") -> dict[str, Any]:
    """All settings as a JSON object: those given, and the preset's for the others.

    Raises MeloError for an unknown preset, a name that is no setting, a value of another type or one out of range.
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


# What may be other for some of a collection's edits: how a block is trained, not where it acts or what leads to it.
OF_TRAINING = (
    "rank", "scale", "learning_rate", "iterations", "loss_target", "rounds", "edits_per_block", "learn_rephrases",
    "learn_as_question", "batch", "seed",
)  # fmt: skip


def for_training(method: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A collection's settings with changes for some of its edits. Raises MeloError, also for what may not differ."""
    for name in changes:
        if name in method and name not in OF_TRAINING:
            raise MeloError(
                f"method setting {name} is the same for all edits of a collection; {', '.join(OF_TRAINING)} may differ"
            )
    return _within_reason(MethodSettings.from_json({**method, **changes}), changes)


def edits_together(settings: Mapping[str, Any]) -> int:
    """The most edits of several batches with these settings that are trained in one go; 0: each batch by itself.

    More than fit into one step of training gain nothing. Where edits share blocks, a block would have edits of two
    batches.
    """
    try:
        method = MethodSettings.from_json(settings)
    except MeloError:
        return 0  # the job by itself says what is wrong with them
    return method.batch if method.edits_per_block == 1 else 0


def _within_reason(settings: MethodSettings, given: Iterable[str]) -> dict[str, Any]:
    """As a JSON object. Raises MeloError where one that was given is larger than can be meant."""
    for name in given:
        value = getattr(settings, name)
        if name in MOST and value > MOST[name]:
            raise MeloError(f"method setting {name} must be at most {MOST[name]}, not {value!r:.80}")
        if name == "seed" and value < 0:
            raise MeloError(f"method setting seed must be at least 0, not {value!r:.80}")
    return settings.to_json()
