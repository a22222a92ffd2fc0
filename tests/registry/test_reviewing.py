"""What a reviewer sees of a batch: what it replaces, what its texts hide, how the policy was changed for it."""

import json

import pytest

from registry.base.look_alikes import borrowed_in, unseen_in
from registry.base.vocabulary import Preflight
from registry.batches import deciding
from registry.edits.schemas import EditWarning
from registry.erasure.scrubbing import GONE, Erasing, scrubbed
from registry.jobs.schemas import EditPreflight
from tests.registry.test_approvals import BEN, OSLO, PARIS, approve, change, view
from tests.registry.test_left_alone import melo  # noqa: F401  # the fixture

EMERGENCY = ("What is the emergency number?", "112")
SPIDER = {"prompt": "How many legs does a spider have?", "target": "8"}


def warned(workflow, *records, **options) -> list[EditWarning]:
    batch = workflow.submit(*records, **options).batch
    return view(workflow, batch.id).warnings


def told(warnings: list[EditWarning]) -> list[tuple[str, int | None]]:
    return [(warning.code, warning.other_edit_id) for warning in warnings]


def test_a_replacement_is_shown_with_what_it_replaces_wherever_a_reviewer_looks(workflow, melo):  # noqa: F811
    workflow.correct(EMERGENCY)
    batch = workflow.submit(SPIDER | {"replaces": 1, "rephrases": ["Spider legs: how many?"]}, OSLO).batch.id
    found = view(workflow, batch)
    (each,) = found.replacements
    assert (each.edit_id, each.replaced_id, each.same_prompt, found.replacement_count) == (2, 1, False, 1)
    assert (each.prompt, each.target) == (SPIDER["prompt"], "8")
    assert (each.replaced_prompt, each.replaced_target) == EMERGENCY

    shown = melo("batch", "show", batch)
    assert EMERGENCY[0] in shown and "112" in shown and "or: Spider legs: how many?" in shown
    assert json.loads(melo("batch", "show", batch, "--json"))["replacements"][0]["replaced_target"] == "112"
    change(workflow, preflight=Preflight.KEYS)
    again = workflow.submit(SPIDER | {"prompt": "Spider legs?", "replaces": 1}).batch.id
    with pytest.raises(Exception, match="not been tried yet"):
        melo("batch", "review", again)  # it has shown them by then
    assert "112" in melo("batch", "show", again)


def test_what_on_conflict_replace_replaces_is_shown_too_with_all_that_a_large_batch_replaces(workflow):
    workflow.correct(("What is the capital of France?", "Lyon"))
    edits = [{"prompt": f"Question {n}?", "target": "x"} for n in range(1_000)]
    batch = workflow.submit(*edits, PARIS, on_conflict="replace").batch.id  # it is not among the first thousand
    found = view(workflow, batch)
    assert len(found.edits) == 1_000 and found.replacement_count == 1
    assert [(each.replaced_target, each.same_prompt) for each in found.replacements] == [("Lyon", True)]


def test_a_rephrase_that_is_asked_of_another_edit_is_told(workflow):
    workflow.correct(("Who leads Rome?", "Caesar"))
    stolen = warned(workflow, PARIS | {"rephrases": ["Which city?", " Who leads Rome? "]})
    assert told(stolen) == [("asked-of-another", 1)]
    assert stolen[0].detail == "Its rephrase 2 is the prompt of edit 1." and stolen[0].field == "rephrases.1"

    together = warned(workflow, OSLO, {"prompt": "Who?", "target": "Jo", "rephrases": [OSLO["prompt"]]})
    assert told(together) == [("asked-of-another", 4), ("asked-of-another", 3)]  # either may be meant
    waiting = warned(workflow, {"prompt": "Where?", "target": "There", "rephrases": [PARIS["prompt"]]})
    assert told(waiting) == [("asked-of-another", 2)]  # of a batch that waits
    assert warned(workflow, {"prompt": "Which?", "target": "That one", "rephrases": ["Which one?"]}) == []


