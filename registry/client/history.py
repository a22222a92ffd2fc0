"""Client methods for versions, their differences, retiring, reverting, rolling back, and aliases."""

from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus

from registry.base.vocabulary import Role
from registry.client.calls import call, stream
from registry.client.errors import MeloClientError, understood
from registry.client.exchanges import Asked, Exchange, Lines, at, many, one
from registry.versions.schemas import (
    AliasView,
    DiffView,
    EditLogView,
    PlannedVersion,
    ProtectionView,
    ResolvedView,
    VersionAtView,
    VersionDetail,
    VersionView,
)


class History:
    """History methods of both clients."""

    # Versions

    @call
    def versions(self, collection: str, *, limit: int | None = 100) -> Exchange[list[VersionView]]:
        """List versions, newest first."""
        return many(VersionView, at(collection, "versions"), limit)

    @call
    def version(self, collection: str, number: int) -> Exchange[VersionDetail]:
        return one(VersionDetail, "GET", at(collection, "versions", number))

    @call
    def diff(self, collection: str, a: int, b: int, *, limit: int = 100) -> Exchange[DiffView]:
        """Compare two versions. The counts are complete; at most `limit` edits of each kind are listed."""
        return one(DiffView, "GET", at(collection, "diff"), params={"a": a, "b": b, "limit": limit})

    @call
    def version_at(self, collection: str, time: datetime) -> Exchange[VersionAtView]:
        """Return the version that was newest at a given time; a time without a zone is local time."""
        return one(
            VersionAtView, "GET", at(collection, "versions", "at"), params={"time": time.astimezone().isoformat()}
        )

    @call
    def edit_log(self, edit_id: int) -> Exchange[EditLogView]:
        return one(EditLogView, "GET", f"/v1/edits/{edit_id}/log")

    @call
    def retire(self, collection: str, edits: Sequence[int], reason: str) -> Exchange[VersionView]:
        body = {"edits": list(edits), "reason": reason}
        return one(VersionView, "POST", at(collection, "retire"), json=body)

    @call
    def plan_retire(self, collection: str, edits: Sequence[int], reason: str = "dry run") -> Exchange[PlannedVersion]:
        body = {"edits": list(edits), "reason": reason, "dry_run": True}
        return one(PlannedVersion, "POST", at(collection, "retire"), json=body)

    @call
    def revert(self, collection: str, version: int, reason: str) -> Exchange[VersionView]:
        body = {"version": version, "reason": reason}
        return one(VersionView, "POST", at(collection, "revert"), json=body)

    @call
    def plan_revert(self, collection: str, version: int, reason: str = "dry run") -> Exchange[PlannedVersion]:
        body = {"version": version, "reason": reason, "dry_run": True}
        return one(PlannedVersion, "POST", at(collection, "revert"), json=body)

    @call
    def rollback(self, collection: str, to: int, reason: str) -> Exchange[VersionView]:
        return one(VersionView, "POST", at(collection, "rollback"), json={"to": to, "reason": reason})

    @call
    def plan_rollback(self, collection: str, to: int, reason: str = "dry run") -> Exchange[PlannedVersion]:
        body = {"to": to, "reason": reason, "dry_run": True}
        return one(PlannedVersion, "POST", at(collection, "rollback"), json=body)

    @call
    def resolve(self, model: str) -> Exchange[ResolvedView]:
        """Resolve a model name to a version.

        model: facts@production, facts@17, facts@base, facts@latest, facts@as-of:TIME, or facts (its newest version).
        """
        return one(ResolvedView, "GET", "/v1/resolve", params={"model": model})

    @stream
    def content(self, collection: str, number: int, *, silent_seconds: float | None = None) -> Lines[bytes]:
        """Yield a version's content line by line, for `registry.versions.content_lines.content_in`."""
        return Lines(at(collection, "versions", number, "content"), _not_empty, seconds=silent_seconds)

    @call
    def block(self, sha256: str) -> Exchange[bytes]:
        """Return a block's bytes (safetensors) by their digest. Compare them with it: they crossed the network."""
        answer = yield Asked("GET", f"/v1/blocks/{sha256}")
        return answer.content

    # Aliases

    @call
    def aliases(self, collection: str) -> Exchange[list[AliasView]]:
        return many(AliasView, at(collection, "aliases"))

    @call
    def alias(self, collection: str, name: str) -> Exchange[AliasView]:
        """Return where an alias points now."""
        return one(AliasView, "GET", at(collection, "aliases", name))

    @call
    def set_alias(
        self, collection: str, name: str, version: int, reason: str = "", *, only_from: int | None = None
    ) -> Exchange[AliasView]:
        """Point an alias at a version, and at no second one.

        only_from: the version that it must point at now; otherwise a MeloClientError (412) is raised.
        """
        path = at(collection, "aliases", name)
        body = {"version": version, "reason": reason}
        if only_from is None:
            return (yield from one(AliasView, "PUT", path, json=body))
        seen, tag = yield from _seen(path)
        if seen.number != only_from:
            raise MeloClientError(
                "Somebody else changed it first",
                f"{collection}@{name} is version {seen.number}, not {only_from}.",
                "See who moved it, and why: `melo alias history`.",
                status=HTTPStatus.PRECONDITION_FAILED,
                code="moved-meanwhile",
            )
        return (yield from one(AliasView, "PUT", path, json=body, headers=tag))

    @call
    def set_canary(
        self, collection: str, name: str, version: int, share: float, reason: str = ""
    ) -> Exchange[AliasView]:
        """Let a second version answer a share of an alias's users, always the same ones. 0 < share < 1."""
        path = at(collection, "aliases", name)
        seen, tag = yield from _seen(path)
        body = {"version": seen.number, "second": version, "share": share, "reason": reason}
        return (yield from one(AliasView, "PUT", path, json=body, headers=tag))

    @call
    def set_shadow(self, collection: str, name: str, version: int, reason: str = "") -> Exchange[AliasView]:
        """Have servers ask a second version what an alias is asked, and compare the answers; users get the first's."""
        path = at(collection, "aliases", name)
        seen, tag = yield from _seen(path)
        body = {"version": seen.number, "second": version, "reason": reason}
        return (yield from one(AliasView, "PUT", path, json=body, headers=tag))

    @call
    def promote_second(self, collection: str, name: str, reason: str = "") -> Exchange[AliasView]:
        """Point an alias at the version that is its canary or shadow now. MeloClientError (409) if it has neither."""
        path = at(collection, "aliases", name)
        seen, tag = yield from _seen(path, with_second=f"{collection}@{name}")
        body = {"version": seen.second, "reason": reason}
        return (yield from one(AliasView, "PUT", path, json=body, headers=tag))

    @call
    def end_second(self, collection: str, name: str, reason: str = "") -> Exchange[AliasView]:
        """End an alias's canary or shadow; the first version answers all. MeloClientError (409) if it has neither."""
        path = at(collection, "aliases", name)
        seen, tag = yield from _seen(path, with_second=f"{collection}@{name}")
        body = {"version": seen.number, "reason": reason}
        return (yield from one(AliasView, "PUT", path, json=body, headers=tag))

    @call
    def alias_history(self, collection: str, name: str) -> Exchange[list[AliasView]]:
        """List where the alias pointed, since when and until when, newest first."""
        return many(AliasView, at(collection, "aliases", name, "history"))

    @call
    def alias_at(self, collection: str, name: str, time: datetime) -> Exchange[AliasView]:
        """Return where the alias pointed at a given time, and who set it, when and why.

        time: with a zone.
        """
        params = {"time": time.isoformat()}
        return one(AliasView, "GET", at(collection, "aliases", name, "at"), params=params)

    @call
    def protections(self, collection: str) -> Exchange[list[ProtectionView]]:
        return many(ProtectionView, at(collection, "protections"))

    @call
    def protect_alias(
        self, collection: str, name: str, reason: str, role: Role | str = Role.ADMIN
    ) -> Exchange[ProtectionView]:
        """Require a role for setting the alias from now on."""
        body = {"role": str(role), "reason": reason}
        return one(ProtectionView, "PUT", at(collection, "protections", name), json=body)

    @call
    def unprotect_alias(self, collection: str, name: str, reason: str) -> Exchange[ProtectionView]:
        path = at(collection, "protections", name)
        return one(ProtectionView, "DELETE", path, params={"reason": reason})


def _not_empty(line: bytes) -> bytes | None:
    return line or None


def _seen(path: str, *, with_second: str | None = None) -> Exchange[tuple[AliasView, dict[str, str]]]:
    """Read where an alias points, and the header without which a change of it could undo somebody else's.

    with_second: the alias's name, where it must have a canary or a shadow.
    """
    answer = yield Asked("GET", path)
    with understood():
        seen = AliasView.model_validate_json(answer.content)
    if with_second is not None and seen.second is None:
        raise MeloClientError(
            "Nothing to promote or to end",
            f"{with_second} is version {seen.number} alone: it has neither a canary nor a shadow.",
            "Begin one: `melo alias canary` or `melo alias shadow`.",
            status=HTTPStatus.CONFLICT,
            code="wrong-state",
        )
    return seen, {"If-Match": answer.headers["ETag"]}
