"""The history of the synthetic collection, version by version: the same for the same sizes.

Of every ten versions, the tenth retires a twentieth of the edits that the nine before it applied, and in the fifth one
edit replaces another. Of every hundred, the 16th rolls back by one version, and the 17th undoes that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from registry.base.vocabulary import VersionKind

RETIRED_OF = 20  # one of every so many edits is retired


@dataclass(frozen=True)
class Step:
    number: int
    kind: VersionKind
    first: int = 0  # the ids of the edits that it applies: first, first + 1, …
    count: int = 0
    replaces: int | None = None  # the edit that the first one replaces
    retires: tuple[int, ...] = ()
    restores: int | None = None


def history(versions: int, edits: int) -> Iterator[Step]:
    """Yield the steps. All edits are spread over the applying versions as evenly as possible."""
    applying = [number for number in range(1, versions + 1) if _kind(number) == VersionKind.APPLY]
    each, rest = divmod(edits, len(applying))
    first, applied = 1, 0
    recent: list[Step] = []  # those that applied edits since the last retirement
    before: Step | None = None
    for number in range(1, versions + 1):
        kind = _kind(number)
        if kind == VersionKind.ROLLBACK:
            yield Step(number, kind, restores=number - 2)
        elif kind == VersionKind.RETIRE:
            yield Step(number, kind, retires=_retired(recent))
            recent = []
        else:
            count = each + (1 if applied < rest else 0)
            applied += 1
            replaces = before.first if before is not None and number % 10 == 5 else None
            before = Step(number, kind, first=first, count=count, replaces=replaces)
            recent.append(before)
            first += count
            yield before


def _retired(recent: list[Step]) -> tuple[int, ...]:
    """Return at least one edit, since a version changes something; never a version's first, which may be replaced."""
    rest = (edit for step in recent for edit in range(step.first + 1, step.first + step.count))
    last = recent[-1].first + recent[-1].count - 1
    return tuple(edit for edit in rest if edit % RETIRED_OF == 0) or (last,)


def _kind(number: int) -> VersionKind:
    if number % 10 == 0:
        return VersionKind.RETIRE
    return VersionKind.ROLLBACK if number % 100 in (16, 17) else VersionKind.APPLY
