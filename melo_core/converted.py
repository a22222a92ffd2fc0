"""GGUF models converted to transformers' form, in a cache, with the digests of their files.

Reading a GGUF file takes half a minute, so it is done once. What was converted is read again only if every file is what
was written then, and no other is there: transformers would load an adapter or code that it finds beside the weights.
"""

import json
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

import melo_core.quiet  # noqa: F401  # for its effect

DIGESTS = "melo-digests.json"
log = logging.getLogger(__name__)
_counting = threading.Lock()  # the bar that is replaced is the whole process's

Advance = Callable[[int, int], None]  # tensors done, and all of them
Converting = Callable[[], AbstractContextManager[Advance]]  # entered only where something is converted


@contextmanager
def untold() -> Iterator[Advance]:
    """Show nothing of a conversion."""
    yield lambda done, total: None


def converted(folder: Path, gguf_file: str, to: Path, converting: Converting = untold) -> Path:
    """Return a folder with a GGUF model in transformers' form, with the same values in float32; made if need be.

    A folder that is not what was written is made again. converting: shows a conversion's progress.
    """
    if not is_as_written(to):
        if to.exists():
            log.warning("%s is not what was written there: the model is converted again", to)
        else:
            log.info("converting %s, once", folder / gguf_file)
        with converting() as advance:
            _convert(folder, gguf_file, to, advance)
    return to


def is_as_written(folder: Path) -> bool:
    """Tell whether the folder holds exactly the files whose digests it names."""
    try:
        return bool(json.loads((folder / DIGESTS).read_text(encoding="utf-8")) == _digests(folder))
    except (OSError, ValueError, RecursionError):
        return False


def _convert(folder: Path, gguf_file: str, to: Path, advance: Advance) -> None:
    with _counted(advance):
        loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    del loaded.config.quantization_config  # transformers refuses to save a model that is marked as quantised
    plain = type(loaded)(loaded.config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent) as scratch:
        part = Path(scratch) / "model"
        plain.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / DIGESTS).write_text(json.dumps(_digests(part), indent=1), encoding="utf-8")
        if is_as_written(to):  # another process was faster
            return
        if to.exists():
            to.rename(Path(scratch) / "old")
        part.rename(to)


@contextmanager
def _counted(advance: Advance) -> Iterator[None]:
    """Count the tensors that transformers reads, in place of its own bar, which asks nobody and goes into logs."""

    def bar(tensors: Sequence[Any], **_: object) -> Iterator[Any]:
        for done, tensor in enumerate(tensors):
            advance(done, len(tensors))
            yield tensor
        advance(len(tensors), len(tensors))

    with _counting:
        usual = modeling_gguf_pytorch_utils.tqdm  # type: ignore[attr-defined]
        modeling_gguf_pytorch_utils.tqdm = bar  # type: ignore[attr-defined]
        try:
            yield
        finally:
            modeling_gguf_pytorch_utils.tqdm = usual  # type: ignore[attr-defined]


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in the folder but that of the digests, by name; a folder in it has none."""
    found = {}
    for file in sorted(folder.iterdir()):
        if file.name != DIGESTS:
            with file.open("rb") as content:
                found[file.name] = file_digest(content, "sha256").hexdigest()
    return found
