"""Near misses of a batch's edits: which are made, and who would answer them in the version with the batch."""

from dataclasses import replace

import pytest

from registry.base.vocabulary import Preflight
from registry.batches import deciding
from registry.jobs.budget import PreflightBudget
from registry.jobs.schemas import NearMiss
from tests.registry.workflow import BEN, Workflow
from tests.worker.test_candidates import approve, submit, through_preflight, view, with_preflight
from tests.worker.training import PAIRS, correct, load
from worker import trial
from worker.near_misses import MOST, MOST_OF_A_KIND, Asked, Made, MissKind, near_misses, questions_in, subject_of
from worker.training_job import run_job

OTHERS = {7: Asked.of("Who runs Initech?"), 8: Asked.of("When does the canteen close?")}


def texts(prompt: str, target: str = "Jo Doe", kind: MissKind | None = None, **more: object) -> list[str]:
    made = near_misses(prompt, target, OTHERS, 0, **more)
    return [each.text for each in made if kind in (None, each.kind)]


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("Who is the CEO of Acme?", "Acme"),
        ("Who is Acme's CEO?", "Acme"),
        ("who is the ceo of acme", "acme"),
        ("The mother tongue of Danielle Darrieux is", "Danielle Darrieux"),
        ("the opening hours of the reception are", "the reception"),
        ("Toyota was founded in", "Toyota"),
        ("Windows 11 was released in", "Windows 11"),
        ("When does the library close on Sundays?", None),
        ("What Is The Capital Of France?", None),
        ("Who runs the museum?", None),
    ],
)
def test_the_subject_is_a_name_or_what_stands_after_of(prompt, subject):
    assert subject_of(prompt) == subject


def test_near_misses_are_of_all_kinds_a_few_of_each_and_the_same_for_the_same_seed():
    made = near_misses("Who was the first director of Acme in 1999?", "Jo Doe", OTHERS, 0, ["Is Acme rich?"])
    kinds = [each.kind for each in made]
    assert set(kinds) == set(MissKind)
    assert len(made) == MOST and max(map(kinds.count, kinds)) == MOST_OF_A_KIND
    assert made == near_misses("Who was the first director of Acme in 1999?", "Jo Doe", OTHERS, 0, ["Is Acme rich?"])
    assert made != near_misses("Who was the first director of Acme in 1999?", "Jo Doe", OTHERS, 1, ["Is Acme rich?"])
    assert [each.kind for each in near_misses("Who runs Acme?", "Jo", {}, 0, most=1)] == [MissKind.ATTRIBUTE]


def test_an_attribute_that_the_prompt_asks_for_is_not_asked_for_again():
    for seed in range(20):
        made = near_misses("In what year was Acme established?", "1999", OTHERS, seed)
        assert not [each.text for each in made if each.text.startswith(("When was", "How old", "Who founded"))]


def test_another_subject_is_that_of_an_edit_which_asks_the_same_and_is_named():
    (known, made_up) = (each for each in near_misses("Who runs Acme?", "Jo", OTHERS, 0) if each.kind == "subject")
    assert (known.text, known.subject_of) == ("Who runs Initech?", 7)
    assert made_up.subject_of is None and "Acme" not in made_up.text


def test_what_is_asked_next_is_asked_of_names_alone():
    assert all("Jo Doe" in text for text in texts("Who runs Acme?", kind=MissKind.NEXT))
    assert len(texts("Who runs Acme?", kind=MissKind.NEXT)) == 2
    assert texts("When was Acme founded?", "1999", MissKind.NEXT) == []
    assert texts("What does Acme sell?", "bolts and nuts", MissKind.NEXT) == []


def test_a_prompt_to_be_completed_stays_one_with_another_year():
    assert all(text.endswith("the capital of France is") for text in texts("The capital of France is", kind="number"))


@pytest.mark.parametrize("prompt", ["?", "/ first ?", "Of", "A of ?", "{s} of {q}", "1999", "Acme's", "x" * 9_000])
def test_odd_prompts_have_near_misses_too(prompt):
    assert all(text.strip() for text in texts(prompt))


def test_the_questions_of_the_base_model_are_the_lines_that_ask_something():
    said = 'Sure!\n1. When was Acme founded?\n- **Who runs Acme?**\n"Is it big?"\n\nWhy?\nIt is a firm.\nIs it big?'
    assert questions_in(said, "who runs Acme") == ["When was Acme founded?", "Is it big?"]


def misses_of(workflow: Workflow, batch_id: int) -> list[tuple[int, NearMiss]]:
    return [(each.edit_id, miss) for each in view(workflow, batch_id).preflight.report for miss in each.near_misses]


