"""Sources of pairs: the project's own groups of questions, and public question sets."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from worker.verifier import variants

HELD_OUT = 10  # every tenth edit of the public pairs is measured on, and never trained on
TYPOS, CASUAL, WRAPPED, CHANGED, KEYWORDS, SWAPPED = 0.18, 0.14, 0.2, 0.04, 0.05, 0.15
EQUAL = 0.02  # of the pairs: a text and itself, which is then typed and wrapped
ASIDE = 0.3  # of the rephrases: paired with another rephrase of their edit, not with the edit
NAMELESS = 0.45  # of the questions about an organisation: asked of the organisation itself
# Files about organisations: people who ask one of them often leave out its name.
ORGANISATIONS = frozenset(
    {"companies", "contexts", "education_leisure", "finance", "health", "organisations_a", "organisations_b", "public"}
)

Pair = tuple[str, str, bool]  # an edit's prompt, a query, whether it asks the same


@dataclass(frozen=True)
class DataSet:
    """A file that pairs are drawn from, for the model card."""

    file: str
    source: str
    licence: str
    records: int


@dataclass
class Group:
    """Ways to ask one question, and near misses; slots are names that both leave open."""

    same: list[str]
    near: list[str]
    slots: dict[str, list[str]] = field(default_factory=dict)
    family: str = ""  # of groups about one organisation, each of which asks something else


class Sources:
    """All pairs of a folder of groups and a folder of public data, drawn in a fixed mixture."""

    def __init__(self, groups: Path, public: Path | None) -> None:
        """Read the sources.

        groups: the project's own, *.jsonl. public: the contents of `shared/data`, or a part of them; None: only the
        groups.
        """
        self.sets: list[DataSet] = []
        self.files = [_groups(file) for file in sorted(groups.glob("*.jsonl"))]
        for file, found in zip(sorted(groups.glob("*.jsonl")), self.files, strict=True):
            self.sets.append(DataSet(file.name, "own words", "Apache-2.0", len(found)))
        self.asked_as_you = {n for n, file in enumerate(sorted(groups.glob("*.jsonl"))) if file.stem in ORGANISATIONS}
        self.groups = [(group, n) for n, file in enumerate(self.files) for group in file]
        self.families: dict[str, list[Group]] = defaultdict(list)
        for group, _ in self.groups:
            if group.family:
                self.families[group.family].append(group)
        self.pairs: dict[tuple[bool, str], list[tuple[str, str]]] = defaultdict(list)
        self.rephrases: dict[str, list[str]] = defaultdict(list)  # by their edit
        self.held_out: list[dict[str, Any]] = []
        self.paragraphs: list[list[str]] = []
        self.cloze: list[dict[str, Any]] = []
        self.strays: list[str] = []
        if public is not None:
            self._read_public(public)
        self.questions = [q for p in self.paragraphs for q in p] + [
            e for found in self.pairs.values() for e, _ in found
        ]
        self.questions += [text for group, _ in self.groups for text in group.same if "{" not in text]
        draws: list[tuple[Callable[[Random], Pair | None], float, bool]] = [
            (self._of_group, 0.5, True), (self._of_pairs, 0.35, bool(self.pairs)),
            (self._of_paragraph, 0.03, bool(self.paragraphs)), (self._of_cloze, 0.04, bool(self.cloze)),
            (self._made, 0.06, True), (self._of_parties, 0.02, True),
        ]  # fmt: skip
        self._draws = [(draw, weight) for draw, weight, there in draws if there]

    def draw(self, random: Random) -> Pair:
        """Draw one pair, as somebody might type it."""
        while True:
            source = random.choices([d for d, _ in self._draws], [w for _, w in self._draws])[0]
            if (found := source(random)) is not None:
                return self._as_typed(*found, random)

    def _as_typed(self, edit: str, query: str, same: bool, random: Random) -> Pair:
        if random.random() < SWAPPED:
            edit, query = query, edit
        if random.random() < KEYWORDS and (short := variants.keywords(query, random)):
            query = short
        if random.random() < TYPOS:
            query = variants.typo(query, random, random.choice([1, 1, 1, 2, 2, 3]))
        if random.random() < CASUAL:
            query = variants.casual(query, random)
        if random.random() < WRAPPED:
            query = variants.wrapped(query, random, self.strays)
        elif random.random() < CHANGED:
            query, same = variants.changed(query, random), False
        return edit, query, same

    def _of_group(self, random: Random) -> Pair | None:
        group, file = random.choice(self.groups)
        names = {slot: random.choice(values) for slot, values in group.slots.items()}
        edit = random.choice(group.same)
        if random.random() < 0.52:
            query, same = random.choice(group.same), True
        elif group.family and random.random() < 0.4:
            sibling = random.choice(self.families[group.family])
            if sibling is group:
                return None
            query, same = random.choice(sibling.same), False
        elif random.random() < 0.8 and group.near:
            query, same = random.choice(group.near), False
        elif group.slots and random.random() < 0.5:  # the same question about another subject
            slot = random.choice(sorted(group.slots))
            other = random.choice(group.slots[slot])
            if other == names[slot] or f"{{{slot}}}" not in edit:
                return None
            query = random.choice(group.same)
            if f"{{{slot}}}" not in query:
                return None
            return _filled(edit, names), _filled(query, names | {slot: other}), False
        elif group.slots and not group.family:  # another question about the same subject
            other_group = random.choice(self.files[file])
            if other_group is group or set(other_group.slots) != set(group.slots):
                return None
            query, same = random.choice(other_group.same), False
        else:
            return None
        if (group.family or file in self.asked_as_you) and "s" in names and random.random() < NAMELESS:
            query = variants.nameless(query, "s", random) or query
        if edit == query and random.random() > EQUAL * len(group.same):
            return None
        return _filled(edit, names), _filled(query, names), same

    def _of_pairs(self, random: Random) -> Pair:
        same = random.random() < 0.52
        kinds = [kind for kind in self.pairs if kind[0] == same]
        weights = [len(self.pairs[kind]) ** 0.6 * (2 if kind == (True, "rephrase") else 1) for kind in kinds]
        edit, query = random.choice(self.pairs[random.choices(kinds, weights)[0]])
        if same and random.random() < ASIDE and len(self.rephrases[edit]) > 1:
            edit, query = random.sample(self.rephrases[edit], 2)
        return edit, query, same

    def _of_paragraph(self, random: Random) -> Pair | None:
        questions = random.choice(self.paragraphs)
        if len(questions) < 2:
            return None
        edit, query = random.sample(questions, 2)
        return edit, query, False

    def _of_cloze(self, random: Random) -> Pair:
        fact = random.choice(self.cloze)
        asked = [fact["prompt"], *fact["rephrases"]]
        if random.random() < 0.55:
            edit, query = random.choice(asked), random.choice(asked)
            return edit, query, True
        if random.random() < 0.5:  # another relation of the same subject
            other = random.choice(self.cloze)
            if other["relation_id"] == fact["relation_id"]:
                return fact["prompt"], other["prompt"], other["subject"] == fact["subject"]
            query = random.choice([other["prompt"], *other["rephrases"]])
            return random.choice(asked), query.replace(other["subject"], fact["subject"]), False
        other = random.choice(self.cloze)  # the same relation of another subject
        query = random.choice(asked).replace(fact["subject"], other["subject"])
        return random.choice(asked), query, other["subject"] == fact["subject"]

    def _made(self, random: Random) -> Pair | None:
        """Make a near miss by rule, or the same question typed or wrapped differently."""
        text = random.choice(self.questions)
        if random.random() < 0.3:
            return text, variants.wrapped(text, random, self.strays), True
        made = variants.near_miss(text, random)
        return None if made is None else (text, made, False)

    def _of_parties(self, random: Random) -> Pair:
        names = [name for group, _ in random.choices(self.groups, k=8) for name in group.slots.get("s", ())]
        names += variants.NAMES
        return variants.parties(random, names)

    def _read_public(self, folder: Path) -> None:
        if records := _records(folder / "scope_pairs.jsonl"):
            for record in records:
                if held_out(record["edit"]):
                    self.held_out.append(record)
                else:
                    self.pairs[record["same"], record["kind"]].append((record["edit"], record["query"]))
                    if record["same"] and record["kind"] == "rephrase":
                        self.rephrases[record["edit"]].append(record["query"])
            self.sets += [
                DataSet("scope_pairs.jsonl", "SituatedQA", "Apache-2.0", _of(records, "situated")),
                DataSet("scope_pairs.jsonl", "AmbigQA, NQ", "CC BY-SA 3.0", _of(records, "ambigqa", "nq_")),
                DataSet("scope_pairs.jsonl", "QAEdit, zsRE, CounterFact", "MIT",
                        _of(records, "qaedit", "zsre", "cf_", "wrapped")),
            ]  # fmt: skip
            behind = self.pairs.get((True, "rephrase behind a stray sentence"), [])
            self.strays = [m.group() for _, query in behind if (m := re.match(r"(?s).*[.!?)](?=\s)", query))]
        if records := _records(folder / "xquad_questions.jsonl"):
            by_paragraph: dict[tuple[str, int], list[str]] = defaultdict(list)
            for record in records:
                by_paragraph[record["article"], record["paragraph"]].append(record["question"])
            self.paragraphs = list(by_paragraph.values())
            self.sets.append(DataSet("xquad_questions.jsonl", "XQuAD", "CC BY-SA 4.0", len(records)))
        if records := _records(folder / "counterfact_paraphrases.jsonl"):
            self.cloze = [record for record in records if not held_out(record["prompt"])]
            self.sets.append(DataSet("counterfact_paraphrases.jsonl", "CounterFact, paraphrased", "MIT", len(records)))


def held_out(edit: str) -> bool:
    """Tell, from its edit's prompt alone, whether a public pair is measured on and not trained on."""
    return sha256(edit.encode()).digest()[0] % HELD_OUT == 0


def _of(records: Sequence[dict[str, Any]], *beginnings: str) -> int:
    return sum(record["source"].startswith(beginnings) for record in records)


def _groups(file: Path) -> list[Group]:
    return [
        Group(record["same"], record["near"], record.get("slots", {}), record.get("family", ""))
        for record in _records(file)
    ]


def _filled(text: str, names: dict[str, str]) -> str:
    for slot, name in names.items():
        text = text.replace(f"{{{slot}}}", name)
    return text


def _records(file: Path) -> list[dict[str, Any]]:
    return list(_lines(file)) if file.is_file() else []


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text("utf-8").splitlines():
        if line.strip():
            yield json.loads(line)
