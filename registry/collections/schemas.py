"""What the API is sent and says about collections."""

from datetime import datetime
from typing import Any

from pydantic import Base64Bytes, Field

from registry.wire import Answer, Body, Name, Settings, ShortText

MAX_CALIBRATION_BYTES = 40 * 2**20  # of keys of 2,048 dimensions, with a metric; in base64, still within a request


class NewCollection(Body):
    name: Name
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


class CollectionView(Answer):
    id: int
    name: str
    model: str
    model_digest: str
    window: int
    method: dict[str, Any]
    encoder: str
    encoder_digest: str | None
    calibration_sha256: str | None = Field(description="null: the first job makes it, or keys are not whitened")
    self_approval: bool
    created_by: str
    created_at: datetime
    latest: int = Field(description="the newest version's number; 0: nothing was applied yet")
    active_edits: int
    aliases: dict[str, int]
