"""Where a verifier's files lie, and the digest by which a version names them. Nothing here needs torch."""

import hashlib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from melo_core.errors import MeloError

PACKAGED, NONE = "packaged", "none"
RULES_FORMAT = 4  # raised when melo_core's word rules may judge any two texts otherwise than before
WEIGHTS = "verifier.safetensors"  # as `melo verifier train` writes it
READ = (WEIGHTS, "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def folder_of(name: str) -> Path:
    """The folder of a verifier: the packaged one, or one that is named by its path. Raises MeloError."""
    if name == PACKAGED:
        return Path(str(files("melo_core").joinpath("verifier_weights")))
    try:
        folder = Path(name).expanduser()
        found = any((folder / weights).is_file() for weights in READ[:2])
    except (OSError, RuntimeError, ValueError):  # too long for a path, not permitted, ~ of nobody
        found = False
    if not found:
        raise MeloError(
            f"there is no verifier {name[:100]!r}: name {PACKAGED}, {NONE}, or a folder with {WEIGHTS} or a "
            "cross-encoder's model.safetensors"
        )
    return folder


def digest_of(name: str) -> str:
    """SHA-256 over a verifier's files and the format of the word rules beside it; empty for none. Raises MeloError."""
    return "" if name == NONE else _digest(folder_of(name))


@lru_cache(maxsize=8)
def _digest(folder: Path) -> str:
    digest = hashlib.sha256(f"rules {RULES_FORMAT}\n".encode())
    try:
        for name in READ:
            if (folder / name).is_file():
                digest.update(name.encode() + b"\n" + hashlib.sha256((folder / name).read_bytes()).digest())
    except OSError as error:
        raise MeloError(f"the verifier in {folder} cannot be read: {error.strerror}") from error
    return digest.hexdigest()