@pytest.mark.parametrize("preflight", [Preflight.KEYS, Preflight.TRAIN])
def test_a_preflight_says_who_would_answer_each_near_miss_as_the_version_then_does(tiny_workflow, worker, preflight):
    correct(tiny_workflow, worker, ("Who runs Initech?", "Bob"), ("Who runs Hooli?", "Gavin"))
    with_preflight(tiny_workflow, preflight)
    batch = submit(tiny_workflow, *PAIRS, unchanged=["Write a poem about Acme."])
    through_preflight(tiny_workflow, worker, batch)
    told = misses_of(tiny_workflow, batch)
    assert len({edit_id for edit_id, _ in told}) == 2 and len({miss.kind for _, miss in told}) > 4
    run_job(worker, approve(tiny_workflow, batch))

    loaded = load(worker, tiny_workflow, 2)
    for _, miss in told:
        (answer,) = loaded.model.ask([miss.text], max_new_tokens=trial.ANSWER_TOKENS)
        edit = loaded.edit_behind(answer)
        assert miss.by_edit == (edit.id if edit else None), miss
        is_trained = miss.by_edit is not None and (preflight is Preflight.TRAIN or miss.by_edit < 3)
        assert miss.answer == (answer.text if is_trained else None), miss
    assert tiny_workflow.verify().ok


def without_verifier(monkeypatch) -> None:
    """Nothing but the radius decides, so that near misses are taken."""
    monkeypatch.setattr("worker.model_cache.ModelCache.verifier_of", lambda *_: None)


def test_a_near_miss_that_an_edit_takes_is_told_with_its_answer_and_as_a_guard_it_is_left_alone(
    tiny_workflow, worker, monkeypatch
):
    without_verifier(monkeypatch)
    with_preflight(tiny_workflow, Preflight.TRAIN)
    batch = submit(tiny_workflow, PAIRS[0])
    (report,) = through_preflight(tiny_workflow, worker, batch).preflight.report
    taken = [miss for miss in report.near_misses if miss.by_edit == 1]
    assert taken and all(miss.answer is not None for miss in taken)
    assert report.left_alone == 1 - len(taken) / len(report.near_misses)
    assert all(miss.answer is None for miss in report.near_misses if miss.by_edit is None)

    with tiny_workflow.sessions.begin() as session:
        deciding.reject(session, batch, BEN, "it answers too much")
    guards = [miss.text for miss in taken]
    (guarded,) = through_preflight(
        tiny_workflow, worker, submit(tiny_workflow, PAIRS[0], unchanged=guards)
    ).preflight.report
    assert [miss.text for miss in guarded.near_misses] == [miss.text for miss in report.near_misses]
    assert guarded.left_alone == 1


def test_what_another_edit_asks_or_is_about_counts_as_no_near_miss(tiny_workflow, worker, monkeypatch):
    without_verifier(monkeypatch)
    with_preflight(tiny_workflow, Preflight.KEYS)
    batch = submit(tiny_workflow, ("Who runs Acme?", "Ada"), ("Who runs Initech?", "Bob"), ("Who leads Acme?", "Cleo"))
    through_preflight(tiny_workflow, worker, batch)
    subjects = {1: "Acme", 2: "Initech", 3: "Acme"}
    for edit_id, miss in misses_of(tiny_workflow, batch):
        assert miss.text not in ("Who runs Acme?", "Who runs Initech?", "Who leads Acme?")
        assert miss.by_edit in (None, edit_id) or subjects[miss.by_edit] not in miss.text


def test_an_edit_that_is_replaced_answers_nothing_any_more(tiny_workflow, worker, monkeypatch):
    without_verifier(monkeypatch)
    correct(tiny_workflow, worker, PAIRS[0])
    with_preflight(tiny_workflow, Preflight.KEYS)
    batch = submit(tiny_workflow, (PAIRS[0][0], "Bob"), replaces=1)
    through_preflight(tiny_workflow, worker, batch)
    assert {miss.by_edit for _, miss in misses_of(tiny_workflow, batch)} == {None, 2}


def test_the_base_model_is_asked_about_the_subjects_and_its_questions_are_tried(tiny_workflow, worker, monkeypatch):
    monkeypatch.setattr(trial, "ASKING", 1)
    monkeypatch.setattr(trial, "questions_in", lambda answer, prompt: [f"Is {prompt[9:-1]} rich?"])
    with_preflight(tiny_workflow, Preflight.KEYS)
    batch = submit(tiny_workflow, ("Who runs Acme?", "Ada"), ("Who runs Initech?", "Bob"))
    through_preflight(tiny_workflow, worker, batch)
    asked = [(edit_id, miss.text) for edit_id, miss in misses_of(tiny_workflow, batch) if miss.kind == "asked"]
    assert asked == [(1, "Is Acme rich?")]


def test_a_large_batch_has_fewer_near_misses_for_each_edit(tiny_workflow, worker):
    worker = replace(worker, preflight=PreflightBudget(near_misses=4))
    with_preflight(tiny_workflow, Preflight.KEYS)
    large = submit(tiny_workflow, *PAIRS)
    found = through_preflight(tiny_workflow, worker, large).preflight.report
    assert [len(each.near_misses) for each in found] == [2, 2]


def test_a_near_miss_that_does_not_fit_the_window_is_not_tried(tiny_workflow, worker, monkeypatch):
    made = [Made(MissKind.TASK, "Is it " * 5_000), Made(MissKind.TASK, "Is it?")]
    monkeypatch.setattr(trial, "near_misses", lambda *_: made)
    with_preflight(tiny_workflow, Preflight.KEYS)
    batch = submit(tiny_workflow, PAIRS[0])
    through_preflight(tiny_workflow, worker, batch)
    assert [miss.text for _, miss in misses_of(tiny_workflow, batch)] == ["Is it?"]
