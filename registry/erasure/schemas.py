"""API schemas of erasures."""

from typing import Annotated

from pydantic import Field

from registry.base.wire import Answer, Body, Id, Reason
from registry.edits.schemas import EditView


class Erasure(Body):
    edits: Annotated[list[Id], Field(min_length=1, max_length=1_000, examples=[[12]])]
    reason: Reason = Field(description="it is kept for good: name nobody in it", examples=["request 2026-17"])
    dry_run: bool = Field(default=False, description="say what would go; change nothing")


class UnservableView(Answer):
    """Versions that hold erased content: they stay in the history but can no longer be served."""

    collection: str
    versions: list[int]
    servable_from: int = Field(description="the first version after them")


class ErasureView(Answer):
    """What was erased or, in a dry run, would be."""

    dry_run: bool
    edits: list[int]
    unservable: list[UnservableView]
    blocks: int = Field(description="trained blocks whose bytes go")
    points: int = Field(description="keys that go")
    clusters: int = Field(description="states of clusters whose centre and label go")
    jobs: int = Field(description="jobs whose reports quoted the edits")
    answers: int = Field(description="logged answers and feedback that told of the edits, whose text goes")


class FoundEdit(EditView):
    """An edit that a person wrote, or that mentions them."""

    collection: str
    written: bool = Field(description="the person is its author; else it mentions them")
