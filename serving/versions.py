"""Versions that are served: found by name, loaded when first asked for, and followed as aliases move."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.edited_model import Approved, Route, route_of
from melo_core.scope import Scope
from melo_core.settings import MethodSettings
from registry.base.errors import Erased, InvalidRequest, NotFound, RegistryError, first_line
from registry.collections.repository import names_of_models
from registry.versions.content import EditContent, VersionContent
from registry.versions.reading import require_servable, resolve
from registry.versions.repository import blocks_by_ids, version_content
from serving.engines.port import Acting
from worker.loader import approved_of, encoder_of, read_block, scope_in
from worker.model_cache import ModelCache

log = structlog.get_logger("melo.serve")

VERSIONS_KEPT = 8  # in memory, besides those that an answer still needs
NAMES_KEPT = 256
FOLLOWING_SECONDS = 0.5


@dataclass
class Served:
    """A version that can be asked. Its blocks are read when they first act."""

    content: VersionContent
    settings: MethodSettings
    scope: Scope | None
    read: Callable[[int, str], Block]
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"{self.content.collection.name}@{self.content.number or 'base'}"

    @cached_property
    def block_of(self) -> dict[int, int]:
        return {point.id: point.block_id for point in self.content.points.values()}

    @cached_property
    def approved(self) -> dict[int, Approved]:
        return approved_of(self.content)

    def route(self, question: str, kind: str = "qa") -> Route:
        """Return the block that answers a question, and the edits that were considered."""
        return route_of(self.scope, self.block_of, question, kind)

    def acting(self, block: int, with_weights: bool) -> Acting:
        """Return a block as engines take it."""
        sha256 = self.content.blocks[block].sha256
        return Acting(sha256, self.weights(block) if with_weights else None, self.settings.positions)

    def weights(self, block: int) -> Block:
        return self.read(block, self.content.blocks[block].sha256)

    def edit(self, route: Route) -> EditContent | None:
        """Return the edit that covers the question."""
        if route.block is None or route.match is None:
            return None
        return self.content.edits[self.content.points[route.match.point].edit_id]


class Versions:
    """The versions of all collections over one base model.

    A name is looked up once and then followed: every half second in a thread of its own, so that no request waits for
    the database, and all go on with the last good version where it does not answer.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        model_cache: ModelCache,
        model: str,
        digest: str,
        *,
        with_weights: bool = True,
    ) -> None:
        """with_weights: whether answers are computed here; without, weights are loaded only for keys that are the
        model's own hidden states.
        """
        self.model, self.digest = model, digest
        load = model_cache.base if with_weights else model_cache.base_without_weights
        self.base: BaseModel = load(model, digest)
        self._sessions, self._model_cache = sessions, model_cache
        self._named: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._loaded: OrderedDict[tuple[int, int], Served] = OrderedDict()
        self._blocks = Blocks(sessions)
        self._lock = threading.Lock()  # names and versions; one is loaded at a time
        self._stop = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="melo-follow", daemon=True)
        self._follower.start()

    def get(self, name: str) -> Served:
        """Return the version that a name refers to. Raises NotFound, InvalidRequest, DigestMismatch or Erased."""
        with self._lock:
            key = self._named.get(name) or self._resolved(name)
            self._named[name] = key
            self._named.move_to_end(name)
            while len(self._named) > NAMES_KEPT:
                self._named.popitem(last=False)
            return self._served(key)

    def stop(self) -> None:
        self._stop.set()
        self._follower.join(5)

    def _resolved(self, name: str) -> tuple[int, int]:
        """Return the collection's id and the version's number."""
        with self._sessions() as session:
            resolved = resolve(session, name)
            collection = resolved.collection
            if collection.model_digest != self.digest:
                raise InvalidRequest(
                    f"{name} is over the model {collection.model}, and this server has {self.model} in memory.",
                    f"Start another with `melo serve --model {collection.model}`.",
                )
            return collection.id, resolved.number

    def _served(self, key: tuple[int, int]) -> Served:
        if key not in self._loaded:
            self._loaded[key] = self._load(*key)
        self._loaded.move_to_end(key)
        while len(self._loaded) > VERSIONS_KEPT:
            self._loaded.popitem(last=False)
        return self._loaded[key]

    def _load(self, collection_id: int, number: int) -> Served:
        """Load a version without its blocks, and compare it with its digest."""
        with self._sessions() as session:
            content = version_content(session, collection_id, number, block_bytes=False)
        content.require_intact()
        settings = MethodSettings.from_json(content.collection.method)
        scope = None
        if content.clusters:
            encoder = encoder_of(self._model_cache, content, settings)
            scope = scope_in(content, settings, encoder, self._model_cache.verifier_of(settings, self.base.kind))
        return Served(content, settings, scope, self._blocks.read)

    def _follow(self) -> None:
        while not self._stop.wait(FOLLOWING_SECONDS):
            try:
                for name, known in list(self._named.items()):
                    if _may_move(name):
                        self._follow_name(name, known)
                for key in list(self._loaded):
                    self._require_servable(key)
            except SQLAlchemyError as error:
                log.warning("the database does not answer", error=first_line(error))
            except Exception:
                log.exception("aliases could not be followed")  # tried again: what is served goes on

    def _follow_name(self, name: str, known: tuple[int, int]) -> None:
        try:
            key = self._resolved(name)
            if key != known:
                with self._lock:
                    found = self._served(key)  # before the name moves: one that does not verify is not served
                    self._named[name] = key
                log.info("moved", name=name, to=found.name, digest=found.content.content_digest)
        except NotFound:
            self._named.pop(name, None)  # the next request is told why
        except RegistryError as error:
            log.error("not followed: the last good version goes on", name=name, error=str(error))

    def _require_servable(self, key: tuple[int, int]) -> None:
        """Forget a version whose content was erased in part: it must not answer from memory either."""
        try:
            with self._sessions() as session:
                require_servable(session, *key)
        except Erased as error:
            with self._lock:
                self._loaded.pop(key, None)
                self._blocks.forget()
            log.warning("no longer served", error=str(error))


