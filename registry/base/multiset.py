"""A set hash that is updated by what changes, however large the set is (MuHash3072).

Every element is hashed to a number of 3072 bits; the set's state is the product of its elements' numbers modulo a
prime, in any order. Removing an element divides by its number. Two sets with the same state would give a non-trivial
product of hashes that is 1 in the group, which is believed to be as hard to find as a discrete logarithm there (Bellare
and Micciancio, EUROCRYPT 1997). Bitcoin Core hashes its set of unspent outputs in this way.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import shake_256

BITS = 3072
SIZE = BITS // 8
_TAIL = 1_103_717
PRIME = 2**BITS - _TAIL  # the largest safe prime of 3072 bits (half of it is prime too), as in Bitcoin Core
_MASK = 2**BITS - 1


def product(elements: Iterable[str]) -> int:
    """Return the product of the elements' numbers, modulo PRIME."""
    state = 1
    for element in elements:
        state = _reduced(state * int.from_bytes(shake_256(element.encode()).digest(SIZE)))
    return state


def _reduced(number: int) -> int:
    """Return the number modulo PRIME; 2**3072 is congruent to _TAIL, which avoids a long division."""
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
        """Return 384 bytes, most significant first."""
        return self.state.to_bytes(SIZE)

    def changed(self, *, out: Iterable[str], into: Iterable[str]) -> "Multiset":
        """Return the set without `out`, which it must contain, and with `into`; the cost is theirs and one inverse."""
        gone = product(out)
        state = self.state * product(into) % PRIME
        return Multiset(state if gone == 1 else state * pow(gone, -1, PRIME) % PRIME)
