"""One run of `melo bench scope`: pairs, organisations with near misses, and growth; printed and written as JSON."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.table import Table

from benchmarks.edits.data import UnreadableData, records_of
from benchmarks.edits.figures import Share
from benchmarks.edits.run import bars, require_writable, write
from benchmarks.machine import machine
from cli.invocation import Invocation
from melo_core.conversation import question_of
from melo_core.encoder import KeyEncoder, SentenceEncoder
from melo_core.index import ClusterIndex
from melo_core.method import complete
from melo_core.scope import Decision, Scope, ScopedText
from melo_core.settings import MethodSettings
from melo_core.structure import Kind
from melo_core.verifier import Verifier
from worker.model_cache import ModelCache
from worker.verifier.sources import held_out
from worker.verifier.variants import typo

SIZES = (100, 1_000, 10_000)  # edits, for the growth
GROWTH_ASKED = 300  # rephrases and near misses that are asked at each size
ROLES = ("user", "assistant")
TIMED = 60  # queries, for the times

Advance = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Choice:
    """The options that the user gave."""

    pairs: Path | None
    facts: Path | None
    ask: Path | None
    grow: Path | None
    per_kind: int
    held_out: bool
    typos: bool
    preset: str
    method: Mapping[str, Any]
    encoder: str
    json_file: Path | None


@dataclass
class Router:
    """Makes scopes of texts, and caches the keys that it has computed."""

    encoder: KeyEncoder
    settings: MethodSettings
    verifier: Verifier | None
    _keys: dict[str, torch.Tensor] = field(default_factory=dict)

    def keep(self, text: str) -> None:
        """Compute a text's key, unless it is known."""
        if text not in self._keys:
            self._keys[text] = self.encoder.key(text)

    def scope(self, edits: Sequence[Sequence[str]], guards: Sequence[Sequence[str]] = ()) -> Scope:
        """Make a scope. edits: the prompt and the rephrases of each, numbered by their places."""
        index = ClusterIndex(self.encoder.dimension, self.settings.radius, self.settings.clustering)
        texts: dict[int, ScopedText] = {}
        for number, asked in enumerate(edits):
            for text in asked:
                self.keep(text)
                guarded = tuple(guards[number]) if guards else ()
                texts[len(texts)] = ScopedText(number, text, guarded, is_rephrase=text != asked[0])
                index.insert(len(texts) - 1, self._keys[text], (number,))
        return Scope(self.encoder, index, self.settings, texts, self.verifier)


def run_bench(call: Invocation, choice: Choice) -> None:
    """Run the benchmark. Raises CommandError and MeloError."""
    if choice.json_file is not None:
        require_writable(choice.json_file)
    settings = MethodSettings.from_json(complete(choice.method, choice.preset))
    model_cache = ModelCache(call.settings.cache, call.settings.dtype)
    encoder, digest = model_cache.encoder(choice.encoder, None, None)
    found: dict[str, Any] = {}
    with bars(call) as titled:
        advance: Advance = titled("scope")
        if settings.whitened:
            model_cache.fitted_whitening(
                encoder, digest, settings.whiten_epsilon, lambda *done: advance("whitening", *done)
            )
        encoder.in_parts = settings.query_keys == "parts"
        router = Router(encoder, settings, model_cache.verifier_of(settings, Kind.CAUSAL))
        if choice.pairs is not None:
            pairs = [
                record
                for record in _records(choice.pairs, "edit", "query")
                if not choice.held_out or held_out(record["edit"])
            ]
            if choice.typos:
                pairs += list(misspelt(pairs))
            found["pairs"] = of_pairs(router, pairs, choice.per_kind, advance)
        if choice.facts is not None and choice.ask is not None:
            facts, asked = _records(choice.facts, "prompt"), _asked(choice.ask)
            found["ask"] = of_organisation(router, facts, asked, advance)
        if choice.grow is not None:
            found["growth"] = of_growth(router, choice.grow, advance)
        found |= _times(router, encoder)
    found |= {"settings": settings.to_json(), "encoder": choice.encoder, "machine": machine(torch.device("cpu"))}
    if choice.json_file is not None:
        write(found, choice.json_file)
    for table in _tables(found):
        call.out.print(table)
    for wrong in found.get("ask", {}).get("wrong", ()):
        call.out.print(f"{wrong['verdict']}: {wrong['text']} ({wrong['why']})")


