"""Sequential editing of one model by one method, and what it did: everything by free generation."""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from melo_core.base_model import BaseModel
from melo_core.structure import Kind
from worker.bench.data import BenchEdit
from worker.bench.figures import Share, contains, matches, mean
from worker.bench.machine import watched
from worker.bench.peers import Applied, Peer, Reply
from worker.bench.peers.unedited import Unedited

TOGETHER = 16  # prompts in a batch
LONGEST_COMPARED = 16  # tokens of an answer that must be as before
SENTENCE = 32  # tokens that an answer may have at least: room for a sentence around the target
PROOF = 50  # unrouted prompts that are asked all the same
UNSCOPED = 208  # prompts that are asked of a method which covers every prompt
TIMED = 30  # prompts, for the time of a lookup

Advance = Callable[[str, int, int], None]  # what is done, how many, of how many


@dataclass(frozen=True)
class Plan:
    """What is edited, in which batches, and what is asked."""

    edits: Sequence[BenchEdit]
    batch: int
    rephrases_given: int
    probes: Mapping[str, Sequence[str]]  # by name, prompts that must be answered as before
    texts: Sequence[tuple[str, str]] = ()  # prompts and continuations that must stay as likely as they were
    retained: Sequence[tuple[str, str]] = ()  # the same, near to the edits
    questions: Sequence[tuple[str, str]] = ()  # completions asked as `qa`, with what must be answered

    @property
    def kind(self) -> str:
        return self.edits[0].kind

    def batches(self) -> Iterator[list[BenchEdit]]:
        """Edits with the rephrases that are given; the others are kept for testing."""
        for start in range(0, len(self.edits), self.batch):
            part = self.edits[start : start + self.batch]
            yield [replace(e, rephrases=e.rephrases[: self.rephrases_given]) for e in part]

    @property
    def held_out(self) -> list[tuple[str, str]]:
        """Rephrases that were not given, with what must be answered."""
        return [(r, e.target) for e in self.edits for r in e.rephrases[self.rephrases_given :]]


@dataclass
class Before:
    """The unedited model's answers, each asked once and in the batch in which it will be asked again.

    A batch's composition moves the last bits of what a model computes, so equal batches are compared.
    """

    unedited: Unedited
    kind: str
    _replies: dict[tuple[str, ...], list[Reply]] = field(default_factory=dict)
    _losses: dict[tuple[tuple[str, str], ...], list[float]] = field(default_factory=dict)

    def replies(self, prompts: Sequence[str]) -> list[Reply]:
        """Of one batch."""
        if (key := tuple(prompts)) not in self._replies:
            self._replies[key] = self.unedited.answer(prompts, self.kind, LONGEST_COMPARED)
        return self._replies[key]

    def losses(self, texts: Sequence[tuple[str, str]]) -> list[float]:
        """Of one batch."""
        if (key := tuple(texts)) not in self._losses:
            self._losses[key] = self.unedited.losses([p for p, _ in texts], [c for _, c in texts])
        return self._losses[key]


@dataclass(frozen=True)
class Untouched:
    """Prompts answered as by the unedited model."""

    share: Share
    routed: int  # prompts that an edit wrongly covered
    compared: int  # prompts whose answers were generated and compared, token for token
    unrouted_changed: int  # must be 0: nothing but routing may change an answer


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
    others = _ask(peer, [p for p, _ in held_out], plan.kind, longest, lambda *done: advance("generality", *done))
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


def untouched(peer: Peer, prompts: Sequence[str], before: Before, advance: Callable[[int, int], None]) -> Untouched:
    """Compare answers with the unedited model's, token for token.

    A prompt that no edit covers is the unedited model's to answer by construction, so of those only some, drawn at
    random, are generated, in batches with the covered ones: enough to see that it is so.
    """
    covered = peer.covers(prompts, before.kind)
    if all(covered):  # nothing is known by construction, so all would be generated: a sample says as much
        prompts, covered = prompts[:UNSCOPED], covered[:UNSCOPED]
    drawn = random.Random(0)
    uncovered = [i for i, flag in enumerate(covered) if not flag]
    chosen = [i for i, flag in enumerate(covered) if flag] + drawn.sample(uncovered, min(len(uncovered), PROOF))
    drawn.shuffle(chosen)  # so that batches are mixed
    changed = unrouted_changed = done = 0
    for chunk in _chunks(chosen):
        asked = [prompts[i] for i in chunk]
        replies = peer.answer(asked, before.kind, LONGEST_COMPARED)
        for i, reply, was in zip(chunk, replies, before.replies(asked), strict=True):
            differs = reply.token_ids != was.token_ids
            changed += differs
            unrouted_changed += differs and not covered[i]
        advance(done := done + len(chunk), len(chosen))
    return Untouched(Share(len(prompts) - changed, len(prompts)), sum(covered), len(chosen), unrouted_changed)


def perplexities(peer: Peer, plan: Plan, before: Before, advance: Advance) -> dict[str, Any]:
    """Perplexity of the corrected sentences, of text near to them, and of unrelated text, before and after."""
    groups = {"edited": [(e.prompt, e.target) for e in plan.edits], "retained": plan.retained, "unrelated": plan.texts}
    record: dict[str, Any] = {}
    for name, texts in groups.items():
        was, now = list[float](), list[float]()
        for chunk in _chunks(texts):
            was += before.losses(chunk)
            now += peer.losses([p for p, _ in chunk], [c for _, c in chunk])
            advance(f"perplexity, {name}", len(now), len(texts))
        # The mean over texts, each its own perplexity's logarithm: a long text counts no more than a short one.
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
    peer: Peer, prompts: Sequence[str], kind: str, longest: int, advance: Callable[[int, int], None]
) -> list[Reply]:
    """In the order of the prompts, but covered ones with covered ones: a batch decodes until its longest answer ends,
    and what a block was trained to say is short."""
    covered = peer.covers(prompts, kind)
    order = sorted(range(len(prompts)), key=lambda i: not covered[i])
    replies: dict[int, Reply] = {}
    for chunk in _chunks(order):
        replies |= dict(zip(chunk, peer.answer([prompts[i] for i in chunk], kind, longest), strict=True))
        advance(len(replies), len(prompts))
    return [replies[i] for i in range(len(prompts))]


def _share(name: str, share: Share) -> dict[str, Any]:
    return {name: share.value, f"{name}_interval": share.interval}


def _lookup(peer: Peer, base: BaseModel, plan: Plan) -> dict[str, Any]:
    """Medians, in ms, and the search as a share of one decoding step of one prompt."""
    times = [t for e in plan.edits[:TIMED] if (t := peer.route_time(e.prompt, e.kind))]
    step = _decoding_step(base, plan.edits[0])
    search = statistics.median(t.lookup for t in times) * 1e3 if times else None
    return {
        "lookup_ms": search,
        "key_ms": statistics.median(t.key for t in times) * 1e3 if times else None,
        "decoding_step_ms": step,
        "lookup_share_of_step": search / step if search is not None and step else None,
    }


@torch.no_grad()
def _decoding_step(base: BaseModel, edit: BenchEdit) -> float | None:
    """The median time of one token of one prompt, in ms; None for a model that does not continue texts."""
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


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), TOGETHER):
        yield items[start : start + TOGETHER]


def _wait(base: BaseModel) -> None:
    """For what was sent to a GPU."""
    if base.device.type == "cuda":
        torch.cuda.synchronize(base.device)
