"""One run of `melo bench edits`: load, edit by each method in turn, print and write the results."""

import gc
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from benchmarks.edits import probes, scotus
from benchmarks.edits.answers import TOGETHER, Before
from benchmarks.edits.data import BenchEdit, UnreadableData, load_edits, load_questions, load_scotus
from benchmarks.edits.measure import Advance, Plan, measure
from benchmarks.edits.methods import Methods
from benchmarks.edits.peers.unedited import Unedited
from benchmarks.edits.wording import as_question, asked_as_question
from benchmarks.machine import machine, resident
from cli.errors import CommandError
from cli.invocation import Invocation
from melo_core.base_model import BaseModel
from registry.base.model_files import find_encoder, find_model
from worker.model_cache import ModelCache


@dataclass(frozen=True)
class Choice:
    """The options that the user gave."""

    task: str
    data: Path
    unrelated: Path | None
    unrelated_limit: int
    limit: int
    batch: int
    rephrases_given: int
    against: Sequence[str]
    model: str
    encoder: str
    preset: str
    method: Mapping[str, Any]  # settings that override the preset's
    form: str  # `as-given`, or `question`: a cloze is given and asked as a question
    json_file: Path | None


def run_bench(call: Invocation, choice: Choice) -> None:
    """Run the benchmark. Raises CommandError and MeloError."""
    if choice.json_file is not None:
        require_writable(choice.json_file)
    model_cache = ModelCache(call.settings.cache, call.settings.dtype)
    with bars(call) as advance:
        base, plan, own_texts = _prepare(call, model_cache, choice, advance("preparing"))
        before = Before(Unedited(base), plan.kind)
        # Weights are mapped from their file, and count towards memory once they are read.
        before.unedited.answer([plan.edits[0].prompt], plan.kind, 1)
        loaded_mb = resident()
        methods = Methods(base, model_cache, choice.encoder, choice.preset, choice.method, own_texts)
        records: list[dict[str, Any]] = []
        for name in dict.fromkeys(["melo", *choice.against]):
            peer = methods.peer(name, before.unedited, advance(f"{name}: calibrating"))
            start_mb = resident()
            record = measure(peer, base, plan, before, advance(name))
            record["settings"] = peer.settings_used
            records.append(record | _circumstances(choice, base, record, loaded_mb, start_mb))
            if choice.json_file is not None:  # now, so that a later failure cannot lose it
                write(records, choice.json_file)
            del peer
            gc.collect()
    call.out.print(_table(records))
    for line in _remarks(records):
        call.out.print(line)


def write(figures: Any, file: Path) -> None:
    """Write the figures atomically."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    part.replace(file)


def _prepare(
    call: Invocation, model_cache: ModelCache, choice: Choice, advance: Advance
) -> tuple[BaseModel, Plan, Sequence[str]]:
    """Return the model, the plan for it, and the texts to whiten keys on (none: the packaged questions)."""
    unrelated = load_questions(choice.unrelated)[: choice.unrelated_limit] if choice.unrelated else []
    if choice.task == "scotus":
        cases = load_scotus(choice.data)
        base = scotus.load_classifier(
            find_encoder(choice.encoder).path, cases, call.settings.cache.expanduser(), model_cache.device,
            lambda *done: advance("training the classifier", *done),
        )  # fmt: skip
        edits, held_out = scotus.later_errors(base, cases, _predictions(base, advance), choice.limit)
        _require_edits(edits, choice)
        plan = Plan(edits, choice.batch, 0, {"held_out": held_out} | _unrelated(unrelated))
        return base, plan, scotus.own_texts(base, cases)
    everything = load_edits(choice.task, choice.data)
    if choice.form == "question":
        everything = [asked_as_question(edit) for edit in everything]
    edits, others = everything[: choice.limit], everything[choice.limit :]
    _require_edits(edits, choice)
    files = find_model(choice.model)
    base = model_cache.base(choice.model, files.digest)
    asked = _unrelated(unrelated)
    texts: list[tuple[str, str]] = []
    retained: list[tuple[str, str]] = []
    if choice.task == "hallucination":
        texts = list(dict.fromkeys(e.unrelated_text for e in edits if e.unrelated_text))
        retained = _passages(edits)
        asked["template"] = probes.other_facts(edits, others)
    else:
        asked["swapped"] = probes.swapped_subjects(edits, others)
        asked["same_subject"] = probes.same_subject(edits)
        asked["template"] = probes.other_facts(edits, others)
        if neighbours := probes.neighbours(edits):
            asked["neighbours"] = neighbours
    questions = []
    if choice.task == "counterfact":
        questions = [(as_question(e.prompt, e.subject), e.target) for e in edits if e.kind == "completion"]
    plan = Plan(edits, choice.batch, choice.rephrases_given, asked, texts, retained, questions)
    return base, plan, ()


def _unrelated(questions: Sequence[str]) -> dict[str, Sequence[str]]:
    return {"unrelated": questions}


def _passages(edits: Sequence[BenchEdit]) -> list[tuple[str, str]]:
    """Return the passages' text before the corrected sentences: it was right, and lies close to the edits."""
    found = {}
    asked = {edit.prompt for edit in edits}
    for edit in edits:
        head, stop, rest = edit.prompt.partition(". ")
        if stop and rest.strip() and head + "." not in asked:
            found[head + "."] = rest.strip()
    return list(found.items())