def _may_move(name: str) -> bool:
    which = name.rpartition("@")[2]
    return not which.isdigit() and which != "base"


class Blocks:
    """Blocks by id, read and verified when first needed; the least recently used make room."""

    def __init__(self, sessions: sessionmaker[Session], most: int = 4096) -> None:
        self._sessions, self._most = sessions, most
        self._held: OrderedDict[int, Block] = OrderedDict()
        self._lock = threading.Lock()

    def forget(self) -> None:
        with self._lock:
            self._held.clear()

    def read(self, block_id: int, recorded: str) -> Block:
        """Raises DigestMismatch where the bytes are not those that were recorded."""
        with self._lock:
            if block_id not in self._held:
                with self._sessions() as session:
                    data = blocks_by_ids(session, [block_id], with_bytes=True)[block_id].data
                self._held[block_id] = read_block(block_id, data, recorded)
                while len(self._held) > self._most:
                    self._held.popitem(last=False)
            self._held.move_to_end(block_id)
            return self._held[block_id]


def model_to_serve(session: Session, wanted: str | None) -> tuple[str, str]:
    """Return name and digest of the base model to serve: the named one, or the only one that collections are over.

    Raises InvalidRequest.
    """
    models = names_of_models(session)
    if wanted is not None:
        models = {name: digest for name, digest in models.items() if name == wanted}
    if len(models) == 1:
        return models.popitem()
    if not models:
        raise InvalidRequest(
            "There is no collection to serve." if wanted is None else f"No collection is over the model {wanted!r}.",
            "Make one with `melo collection create NAME --model MODEL`.",
        )
    raise InvalidRequest(
        "The collections are over several models: " + ", ".join(sorted(models)) + ".",
        "A server has one of them in memory: name it with --model, and start a server for each.",
    )
