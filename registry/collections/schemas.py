"""What the API is sent and says about collections."""

from datetime import datetime
from typing import Any

from pydantic import Field

from registry.wire import Answer, Body, Name, Settings, ShortText


class NewCollection(Body):
    name: Name
    model: ShortText = Field(
        min_length=1, description="a packaged model's name, a transformers folder, or a hub id",
        examples=["smollm2-135m-instruct"],
    )  # fmt: skip
    encoder: ShortText = Field(default="all-minilm-l6-v2", min_length=1, description="the sentence encoder of the keys")
    method: Settings = Field(default_factory=dict, description="method settings; empty: the defaults")
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
    self_approval: bool
    created_by: str
    created_at: datetime
    latest: int = Field(description="the newest version's number; 0: nothing was applied yet")
    active_edits: int
    aliases: dict[str, int]
