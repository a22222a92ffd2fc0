"""The API, as Python calls: what the command line uses, and any program may."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter

from registry.audit.schemas import EventView, VerificationView
from registry.collections.schemas import CollectionView
from registry.edits.schemas import ActiveEditView, BatchSummary, BatchView, SubmissionView
from registry.jobs.schemas import WorkerView
from registry.versions.schemas import AliasView, DiffView, PlannedVersion, ResolvedView, VersionView
from registry.vocabulary import BatchState, OnConflict

Model = TypeVar("Model", bound=BaseModel)


class MeloClientError(Exception):
    """The API refused, or could not be asked. Carries the problem's fields; status 0: no answer at all."""

    def __init__(
        self,
        title: str,
        detail: str,
        remedy: str = "",
        *,
        status: int = 0,
        code: str = "no-answer",
        problems: Sequence[Mapping[str, Any]] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail} {remedy}".strip())
        self.title = title
        self.detail = detail
        self.remedy = remedy
        self.status = status
        self.code = code
        self.problems = [dict(problem) for problem in problems]
        self.request_id = request_id


class MeloClient:
    """One method per endpoint. Use it as a context manager, or close() it."""

    def __init__(
        self, api_url: str, api_key: str | None = None, actor: str | None = None, timeout_seconds: float = 120
    ) -> None:
        headers = {"User-Agent": "melo-client"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        if actor:
            headers["X-Melo-Actor"] = quote(actor, safe=" @/.+-_")
        self.api_url = api_url.rstrip("/")
        self._http = httpx.Client(base_url=self.api_url, headers=headers, timeout=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Collections

    def create_collection(
        self,
        name: str,
        model: str,
        *,
        encoder: str | None = None,
        preset: str | None = None,
        method: Mapping[str, Any] | None = None,
        calibration: bytes | None = None,
        self_approval: bool = False,
    ) -> CollectionView:
        """calibration: what `melo calibrate --out` wrote. What is not given is the API's default."""
        body: dict[str, Any] = {"name": name, "model": model, "self_approval": self_approval}
        if encoder is not None:
            body["encoder"] = encoder
        if preset is not None:
            body["preset"] = preset
        if method is not None:
            body["method"] = dict(method)
        if calibration is not None:
            body["calibration"] = b64encode(calibration).decode()
        return self._one(CollectionView, "POST", "/v1/collections", json=body)

    def collections(self) -> list[CollectionView]:
        return self._many(CollectionView, "/v1/collections")

    def collection(self, name: str) -> CollectionView:
        return self._one(CollectionView, "GET", _at(name))

    # Edits and batches

    def submit(
        self,
        collection: str,
        edits: Sequence[Mapping[str, Any]],
        *,
        message: str = "",
        source: str = "",
        on_conflict: OnConflict | str = OnConflict.REFUSE,
        skip_invalid: bool = False,
        dry_run: bool = False,
    ) -> SubmissionView:
        """edits: records with the fields of EditIn. All problems come back in one MeloClientError."""
        body = {
            "edits": [dict(edit) for edit in edits],
            "message": message,
            "source": source,
            "on_conflict": str(on_conflict),
            "skip_invalid": skip_invalid,
            "dry_run": dry_run,
        }
        return self._one(SubmissionView, "POST", _at(collection, "batches"), json=body)

    def batches(
        self,
        collection: str,
        *,
        state: BatchState | str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[BatchSummary]:
        """Newest first; `before` is the id at which the last page ended."""
        return self._many(
            BatchSummary, _at(collection, "batches"), state=str(state) if state else None, before=before, limit=limit
        )

    def batch(self, batch_id: int) -> BatchView:
        return self._one(BatchView, "GET", f"/v1/batches/{batch_id}")

    def approve(self, batch_id: int, reason: str = "") -> BatchView:
        return self._one(BatchView, "POST", f"/v1/batches/{batch_id}/approve", json={"reason": reason})

    def reject(self, batch_id: int, reason: str) -> BatchView:
        return self._one(BatchView, "POST", f"/v1/batches/{batch_id}/reject", json={"reason": reason})

    def edits(
        self, collection: str, *, active: bool | None = None, after: int = 0, limit: int = 1000
    ) -> list[ActiveEditView]:
        """In the order of their ids; active: only those active (or not) in the newest version."""
        return self._many(ActiveEditView, _at(collection, "edits"), active=active, after=after, limit=limit)

    # Versions

    def versions(self, collection: str, *, before: int | None = None, limit: int = 100) -> list[VersionView]:
        """Newest first; `before` is the number at which the last page ended."""
        return self._many(VersionView, _at(collection, "versions"), before=before, limit=limit)

    def version(self, collection: str, number: int) -> VersionView:
        return self._one(VersionView, "GET", _at(collection, "versions", number))

    def diff(self, collection: str, a: int, b: int) -> DiffView:
        return self._one(DiffView, "GET", _at(collection, "diff"), params={"a": a, "b": b})

    def retire(self, collection: str, edits: Sequence[int], reason: str) -> VersionView:
        body = {"edits": list(edits), "reason": reason}
        return self._one(VersionView, "POST", _at(collection, "retire"), json=body)

    def plan_retire(self, collection: str, edits: Sequence[int], reason: str = "dry run") -> PlannedVersion:
        body = {"edits": list(edits), "reason": reason, "dry_run": True}
        return self._one(PlannedVersion, "POST", _at(collection, "retire"), json=body)

    def rollback(self, collection: str, to: int, reason: str) -> VersionView:
        return self._one(VersionView, "POST", _at(collection, "rollback"), json={"to": to, "reason": reason})

    def plan_rollback(self, collection: str, to: int, reason: str = "dry run") -> PlannedVersion:
        body = {"to": to, "reason": reason, "dry_run": True}
        return self._one(PlannedVersion, "POST", _at(collection, "rollback"), json=body)

    def resolve(self, model: str) -> ResolvedView:
        """model: facts@production, facts@17, facts@base, facts@latest, or facts (its newest version)."""
        return self._one(ResolvedView, "GET", "/v1/resolve", params={"model": model})

    # Aliases

    def aliases(self, collection: str) -> list[AliasView]:
        return self._many(AliasView, _at(collection, "aliases"))

    def set_alias(self, collection: str, name: str, version: int, reason: str = "") -> AliasView:
        body = {"version": version, "reason": reason}
        return self._one(AliasView, "PUT", _at(collection, "aliases", name), json=body)

    def alias_history(self, collection: str, name: str) -> list[AliasView]:
        """Newest first: where the alias pointed, since when and until when."""
        return self._many(AliasView, _at(collection, "aliases", name, "history"))

    # Audit and operation

    def audit(
        self,
        *,
        collection: str | None = None,
        subject: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[EventView]:
        """Newest first; `before` is the seq at which the last page ended."""
        return self._many(EventView, "/v1/audit", collection=collection, subject=subject, before=before, limit=limit)

    def verify(self) -> VerificationView:
        """Recompute everything. It reads the whole record, so it may take its time."""
        answer = self._send("GET", "/v1/audit/verify", timeout=None)
        return VerificationView.model_validate_json(answer.content)

    def workers(self) -> list[WorkerView]:
        return self._many(WorkerView, "/v1/workers")

    def ready(self) -> bool:
        """True, or a MeloClientError that says what the API waits for."""
        self._send("GET", "/readyz")
        return True

    def _one(self, model: type[Model], method: str, path: str, **request: Any) -> Model:
        return model.model_validate_json(self._send(method, path, **request).content)

    def _many(self, model: type[Model], path: str, **query: Any) -> list[Model]:
        params = {name: value for name, value in query.items() if value is not None}
        answer = self._send("GET", path, params=params)
        return TypeAdapter(list[model]).validate_json(answer.content)  # type: ignore[valid-type]

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **request)
        except httpx.ConnectError as error:
            raise MeloClientError(
                "The registry does not answer",
                f"The registry's API does not answer at {self.api_url}.",
                "Start it with `melo up`, or give its address with --api-url or MELO_API_URL.",
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise MeloClientError(
                "The registry could not be asked",
                f"The request to {self.api_url} ended with: {str(error) or type(error).__name__}.",
                "See whether it had an effect (`melo audit log`), then try again.",
            ) from error
        if answer.is_error:
            raise _problem(answer)
        return answer


def _at(collection: str, *parts: object) -> str:
    path = [collection, *(str(part) for part in parts)]
    return "/v1/collections/" + "/".join(quote(part, safe="") for part in path)


def _problem(answer: httpx.Response) -> MeloClientError:
    request_id = answer.headers.get("X-Request-ID")
    try:
        fields = answer.json()
        title, detail = str(fields["title"]), str(fields["detail"])
    except (ValueError, KeyError, TypeError):
        return MeloClientError(
            "The server's answer is not the registry's",
            f"{answer.request.url} answered {answer.status_code} {answer.reason_phrase}.",
            "See whether the address is that of the registry's API.",
            status=answer.status_code,
            code="not-a-registry",
            request_id=request_id,
        )
    return MeloClientError(
        title,
        detail,
        str(fields.get("remedy", "")),
        status=answer.status_code,
        code=str(fields.get("code", "")),
        problems=fields.get("problems", ()),
        request_id=request_id,
    )
