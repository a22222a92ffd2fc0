"""Work that nobody has approved: it has a budget, and a rejection or a cancellation ends it in the midst of a step."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
from torch import nn

from registry.base.vocabulary import Preflight
from registry.batches import deciding
from registry.batches.training import Training
from registry.collections import policy
from registry.collections.schemas import PolicyChange
from registry.jobs.budget import PreflightBudget, steps_of
from tests.melo_core.conftest import tiny_tokenizer
from tests.patience import until
from tests.registry.workflow import ADA, BEN
from tests.worker.test_candidates import approve, submit, through_preflight, view, with_preflight
from tests.worker.training import PAIRS
from worker import training_job
from worker.training_job import run_job
from worker.watch import Watch
from worker.watch import kept as keep

LONG = "Who runs Acme? " + "and why is that so " * 6


@dataclass
class Midst:
    """A decision in the midst of a stage of a job: `act` is called in the work of a model's layer."""

    stage: str = ""
    act: Callable[[], None] | None = None
    watch: Watch | None = None
    layers_after: int = 0  # that worked on after the worker knew of the decision

    def layer_done(self, module: nn.Module, given: object, result: object) -> None:
        if self.watch is None or self.watch.progress.stage != self.stage:
            return
        if self.watch.lost.is_set():
            self.layers_after += 1
        elif self.act is not None and isinstance(module, nn.Linear):
            act, self.act = self.act, None
            act()
            until(self.watch.lost.is_set)


@pytest.fixture
def midst(monkeypatch) -> Iterator[Midst]:
    found, mine = Midst(), threading.get_ident()

    @contextmanager
    def kept(*given):
        with keep(*given) as watches:
            (found.watch,) = watches
            yield watches

    def done(*given):
        if threading.get_ident() == mine:
            found.layer_done(*given)

    monkeypatch.setattr(training_job, "kept", kept)
    hook = nn.modules.module.register_module_forward_hook(done)
    yield found
    hook.remove()


@pytest.mark.parametrize("stage", ["scope", "ask", "train", "near misses"])
def test_a_rejection_ends_a_preflight_before_the_next_layer_of_the_model(tiny_workflow, worker, midst, stage):
    with_preflight(tiny_workflow, Preflight.TRAIN)
    batch = submit(tiny_workflow, (LONG, "Ada"), PAIRS[1])

    def reject():
        with tiny_workflow.sessions.begin() as session:
            deciding.reject(session, batch, BEN, "far too long")

    midst.stage, midst.act = stage, reject
    run_job(replace(worker, lease_seconds=0.4), view(tiny_workflow, batch).preflight.id)
    assert midst.act is None  # it was at that stage
    assert midst.layers_after == 0 and midst.watch.outcome == "cancelled"
    found = view(tiny_workflow, batch)
    assert (found.state, found.preflight.state, found.preflight.report) == ("rejected", "cancelled", None)
    assert tiny_workflow.verify().ok

    again = submit(tiny_workflow, PAIRS[0])  # the model is as it was
    through_preflight(tiny_workflow, worker, again)


def test_a_cancellation_ends_a_training_before_the_next_layer_of_the_model(tiny_workflow, worker, midst):
    batch = submit(tiny_workflow, *PAIRS)
    job = approve(tiny_workflow, batch)
    midst.stage, midst.act = "train", lambda: tiny_workflow.cancel(batch)
    run_job(replace(worker, lease_seconds=0.4), job)
    assert midst.act is None and midst.layers_after == 0 and midst.watch.outcome == "cancelled"
    assert view(tiny_workflow, batch).state == "cancelled"


def test_a_preflight_that_takes_longer_than_its_budget_fails_and_hinders_nobody(tiny_workflow, worker, midst):
    with_preflight(tiny_workflow, Preflight.KEYS)
    batch = submit(tiny_workflow, *PAIRS)
    hurried = replace(worker, preflight=PreflightBudget(seconds=1e-6))
    run_job(hurried, view(tiny_workflow, batch).preflight.id)
    found = view(tiny_workflow, batch).preflight
    assert found.state == "failed" and "MELO_PREFLIGHT_SECONDS" in found.error and "anybody has approved" in found.error
    run_job(hurried, approve(tiny_workflow, batch))  # what is approved has the time of a job
    assert view(tiny_workflow, batch).state == "applied"


@pytest.mark.parametrize("training", [{"iterations": 1_000_000, "rounds": 1_000_000}, {"rounds": 8}])
def test_a_training_beyond_the_budget_waits_for_the_approval(tiny_workflow, worker, training):
    with_preflight(tiny_workflow, Preflight.TRAIN)
    batch = tiny_workflow.submit({"prompt": PAIRS[0][0], "target": "Ada"}, training=Training(changes=training)).batch.id
    found = through_preflight(tiny_workflow, worker, batch).preflight
    assert [each.trained for each in found.report] == [None]
    assert any("not trained before the approval" in note and "10,000" in note for note in found.progress.notes)
    assert through_preflight(tiny_workflow, worker, submit(tiny_workflow, PAIRS[1])).preflight.report[0].trained


def test_a_policy_lowers_the_budget_and_never_raises_it(tiny_workflow, worker):
    with_preflight(tiny_workflow, Preflight.TRAIN)

    def limited(**limits: int) -> list[str]:
        with tiny_workflow.open() as (session, collection):
            change = PolicyChange(preflight_limits=limits, reason="they held the worker")
            policy.change(session, collection, change, ADA)
        batch = submit(tiny_workflow, PAIRS[0])
        notes = through_preflight(tiny_workflow, worker, batch).preflight.progress.notes
        with tiny_workflow.sessions.begin() as session:
            deciding.reject(session, batch, BEN, "the next one")
        return notes

    assert any("may take 10" in note for note in limited(steps=10))
    assert any("near misses are not tried" in note for note in limited(tokens=30))
    assert tiny_workflow.verify().ok
    assert not any("not t" in note for note in limited())
    worker = replace(worker, preflight=PreflightBudget(steps=10))
    assert any("may take 10" in note for note in limited(steps=100_000))


def test_a_long_prompt_has_near_misses_within_the_tokens_and_takes_none_from_the_others(tiny_workflow, worker):
    with_preflight(tiny_workflow, Preflight.KEYS)
    batch = submit(tiny_workflow, (LONG, "Ada"), ("Who runs Initech?", "Bob"))
    few = replace(worker, preflight=PreflightBudget(tokens=200))
    found = through_preflight(tiny_workflow, few, batch).preflight
    read = tiny_tokenizer()
    lengths = [[len(read(miss.text)["input_ids"]) for miss in each.near_misses] for each in found.report]
    assert all(lengths) and sum(map(sum, lengths)) <= 200
    assert any("200 tokens" in note for note in found.progress.notes)


def test_the_steps_of_a_block_double_with_every_round():
    assert steps_of({"iterations": 80, "rounds": 3}) == 80 + 160 + 320
    assert steps_of({"iterations": 1_000_000, "rounds": 1_000_000}) > 10**24
