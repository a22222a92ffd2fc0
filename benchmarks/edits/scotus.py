"""The classifier whose errors are corrected: MiniLM, fine-tuned on the Supreme Court's cases of earlier terms."""

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from benchmarks.edits.data import BenchEdit, Case
from melo_core.base_model import BaseModel, load_base_model, save_model
from melo_core.errors import MeloError

TRAINED_BEFORE = 1990
TOKENS = 128  # of a case's facts
TRAINED_LAYERS = 2  # the others are frozen, and their output is computed once
EPOCHS = 6
TOGETHER = 16
OWN_TEXTS = 400  # of the earlier cases, on which keys are whitened
RECIPE = 1  # to be incremented with changes to the code below: a cached classifier of another recipe is not used


def load_classifier(
    encoder: Path, cases: Sequence[Case], cache: Path, device: torch.device, advance: Callable[[int, int], None]
) -> BaseModel:
    """Return the classifier, trained once on a machine and kept in `cache`."""
    earlier = [case for case in cases if case.year < TRAINED_BEFORE]
    if not earlier:
        raise MeloError(f"no case is from a term before {TRAINED_BEFORE}: nothing to train the classifier on")
    name = hashlib.sha256(repr((RECIPE, EPOCHS, TOKENS, TRAINED_LAYERS, earlier)).encode()).hexdigest()[:16]
    folder = cache / "classifiers" / f"scotus-{name}"
    if not folder.is_dir():
        _train(encoder, earlier, sorted({case.issue for case in cases}), folder, advance)
    return load_base_model(folder, device=device)


def shortened(base: BaseModel, text: str) -> str:
    """Return the first words of a text, as many as the classifier was trained on."""
    marks = base.tokenizer(text, truncation=True, max_length=TOKENS, return_offsets_mapping=True)["offset_mapping"]
    return text[: max(end for _, end in marks)]


def own_texts(base: BaseModel, cases: Sequence[Case]) -> list[str]:
    """Draw texts of the earlier cases at random: what an organisation has before it corrects anything."""
    earlier = sorted({shortened(base, case.text) for case in cases if case.year < TRAINED_BEFORE})
    return random.Random(0).sample(earlier, min(OWN_TEXTS, len(earlier)))


def later_errors(
    base: BaseModel, cases: Sequence[Case], predict: Callable[[Sequence[str]], list[str]], limit: int
) -> tuple[list[BenchEdit], list[str]]:
    """Return edits for the first `limit` errors among later terms, in order, and all other later cases, held out."""
    later = sorted((case for case in cases if case.year >= TRAINED_BEFORE), key=lambda case: case.year)
    texts = list({shortened(base, case.text): case.issue for case in later}.items())
    predicted = predict([text for text, _ in texts])
    wrong = [(text, issue) for (text, issue), said in zip(texts, predicted, strict=True) if said != issue][:limit]
    edited = {text for text, _ in wrong}
    edits = [BenchEdit(text, issue, "", kind="classification") for text, issue in wrong]
    return edits, [text for text, _ in texts if text not in edited]


def _train(
    encoder: Path, cases: Sequence[Case], issues: Sequence[str], folder: Path, advance: Callable[[int, int], None]
) -> None:
    """Train the last layers, the pooler and the output layer with Adam."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(
        encoder, id2label=dict(enumerate(issues)), label2id={issue: i for i, issue in enumerate(issues)}
    )
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # silence the warning that the output layer is new
    model = AutoModelForSequenceClassification.from_pretrained(encoder, config=config, dtype=torch.float32)
    logging.set_verbosity(loud)
    model.requires_grad_(False)
    bert = model.bert
    trained = torch.nn.ModuleList([*bert.encoder.layer[-TRAINED_LAYERS:], bert.pooler, model.classifier])
    parameters = list(trained.requires_grad_().parameters())
    steps = EPOCHS * -(-len(cases) // TOGETHER)
    total = steps + -(-len(cases) // TOGETHER)
    frozen, done = [], 0
    order = sorted(range(len(cases)), key=lambda i: len(cases[i].text))
    for start in range(0, len(order), TOGETHER):
        part = [cases[i] for i in order[start : start + TOGETHER]]
        tokens = tokenizer(
            [case.text for case in part], truncation=True, max_length=TOKENS, padding=True, return_tensors="pt"
        )
        with torch.no_grad():
            states = bert(**tokens, output_hidden_states=True).hidden_states[-1 - TRAINED_LAYERS]
        labels = torch.tensor([config.label2id[case.issue] for case in part])
        frozen.append((states, tokens["attention_mask"], labels))
        advance(done := done + 1, total)
    adam = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.05, steps)
    shuffled = random.Random(0)
    model.train()
    for _ in range(EPOCHS):
        shuffled.shuffle(frozen)
        for states, mask, labels in frozen:
            hidden = states
            visible = torch.where(mask[:, None, None, :].bool(), 0.0, torch.finfo(torch.float32).min)
            for layer in bert.encoder.layer[-TRAINED_LAYERS:]:
                out = layer(hidden, visible)
                hidden = out if isinstance(out, torch.Tensor) else out[0]
            logits = model.classifier(model.dropout(bert.pooler(hidden)))
            loss = F.cross_entropy(logits, labels)
            adam.zero_grad()
            torch.autograd.backward(loss, inputs=parameters)
            adam.step()
            rate.step()
            advance(done := done + 1, total)
    model.eval()
    save_model(model, tokenizer, folder)
