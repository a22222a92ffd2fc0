"""The edits of a job as requests of the method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from melo_core.base_model import BaseModel
from melo_core.learning import EditRequest, Learned, learn
from melo_core.memory import Note
from melo_core.settings import MethodSettings
from melo_core.training import Progress
from registry.jobs.claiming import ClaimedEdit
from registry.versions.content import PointContent


@dataclass(frozen=True)
class TrainedEdit(Learned):
    """A trained edit: its block, and the model's answer to its prompt with the block as it will be stored."""

    edit: ClaimedEdit
    is_kept: bool = False  # the block is that of the edit that it replaces
    points: tuple[PointContent, ...] = ()  # where block and points are stored already, by the batch's preflight

    @property
    def is_stored(self) -> bool:
        return bool(self.points)


def train_edits(
    base: BaseModel,
    settings: MethodSettings,
    edits: Sequence[ClaimedEdit],
    on_progress: Callable[[Progress], None],
    on_note: Note | None = None,
) -> list[TrainedEdit]:
    """Train each edit; return them in order. Raises MeloError naming the edit that cannot be trained."""
    requests = [
        EditRequest(f"edit {e.id}", e.digest, e.prompt, e.target, e.kind, e.rephrases, e.alternatives) for e in edits
    ]
    learned = learn(base, settings, requests, on_progress, on_note)
    return [TrainedEdit(**vars(result), edit=edit) for result, edit in zip(learned, edits, strict=True)]
