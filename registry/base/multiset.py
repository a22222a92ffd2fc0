"""A hash of a set that is brought up to date by what changed, however large the set is (MuHash3072).

Every element is hashed to a number of 3072 bits; the set's state is the product of its elements' numbers modulo a
prime, in whatever order they came. An element that goes is divided away. Two sets with one state would give a
non-trivial product of hashes that is 1 in the group, which is held to be as hard to find as a discrete logarithm
there (Bellare and Micciancio, EUROCRYPT 1997). Bitcoin Core digests its set of unspent outputs so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import shake_256

BITS = 3072
SIZE = BITS // 8
_TAIL = 1_103_717
PRIME = 2**BITS - _TAIL  # the largest prime of 3072 bits that is safe (its half is prime too), as Bitcoin Core has it
_MASK = 2**BITS - 1


def product(elements: Iterable[str]) -> int:
    """The product of the elements' numbers, modulo PRIME."""
    state = 1
    for element in elements:
        state = _reduced(state * int.from_bytes(shake_256(element.encode()).digest(SIZE)))
    return state


def _reduced(number: int) -> int:
    """The number modulo PRIME; 2**3072 is _TAIL there, which spares a long division."""
    while number > _MASK:
        number = (number >> BITS) * _TAIL + (number & _MASK)
    return number - PRIME if number >= PRIME else number


@dataclass(frozen=True)
class Multiset:
    """The state of a set of texts. Equal for equal sets, whatever their history."""

    state: int = 1

    @classmethod
    def of(cls, elements: Iterable[str]) -> "Multiset":
        return cls(product(elements))

    @classmethod
    def from_bytes(cls, stored: bytes) -> "Multiset":
        return cls(int.from_bytes(stored))

    def __bytes__(self) -> bytes:
        """384 bytes, the highest first."""
        return self.state.to_bytes(SIZE)

    def changed(self, *, out: Iterable[str], into: Iterable[str]) -> "Multiset":
        """The set without `out`, which it must hold, and with `into`; costs these, and one inverse."""
        gone = product(out)
        state = self.state * product(into) % PRIME
        return Multiset(state if gone == 1 else state * pow(gone, -1, PRIME) % PRIME)
