"""JSON from callers, parsed within bounds that are measured before anything is built of it."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Also one that has no end: each byte is looked at once, whatever a caller sends.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?+)*+"?+', re.S)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_STRUCTURE = re.compile(rb"[^\[\]{}]++")


class OutOfBounds(ValueError):
    """The text holds what it may not, or more than it may; the message says what."""


@dataclass(frozen=True)
class Bounds:
    """depth: of nesting. values: names and values together. names: of one object. digits: of a number. characters:
    bytes of a string. halves: of surrogate pairs may stand in texts, which then need to be looked at one by one.
    """

    depth: int = 100
    values: int = 250_000
    names: int = 1_000
    digits: int = 400
    characters: int = 1 << 20
    halves: bool = True

    def parse(self, text: bytes) -> Any:
        """Parse a text in UTF-8. Raises OutOfBounds, json.JSONDecodeError or another ValueError.

        What parsers read in different ways is refused (RFC 8259): names that occur twice, NaN, infinite numbers.
        """
        self._measure(text)
        try:
            found = json.loads(
                text.decode("utf-8-sig"), parse_float=_finite, parse_constant=_finite, object_pairs_hook=self._once
            )
        except UnicodeDecodeError as error:
            raise OutOfBounds(f"what is not UTF-8, at byte {error.start + 1}") from None
        except RecursionError:  # of a depth that is within bounds, where the stack is nearly full already
            raise OutOfBounds("values nested too deep") from None
        if not self.halves and _SURROGATE.search(text):
            try:
                json.dumps(found, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise OutOfBounds("half of a surrogate pair, which is no character") from None
        return found

    def _measure(self, text: bytes) -> None:
        longest = max((found.end() - found.start() for found in _STRING.finditer(text)), default=0)
        if longest > self.characters:
            raise OutOfBounds(f"a text of more than {self.characters:,} bytes")
        bare = _STRING.sub(b'""', text)
        # Every name and every value but the first stands after one of these.
        if sum(map(bare.count, (b",", b"[", b"{", b":"))) > self.values:
            raise OutOfBounds(f"more than {self.values:,} names and values")
        if re.search(rb"(?<![0-9])[0-9]{%d}" % (self.digits + 1), bare):
            raise OutOfBounds(f"a number of more than {self.digits} digits")
        depth = 0
        for bracket in _STRUCTURE.sub(b"", bare):
            depth += 1 if bracket in b"[{" else -1
            if depth > self.depth:
                raise OutOfBounds(f"values nested more than {self.depth} deep")
            if depth < 0:
                break  # it is no JSON

    def _once(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > self.names:
            raise OutOfBounds(f"more than {self.names:,} names in one object")
        found = dict(pairs)
        if len(found) < len(pairs):
            name = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
            raise OutOfBounds(f"the name {name[:50]!r} twice in one object")
        return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise OutOfBounds(f"{text[:20]}, which is no finite number")
    return number
