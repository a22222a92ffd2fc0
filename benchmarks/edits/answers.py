"""Comparison of answers with the unedited model's: which stayed the same, and which an edit broke."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.edits.figures import Share, matches, plain
from benchmarks.edits.peers import Peer, Reply
from benchmarks.edits.peers.unedited import Unedited

TOGETHER = 16  # prompts in a batch
LONGEST_COMPARED = 16  # tokens of an answer that must stay the same
PROOF = 50  # unrouted prompts that are asked all the same
UNSCOPED = 208  # prompts asked of a method that covers every prompt
EXAMPLES = 10  # broken answers shown in a record


@dataclass
class Before:
    """The unedited model's answers, each asked once and in the batch in which it will be asked again.

    The composition of a batch affects the last bits of a model's output, so equal batches are compared.
    """

    unedited: Unedited
    kind: str
    _replies: dict[tuple[str, ...], list[Reply]] = field(default_factory=dict)
    _losses: dict[tuple[tuple[str, str], ...], list[float]] = field(default_factory=dict)

    def replies(self, prompts: Sequence[str]) -> list[Reply]:
        """Return the replies to one batch."""
        if (key := tuple(prompts)) not in self._replies:
            self._replies[key] = self.unedited.answer(prompts, self.kind, LONGEST_COMPARED)
        return self._replies[key]

    def losses(self, texts: Sequence[tuple[str, str]]) -> list[float]:
        """Return the losses of one batch."""
        if (key := tuple(texts)) not in self._losses:
            self._losses[key] = self.unedited.losses([p for p, _ in texts], [c for _, c in texts])
        return self._losses[key]


@dataclass(frozen=True)
class Batch:
    """Prompts that were asked together, and their answers of at most `longest` tokens."""

    prompts: Sequence[str]
    replies: Sequence[Reply]
    longest: int


@dataclass(frozen=True)
class Untouched:
    """Prompts answered as by the unedited model."""

    share: Share
    routed: int  # prompts that an edit wrongly covered
    compared: int  # prompts whose answers were generated and compared, token for token
    unrouted_changed: int  # must be 0: nothing but routing may change an answer
    batches: Sequence[Batch]  # everything that was generated


def untouched(peer: Peer, prompts: Sequence[str], before: Before, advance: Callable[[int, int], None]) -> Untouched:
    """Compare answers with the unedited model's, token for token.

    A prompt that no edit covers is answered by the unedited model by construction, so only a random sample of those is
    generated, in batches with the covered ones: enough to confirm it.
    """
    covered = peer.covers(prompts, before.kind)
    if all(covered):  # nothing is known by construction, so all would be generated: a sample tells as much
        prompts, covered = prompts[:UNSCOPED], covered[:UNSCOPED]
    drawn = random.Random(0)
    uncovered = [i for i, flag in enumerate(covered) if not flag]
    chosen = [i for i, flag in enumerate(covered) if flag] + drawn.sample(uncovered, min(len(uncovered), PROOF))
    drawn.shuffle(chosen)  # so that batches are mixed
    batches = list[Batch]()
    changed = unrouted_changed = done = 0
    for chunk in chunks(chosen):
        asked = [prompts[i] for i in chunk]
        batches.append(Batch(asked, peer.answer(asked, before.kind, LONGEST_COMPARED), LONGEST_COMPARED))
        for i, reply, was in zip(chunk, batches[-1].replies, before.replies(asked), strict=True):
            differs = _differs(reply, was)
            changed += differs
            unrouted_changed += differs and not covered[i]
        advance(done := done + len(chunk), len(chosen))
    share = Share(len(prompts) - changed, len(prompts))
    return Untouched(share, sum(covered), len(chosen), unrouted_changed, batches)


def broken_answers(
    peer: Peer, targets: Sequence[str], batches: Sequence[Batch], before: Before
) -> dict[str, Any] | None:
    """Find the answers to covered prompts that are neither the covering edit's target nor the unedited model's.

    targets: of the edits, in order of arrival. batches: asked in the form `before.kind`. The result is a JSON object;
    None for a method that cannot tell which edit covers a prompt.
    """
    covered, broken = 0, list[dict[str, str]]()
    for batch in batches:
        edits = peer.covering(batch.prompts, before.kind)
        if edits is None:
            return None
        covered += sum(edit is not None for edit in edits)
        missed = [
            (i, targets[edit])
            for i, edit in enumerate(edits)
            if edit is not None and not _says(batch.replies[i], targets[edit], batch.longest)
        ]
        was = before.replies(batch.prompts) if missed else []
        broken += [
            {"prompt": batch.prompts[i], "answer": batch.replies[i].text, "target": target}
            for i, target in missed
            if _differs(batch.replies[i], was[i])
        ]
    return {"count": len(broken), "of_covered": covered, "examples": broken[:EXAMPLES]}


def chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield items `TOGETHER` at a time."""
    for start in range(0, len(items), TOGETHER):
        yield items[start : start + TOGETHER]


def _differs(reply: Reply, was: Reply) -> bool:
    return reply.token_ids[:LONGEST_COMPARED] != was.token_ids[:LONGEST_COMPARED]


def _says(reply: Reply, target: str, longest: int) -> bool:
    """Tell whether a reply exactly matches the target, or the beginning of one longer than the generated text."""
    if len(reply.token_ids) < longest or not plain(reply.text):
        return matches(reply.text, target)
    return plain(target).startswith(plain(reply.text))
