"""Models and encoders loaded by this process: found by name, and accepted only if their digest is the recorded one."""

import dataclasses
import hashlib
import json
import os
import resource
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import torch

from melo_core.base_model import BaseModel, choose_device, load_base_model, load_without_weights
from melo_core.converted import Converting, converted, untold
from melo_core.encoder import KeyEncoder, SentenceEncoder, Whitening, ordinary_questions
from melo_core.hidden import HiddenEncoder
from melo_core.settings import MethodSettings
from melo_core.structure import Kind, structure_of
from melo_core.verifier import Verifier
from melo_core.verifier_files import NONE, digest_of, folder_of
from registry.base.errors import UnknownModel
from registry.base.model_files import ModelFiles, find_encoder, find_model
from registry.jobs.claiming import Claim
from registry.versions.content import CollectionContent

WEIGHTS = (".safetensors", ".gguf")
PROCESS = Path("/proc/self")
DIGEST_BYTES = 32  # SHA-256, before a whitening in the cache
VERIFIER_BASE = "all-minilm-l6-v2"  # a trained verifier shares its embeddings and tokenizer


class ModelCache:
    """A cache of one model at a time, since a device rarely holds two, and of all encoders, which are small."""

    def __init__(
        self,
        cache: Path,
        dtype: str = "auto",
        device: torch.device | None = None,
        converting: Converting = untold,
    ) -> None:
        """Make an empty cache.

        cache: a folder for converted models; its contents can be deleted at any time.
        dtype: float32, bfloat16 or float16, in which models run; `auto` is float32 on a CPU, else bfloat16.
        device: None for the best available.
        converting: shows the progress where a model's file is converted.
        """
        self._cache = cache.expanduser()
        self.converting = converting
        self._base: tuple[str, BaseModel] | None = None
        self._encoders: dict[str, SentenceEncoder] = {}
        self._verifiers: dict[str, Verifier] = {}
        self.device = choose_device() if device is None else device
        usual = "float32" if self.device.type == "cpu" else "bfloat16"
        self.dtype = usual if dtype == "auto" else dtype

    @property
    def loaded(self) -> list[str]:
        """Digests of the models in memory."""
        return [self._base[0]] if self._base else []

    @cached_property
    def device_name(self) -> str:
        """The device's kind and, if the system reports it, model: only the same kind gives the same block."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else _processor()
        return f"{self.device.type} ({name})" if name else self.device.type

    def begin_peak(self) -> None:
        """Reset the peak of memory, where the system supports that."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with suppress(OSError):
            (PROCESS / "clear_refs").write_text("5")

    def peak_memory(self) -> int:
        """Return the peak memory in bytes: of the GPU if there is one, else of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            lines = (PROCESS / "status").read_text().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration):
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def base(
        self,
        spec: str,
        digest: str,
        recorded: Mapping[str, str] | None = None,
        converting: Converting | None = None,
    ) -> BaseModel:
        """Return the model with that name and exactly these files. Raises UnknownModel.

        recorded: the files' own digests by name, to say which of them changed. converting: None for the cache's own.
        """
        if self._base is None or self._base[0] != digest:
            files = _require_digest(find_model(spec), digest, recorded)
            self._base = None  # before the new one is loaded, not after: two may not fit
            model = load_base_model(
                files.path,
                files.gguf_file,
                digest=digest,
                cache=self._cache / "models",
                device=self.device,
                dtype=getattr(torch, self.dtype),
                converting=converting or self.converting,
            )
            self._base = digest, model
        return self._base[1]

    def without_weights(self, spec: str, digest: str, recorded: Mapping[str, str] | None = None) -> BaseModel:
        """Return modules and tokenizer of the model with that name and exactly these files. Raises UnknownModel."""
        files = _require_digest(find_model(spec), digest, recorded)
        cache = self._cache / "models"
        return load_without_weights(files.path, files.gguf_file, digest=digest, cache=cache, converting=self.converting)

    def folder_of(self, spec: str, digest: str, recorded: Mapping[str, str] | None = None) -> Path:
        """Return the model's folder in transformers' form, for other programs. Raises UnknownModel."""
        files = _require_digest(find_model(spec), digest, recorded)
        if files.gguf_file is None:
            return files.path
        return converted(files.path, files.gguf_file, self._cache / "models" / digest, self.converting)

    def encoder_of(
        self, collection: CollectionContent | Claim, settings: MethodSettings, calibration: bytes | None
    ) -> tuple[KeyEncoder, str]:
        """Return the collection's encoder with its calibration, and the encoder's digest.

        Raises UnknownModel, or MeloError where the settings or the calibration do not fit the model.
        """
        encoder: KeyEncoder
        if settings.key_encoder == "hidden":
            base = self.base(collection.model, collection.model_digest, collection.model_files)
            whitening = None if calibration is None else Whitening.from_bytes(calibration)
            encoder = HiddenEncoder(base, settings.key_layer, settings.key_pooling, whitening)
            encoder.require_unedited(structure_of(base.model, settings))
            digest = hidden_digest(collection.model_digest, settings)
        else:
            encoder, digest = self.encoder(collection.encoder, collection.encoder_digest, calibration)
        encoder.in_parts = settings.query_keys == "parts"
        return encoder, digest

    def encoder(self, spec: str, digest: str | None, whitening: bytes | None) -> tuple[SentenceEncoder, str]:
        """Return the named sentence encoder with the collection's whitening, and its digest.

        digest: None if it is not fixed yet.
        """
        files = find_encoder(spec)
        if digest is not None:
            files = _require_digest(files, digest)
        digest = files.digest
        if digest not in self._encoders:
            self._encoders[digest] = SentenceEncoder.load(files.path)
        encoder = dataclasses.replace(
            self._encoders[digest], whitening=Whitening.from_bytes(whitening) if whitening else None
        )
        return encoder, digest

    def verifier_of(self, settings: MethodSettings, kind: Kind) -> Verifier | None:
        """Return the verifier for a collection's edits; None where the nearest edit decides, as for classifiers.

        Raises UnknownModel where its files or word rules are not those of the collection.
        """
        if settings.verifier == NONE or kind is Kind.CLASSIFIER:
            return None
        digest = digest_of(settings.verifier)
        if digest != settings.verifier_digest:
            raise UnknownModel(
                f"The verifier {settings.verifier!r} of this program differs from the collection's: its digest is "
                f"{digest[:12]}…, the recorded one {settings.verifier_digest[:12]}….",
                "Install the release that the collection was made with, or create a new collection for this one.",
            )
        if digest not in self._verifiers:
            self._verifiers[digest] = Verifier.load(folder_of(settings.verifier), find_encoder(VERIFIER_BASE).path)
        return self._verifiers[digest]

    def fitted_whitening(
        self, encoder: KeyEncoder, encoder_digest: str, epsilon: float, on_progress: Callable[[int, int], None]
    ) -> bytes:
        """Return the encoder's whitening on the packaged questions, and set it on the encoder.

        It is fitted only once on this machine.
        """
        fitted_on = json.dumps([encoder_digest, list(ordinary_questions()), epsilon])
        stored = self._cache / "whitenings" / f"{hashlib.sha256(fitted_on.encode()).hexdigest()}.whitening"
        if stored.is_file():
            written, data = (content := stored.read_bytes())[:DIGEST_BYTES], content[DIGEST_BYTES:]
            if written == hashlib.sha256(data).digest():
                encoder.whitening = Whitening.from_bytes(data)
                return data
        data = encoder.calibrate(epsilon, on_progress).to_bytes()
        stored.parent.mkdir(parents=True, exist_ok=True)
        part = stored.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(hashlib.sha256(data).digest() + data)
        part.rename(stored)  # atomic, even with several workers
        return data


def _processor() -> str:
    """Return the CPU's name; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def hidden_digest(model_digest: str, settings: MethodSettings) -> str:
    """Return the digest of an encoder that is the base model itself, from all that its keys depend on."""
    made_of = json.dumps([model_digest, settings.key_layer, settings.key_pooling])
    return hashlib.sha256(made_of.encode()).hexdigest()


def _require_digest(files: ModelFiles, digest: str, recorded: Mapping[str, str] | None = None) -> ModelFiles:
    if files.digest == digest:
        return files
    here = files.sha256s
    told = (
        [
            f"{name} is {'missing' if name not in here else 'new' if name not in recorded else 'changed'}"
            for name in sorted({*here, *recorded})
            if here.get(name) != recorded.get(name)
        ]
        if recorded
        else []
    )
    if told and not any(name.endswith(WEIGHTS) and here.get(name) != of for name, of in (recorded or {}).items()):
        told.append("the weights are the same")
    raise UnknownModel(
        f"The files of {files.spec!r} in {files.path} differ from the collection's: "
        + ("; ".join(told) if told else f"their digest is {files.digest[:12]}…, the recorded one {digest[:12]}…")
        + ".",
        "Put the recorded files back, or go on with those that are there now: `melo collection copy COLLECTION NEW` "
        "makes a collection over them and trains its edits anew.",
    )
