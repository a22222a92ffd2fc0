"""JSON from callers, parsed within bounds that are measured before anything is built of it."""

import json
import re
from dataclasses import dataclass
from typing import Any

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.S)
_STRUCTURE = re.compile(rb"[^\[\]{}]++")


class OutOfBounds(ValueError):
    """The text holds more than it may; the message says of what."""


@dataclass(frozen=True)
class Bounds:
    """depth: of nesting. values: names and values together. digits: of a number. characters: bytes of a string."""

    depth: int = 100
    values: int = 250_000
    digits: int = 400
    characters: int = 1 << 20

    def parse(self, text: bytes) -> Any:
        """Parse a text. Raises OutOfBounds, json.JSONDecodeError or another ValueError."""
        self._measure(text)
        return json.loads(text)

    def _measure(self, text: bytes) -> None:
        longest = max((found.end() - found.start() for found in _STRING.finditer(text)), default=0)
        if longest > self.characters:
            raise OutOfBounds(f"a text of more than {self.characters:,} bytes")
        bare = _STRING.sub(b'""', text)
        # Every name and every value but the first stands after one of these.
        if sum(map(bare.count, (b",", b"[", b"{", b":"))) > self.values:
            raise OutOfBounds(f"more than {self.values:,} names and values")
        if re.search(rb"[0-9]{%d}" % (self.digits + 1), bare):
            raise OutOfBounds(f"a number of more than {self.digits} digits")
        depth = 0
        for bracket in _STRUCTURE.sub(b"", bare):
            depth += 1 if bracket in b"[{" else -1
            if depth > self.depth:
                raise OutOfBounds(f"values nested more than {self.depth} deep")
