"""Sequential editing in memory, as the registry does over its records, for measuring and trying out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.edited_model import Approved, EditedModel
from melo_core.encoder import KeyEncoder
from melo_core.index import ClusterIndex
from melo_core.learning import EditRequest, learn
from melo_core.scope import Scope, ScopedText
from melo_core.settings import MethodSettings
from melo_core.verifier import Verifier


@dataclass(frozen=True)
class Edit:
    """A prompt and its right answer; rephrases become points."""

    prompt: str
    target: str
    kind: str = "qa"
    rephrases: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()  # prompts that the edit must leave to the base model


@dataclass
class Report:
    """The outcome of a batch."""

    conflicts: list[tuple[int, int]] = field(default_factory=list)  # (new edit, other edit), within reach of each other
    forgotten: list[int] = field(default_factory=list)  # edits that lost a point
    unreached: list[int] = field(default_factory=list)  # edits whose block did not reach its loss target
    unlearned: list[int] = field(default_factory=list)  # edits whose own prompt is not answered with their target


class EditSession:
    """A base model edited batch after batch. Edits are numbered in the order of their arrival."""

    def __init__(
        self, base: BaseModel, encoder: KeyEncoder, settings: MethodSettings, verifier: Verifier | None = None
    ) -> None:
        self.base, self.encoder, self.settings, self.verifier = base, encoder, settings, verifier
        self.index = ClusterIndex(encoder.dimension, settings.radius, settings.clustering)
        self.blocks: dict[int, Block] = {}  # by block number: edits may share a block
        self._block_of: list[int] = []  # by edit
        self._texts: dict[int, ScopedText] = {}  # by point
        self._approved: dict[int, Approved] = {}  # by edit
        self.model = self._rebuilt()

    def apply(self, edits: Sequence[Edit]) -> Report:
        """Train the edits' blocks and insert their keys into the index. Raises MeloError."""
        first_edit, first_block = len(self._block_of), len(self.blocks)
        requests = [
            EditRequest(f"edit {first_edit + i}", f"{e.prompt}\n{e.target}", e.prompt, e.target, e.kind, e.rephrases)
            for i, e in enumerate(edits)
        ]
        report = Report()
        results = learn(self.base, self.settings, requests)
        for number, (edit, learned) in enumerate(zip(edits, results, strict=True), first_edit):
            self.blocks[first_block + learned.group] = learned.trained.block
            self._block_of.append(first_block + learned.group)
            self._approved[number] = Approved(edit.prompt, edit.target, edit.kind)
            if not learned.trained.reached:
                report.unreached.append(number)
            if not learned.reproduced:
                report.unlearned.append(number)
            for text in (edit.prompt, *edit.rephrases):
                point = len(self._texts)
                self._texts[point] = ScopedText(number, text, edit.guards, text != edit.prompt, edit.kind)
                self._insert(point, self.encoder.key(text, edit.kind), learned.label, report)
        self.model = self._rebuilt()
        return report

    def _insert(self, point: int, key: Tensor, label: tuple[int, ...], report: Report) -> None:
        result = self.index.insert(point, key, label, self._texts[point].text)
        if result.other_point is not None:
            report.conflicts.append((self._texts[point].edit, self._texts[result.other_point].edit))
        report.forgotten.extend(self._texts[p].edit for p in result.forgotten)

    def _rebuilt(self) -> EditedModel:
        block_of = {point: self._block_of[text.edit] for point, text in self._texts.items()}
        scope = Scope(self.encoder, self.index, self.settings, self._texts, self.verifier)
        return EditedModel(self.base, self.settings, scope, self.blocks, block_of, self._approved)