def _predictions(base: BaseModel, advance: Advance) -> Any:
    def predict(texts: Sequence[str]) -> list[str]:
        unedited, said = Unedited(base), list[str]()
        for start in range(0, len(texts), TOGETHER):
            said += [r.text for r in unedited.answer(texts[start : start + TOGETHER], "classification", 1)]
            advance("looking for errors", len(said), len(texts))
        return said

    return predict


def _circumstances(
    choice: Choice, base: BaseModel, record: dict[str, Any], loaded_mb: float, start_mb: float
) -> dict[str, Any]:
    """Return the conditions needed to repeat a figure."""
    return {
        "task": choice.task,
        "data": choice.data.name,
        "model": choice.model if choice.task != "scotus" else f"classifier from {choice.encoder}",
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "batch": choice.batch,
        "rephrases_given": choice.rephrases_given,
        "form": choice.form,
        "loaded_memory_mb": loaded_mb,
        "memory_growth_mb": record["peak_memory_mb"] - start_mb if base.device.type == "cpu" else None,
        "memory_ratio": record["peak_memory_mb"] / loaded_mb if base.device.type == "cpu" else None,
        "machine": machine(base.device),
    }


COLUMNS = {
    "success": "success",
    "success_contains": "contained",
    "generality": "generality",
    "generality_contains": "contained",
    "generality_question": "as question",
    "untouched_unrelated": "unrelated",
    "untouched_swapped": "swapped",
    "untouched_same_subject": "same subject",
    "untouched_template": "template",
    "untouched_neighbours": "neighbours",
    "untouched_held_out": "held out",
    "broken_answers": "broken",
    "retention": "retention",
    "perplexity_edited": "ppl edited",
    "perplexity_unrelated_unchanged": "ppl unrelated same",
    "edits_per_second": "edits/s",
    "bytes_per_edit": "bytes/edit",
    "peak_memory_mb": "peak MB",
    "lookup_ms": "lookup ms",
}


def _table(records: Sequence[dict[str, Any]]) -> Table:
    """Make a row for each method, each share with its interval below it. Empty columns are left out."""
    table = Table(title=f"{records[0]['edits']} edits, measured by free generation (95 % intervals)")
    table.add_column("method")
    shown = [key for key in COLUMNS if any(record.get(key) is not None for record in records)]
    for key in shown:
        table.add_column(COLUMNS[key], justify="right")
    for record in records:
        table.add_row(record["method"], *(_cell(record, key) for key in shown))
    return table


def _cell(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if value is None:
        return "–"
    if key == "broken_answers":
        return f"{value['count']} of {value['of_covered']}"
    if interval := record.get(f"{key}_interval"):
        return f"{value:.3f}\n{interval[0]:.2f}–{interval[1]:.2f}"
    return f"{value:,.0f}" if key in ("bytes_per_edit", "peak_memory_mb") else f"{value:.3g}"


def _remarks(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield remarks on how untouched answers were counted, and whether the assumptions hold."""
    asked = [v for record in records for key, v in record.items() if key.endswith("_asked")]
    compared, changed = (sum(c[k] for c in asked) for k in ("generated_and_compared", "uncovered_but_changed"))
    yield (
        f"A prompt that no edit covers is the base model's to answer, so of those only a random sample was "
        f"generated: {compared} of {sum(c['prompts'] for c in asked)} prompts in all."
    )
    yield f"Uncovered prompts among them whose tokens changed: {changed}" + (" (must be 0)" if changed else "")
    for record in records:
        lost = (
            f"{record['conflicts']} conflicts, {record['forgotten']} forgotten, {record['unreached']} above the loss "
            f"target, {record['unlearned']} not answered with their target once learned"
        )
        yield f"{record['method']}: {lost}"


@contextmanager
def bars(call: Invocation) -> Iterator[Any]:
    left = TimeRemainingColumn()
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), left]
    with Progress(*columns, console=call.err, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def titled(method: str) -> Advance:
            def advance(stage: str, done: int, total: int) -> None:
                title = f"{method}: {stage}"
                if title not in tasks:
                    for other in tasks.values():
                        bars.update(other, visible=False)
                    tasks[title] = bars.add_task(title, total=total)
                bars.update(tasks[title], completed=done, total=total)

            return advance

        yield titled


def _require_edits(edits: Sequence[BenchEdit], choice: Choice) -> None:
    if not edits:
        raise UnreadableData(f"{choice.data} holds no fact that would change; give a file with corrections")


def require_writable(file: Path) -> None:
    try:
        file.touch()
    except OSError as error:
        raise CommandError("The file cannot be written", f"{file}: {error.strerror}.", "Name another file.") from None
