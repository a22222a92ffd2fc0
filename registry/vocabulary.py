"""The words of the record: every state, kind, role and audit action, and what each means."""

from enum import StrEnum


class EditKind(StrEnum):
    QA = "qa"  # the prompt is a question, asked through the model's chat template
    COMPLETION = "completion"  # the prompt is text that the model continues
    CLASSIFICATION = "classification"  # the target is the name of a class


class BatchState(StrEnum):
    SUBMITTED = "submitted"  # stored and valid; waits for a decision
    APPROVED = "approved"  # decided; its job waits for a worker
    REJECTED = "rejected"  # decided; never trained
    TRAINING = "training"  # a worker holds its job
    APPLIED = "applied"  # its edits act from the version it made
    FAILED = "failed"  # its job ended with an error; it may be approved again


class JobState(StrEnum):
    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # a worker holds the lease
    SUCCEEDED = "succeeded"  # its version exists
    FAILED = "failed"  # ended with an error, which it keeps
    CANCELLED = "cancelled"  # ended before it changed anything


class PointRole(StrEnum):
    PROMPT = "prompt"  # the key of the edit's own prompt
    REPHRASE = "rephrase"  # the key of a rephrase given with the edit


class VersionKind(StrEnum):
    APPLY = "apply"  # a batch was trained and put to work
    RETIRE = "retire"  # edits stopped acting
    REVERT = "revert"  # one version's change was taken back
    ROLLBACK = "rollback"  # the content equals an older version's


class Role(StrEnum):
    VIEWER = "viewer"  # reads
    EDITOR = "editor"  # submits corrections
    APPROVER = "approver"  # decides on them
    ADMIN = "admin"  # everything, including policies


class OnConflict(StrEnum):
    REFUSE = "refuse"  # a contradiction or duplicate is a problem; nothing is stored
    REPLACE = "replace"  # the new edit replaces the active one it contradicts
    SKIP = "skip"  # contradictions and duplicates are left out, the rest is stored


class Action(StrEnum):
    """What an audit event records, as `source:subject:action`."""

    COLLECTION_CREATE = "registry:collection:create"
    BATCH_SUBMIT = "collection:batch:submit"
    BATCH_APPROVE = "collection:batch:approve"
    BATCH_REJECT = "collection:batch:reject"
    BATCH_TRAIN = "collection:batch:train"  # a worker claimed the job
    BATCH_FAIL = "collection:batch:fail"
    EDIT_OVERLAP = "collection:edit:overlap"  # two edits' scopes met and both radii shrank
    EDIT_FORGET = "collection:edit:forget"  # a point fell out of its cluster through another edit
    VERSION_APPLY = "collection:version:apply"
    VERSION_RETIRE = "collection:version:retire"
    VERSION_ROLLBACK = "collection:version:rollback"
    ALIAS_SET = "collection:alias:set"