def of_pairs(
    router: Router, records: Sequence[Mapping[str, Any]], per_kind: int, advance: Advance
) -> dict[str, dict[str, Any]]:
    """Return, by kind, how many queries are taken for their edit, where it is the only one."""
    by_kind: dict[tuple[bool, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        by_kind[bool(record.get("same")), str(record.get("kind", "")), str(record.get("source", ""))].append(record)
    random = Random(0)
    chosen = [
        record
        for _, of_kind in sorted(by_kind.items())
        for record in (random.sample(of_kind, per_kind) if 0 < per_kind < len(of_kind) else of_kind)
    ]
    both = {kind for _, kind, _ in by_kind if {same for same, k, _ in by_kind if k == kind} == {True, False}}
    counts: dict[str, dict[str, Any]] = {}
    for done, record in enumerate(chosen, 1):
        same, kind = bool(record.get("same")), str(record.get("kind", ""))
        name = f"{kind} ({'same' if same else 'near miss'})" if kind in both else kind
        count = counts.setdefault(name, {"same": same, "n": 0, "accepted": 0})
        decision = router.scope([[record["edit"]]]).decide(record["query"])
        count["n"] += 1
        count["accepted"] += decision.covered
        advance("pairs", done, len(chosen))
    for count in counts.values():
        share = Share(count["accepted"], count["n"])
        count |= {"share": share.value, "interval": share.interval}
    return counts


def misspelt(records: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield each plain rephrase once more with one typing error, determined by its own text."""
    for record in records:
        if record.get("same") and record.get("kind") == "rephrase":
            query = str(record["query"])
            yield {**record, "kind": "typo", "query": typo(query, Random(query))}


def of_organisation(
    router: Router, facts: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]], advance: Advance
) -> dict[str, Any]:
    """Count rephrases that reach their own fact, and near misses left alone, with all facts together.

    asked: texts, or `turns` of user and model in turn.
    """
    edits = [(str(fact["prompt"]), *map(str, fact.get("rephrases") or ())) for fact in facts]
    scope = router.scope(edits, [[str(guard) for guard in fact.get("unchanged") or ()] for fact in facts])
    counts = {"same": 0, "same_n": 0, "left_alone": 0, "near_n": 0, "wrong_edit": 0}
    wrong = []
    for done, ask in enumerate(asked, 1):
        decision = scope.decide(_query_of(ask))
        got = edits[decision.considered[0].edit][0] if decision.covered else None
        wanted = ask.get("edit")
        counts["near_n" if wanted is None else "same_n"] += 1
        if wanted is None:
            counts["left_alone"] += got is None
        else:
            counts["same"] += got == wanted
            counts["wrong_edit"] += got is not None and got != wanted
        if got != wanted:
            verdict = "taken" if wanted is None else "not reached" if got is None else "wrong edit"
            text = ask["text"] if "text" in ask else " / ".join(ask["turns"][::2])
            wrong.append({"verdict": verdict, "text": text, "why": explained(decision, wanted, edits)})
        advance("organisation", done, len(asked))
    return {**counts, "wrong": wrong}


def _query_of(ask: Mapping[str, Any]) -> str | tuple[str, ...]:
    """Return the ways to read what is asked. Raises UnreadableData."""
    turns = ask.get("turns", [ask.get("text")])
    if not (isinstance(turns, list) and len(turns) % 2 and all(isinstance(turn, str) and turn for turn in turns)):
        raise UnreadableData(f"give text, or turns of user and model in turn that end with the user's, not {dict(ask)}")
    return question_of([{"role": ROLES[i % 2], "content": turn} for i, turn in enumerate(turns)]).query


def of_growth(router: Router, folder: Path, advance: Advance) -> list[dict[str, Any]]:
    """Measure routing against the number of edits: rephrases and near misses of some, among ever more others."""
    pairs = _records(folder / "scope_pairs.jsonl", "edit", "query")
    random = Random(0)
    rephrases = [r for r in pairs if r["same"] and r["kind"] == "rephrase"]
    near = [r for r in pairs if not r["same"]]
    rephrases, near = (random.sample(found, min(GROWTH_ASKED, len(found))) for found in (rephrases, near))
    own = [r["edit"] for r in rephrases[:50]] + [r["edit"] for r in near[:50]]
    own += [r["edit"] for r in (*rephrases, *near)]
    others = [str(r.get("prompt") or r.get("question") or r.get("edit")) for name in GROWTH_FILES
              for r in (_records(folder / name) if (folder / name).is_file() else [])]  # fmt: skip
    random.shuffle(others)
    prompts = list(dict.fromkeys([*own, *others]))
    rows = []
    for size in SIZES:
        edits = prompts[:size]
        there = set(edits)
        scope = router.scope([[prompt] for prompt in edits])
        counts = {"edits": len(edits), "arrived": 0, "wrong_edit": 0, "rephrases": 0, "taken": 0, "near_misses": 0}
        asked = [r for r in (*rephrases, *near) if r["edit"] in there and r["query"] not in there]
        for done, record in enumerate(asked, 1):
            decision = scope.decide(record["query"])
            got = edits[decision.considered[0].edit] if decision.covered else None
            counts["rephrases" if record["same"] else "near_misses"] += 1
            if record["same"]:
                counts["arrived"] += got == record["edit"]
                counts["wrong_edit"] += got not in (None, record["edit"])
            else:
                counts["taken"] += got is not None
            advance(f"{len(edits):,} edits", done, len(asked))
        rows.append(counts)
    return rows


GROWTH_FILES = ("zsre.jsonl", "counterfact.jsonl", "counterfact_paraphrases.jsonl", "xquad_questions.jsonl",
                "nq_open.jsonl", "scope_pairs.jsonl")  # fmt: skip


def explained(decision: Decision, wanted: Any, edits: Sequence[Sequence[str]]) -> str:
    """Explain the decision: for the edit that should have been found, or else for the one that was."""
    for found in decision.considered:
        if wanted is None or edits[found.edit][0] == wanted:
            why = found.difference or (f"guard: {found.guard}" if found.guard else f"score {found.score}")
            return f"{found.text!r}, {why}, distance {found.distance:.2f}"
    return "no candidate"


def _times(router: Router, encoder: SentenceEncoder) -> dict[str, float | None]:
    """Return medians in ms: one verification, one key, one search among 1,000 keys."""
    from melo_core.encoder import ordinary_questions

    questions = list(ordinary_questions())
    keys = torch.randn(1_000, encoder.dimension, generator=torch.Generator().manual_seed(0))
    index = ClusterIndex(encoder.dimension, router.settings.radius)
    for i, key in enumerate(torch.nn.functional.normalize(keys, dim=-1)):
        index.insert(i, key, (i,))

    def median(work: Callable[[int], object]) -> float:
        taken = []
        for i in range(TIMED):
            start = time.perf_counter()
            work(i)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken) * 1e3

    verifier = router.verifier
    query = keys[:1]
    return {
        "verify_ms": median(lambda i: verifier.score(questions[i], questions[i + 1])) if verifier else None,
        "key_ms": median(lambda i: encoder.key(questions[i])),
        "lookup_ms": median(lambda i: index.within(query, router.settings.candidate_radius)),
    }


def _records(file: Path, *needed: str) -> list[Mapping[str, Any]]:
    found = []
    for place, record in records_of(file):
        for name in needed:
            if not isinstance(record.get(name), str) or not record[name].strip():
                raise place.missing(name)
        found.append(record)
    if not found:
        raise UnreadableData(f"{file} holds no record; give a JSONL file")
    return found


def _asked(file: Path) -> list[Mapping[str, Any]]:
    """Read what is asked. A public file of questions, which names no edit, has near misses only."""
    return [{"text": record["question"]} if "question" in record else record for record in _records(file)]


def _tables(found: Mapping[str, Any]) -> Iterator[Table]:
    if pairs := found.get("pairs"):
        table = Table(title="Taken for the edit's question (95 % intervals)", title_justify="left")
        for column in ("kind", "pairs", "taken", "share", ""):
            table.add_column(column, justify="left" if column == "kind" else "right")
        for same in (False, True):
            table.add_section()
            for kind, c in sorted(pairs.items()):
                if c["same"] == same:
                    low, high = c["interval"]
                    label = ("rephrase: " if same else "near miss: ") + kind
                    table.add_row(label, str(c["n"]), str(c["accepted"]), f"{c['share']:.3f}", f"{low:.2f}–{high:.2f}")
        yield table
    if ask := found.get("ask"):
        table = Table(title="Of an organisation's facts, side by side", title_justify="left", show_header=False)
        table.add_row("ways to ask that arrive at their fact", f"{ask['same']} of {ask['same_n']}")
        table.add_row("of these at another fact", str(ask["wrong_edit"]))
        table.add_row("near misses left alone", f"{ask['left_alone']} of {ask['near_n']}")
        yield table
    if growth := found.get("growth"):
        table = Table(title="Routing against the number of edits", title_justify="left")
        for column in ("edits", "rephrases that arrive", "at another edit", "near misses taken"):
            table.add_column(column, justify="right")
        for row in growth:
            table.add_row(
                f"{row['edits']:,}", f"{row['arrived']} of {row['rephrases']}", str(row["wrong_edit"]),
                f"{row['taken']} of {row['near_misses']}",
            )  # fmt: skip
        yield table
    times = Table(title="Time of one (medians)", title_justify="left", show_header=False)
    for name in ("verify_ms", "key_ms", "lookup_ms"):
        if found.get(name) is not None:
            times.add_row(name, f"{found[name]:.2f}")
    yield times
