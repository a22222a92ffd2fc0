"""Sequential editing of one model by one method, and its results: everything by free generation."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.edits.answers import Batch, Before, broken_answers, chunks, untouched
from benchmarks.edits.data import BenchEdit
from benchmarks.edits.figures import Share, contains, matches, mean
from benchmarks.edits.peers import Applied, Peer, Reply
from benchmarks.machine import watched
from melo_core.base_model import BaseModel
from melo_core.structure import Kind

SENTENCE = 32  # least tokens that an answer may have: room for a sentence around the target
TIMED = 30  # prompts, for the routing time

Advance = Callable[[str, int, int], None]  # stage, number done, total


@dataclass(frozen=True)
class Plan:
    """The edits and their batches, and the questions to ask."""

    edits: Sequence[BenchEdit]
    batch: int
    rephrases_given: int
    probes: Mapping[str, Sequence[str]]  # by name, prompts that must be answered as before
    texts: Sequence[tuple[str, str]] = ()  # prompts and continuations that must stay as likely as before
    retained: Sequence[tuple[str, str]] = ()  # the same, but close to the edits
    questions: Sequence[tuple[str, str]] = ()  # completions asked as `qa`, with the expected answers

    @property
    def kind(self) -> str:
        return self.edits[0].kind

    def batches(self) -> Iterator[list[BenchEdit]]:
        """Yield batches of edits with the rephrases that are given; the others are kept for testing."""
        for start in range(0, len(self.edits), self.batch):
            part = self.edits[start : start + self.batch]
            yield [replace(e, rephrases=e.rephrases[: self.rephrases_given]) for e in part]

    @property
    def held_out(self) -> list[tuple[str, str]]:
        """Rephrases that were not given, with the expected answers."""
        return [(r, e.target) for e in self.edits for r in e.rephrases[self.rephrases_given :]]


def measure(peer: Peer, base: BaseModel, plan: Plan, before: Before, advance: Advance) -> dict[str, Any]:
    """Edit batch by batch, then ask everything. The result is a JSON object."""
    longest = max(SENTENCE, *(len(base.target_ids(e.target, e.kind)) + 1 for e in plan.edits))
    applied, seconds, first = list[Applied](), 0.0, list[bool]()
    advance("editing", 0, len(plan.edits))
    with watched(base.device) as peak:
        for batch in plan.batches():
            start = time.perf_counter()
            applied.append(peer.apply(batch))
            _wait(base)
            seconds += time.perf_counter() - start
            if not first:
                first = _right(peer, [(e.prompt, e.target) for e in batch], plan.kind, longest, lambda *_: None)
            advance("editing", min(len(applied) * plan.batch, len(plan.edits)), len(plan.edits))
    own = [(e.prompt, e.target) for e in plan.edits]
    replies = _ask(peer, [p for p, _ in own], plan.kind, longest, lambda *done: advance("success", *done))
    right = [matches(reply.text, target) for reply, (_, target) in zip(replies, own, strict=True)]
    strict = [reply.text == target for reply, (_, target) in zip(replies, own, strict=True)]
    held_out = plan.held_out
    seen = list[Batch]()
    others = _ask(peer, [p for p, _ in held_out], plan.kind, longest, lambda *done: advance("generality", *done), seen)
    general = [matches(reply.text, target) for reply, (_, target) in zip(others, held_out, strict=True)]
    asked = _right(peer, plan.questions, "qa", longest, lambda *done: advance("as questions", *done))
    kept = Share(sum(a and b for a, b in zip(first, right, strict=False)), sum(first))
    size = peer.size()
    record: dict[str, Any] = {
        "method": peer.name,
        "edits": len(plan.edits),
        **_share("success", Share.of(right)),
        **_share("success_strict", Share.of(strict)),
        **_share("success_contains", Share.of(contains(r.text, t) for r, (_, t) in zip(replies, own, strict=True))),
        **_share("generality", Share.of(general)),
        **_share(
            "generality_contains", Share.of(contains(r.text, t) for r, (_, t) in zip(others, held_out, strict=True))
        ),
        **_share(
            "generality_to_the_query",
            Share.of(right and reply.to_the_query for right, reply in zip(general, others, strict=True)),
        ),
        **_share("generality_question", Share.of(asked)),
        **_share("retention", kept),
        "first_batch": {"when_applied": mean(first), "after_the_last": mean(right[: len(first)])},
    }
    for name, prompts in plan.probes.items():
        found = untouched(peer, prompts, before, lambda *done, name=name: advance(name, *done))
        record |= _share(f"untouched_{name}", found.share)
        record[f"untouched_{name}_asked"] = {
            "prompts": found.share.total,
            "wrongly_covered": found.routed,
            "generated_and_compared": found.compared,
            "uncovered_but_changed": found.unrouted_changed,
        }
        seen += found.batches
    record["broken_answers"] = broken_answers(peer, [e.target for e in plan.edits], seen, before)
    if plan.texts or plan.retained:
        record |= perplexities(peer, plan, before, advance)
    return record | {
        "conflicts": sum(a.conflicts for a in applied),
        "forgotten": sum(a.forgotten for a in applied),
        "unreached": sum(a.unreached for a in applied),
        "unlearned": sum(a.unlearned for a in applied),
        "edits_per_second": len(plan.edits) / seconds,
        "edit_seconds": seconds,
        "bytes_per_edit": size.bytes / len(plan.edits),
        "parameters_per_edit": size.parameters / len(plan.edits),
        "peak_memory_mb": peak.mb,
        **_lookup(peer, base, plan),
    }


def perplexities(peer: Peer, plan: Plan, before: Before, advance: Advance) -> dict[str, Any]:
    """Return the perplexity of corrected sentences, of text close to them, and of unrelated text, before and after."""
    groups = {"edited": [(e.prompt, e.target) for e in plan.edits], "retained": plan.retained, "unrelated": plan.texts}
    record: dict[str, Any] = {}
    for name, texts in groups.items():
        was, now = list[float](), list[float]()
        for chunk in chunks(texts):
            was += before.losses(chunk)
            now += peer.losses([p for p, _ in chunk], [c for _, c in chunk])
            advance(f"perplexity, {name}", len(now), len(texts))
        # Mean over texts of the logarithm of each one's perplexity: a long text counts no more than a short one.
        record[f"perplexity_{name}"] = _perplexity(now)
        record[f"perplexity_{name}_before"] = _perplexity(was)
        record[f"perplexity_{name}_covered"] = sum(peer.covers([p for p, _ in texts], "completion"))
        record |= _share(f"perplexity_{name}_unchanged", Share.of(a == b for a, b in zip(was, now, strict=True)))
    return record


def _perplexity(losses: Sequence[float]) -> float | None:
    average = mean(losses)
    return None if average is None else float(torch.tensor(average, dtype=torch.float64).exp())


def _right(
    peer: Peer, asked: Sequence[tuple[str, str]], kind: str, longest: int, advance: Callable[[int, int], None]
) -> list[bool]:
    replies = _ask(peer, [prompt for prompt, _ in asked], kind, longest, advance)
    return [matches(reply.text, target) for reply, (_, target) in zip(replies, asked, strict=True)]


def _ask(
    peer: Peer,
    prompts: Sequence[str],
    kind: str,
    longest: int,
    advance: Callable[[int, int], None],
    seen: list[Batch] | None = None,
) -> list[Reply]:
    """Answer prompts, in batches of covered and of other prompts; return the replies in the order of the prompts.

    A batch decodes until its longest answer ends, and a block's answers are short. seen: the batches are added to it.
    """
    covered = peer.covers(prompts, kind)
    order = sorted(range(len(prompts)), key=lambda i: not covered[i])
    replies: dict[int, Reply] = {}
    for chunk in chunks(order):
        batch = Batch(asked := [prompts[i] for i in chunk], peer.answer(asked, kind, longest), longest)
        replies |= dict(zip(chunk, batch.replies, strict=True))
        if seen is not None:
            seen.append(batch)
        advance(len(replies), len(prompts))
    return [replies[i] for i in range(len(prompts))]


def _share(name: str, share: Share) -> dict[str, Any]:
    return {name: share.value, f"{name}_interval": share.interval}


def _lookup(peer: Peer, base: BaseModel, plan: Plan) -> dict[str, Any]:
    """Return median times in ms, and the search as a share of one decoding step of one prompt.

    Timed on rephrases, else on probes: an edit's own prompt is found by its text alone, without key or search.
    """
    others = [p for p, _ in plan.held_out] or [p for prompts in plan.probes.values() for p in prompts]
    prompts = others or [e.prompt for e in plan.edits]
    times = [t for prompt in prompts[:TIMED] if (t := peer.route_time(prompt, plan.kind))]
    step = _decoding_step(base, plan.edits[0])
    search = _median_ms(t.lookup for t in times)
    return {
        "lookup_ms": search,
        "key_ms": _median_ms(t.key for t in times),
        "verify_ms": _median_ms(t.verify for t in times if t.verify is not None),
        "decoding_step_ms": step,
        "lookup_share_of_step": search / step if search is not None and step else None,
    }


def _median_ms(seconds: Iterable[float]) -> float | None:
    """Return the median in ms, or None where there are no values."""
    found = list(seconds)
    return statistics.median(found) * 1e3 if found else None


@torch.no_grad()
def _decoding_step(base: BaseModel, edit: BenchEdit) -> float | None:
    """Return the median time in ms of one token of one prompt; None for a model that does not continue texts."""
    if base.kind is not Kind.CAUSAL:
        return None
    ids, _ = base.pad([base.prompt_ids(edit.prompt, edit.kind)], "left")
    cache = base.model(input_ids=ids, use_cache=True).past_key_values
    seconds = []
    for _ in range(TIMED):
        start = time.perf_counter()
        base.model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
        _wait(base)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3


def _wait(base: BaseModel) -> None:
    """Wait for the work sent to a GPU."""
    if base.device.type == "cuda":
        torch.cuda.synchronize(base.device)
