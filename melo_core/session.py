"""Sequential editing in memory: what the registry does over its records, without them. For measuring and trying out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.edited_model import EditedModel
from melo_core.encoder import SentenceEncoder
from melo_core.index import ClusterIndex
from melo_core.settings import MethodSettings
from melo_core.training import Example, train_blocks


@dataclass(frozen=True)
class Edit:
    """A prompt and its right answer; rephrases become points, and are not trained on."""

    prompt: str
    target: str
    kind: str = "qa"
    rephrases: tuple[str, ...] = ()


@dataclass
class Report:
    """What a batch met."""

    conflicts: list[tuple[int, int]] = field(default_factory=list)  # (new edit, the other) within each other's reach
    forgotten: list[int] = field(default_factory=list)  # edits that lost a point
    unreached: list[int] = field(default_factory=list)  # edits whose block did not reach its loss


class EditSession:
    """A base model, and edits put on it batch after batch. An edit's number is its place in the order of arrival."""

    def __init__(self, base: BaseModel, encoder: SentenceEncoder, settings: MethodSettings) -> None:
        self.base, self.encoder, self.settings = base, encoder, settings
        self.index = ClusterIndex(encoder.dimension, settings.radius, settings.clustering)
        self.blocks: dict[int, Block] = {}  # by edit
        self._edit_of: dict[int, int] = {}  # by point
        self.model = self._rebuilt()

    def apply(self, edits: Sequence[Edit]) -> Report:
        """Train one block for each edit and put its keys into the index. Raises MeloError."""
        examples = [
            Example(self.base.prompt_ids(e.prompt, e.kind), self.base.target_ids(e.target, e.kind)) for e in edits
        ]
        first = len(self.blocks)
        seeds = range(self.settings.seed + first, self.settings.seed + first + len(edits))
        report = Report()
        for i, trained in enumerate(train_blocks(self.base, self.settings, [[e] for e in examples], seeds)):
            # As it would be stored and read again, rounding included.
            self.blocks[first + i] = Block.from_bytes(trained.block.to_bytes())
            if not trained.reached:
                report.unreached.append(first + i)
        for i, edit in enumerate(edits):
            for text in (edit.prompt, *edit.rephrases):
                self._insert(first + i, text, tuple(examples[i].target_ids), report)
        self.model = self._rebuilt()
        return report

    def _insert(self, edit: int, text: str, label: tuple[int, ...], report: Report) -> None:
        point = len(self._edit_of)
        self._edit_of[point] = edit
        result = self.index.insert(point, self.encoder.key(text), label)
        if result.other_point is not None:
            report.conflicts.append((edit, self._edit_of[result.other_point]))
        report.forgotten.extend(self._edit_of[p] for p in result.forgotten)

    def _rebuilt(self) -> EditedModel:
        return EditedModel(self.base, self.settings, self.encoder, self.index, self.blocks, self._edit_of)
