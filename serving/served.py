"""A version that can be asked, and its blocks, which are read when they first act."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property

from melo_core.block import Block
from melo_core.edited_model import Approved, Route, route_of
from melo_core.scope import Scope
from melo_core.settings import MethodSettings
from registry.versions.content import BlockContent, EditContent, VersionContent
from serving.engines.port import Acting
from worker.loader import approved_of, read_block

# Besides its vectors and texts, measured by `melo bench serve --start-edits`: the Python objects that an edit, with its
# block, point and cluster, consists of in the content, the index and the scope.
EDIT_BYTES = 8_000
VECTORS_HELD = 2.3  # of each cluster: its key, its row in the index, and that row's copy of a quarter of its size


@dataclass
class Served:
    """A version that can be asked."""

    content: VersionContent
    settings: MethodSettings
    scope: Scope | None
    blocks: "Blocks"
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"{self.content.collection.name}@{self.content.number or 'base'}"

    @cached_property
    def block_of(self) -> dict[int, int]:
        return {point.id: point.block_id for point in self.content.points.values()}

    @cached_property
    def approved(self) -> dict[int, Approved]:
        return approved_of(self.content)

    @cached_property
    def size(self) -> int:
        """Return about how many bytes it takes in memory, without its blocks."""
        content = self.content
        vectors = sum(4 * len(cluster.centre) for cluster in content.clusters) * VECTORS_HELD
        texts = sum(
            sys.getsizeof(text)
            for edit in content.edits.values()
            for text in (
                *(edit.prompt, edit.target, edit.reason, edit.source),
                *(*edit.alternatives, *edit.rephrases, *edit.unchanged),
            )
        )
        return int(vectors) + texts + EDIT_BYTES * max(len(content.edits), len(content.points))

    def prepare(self) -> None:
        """Compute now what the first request would wait for."""
        _ = self.block_of, self.approved, self.size
        if self.scope is not None:
            self.scope.prepare()

    def route(self, question: str | Sequence[str], kind: str = "qa") -> Route:
        """Return the block that answers a question, or the ways to read one, and the edits that were considered."""
        return route_of(self.scope, self.block_of, question, kind)

    def acting(self, block: int, with_weights: bool) -> Acting:
        """Return a block as engines take it."""
        sha256 = self.content.blocks[block].sha256
        return Acting(sha256, self.weights(block) if with_weights else None, self.settings.positions)

    def weights(self, block: int) -> Block:
        return self.blocks.read(self.content.blocks[block])

    def has_weights(self, block: int) -> bool:
        """Return whether a block is in memory, so that nobody waits for it."""
        return self.blocks.has(self.content.blocks[block])

    def edit(self, route: Route) -> EditContent | None:
        """Return the edit that covers the question."""
        if route.block is None or route.match is None:
            return None
        return self.content.edits[self.content.points[route.match.point].edit_id]


class Blocks:
    """Blocks by digest, read and verified when first needed; beyond a budget the least recently used make room."""

    def __init__(self, fetch: Callable[[BlockContent], bytes], budget: int) -> None:
        """budget: bytes. A block that is larger is kept alone."""
        self._fetch, self._budget = fetch, budget
        self._held: OrderedDict[str, Block] = OrderedDict()
        self._reading: dict[str, Future[Block]] = {}
        self._lock = threading.Lock()
        self.size = 0

    def has(self, block: BlockContent) -> bool:
        with self._lock:
            return block.sha256 in self._held

    def forget(self) -> None:
        with self._lock:
            self._held.clear()
            self.size = 0

    def read(self, block: BlockContent) -> Block:
        """Return a block; those that want it while it is read wait for it.

        Raises DigestMismatch where the bytes are not those that were recorded, or what the source raises.
        """
        with self._lock:
            if (held := self._held.get(block.sha256)) is not None:
                self._held.move_to_end(block.sha256)
                return held
            reading = self._reading.get(block.sha256)
            if reading is None:
                mine = self._reading[block.sha256] = Future[Block]()
        if reading is not None:
            return reading.result()
        try:
            found = read_block(block.id, self._fetch(block), block.sha256)
        except BaseException as error:
            with self._lock:
                del self._reading[block.sha256]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._reading[block.sha256]
            self._held[block.sha256] = found
            self.size += found.nbytes
            while self.size > self._budget and len(self._held) > 1:
                self.size -= self._held.popitem(last=False)[1].nbytes
        mine.set_result(found)
        return found
