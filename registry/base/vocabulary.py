"""The words of the record: every state, kind, role and audit action, with its meaning."""

from enum import StrEnum


class EditKind(StrEnum):
    QA = "qa"  # the prompt is a question, asked through the model's chat template
    COMPLETION = "completion"  # the prompt is text that the model continues
    CLASSIFICATION = "classification"  # the target is a class name


class BatchState(StrEnum):
    SUBMITTED = "submitted"  # stored and valid; waits for a decision
    APPROVED = "approved"  # approved; its job waits for a worker
    REJECTED = "rejected"  # rejected; never trained
    TRAINING = "training"  # a worker holds its job
    APPLIED = "applied"  # its edits are active from the version that it created
    FAILED = "failed"  # its job ended with an error; it may be approved again
    CANCELLED = "cancelled"  # stopped after its approval and before it was applied; it may be approved again

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to the batch by itself."""
        return self in (BatchState.APPLIED, BatchState.REJECTED, BatchState.FAILED, BatchState.CANCELLED)


class Priority(StrEnum):
    """The order in which waiting batches are trained."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class QueueState(StrEnum):
    """The state of a collection's queue."""

    OPEN = "open"  # approved batches are trained
    PAUSED = "paused"  # nothing is started; what runs is finished
    DRAINING = "draining"  # what is queued is finished; nothing new is accepted


class Preflight(StrEnum):
    """The work that a worker does with a batch before anybody decides on it."""

    NONE = "none"  # nothing
    KEYS = "keys"  # it queries the model, computes the keys and finds edits nearby
    TRAIN = "train"  # it also trains the blocks, so that their answers can be seen


class JobKind(StrEnum):
    PREFLIGHT = "preflight"  # says something of a batch's edits before the decision; changes no version
    TRAIN = "train"  # trains an approved batch and creates its version


class JobState(StrEnum):
    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # a worker holds the lease
    SUCCEEDED = "succeeded"  # its version exists; of a preflight, its report
    FAILED = "failed"  # ended with an error, which is stored
    CANCELLED = "cancelled"  # ended before it changed anything


class PointRole(StrEnum):
    PROMPT = "prompt"  # the key of the edit's prompt
    REPHRASE = "rephrase"  # the key of a rephrase of the edit


class VersionKind(StrEnum):
    APPLY = "apply"  # a batch was trained and applied
    RETIRE = "retire"  # edits were deactivated
    REVERT = "revert"  # one version's change was undone
    ROLLBACK = "rollback"  # the content of an older version was restored


class Role(StrEnum):
    VIEWER = "viewer"  # reads
    EDITOR = "editor"  # submits corrections
    APPROVER = "approver"  # decides on them
    ADMIN = "admin"  # everything, including policies

    def covers(self, needed: "Role") -> bool:
        """Return whether this role includes the one needed. (Compared as texts, admin would come first.)"""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class Rating(StrEnum):
    """What somebody thinks of an answer."""

    UP = "up"  # it was right
    DOWN = "down"  # it was wrong


class OnConflict(StrEnum):
    REFUSE = "refuse"  # a contradiction or duplicate is a problem; nothing is stored
    REPLACE = "replace"  # the new edit replaces the active one it contradicts
    SKIP = "skip"  # contradictions and duplicates are skipped, the rest is stored
    SYNC = "sync"  # as a list that is submitted again: changed edits are replaced, equal and waiting ones left alone


class WebhookEvent(StrEnum):
    """The events that a webhook may subscribe to: the middle word of their actions."""

    VERSION = "version"  # a version was created by training, retiring, reverting or rolling back
    ALIAS = "alias"  # an alias was set, protected or unprotected
    BATCH = "batch"  # a batch was submitted, decided on, trained, or failed, or its preflight ended


class Action(StrEnum):
    """The action that an audit event records, as `source:subject:action`."""

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
    BATCH_RETURN = "collection:batch:return"  # its job was returned and waits for a worker
    BATCH_FAIL = "collection:batch:fail"
    BATCH_CANCEL = "collection:batch:cancel"  # stopped before it was applied
    EDIT_ERASE = "registry:edit:erase"  # its content was erased; the event keeps the digests
    EDIT_OVERLAP = "collection:edit:overlap"  # two edits' scopes met, and both radii were reduced
    EDIT_FORGET = "collection:edit:forget"  # another edit removed a point from its cluster
    VERSION_APPLY = "collection:version:apply"
    VERSION_RETIRE = "collection:version:retire"
    VERSION_REVERT = "collection:version:revert"
    VERSION_ROLLBACK = "collection:version:rollback"
    ALIAS_SET = "collection:alias:set"
    ALIAS_PROTECT = "collection:alias:protect"  # setting the alias needs a role from now on
    ALIAS_UNPROTECT = "collection:alias:unprotect"
    FEEDBACK_GIVE = "collection:feedback:give"  # somebody said that an answer was right, or wrong
    ANSWERS_ERASE = "registry:answers:erase"  # a person's texts in the log of answers and in feedback were erased
    KEY_CREATE = "registry:key:create"
    KEY_REVOKE = "registry:key:revoke"
    SIGNER_REPLACE = "registry:signer:replace"  # another key signs from the next event on
    WEBHOOK_CREATE = "registry:webhook:create"
    WEBHOOK_DELETE = "registry:webhook:delete"
