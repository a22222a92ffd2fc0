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
    CANCELLED = "cancelled"  # stopped after it was approved, before it acted; it may be approved again

    @property
    def is_over(self) -> bool:
        """Nothing more happens to it by itself."""
        return self in (BatchState.APPLIED, BatchState.REJECTED, BatchState.FAILED, BatchState.CANCELLED)


class Priority(StrEnum):
    """Which of the batches that wait is trained first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class QueueState(StrEnum):
    """What a collection's queue does."""

    OPEN = "open"  # what is approved is trained
    PAUSED = "paused"  # nothing is begun; what runs is finished
    DRAINING = "draining"  # what is queued is finished; nothing new is taken in


class Preflight(StrEnum):
    """What a worker does with a batch before anybody decides on it."""

    NONE = "none"  # nothing
    KEYS = "keys"  # it asks the model, computes the keys and finds what lies near
    TRAIN = "train"  # it also trains the blocks, so that their answers can be seen


class JobKind(StrEnum):
    PREFLIGHT = "preflight"  # says something of a batch's edits before the decision; changes no version
    TRAIN = "train"  # trains an approved batch and makes its version


class JobState(StrEnum):
    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # a worker holds the lease
    SUCCEEDED = "succeeded"  # its version exists; of a preflight, its report
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

    def covers(self, needed: "Role") -> bool:
        """Each role may do what the ones before it may. (Compared as texts, admin would come first.)"""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class OnConflict(StrEnum):
    REFUSE = "refuse"  # a contradiction or duplicate is a problem; nothing is stored
    REPLACE = "replace"  # the new edit replaces the active one it contradicts
    SKIP = "skip"  # contradictions and duplicates are left out, the rest is stored


class WebhookEvent(StrEnum):
    """What a webhook may hear of: the middle word of the events' actions."""

    VERSION = "version"  # a version was made, by training, retiring, reverting or rolling back
    ALIAS = "alias"  # an alias was set, protected or freed
    BATCH = "batch"  # a batch was submitted, decided on, trained, or failed, or its preflight ended


class Action(StrEnum):
    """What an audit event records, as `source:subject:action`."""

    COLLECTION_CREATE = "registry:collection:create"
    COLLECTION_CALIBRATE = "registry:collection:calibrate"  # a preflight fixed the encoder and whitening of its keys
    POLICY_CHANGE = "collection:policy:change"
    QUEUE_PAUSE = "collection:queue:pause"
    QUEUE_DRAIN = "collection:queue:drain"
    QUEUE_OPEN = "collection:queue:open"
    BATCH_SUBMIT = "collection:batch:submit"
    BATCH_APPROVE = "collection:batch:approve"
    BATCH_REJECT = "collection:batch:reject"
    BATCH_PREFLIGHT = "collection:batch:preflight"  # a worker ended the preflight
    BATCH_TRAIN = "collection:batch:train"  # a worker claimed the job
    BATCH_RETURN = "collection:batch:return"  # its job waits for a worker again
    BATCH_FAIL = "collection:batch:fail"
    BATCH_CANCEL = "collection:batch:cancel"  # stopped before it acted
    EDIT_ERASE = "registry:edit:erase"  # its content is gone; the event keeps the digests
    EDIT_OVERLAP = "collection:edit:overlap"  # two edits' scopes met and both radii shrank
    EDIT_FORGET = "collection:edit:forget"  # a point fell out of its cluster through another edit
    VERSION_APPLY = "collection:version:apply"
    VERSION_RETIRE = "collection:version:retire"
    VERSION_REVERT = "collection:version:revert"
    VERSION_ROLLBACK = "collection:version:rollback"
    ALIAS_SET = "collection:alias:set"
    ALIAS_PROTECT = "collection:alias:protect"  # setting it needs a role from now on
    ALIAS_UNPROTECT = "collection:alias:unprotect"
    KEY_CREATE = "registry:key:create"
    KEY_REVOKE = "registry:key:revoke"
    WEBHOOK_CREATE = "registry:webhook:create"
    WEBHOOK_DELETE = "registry:webhook:delete"
