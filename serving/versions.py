"""Versions that are served: found by name, loaded when first asked for, and followed as aliases move."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import replace

import structlog

from melo_core.base_model import BaseModel
from melo_core.settings import MethodSettings
from registry.audit.schemas import ChangesView
from registry.base.errors import DigestMismatch, InvalidRequest, NotFound, Unverified
from registry.collections.schemas import CollectionView
from registry.collections.service import missing
from registry.versions.reading import NamedVersion, names_in
from serving.canary import Key, Pointing
from serving.served import Blocks, Served
from serving.sources.port import Source, SourceUnavailable
from worker.loader import encoder_of, scope_in
from worker.model_cache import ModelCache

log = structlog.get_logger("melo.serve")

NAMES_KEPT = 256
MEGABYTE = 1 << 20
RETRY_SECONDS = 3.0  # until a version that an alias names, and that could not be loaded, is tried again


class OtherModel(InvalidRequest):
    code = "other-model"


class Versions:
    """The versions of all collections over one base model.

    A name is looked up once and then followed: no request for it waits for the source, and all go on with the last good
    version where that does not answer. A version is loaded in a thread of its own, once for all who wait for it.
    """

    def __init__(
        self,
        source: Source,
        model_cache: ModelCache,
        model: str,
        digest: str,
        versions_bytes: int = 2048 * MEGABYTE,
        blocks_bytes: int = 512 * MEGABYTE,
        *,
        with_weights: bool = True,
    ) -> None:
        """versions_bytes, blocks_bytes: beyond these, the least recently asked make room. with_weights: whether answers
        are computed here; without, weights are loaded only for keys that are the model's own hidden states.
        """
        self.model, self.digest = model, digest
        load = model_cache.base if with_weights else model_cache.without_weights
        recorded = next((each.model_files for each in source.collections() if each.model_digest == digest), None)
        self.base: BaseModel = load(model, digest, recorded)
        self._source, self._model_cache, self._budget = source, model_cache, versions_bytes
        self._blocks = Blocks(source.block, blocks_bytes)
        self._collections: list[CollectionView] | None = None  # as they were last listed
        self._ids: dict[str, int] = {}
        self._named: OrderedDict[str, Key] = OrderedDict()
        self._pointing: dict[str, Pointing] = {}  # names with a canary or a shadow
        self._going: dict[str, Key] = {}  # names whose version is being loaded before they move to it
        self._failed: dict[str, float] = {}  # names that could not be followed, and when to try again
        self._wrong: dict[str, str] = {}  # why not
        self._loaded: OrderedDict[Key, Served] = OrderedDict()
        self._begun: dict[Hashable, Future[Served]] = {}
        self._changes = Counter[str]()  # by collection, how often something changed
        self._lock = threading.Lock()  # of all of these; never held while the source is asked
        self._encoders = threading.Lock()  # of the model cache
        self.on_forgotten: Callable[[frozenset[str]], None] | None = None  # told the digests of a version's blocks

    def names(self, among: frozenset[int] | None) -> list[NamedVersion]:
        """Return the names that can be asked, as they were last known. among: the collections to list; None: all.

        Raises SourceUnavailable where they were never known.
        """
        try:
            self._collections = [each for each in self._source.collections() if each.model_digest == self.digest]
        except SourceUnavailable:
            if self._collections is None:
                raise
        return names_in(each for each in self._collections if among is None or each.id in among)

    def get(self, name: str, among: frozenset[int] | None = None) -> Served:
        """Return the version that a name refers to, once it is loaded. See `ask`."""
        return self.at_hand(name, among) or self.ask(name, among).result()

    def at_hand(self, name: str, among: frozenset[int] | None = None) -> Served | None:
        """Return the version that a name refers to if it is in memory."""
        with self._lock:
            key = self._named.get(name)
            served = None if key is None else self._loaded.get(key)
            if key is None or served is None or not _is_among(served.content.collection.id, among):
                return None
            self._named.move_to_end(name)
            self._loaded.move_to_end(key)
            return served

    def ask(self, name: str, among: frozenset[int] | None = None) -> Future[Served]:
        """Begin to find and to load a version; of those who ask for the same one, each gets the same.

        among: collections that the caller may see; None: all. The future's errors: NotFound, also for a collection that
        the caller may not see, InvalidRequest, DigestMismatch, Erased, Unverified, SourceUnavailable.
        """
        return self._begin(("name", name, among), lambda: self._find(name, among))

    def pointing(self, name: str, first: Served) -> Pointing:
        """Return where a name points, whose first version this is. A second counts as soon as its first is served."""
        key = (first.content.collection.name, first.content.number)
        with self._lock:
            found = self._pointing.get(name)
        return found if found is not None and found.first == key else Pointing(name, key)

    @property
    def not_followed(self) -> dict[str, str]:
        """Return the names whose last good version goes on, or that have none, each with the reason."""
        with self._lock:
            return dict(self._wrong)

    def refuse(self, pointing: Pointing) -> None:
        """Serve the first version alone until the name moves."""
        with self._lock:
            if self._pointing.get(pointing.name) == pointing:
                self._pointing[pointing.name] = replace(pointing, refused=True)

    def load(self, key: Key) -> Future[Served]:
        """Begin to load a version, if it is not in memory. The future's errors: DigestMismatch, Erased, …"""
        return self._load_once(key)

    def changed(self, changes: ChangesView) -> None:
        """Look up again what may have changed. Raises SourceUnavailable."""
        concerned = None if changes.collections is None else set(changes.collections)
        now = time.monotonic()
        with self._lock:
            self._changes.update({""} if concerned is None else concerned)
            names = [
                name
                for name in dict.fromkeys([*self._named, *self._failed])
                if (_may_move(name) and _is_of(_collection(name), concerned)) or self._failed.get(name, now + 1) <= now
            ]
            keys = [key for key in self._loaded if key[1] and _is_of(key[0], concerned)]
        for name in names:
            self._follow(name)
        for collection, number in keys:
            if not self._source.resolve(f"{collection}@{number}").servable:
                self._forget((collection, number))

    def _follow(self, name: str) -> None:
        """Move a name to the version that it refers to now, as soon as that is loaded and verified."""
        try:
            key = self._key(name)
        except NotFound:
            with self._lock:
                self._named.pop(name, None)  # the next request is told why
                self._drop(name)
            return
        except (InvalidRequest, Unverified) as error:
            self._note(name, error)
            return
        with self._lock:
            self._going[name] = key
            if self._named.get(name) == key:
                self._failed.pop(name, None)
                self._wrong.pop(name, None)
                return
        self._load_once(key).add_done_callback(lambda loading: self._arrive(name, key, loading))

    def _arrive(self, name: str, key: Key, loading: Future[Served]) -> None:
        error = loading.exception()
        with self._lock:
            if self._going.get(name) != key:
                return  # it has moved elsewhere meanwhile, or is not asked for any more
            if error is None:
                self._wrong.pop(name, None)  # if its name was refused since, the next try says so again
            moves = error is None and name in self._named
            if moves:
                self._named[name] = key
        if error is not None:
            self._note(name, error)
        elif moves:
            found = loading.result()
            log.info("moved", name=name, to=found.name, digest=found.content.content_digest)

    def _note(self, name: str, error: BaseException) -> None:
        """Note that a name is not followed, until it is; it is tried again. The log says so once for each reason."""
        with self._lock:
            known = self._wrong.get(name)
            if known is None and len(self._wrong) >= NAMES_KEPT:
                return
            self._failed[name] = time.monotonic() + RETRY_SECONDS
            self._wrong[name] = str(error)
            serves = "the last good version goes on" if name in self._named else "there is no good version to serve"
        if known != str(error):
            log.error(f"not followed: {serves}", name=name, error=str(error))

    def _find(self, name: str, among: frozenset[int] | None) -> Served:
        collection = _collection(name)
        if among is not None and not _is_among(self._id(collection), among):
            raise missing(collection)
        while True:
            with self._lock:
                changes, known = self._changed_so_far(collection), self._named.get(name)
            try:
                key = known or self._key(name)
                served = self._load_once(key).result()
            except (Unverified, DigestMismatch) as error:
                self._note(name, error)
                raise
            with self._lock:
                if known is not None or self._changed_so_far(collection) == changes:
                    self._named.setdefault(name, key)
                    self._named.move_to_end(name)
                    while len(self._named) > NAMES_KEPT:
                        gone, _ = self._named.popitem(last=False)
                        self._drop(gone)
                    return served

    def _drop(self, name: str) -> None:
        """Keep nothing about a name that is not followed any more. The lock is held."""
        for kept in (self._pointing, self._going, self._failed, self._wrong):
            kept.pop(name, None)

    def _id(self, collection: str) -> int:
        with self._lock:
            known = self._ids.get(collection)
        if known is None:
            known = self._ids[collection] = self._source.collection_id(collection)
        return known

    def _key(self, name: str) -> Key:
        """Return what a name refers to now. Raises InvalidRequest for a version over another model."""
        found = self._source.resolve(name)
        if found.model_digest != self.digest:
            raise OtherModel(
                f"{name} is over the model {found.model}, and this server has {self.model} in memory.",
                f"Start another with `melo serve --model {found.model}`.",
            )
        key = found.collection, found.number
        second = None if found.second is None else (found.collection, found.second)
        self._point(Pointing(name, key, second, found.share))
        return key

    def _point(self, pointing: Pointing) -> None:
        wanted = pointing if pointing.second is not None else None
        with self._lock:
            if self._pointing.get(pointing.name) == wanted:
                return  # also where it was refused
            if wanted is None:
                del self._pointing[pointing.name]
            else:
                self._pointing[pointing.name] = wanted
        second = pointing.second and pointing.second[1]
        log.info("second version", name=pointing.name, number=second, share=pointing.share)

    def _load_once(self, key: Key) -> Future[Served]:
        with self._lock:
            served = self._loaded.get(key)
            if served is not None:
                self._loaded.move_to_end(key)
        if served is not None:
            done = Future[Served]()
            done.set_result(served)
            return done
        return self._begin(("version", key), lambda: self._load(key))

    def _load(self, key: Key) -> Served:
        """Load a version without its blocks, and compare it with its digest."""
        collection, number = key
        with self._lock:
            changes = self._changed_so_far(collection)
        content = self._source.content(collection, number)
        content.require_intact()
        settings = MethodSettings.from_json(content.collection.method)
        scope = None
        if content.clusters:
            with self._encoders:
                encoder = encoder_of(self._model_cache, content, settings)
                verifier = self._model_cache.verifier_of(settings, self.base.kind)
            scope = scope_in(content, settings, encoder, verifier)
        served = Served(content, settings, scope, self._blocks)
        served.prepare()
        while True:
            with self._lock:
                now = self._changed_so_far(collection)
                if now == changes:
                    self._loaded[key] = served
                    self._make_room()
                    log.info("loaded", version=served.name, edits=len(content.edits), megabytes=served.size // MEGABYTE)
                    return served
            if number and not self._source.resolve(f"{collection}@{number}").servable:
                self._source.content(collection, number)  # raises Erased, with the reason
            changes = now

    def _make_room(self) -> None:
        total = sum(served.size for served in self._loaded.values())
        while total > self._budget and len(self._loaded) > 1:
            total -= self._loaded.popitem(last=False)[1].size

    def _forget(self, key: Key) -> None:
        """Forget a version whose content was erased in part: it must not answer from memory either."""
        with self._lock:
            served = self._loaded.pop(key, None)
        self._blocks.forget()
        if served is not None and self.on_forgotten is not None:
            self.on_forgotten(frozenset(block.sha256 for block in served.content.blocks.values()))
        log.warning("no longer served: part of its content was erased", version=f"{key[0]}@{key[1]}")

    def _changed_so_far(self, collection: str) -> int:
        return self._changes[collection] + self._changes[""]

    def _begin(self, what: Hashable, work: Callable[[], Served]) -> Future[Served]:
        """Work in a thread of its own, once for all who ask for the same while it goes on."""
        with self._lock:
            if (begun := self._begun.get(what)) is not None:
                return begun
            future = self._begun[what] = Future[Served]()
        future.set_running_or_notify_cancel()  # who gives up waiting does not cancel it for the others

        def run() -> None:
            found: Served | BaseException
            try:
                found = work()
            except BaseException as error:
                found = error
            with self._lock:
                del self._begun[what]
            if isinstance(found, BaseException):
                future.set_exception(found)
            else:
                future.set_result(found)

        threading.Thread(target=run, name="melo-load", daemon=True).start()
        return future


def _collection(name: str) -> str:
    return name.partition("@")[0]


def _is_among(collection_id: int, among: frozenset[int] | None) -> bool:
    return among is None or collection_id in among


def _is_of(collection: str, concerned: set[str] | None) -> bool:
    return concerned is None or collection in concerned


def _may_move(name: str) -> bool:
    which = name.rpartition("@")[2]
    return not which.isdigit() and which != "base"


def model_to_serve(collections: Sequence[CollectionView], wanted: str | None) -> tuple[str, str]:
    """Return name and digest of the base model to serve: the named one, else that of the oldest collection.

    Raises InvalidRequest.
    """
    for each in sorted(collections, key=lambda each: each.id):
        if wanted in (None, each.model):
            return each.model, each.model_digest
    raise InvalidRequest(
        "There is no collection to serve." if wanted is None else f"No collection is over the model {wanted!r}.",
        "Make one with `melo collection create NAME --model MODEL`.",
    )
