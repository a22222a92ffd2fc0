"""Client methods for collections, corrections and erasures."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack

from registry.base.vocabulary import BatchState, OnConflict, Preflight, Priority
from registry.batches.schemas import BatchSummary, BatchView, CopyView, SubmissionView
from registry.client.calls import call
from registry.client.exchanges import Exchange, at, many, one
from registry.collections.schemas import CollectionView
from registry.edits.schemas import ActiveEditView
from registry.erasure.schemas import ErasureView, FoundEdit


class SubmissionOptions(TypedDict, total=False):
    """The options of a submission. Omitted ones, and None, get the API's defaults."""

    message: str
    source: str
    on_conflict: OnConflict | str
    skip_invalid: bool
    dry_run: bool
    priority: Priority | str
    deadline: datetime | None  # with a zone
    training: Mapping[str, Any] | None  # training settings that differ from the collection's
    edits_per_block: int | None


class Corrections:
    """Correction methods of both clients."""

    # Collections

    @call
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
        approvals_needed: int | None = None,
        approvers: Sequence[str] | None = None,
        preflight: Preflight | str | None = None,
        left_alone_needed: float | None = None,
    ) -> Exchange[CollectionView]:
        """Create a collection. Omitted arguments get the API's defaults.

        calibration: the output of `melo calibrate --out`.
        """
        body: dict[str, Any] = {"name": name, "model": model, "self_approval": self_approval}
        if encoder is not None:
            body["encoder"] = encoder
        if preset is not None:
            body["preset"] = preset
        if method is not None:
            body["method"] = dict(method)
        if calibration is not None:
            body["calibration"] = b64encode(calibration).decode()
        body |= _policy(approvals_needed, approvers, preflight, left_alone_needed)
        return one(CollectionView, "POST", "/v1/collections", json=body)

    @call
    def copy_collection(
        self,
        source: str,
        name: str,
        *,
        model: str | None = None,
        encoder: str | None = None,
        method: Mapping[str, Any] | None = None,
    ) -> Exchange[CopyView]:
        """Copy a collection's active edits into a new one, as a batch. Omitted arguments are the source's.

        method: the settings that differ.
        """
        body = {"source": source, "name": name, "model": model, "encoder": encoder, "method": dict(method or {})}
        return one(CopyView, "POST", "/v1/collections/copies", json=body)

    @call
    def collections(self) -> Exchange[list[CollectionView]]:
        return many(CollectionView, "/v1/collections")

    @call
    def collection(self, name: str) -> Exchange[CollectionView]:
        return one(CollectionView, "GET", at(name))

    @call
    def change_policy(
        self,
        name: str,
        reason: str,
        *,
        approvals_needed: int | None = None,
        approvers: Sequence[str] | None = None,
        self_approval: bool | None = None,
        preflight: Preflight | str | None = None,
        left_alone_needed: float | None = None,
        preflight_limits: Mapping[str, int] | None = None,
        log_share: float | None = None,
        log_text: bool | None = None,
        log_days: int | None = None,
    ) -> Exchange[CollectionView]:
        """Change the policy. Omitted arguments stay as they are.

        left_alone_needed: 0 removes the requirement. preflight_limits: all that hold, of `seconds`, `near_misses`,
        `tokens` and `steps`; those not given are the operator's. log_share: of responses, from 0 (off) to 1 (all).
        """
        body: dict[str, Any] = {"reason": reason, **_policy(approvals_needed, approvers, preflight, left_alone_needed)}
        more = {
            "self_approval": self_approval,
            "preflight_limits": None if preflight_limits is None else dict(preflight_limits),
            "log_share": log_share,
            "log_text": log_text,
            "log_days": log_days,
        }
        body |= {given: value for given, value in more.items() if value is not None}
        return one(CollectionView, "PATCH", at(name, "policy"), json=body)

    # Edits and batches

    @call
    def submit(
        self,
        collection: str,
        edits: Sequence[Mapping[str, Any]],
        **options: Unpack[SubmissionOptions],
    ) -> Exchange[SubmissionView]:
        """Submit edits. All problems come back in one MeloClientError.

        edits: records with the fields of EditIn.
        """
        body = {"edits": [dict(edit) for edit in edits], **_given(options)}
        return one(SubmissionView, "POST", at(collection, "batches"), json=body)

    @call
    def submit_lines(
        self,
        collection: str,
        lines: Callable[[], Iterable[bytes]],
        **options: Unpack[SubmissionOptions],
    ) -> Exchange[SubmissionView]:
        """Submit many edits, as submit() does, but send them while they are read, in constant memory.

        lines: returns the NDJSON, one edit per line, in pieces of any size; called again if it has to be sent again.
        """
        params = _given(options)
        if "training" in params:
            params["training"] = json.dumps(params["training"])
        headers = {"Content-Type": "application/x-ndjson"}
        path = at(collection, "batches")
        return one(SubmissionView, "POST", path, params=params, headers=headers, content=lines)

    @call
    def batches(
        self,
        collection: str,
        *,
        state: BatchState | str | None = None,
        limit: int | None = 100,
    ) -> Exchange[list[BatchSummary]]:
        """List batches, newest first."""
        return many(BatchSummary, at(collection, "batches"), limit, state=str(state) if state else None)

    @call
    def batch(self, batch_id: int) -> Exchange[BatchView]:
        return one(BatchView, "GET", f"/v1/batches/{batch_id}")

    @call
    def approve(self, batch_id: int, reason: str = "", *, declined: Sequence[int] = ()) -> Exchange[BatchView]:
        """Approve a batch.

        declined: edits of the batch to leave out.
        """
        body = {"reason": reason, "except": list(declined)}
        return one(BatchView, "POST", f"/v1/batches/{batch_id}/approve", json=body)

    @call
    def reject(self, batch_id: int, reason: str) -> Exchange[BatchView]:
        return one(BatchView, "POST", f"/v1/batches/{batch_id}/reject", json={"reason": reason})

    @call
    def cancel(self, batch_id: int, reason: str) -> Exchange[BatchView]:
        """Cancel an approved batch, even during training; it may be approved again."""
        return one(BatchView, "POST", f"/v1/batches/{batch_id}/cancel", json={"reason": reason})

    @call
    def retrain(
        self, edit_id: int, training: Mapping[str, Any], reason: str, *, priority: Priority | str = Priority.NORMAL
    ) -> Exchange[BatchView]:
        """Submit a batch of the one edit with these training settings, which replaces it once approved and applied."""
        body = {"training": dict(training), "reason": reason, "priority": str(priority)}
        return one(BatchView, "POST", f"/v1/edits/{edit_id}/retrain", json=body)

    @call
    def guard(self, edit_id: int, prompts: Sequence[str], reason: str) -> Exchange[BatchView]:
        """Submit a batch of the one edit with more prompts that it leaves to the base model; its block is kept."""
        body = {"prompts": list(prompts), "reason": reason}
        return one(BatchView, "POST", f"/v1/edits/{edit_id}/guards", json=body)

    @call
    def edits(
        self, collection: str, *, active: bool | None = None, batch: int | None = None, limit: int | None = 1000
    ) -> Exchange[list[ActiveEditView]]:
        """List edits in the order of their ids.

        active: only those active (or not) in the newest version. batch: only those of this batch.
        """
        return many(ActiveEditView, at(collection, "edits"), limit, active=active, batch=batch)

    # Erasure

    @call
    def erase(self, edits: Sequence[int], reason: str, *, dry_run: bool = False) -> Exchange[ErasureView]:
        """Erase the edits' content permanently, wherever it is quoted; with dry_run, report what would be erased."""
        body = {"edits": list(edits), "reason": reason, "dry_run": dry_run}
        return one(ErasureView, "POST", "/v1/erasures", json=body)

    @call
    def edits_of_person(self, person: str, *, limit: int | None = None) -> Exchange[list[FoundEdit]]:
        """List the edits that somebody wrote or that mention them."""
        return many(FoundEdit, "/v1/erasures/edits", limit, person=person)


def _policy(
    approvals_needed: int | None,
    approvers: Sequence[str] | None,
    preflight: Preflight | str | None,
    left_alone_needed: float | None,
) -> dict[str, Any]:
    """Return the given fields of a policy, as the API takes them."""
    given = {
        "approvals_needed": approvals_needed,
        "approvers": None if approvers is None else list(approvers),
        "preflight": None if preflight is None else str(preflight),
        "left_alone_needed": left_alone_needed,
    }
    return {name: value for name, value in given.items() if value is not None}


def _given(options: SubmissionOptions) -> dict[str, Any]:
    """Return the given options, as the API takes them."""
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if "deadline" in given:
        given["deadline"] = given["deadline"].isoformat()
    if "training" in given:
        given["training"] = dict(given["training"])
    return given
