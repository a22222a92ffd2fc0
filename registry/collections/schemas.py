"""API schemas of collections."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Base64Bytes, Field

from registry.access.names import spelled
from registry.base.vocabulary import Preflight, QueueState
from registry.base.wire import Answer, Body, NewName, Reason, Settings, ShortText, Text

MAX_CALIBRATION_BYTES = 40 * 2**20  # keys of 2,048 dimensions with a metric, which in base64 still fit into a request


Approvals = Annotated[int, Field(ge=1, le=10, description="how many different people have to approve a batch")]
Approvers = Annotated[
    list[Annotated[Text, Field(min_length=1, max_length=200), AfterValidator(spelled)]],
    Field(max_length=1_000, description="who may approve; empty: whoever has the role", examples=[["ada", "ben"]]),
]
PreflightDepth = Annotated[
    Preflight,
    Field(
        description="what a worker does with a batch before it is decided on: nothing (none), the model's answers now "
        "and near edits (keys), or also training, so that the answers can be seen (train)"
    ),
]

LeftAlone = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="share of near misses that a batch has to leave alone to be approved; 0: none is asked for",
        examples=[0.9],
    ),
]


class PreflightLimits(Body):
    """Limits of a preflight that are lower than the operator's (MELO_PREFLIGHT_SECONDS, …); null: these."""

    seconds: int | None = Field(default=None, ge=1, le=86_400, description="longest preflight")
    near_misses: int | None = Field(default=None, ge=1, le=100_000, description="most near misses that it tries")
    tokens: int | None = Field(default=None, ge=1, le=10_000_000, description="most tokens of its near misses")
    steps: int | None = Field(
        default=None, ge=1, le=100_000_000, description="most steps of a block's training; more wait for the approval"
    )


LogShare = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="share of responses whose answers the server logs; 0: none, 1: all",
        examples=[0.1],
    ),
]
LogDays = Annotated[
    int, Field(ge=1, le=3_650, description="after how many days logged answers and feedback on them are deleted")
]


class NewCollection(Body):
    name: NewName
    model: ShortText = Field(
        min_length=1, description="a packaged model's name, a transformers folder, or a hub id",
        examples=["smollm2-135m-instruct"],
    )  # fmt: skip
    encoder: ShortText = Field(
        default="all-minilm-l6-v2", min_length=1,
        description="the sentence encoder of the keys; with the method setting key_encoder=hidden, not given",
    )  # fmt: skip
    preset: ShortText = Field(default="default", description="where settings that are not given come from",
        examples=["default", "paper"])  # fmt: skip
    method: Settings = Field(default_factory=dict, description="method settings; empty: the preset's")
    calibration: Base64Bytes | None = Field(
        default=None, max_length=MAX_CALIBRATION_BYTES,
        description="what `melo calibrate --out FILE` wrote, in base64; without it, the first job makes one",
    )  # fmt: skip
    self_approval: bool = Field(default=False, description="whether submitters may approve their own batches")
    approvals_needed: Approvals = 1
    approvers: Approvers = Field(default_factory=list)
    preflight: PreflightDepth = Preflight.KEYS
    left_alone_needed: LeftAlone = 0


class PolicyChange(Body):
    """Changes to the policy; the rest stays. They apply to every batch that is not yet decided on."""

    approvals_needed: Approvals | None = None
    approvers: Approvers | None = None
    self_approval: bool | None = Field(default=None, description="whether submitters may approve their own batches")
    preflight: PreflightDepth | None = None
    left_alone_needed: LeftAlone | None = None
    preflight_limits: PreflightLimits | None = Field(
        default=None, description="what a preflight may take: all limits of the policy", examples=[{"seconds": 300}]
    )
    log_share: LogShare | None = None
    log_text: bool | None = Field(default=None, description="whether the log keeps questions and answers")
    log_days: LogDays | None = None
    reason: Reason


class QueueChange(Body):
    state: QueueState = Field(
        description="open: what is approved is trained; paused: nothing is begun; draining: what is queued is "
        "finished, and nothing new is taken in"
    )
    reason: Reason


class CollectionView(Answer):
    id: int
    name: str
    model: str
    model_digest: str
    model_files: dict[str, str] = Field(description="SHA-256 of each of the model's files, by name")
    window: int
    method: dict[str, Any]
    encoder: str
    encoder_digest: str | None
    calibration_sha256: str | None = Field(description="null: the first job makes it, or keys are not whitened")
    self_approval: bool
    approvals_needed: int
    approvers: list[str] = Field(description="empty: whoever has the role may approve")
    preflight: Preflight
    left_alone_needed: float | None = Field(
        description="share of near misses that a batch has to leave alone to be approved; null: none is asked for"
    )
    preflight_limits: dict[str, int] = Field(description="what a preflight may take, where less than the operator lets")
    log_share: LogShare
    log_text: bool = Field(description="whether the log of answers keeps questions and answers")
    log_days: LogDays
    queue: QueueState
    created_by: str
    created_at: datetime
    latest: int = Field(description="the newest version's number; 0: nothing was applied yet")
    active_edits: int
    aliases: dict[str, int]
