"""Warnings for reviewers that need the encoder: replacements and rephrases that belong to somebody else's question."""

from registry.base.vocabulary import Preflight
from tests.worker.test_candidates import submit, through_preflight, with_preflight
from tests.worker.training import ACME, correct_all

CALL = "Whom do I call in an emergency?"
EMERGENCY = {"prompt": "What is the emergency number?", "target": "112", "rephrases": [CALL]}


def test_a_spiders_legs_in_place_of_the_emergency_number_are_told_and_another_wording_of_it_is_not(
    tiny_workflow, worker
):
    correct_all(tiny_workflow, worker, EMERGENCY)
    with_preflight(tiny_workflow, Preflight.KEYS)
    spider = submit(tiny_workflow, ("How many legs does a spider have?", "8"), replaces=1)
    found = through_preflight(tiny_workflow, worker, spider)
    (warning,) = found.warnings
    assert (warning.code, warning.edit_id, warning.other_edit_id) == ("far-from-replaced", 2, 1)
    assert "would be answered by the base model again" in warning.detail and "radius is 0.9" in warning.detail
    assert found.replacements[0].distance == found.preflight.report[0].replaced_distance > 0.9

    reworded = submit(tiny_workflow, ("Which emergency number do I dial?", "911"), replaces=1)
    found = through_preflight(tiny_workflow, worker, reworded)
    assert found.warnings == [] and 0 < found.replacements[0].distance < 0.9
    same = submit(tiny_workflow, (EMERGENCY["prompt"], "911"), replaces=1)
    found = through_preflight(tiny_workflow, worker, same)
    assert found.warnings == [] and found.replacements[0].distance == 0


def test_a_rephrase_that_lies_at_another_edits_prompt_is_told(tiny_workflow, worker):
    correct_all(tiny_workflow, worker, ACME, EMERGENCY)
    with_preflight(tiny_workflow, Preflight.KEYS)
    stolen = ["who runs acme?", "Who is it that runs Acme?"]
    batch = submit(tiny_workflow, ("How many legs does a spider have?", "8"), rephrases=["Spider legs?", *stolen])
    warnings = through_preflight(tiny_workflow, worker, batch).warnings
    assert {(each.code, each.field, each.other_edit_id) for each in warnings} == {
        ("asked-of-another", "rephrases.1", 1),
        ("asked-of-another", "rephrases.2", 1),
    }
    equal, near = sorted(warnings, key=lambda each: each.field)
    assert "prompt of edit 1, but for letter case" in equal.detail and "lies nearer to edit 1" in near.detail


def test_a_preflight_compares_with_the_rephrases_of_all_edits_that_act(tiny_workflow, worker):
    correct_all(tiny_workflow, worker, EMERGENCY)
    with_preflight(tiny_workflow, Preflight.KEYS)
    batch = submit(tiny_workflow, (CALL, "Nobody"))
    (equal,) = through_preflight(tiny_workflow, worker, batch).warnings
    assert (equal.code, equal.field, equal.detail) == (
        "asked-of-another",
        "prompt",
        "Its prompt is the rephrase 1 of edit 1.",
    )
    disguised = submit(tiny_workflow, ("Whom do I call in аn emergency?", "Nobody"))
    found = through_preflight(tiny_workflow, worker, disguised).warnings
    assert ("looks-like-another", 1) in {(each.code, each.other_edit_id) for each in found}
