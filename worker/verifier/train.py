"""Training of a verifier: MiniLM as a cross-encoder over pairs of questions, its embeddings frozen."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from melo_core.errors import MeloError
from melo_core.rules import difference
from melo_core.verifier import EMBEDDINGS, Verifier, embeddings_digest, pair, read_weights, untrained
from melo_core.verifier_files import WEIGHTS
from worker.verifier.sources import Pair, Sources

WINDOW = 128  # tokens of a pair in training
CHECKPOINT = 1_000  # steps
HALF = torch.cpu._is_avx512_bf16_supported()  # no public name; emulated, it takes 20 times as long
POOL = 40  # batches drawn together and sorted by length, so that there is little padding


@dataclass(frozen=True)
class Plan:
    """The settings for training a verifier."""

    steps: int = 4000
    batch: int = 32  # pairs
    learning_rate: float = 1e-4
    head_rate: float = 1e-3
    warm_up: int = 150  # steps
    smoothing: float = 0.02  # of labels, some of which are wrong
    averaging: float = 0.998  # per step, of the moving mean of the weights, which is the released model
    seed: int = 0


def train(
    sources: Sources,
    encoder: Path,
    plan: Plan,
    start: Path | None,
    on_step: Callable[[int, float], None],
    on_checkpoint: Callable[[PreTrainedModel], None],
) -> PreTrainedModel:
    """Train on pairs drawn from the sources. start: the weights to continue from; None: the encoder's own.

    on_step: called with the step and the running loss. on_checkpoint: called with the model after every thousand steps,
    so that an interrupted training is not lost. The same seed, data and machine give the same weights.
    """
    torch.manual_seed(plan.seed)
    random = Random(plan.seed)
    model = untrained(encoder) if start is None else Verifier.load(start, encoder).model.requires_grad_(True)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model.train()
    parts: dict[bool, list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if name.startswith(EMBEDDINGS):
            parameter.requires_grad_(False)
        else:
            parts[name.startswith("classifier")].append(parameter)
    rates = [(parts[False], plan.learning_rate), (parts[True], plan.head_rate)]
    optimizer = torch.optim.AdamW([{"params": p, "lr": rate} for p, rate in rates], weight_decay=0.01, fused=True)
    mean = AveragedModel(
        model,
        multi_avg_fn=get_ema_multi_avg_fn(plan.averaging),  # type: ignore[no-untyped-call]
    )

    def averaged() -> PreTrainedModel:
        """Return the averaged model with original embeddings: averaging turns -0.0 into 0.0, changing their digest."""
        found = cast(PreTrainedModel, mean.module)
        found.load_state_dict({k: v for k, v in model.state_dict().items() if k.startswith(EMBEDDINGS)}, strict=False)
        return found

    pool: list[list[Pair]] = []
    running = math.log(2)
    for step in range(plan.steps):
        share = min(1, (step + 1) / plan.warm_up) * (0.02 + 0.98 * (1 - step / plan.steps))
        for group, (_, rate) in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        if not pool:
            drawn = sorted(
                (sources.draw(random) for _ in range(plan.batch * POOL)), key=lambda p: len(p[0]) + len(p[1])
            )
            pool = [drawn[i : i + plan.batch] for i in range(0, len(drawn), plan.batch)]
            random.shuffle(pool)
        pairs = pool.pop()
        with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
            logits = model(**padded(tokenizer, pairs)).logits[:, 0]
        wanted = torch.tensor([float(same) for _, _, same in pairs])
        wanted = wanted * (1 - 2 * plan.smoothing) + plan.smoothing
        loss = F.binary_cross_entropy_with_logits(logits.float(), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean.update_parameters(model)
        running += 0.02 * (loss.item() - running)
        on_step(step + 1, running)
        if (step + 1) % CHECKPOINT == 0:
            on_checkpoint(averaged())
    averaged().train(False)
    return averaged()


def padded(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    rows = [pair(tokenizer, edit, query, WINDOW) for edit, query, _ in pairs]
    longest = max(len(row["input_ids"]) for row in rows)
    return {
        name: torch.tensor([row[name] + [0] * (longest - len(row[name])) for row in rows])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write the trained weights, in half precision; the embeddings remain the encoder's, referred to by digest."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(EMBEDDINGS)}
    _write(trained, embeddings_digest(model), folder)


def save_mean(verifiers: Sequence[Path], folder: Path) -> None:
    """Write the mean of the weights of trained verifiers (a model soup, arXiv 2203.05482). Raises MeloError."""
    read = [read_weights(verifier / WEIGHTS) for verifier in verifiers]
    (first, embeddings), *others = read
    for verifier, (weights, digest) in zip(verifiers[1:], others, strict=True):
        if digest != embeddings or weights.keys() != first.keys():
            raise MeloError(f"{verifier} was not trained on the embeddings of {verifiers[0]}, so they have no mean")
    mean = {name: torch.stack([weights[name].float() for weights, _ in read]).mean(0) for name in first}
    folder.mkdir(parents=True, exist_ok=True)
    _write(mean, embeddings, folder)


def _write(weights: dict[str, Tensor], embeddings: str, folder: Path) -> None:
    halves = {name: tensor.to(torch.float16).contiguous() for name, tensor in weights.items()}
    save_file(halves, folder / WEIGHTS, metadata={"embeddings": embeddings})


def measure(verifier: Verifier, records: Sequence[dict[str, Any]], threshold: float) -> dict[str, dict[str, Any]]:
    """Return, by kind, the number of pairs and of those taken for the same question, without and with the rules."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        kind = ("same: " if record["same"] else "near: ") + f"{record['kind']} ({record['source']})"
        counts = found.setdefault(kind, {"n": 0, "verifier": 0, "accepted": 0})
        takes = verifier.score(record["edit"], record["query"]) <= threshold
        counts["n"] += 1
        counts["verifier"] += takes
        counts["accepted"] += takes and difference(record["edit"], record["query"]) is None
    return dict(sorted(found.items()))


def card(sources: Sources, plan: Plan, measured: dict[str, dict[str, Any]], encoder: str) -> str:
    """Return the model card: description, training data with licences, and measurements."""
    rows = [f"| {s.file} | {s.source} | {s.licence} | {s.records:,} |" for s in sources.sets]
    shown = [
        f"| {kind} | {c['n']} | {c['verifier'] / c['n']:.3f} | {c['accepted'] / c['n']:.3f} |"
        for kind, c in measured.items()
    ]
    return "\n".join(
        [
            "# Scope verifier",
            "",
            "Reads the prompt of an edit and a query together, and says whether they ask the same. A cross-encoder:",
            f"the layers of {encoder}, trained on; its embeddings are frozen and not stored again.",
            "",
            f"Trained with `melo verifier train`: {json.dumps(vars(plan))}",
            "",
            "| file | source | licence | records |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "Accepted as the same question, of every tenth prompt of the public pairs, which training has not seen:",
            "",
            "| kind | pairs | verifier | with the word rules |",
            "| --- | --- | --- | --- |",
            *shown,
            "",
        ]
    )