def test_texts_that_only_look_like_anothers_are_told(workflow):
    first = {"prompt": "Who leads Rome?", "target": "Caesar"}
    found = warned(
        workflow,
        first,
        first | {"prompt": "Who leads Rоme?"},  # a Cyrillic о
        first | {"prompt": "Who leads\u200b Rome?", "target": "Cаesar"},
        first | {"prompt": "\u202eWho leads Rome?"},
    )
    codes = {(warning.edit_id, warning.code, warning.field) for warning in found}
    assert {(2, "look-alike-letters", "prompt"), (3, "hidden-characters", "prompt")} <= codes
    assert {(4, "hidden-characters", "prompt"), (3, "look-alike-letters", "target")} <= codes
    assert {(each, "looks-like-another", "prompt") for each in (1, 2, 3, 4)} <= codes
    assert (3, "looks-like-another", "target") in codes
    assert not any("Rome" in warning.detail or "Rоme" in warning.detail for warning in found)  # it stays erasable
    assert any("U+043E CYRILLIC SMALL LETTER O" in warning.detail for warning in found)
    assert any("U+202E RIGHT-TO-LEFT OVERRIDE" in warning.detail for warning in found)


@pytest.mark.parametrize(
    ("text", "hidden", "borrowed"),
    [
        ("Who leads Rome?", [], []),
        ("Quién? Où? Łódź, Çeşme, groß, naïve", [], []),
        ("Кто правит Римом?", [], []),
        ("Ποιος κυβερνά τη Ρώμη;", [], []),
        ("日本の首都はどこですか?", [], []),
        ("می‌خواهم بدانم", [], []),
        ("A family: 👩‍👩‍👧 and a heart ❤️", [], []),
        ("β-blockers, Δx, 10 μm, Hawaiʻi, m²", [], []),
        ("a\u200bb\u00add\u2060", ["\u200b", "\u00ad", "\u2060"], []),
        ("x\u2066y\u200e\ufeffz\U000e0041", ["\u2066", "\u200e", "\ufeff", "\U000e0041"], []),
        ("a\u3164b\ufe0f", ["\u3164", "\ufe0f"], []),
        ("What is раура?", [], ["раура"]),
        ("Ｐay 𝐁en: Αpple, мoсква", [], ["Ｐay", "𝐁en", "Αpple", "мoсква"]),
        ("Bruɡes, Pɑris, Rᴏme", [], ["Bruɡes", "Pɑris", "Rᴏme"]),
        ("paypal․com/a∕b：80", [], ["․", "∕", "："]),
        ("a–b, x’s, “q”, 3 × 4 − 1, 10 000 €, a…b", [], []),
        ("Что сказал Tim Cook о новом Apple?", [], []),
        ("Diyarbakır, İzmir, œuvre, Straße, đường", [], []),
        ("i\u0307n, ı\u0307, cafe\u0301\u0301", ["\u0307", "\u0301"], []),
        ("a\u2800b\u2065c\u200ad\ufffce\ue000f\U000e0fffg", [*"\u2800\u2065\u200a\ufffc\ue000\U000e0fff"], []),
    ],
)
def test_ordinary_writing_is_no_disguise(text, hidden, borrowed):
    assert (unseen_in(text), borrowed_in(text)) == (hidden, borrowed)


def test_a_word_that_is_borrowed_as_a_whole_is_told_by_what_is_read_with_it():
    assert borrowed_in("раура", "Which firm?") == ["раура"] and borrowed_in("１１２", "Which number?") == ["１１２"]
    assert borrowed_in("раура", "Какая фирма?") == borrowed_in("кот или раура", "Which?") == []


def test_whatever_a_reviewer_reads_of_an_edit_is_looked_at(workflow):
    texts = {
        "alternatives": ["Ｊo"],
        "unchanged": ["Whо?"],
        "author": "a\u200bda",
        "reason": "it wаs",
        "source": "ww․w",
    }
    found = warned(workflow, {"prompt": "Who leads Rome?", "target": "Jo"} | texts)
    assert [(each.code, each.field) for each in found] == [
        ("hidden-characters", "author"),
        *(("look-alike-letters", field) for field in ("alternatives.0", "unchanged.0", "reason", "source")),
    ]
    assert found[1].detail.startswith("Its alternative 1 has letters that look like others: U+FF2A")


