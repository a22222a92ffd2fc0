"""The methods that `--against` names, each with its encoder and its settings, fitted to the model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.edits.measure import Advance
from benchmarks.edits.peers import Peer
from benchmarks.edits.peers.blocks import Blocks
from benchmarks.edits.peers.grace import Grace
from benchmarks.edits.peers.in_context import InContext
from benchmarks.edits.peers.lora import SharedLora
from benchmarks.edits.peers.unedited import Unedited
from melo_core.base_model import BaseModel
from melo_core.calibration import calibrate
from melo_core.encoder import KeyEncoder, Whitening, ordinary_questions
from melo_core.hidden import HiddenEncoder
from melo_core.method import complete
from melo_core.settings import MethodSettings
from melo_core.structure import Kind, layers_of, structure_of
from worker.model_cache import ModelCache

METHODS = ("paper", "lora", "grace", "in-context")
KEY_DEPTH = 0.2  # as a share of the layers: where the paper preset takes its keys
RADIUS_QUESTIONS = 400  # ordinary questions from which the radius is set
RADIUS_COVERED = 0.01  # the share of them that another of them covers

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Methods:
    """Makes the compared methods, each for one model.

    preset, given: of the blocks measured as `melo`; lora and in-context take its modules and its scope.
    own_texts: texts on which keys are whitened; none: the packaged ordinary questions.
    """

    base: BaseModel
    model_cache: ModelCache
    encoder: str
    preset: str
    given: Mapping[str, Any]
    own_texts: Sequence[str] = ()

    def peer(self, name: str, unedited: Unedited, advance: Advance) -> Peer:
        """Make a fresh peer. Raises MeloError where settings and model do not fit together."""
        if name == "grace":
            return Grace(self.base, MethodSettings())
        preset, given = ("paper", dict[str, Any]()) if name == "paper" else (self.preset, dict(self.given))
        settings, fitted = self._settings(preset, given)
        if name == "lora":
            return SharedLora(self.base, settings)
        if settings.whitened and self.own_texts:
            fitted["whitening"] = f"{len(self.own_texts)} texts of the task's own"
        encoder = self._encoder(settings, lambda *done: advance("whitening", *done))
        if settings.key_encoder == "hidden" and not settings.whitened and "radius" not in given:
            found = calibrate(
                encoder, ordinary_questions()[:RADIUS_QUESTIONS], epsilon=settings.whiten_epsilon,
                false_rate=RADIUS_COVERED, whitened=False, on_progress=lambda *done: advance("radius", *done),
            )  # fmt: skip
            settings = dataclasses.replace(settings, radius=found.radius)
            fitted["radius"] = (
                f"{RADIUS_COVERED:.0%} of {RADIUS_QUESTIONS} packaged ordinary questions lie this near to another"
            )
        if name == "in-context":
            return InContext(unedited, encoder, settings)
        blocks = Blocks(name, self.base, encoder, settings, self.model_cache.verifier_of(settings, self.base.kind))
        blocks.settings_used |= {"preset": preset, "given": dict(given), "fitted_to_the_model": fitted}
        return blocks

    def _settings(self, preset: str, given: Mapping[str, Any]) -> tuple[MethodSettings, dict[str, str]]:
        """Return the settings, and in words which of them were fitted to this model."""
        settings, fitted = MethodSettings.from_json(complete(given, preset)), dict[str, str]()
        if settings.key_encoder == "hidden" and "key_layer" not in given:
            _, layers = layers_of(self.base.model, "encoder" if self.base.kind is Kind.SEQ2SEQ else "")
            layer = round(KEY_DEPTH * len(layers))
            if self.base.kind is not Kind.SEQ2SEQ:  # whose keys come from its encoder, which no block changes
                layer = min(layer, structure_of(self.base.model, settings).first)
            settings = dataclasses.replace(settings, key_layer=layer)
            fitted["key_layer"] = f"{KEY_DEPTH:.0%} of {len(layers)} layers, before the first edited one"
        return settings, fitted

    def _encoder(self, settings: MethodSettings, report: Report) -> KeyEncoder:
        encoder: KeyEncoder
        digest = ""
        if settings.key_encoder == "hidden":
            encoder = HiddenEncoder(self.base, settings.key_layer, settings.key_pooling, None)
        else:
            encoder, digest = self.model_cache.encoder(self.encoder, None, None)
        if settings.whitened and self.own_texts:
            encoder.whitening = _whitening(encoder, self.own_texts, settings.whiten_epsilon, report)
        elif settings.whitened and digest:
            self.model_cache.fitted_whitening(encoder, digest, settings.whiten_epsilon, report)
        elif settings.whitened:
            encoder.calibrate(settings.whiten_epsilon, report)
        encoder.in_parts = settings.query_keys == "parts"
        return encoder


def _whitening(encoder: KeyEncoder, texts: Sequence[str], epsilon: float, report: Report) -> Whitening:
    """Fit a whitening as `melo calibrate --questions FILE --out FILE` does."""
    raw = []
    for text in texts:
        raw.append(encoder.raw_key(text))
        report(len(raw), len(texts))
    return Whitening.fit(torch.stack(raw), epsilon)