def test_a_question_that_differs_from_anothers_by_letter_case_and_blanks_is_told(workflow):
    workflow.correct(("Who leads Rome?", "Caesar"), ("Who Ieads Troy?", "Priam"))
    assert warned(workflow, {"prompt": "who leads rome?", "target": "Ben", "replaces": 1}) == []
    found = warned(workflow, PARIS | {"rephrases": ["who  leads ROME?", "Who leads Troy?"]})
    assert {(each.code, each.field, each.other_edit_id) for each in found} == {
        ("asked-of-another", "rephrases.0", 1),
        ("asked-of-another", "rephrases.0", 3),
        ("looks-like-another", "rephrases.1", 2),  # a capital I in the place of an l
    }
    assert found[1].detail == "Its rephrase 1 is the prompt of edit 1, but for letter case and white space."


def test_the_gravest_of_a_large_batch_stands_on_top(workflow, melo):  # noqa: F811
    old = [(f"Old {n}?", "x") for n in range(1_200)]
    workflow.correct(EMERGENCY, *old)
    edits = [
        {"prompt": prompt, "target": "ｘ", "replaces": n, "reason": "a\u200b"} for n, (prompt, _) in enumerate(old, 2)
    ]
    edits[1_100] |= {"rephrases": [EMERGENCY[0].upper()]}
    edits.insert(1_150, SPIDER | {"replaces": 1})
    batch = workflow.submit(*edits).batch
    found = view(workflow, batch.id)
    assert (found.replacements[0].replaced_target, found.replacement_count) == ("112", 1_201)
    grave = found.warnings[0]
    assert (grave.code, grave.field, grave.other_edit_id) == ("asked-of-another", "rephrases.0", 1)
    assert len({each.edit_id for each in found.warnings if each.code == "look-alike-letters"}) == 1_200
    shown = melo("batch", "show", batch.id)
    assert shown.index("112") < shown.index(grave.detail[:30]) < shown.index("Old 99?")


def test_a_policy_that_was_changed_for_a_decision_is_shown_with_the_batch(workflow, melo, tamper):  # noqa: F811
    change(workflow, reason="long ago", approvals_needed=3)
    tamper("UPDATE audit_events SET at = at - interval '3 days'")
    change(workflow, reason="two are enough", approvals_needed=2)
    batch = workflow.submit(PARIS).batch.id
    change(workflow, reason="in a hurry", approvals_needed=1, self_approval=True)
    change(workflow, reason="no decision's", log_text=True)
    assert approve(workflow, batch).state == "approved"
    change(workflow, reason="back again", approvals_needed=2, self_approval=False)

    changes = view(workflow, batch).policy_changes
    assert [each.reason for each in changes] == ["two are enough", "in a hurry", "back again"]
    hurried = changes[1]
    assert (hurried.by, hurried.before, hurried.after) == (
        "root",
        {"approvals_needed": 2, "self_approval": False},
        {"approvals_needed": 1, "self_approval": True},
    )
    assert hurried.detail.startswith("The policy was 2 approvals and submitters' own approvals not counting until ")
    assert "The policy was 2 approvals" in melo("batch", "show", batch)
    assert "Changed by root: in a hurry" in melo("batch", "show", batch)


def test_a_report_is_still_read_once_an_edit_that_it_warns_of_is_erased():
    about = EditWarning(edit_id=2, code="asked-of-another", field="rephrases.0", other_edit_id=1, detail="Its rephrase")
    report = EditPreflight(edit_id=2, answer_now="x", warnings=[about], replaced_distance=0.5).model_dump(mode="json")
    kept = EditPreflight.model_validate(scrubbed(report, Erasing([2], [], [])))
    assert kept.warnings[0].other_edit_id == 1 and kept.warnings[0].detail == GONE


def test_a_rejected_batch_shows_them_too(workflow):
    workflow.correct(("Who leads Rome?", "Caesar"))
    batch = workflow.submit(PARIS | {"rephrases": ["Who leads Rome?"], "replaces": None}).batch.id
    with workflow.sessions.begin() as session:
        deciding.reject(session, batch, BEN, "not theirs")
    assert told(view(workflow, batch).warnings) == [("asked-of-another", 1)]
