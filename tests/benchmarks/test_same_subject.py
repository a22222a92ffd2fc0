"""The bench asks other things about edited subjects, and counts answers that are neither right nor as before."""

import dataclasses
import io
from collections.abc import Sequence

import pytest
from rich.console import Console
from transformers import AutoTokenizer

from benchmarks.edits.answers import Batch, Before, broken_answers
from benchmarks.edits.data import BenchEdit
from benchmarks.edits.measure import Plan, measure
from benchmarks.edits.peers import Reply
from benchmarks.edits.peers.blocks import Blocks
from benchmarks.edits.probes import ABOUT, MOST, same_subject
from benchmarks.edits.run import _table
from melo_core.base_model import BaseModel
from melo_core.hidden import HiddenEncoder
from melo_core.verifier import Verifier, untrained
from melo_core.verifier_files import folder_of
from tests.melo_core.conftest import FOLDER, tiny_model, tiny_tokenizer
from tests.melo_core.test_training_and_answers import SETTINGS

ACME = BenchEdit("Who runs Acme?", "Ada", "Acme", ("Who is at the head of Acme?",))
GLOBEX = BenchEdit("Where is the head office of Globex?", "Oslo", "Globex")
TARGETS = ["Ada", "Oslo"]
FIXED = {form.replace("{s}", subject) for form in ABOUT["qa"] for subject in ("Acme", "Globex")}


def test_other_questions_about_an_edited_subject_are_another_edits_and_fixed_ones():
    asked = set(same_subject([ACME, GLOBEX]))
    assert asked - FIXED == {"Where is the head office of Acme?", "Who runs Globex?"}
    assert asked >= FIXED


def test_a_question_of_the_same_relation_is_no_other_question():
    initech = BenchEdit("Who runs Initech?", "Bob", "Initech", ("Who leads Initech?",))
    led = BenchEdit("Who is at the head of Hooli?", "Cy", "Hooli")  # as a rephrase of Acme's asks it
    assert set(same_subject([ACME, initech])) <= FIXED | {form.replace("{s}", "Initech") for form in ABOUT["qa"]}
    asked = set(same_subject([ACME, GLOBEX, led]))
    assert "Who is at the head of Globex?" in asked
    assert not {"Who runs Hooli?", "Who is at the head of Acme?"} & asked


def test_a_cloze_that_asks_the_same_in_other_words_is_no_other_cloze():
    edits = [
        BenchEdit("The mother tongue of Ada Holm is", "Dutch", "Ada Holm", kind="completion"),
        BenchEdit("Ada Rey was born in", "Oslo", "Ada Rey", kind="completion"),
        BenchEdit("Bo Lind, a native", "Finnish", "Bo Lind", kind="completion"),
        BenchEdit("Cy Marr is a native speaker of", "Welsh", "Cy Marr", kind="completion"),
    ]
    asked = set(same_subject(edits))
    assert "Cy Marr was born in" in asked and "Critics of Cy Marr say" in asked
    assert "Cy Marr, a native" not in asked and "Bo Lind is a native speaker of" not in asked


def test_what_an_edit_or_its_rephrase_asks_is_never_asked_as_another_question():
    second = BenchEdit("Where is the head office of Acme?", "Rome", "acme")
    founded = BenchEdit("By whom was Globex founded?", "Eve", "Globex", ("Is Globex any good?",))
    asked = {prompt.lower() for prompt in same_subject([ACME, GLOBEX, second, founded])}
    assert not asked & {"where is the head office of acme?", "is globex any good?", "who founded globex?"}
    assert {"who founded acme?", "who runs globex?", "by whom was acme founded?"} <= asked


def test_a_template_without_its_subject_and_an_edit_without_one_give_no_question():
    alias = BenchEdit("Who painted it?", "Eve", "The Salt Road")
    nameless = BenchEdit("Who founded Acme?", "Eve", "")
    asked = same_subject([ACME, alias, nameless])
    assert "Who runs The Salt Road?" in asked
    assert all("Acme" in prompt or "The Salt Road" in prompt for prompt in asked)
    assert not [prompt for prompt in asked if "painted" in prompt or prompt == nameless.prompt]


def test_a_subject_in_other_letters_is_the_same_subject():
    second = BenchEdit("In which city is Acme?", "Rome", "acme")
    same_relation = BenchEdit("Where does Globex sit?", "Oslo", "Globex", ("In which city is Globex?",))
    assert "where does acme sit?" not in {prompt.lower() for prompt in same_subject([ACME, second, same_relation])}


def test_as_many_of_another_edits_as_fixed_ones_are_asked_and_always_the_same():
    edits = [BenchEdit(f"What is thing {i} of Subject-{i}x?", str(i), f"Subject-{i}x") for i in range(90)]
    asked = same_subject(edits)
    assert len(asked) == len(set(asked)) == MOST
    swapped = [prompt for prompt in asked if prompt.startswith("What is thing")]
    assert len(swapped) == MOST // 2
    for half in (swapped, set(asked) - set(swapped)):
        assert all(any(edit.subject in prompt for prompt in half) for edit in edits)
    assert asked == same_subject(edits) != same_subject(edits, seed=1)


class Scripted:
    """A method, or an unedited model, whose answers are known beforehand: a token for each letter."""

    def __init__(self, answers: dict[str, str], covering: dict[str, int] | None = None) -> None:
        self.answers, self.edits = answers, covering

    def answer(self, prompts: Sequence[str], kind: str, longest: int) -> list[Reply]:
        texts = [self.answers[prompt][:longest] for prompt in prompts]
        return [Reply(text, tuple(map(ord, text))) for text in texts]

    def covering(self, prompts: Sequence[str], kind: str) -> list[int | None] | None:
        return None if self.edits is None else [self.edits.get(prompt) for prompt in prompts]


def broken(was: dict[str, str], now: dict[str, str], covering: dict[str, int] | None, targets=TARGETS, longest=16):
    peer, prompts = Scripted(now, covering), list(now)
    batch = Batch(prompts, peer.answer(prompts, "qa", longest), longest)
    return broken_answers(peer, targets, [batch], Before(Scripted(was), "qa"))


def test_an_answer_is_broken_where_it_is_neither_the_covering_edits_target_nor_the_base_models():
    was = dict.fromkeys(["target", "as before", "another edit's target", "mixed", "uncovered"], "Nobody knows.")
    now = was | {"target": "ada.", "another edit's target": "Oslo", "mixed": "Ada knows.", "uncovered": "Ada knows."}
    found = broken(was, now, dict.fromkeys(["target", "as before", "another edit's target", "mixed"], 0))
    assert (found["count"], found["of_covered"]) == (2, 4)
    assert found["examples"] == [
        {"prompt": "another edit's target", "answer": "Oslo", "target": "Ada"},
        {"prompt": "mixed", "answer": "Ada knows.", "target": "Ada"},
    ]


def test_a_target_that_is_longer_than_what_was_generated_is_not_broken_but_half_a_target_is():
    target = "Ada Holm of Lower Tarnwick"
    was, now = {"cut": "Nobody.", "half": "Nobody."}, {"cut": target, "half": "Ada Holm"}
    found = broken(was, now, {"cut": 0, "half": 0}, [target])
    assert [example["prompt"] for example in found["examples"]] == ["half"]


def test_an_answer_is_as_before_where_its_first_tokens_are():
    longer = "Nobody knows who runs it."
    found = broken({"asked": longer}, {"asked": longer}, {"asked": 0}, longest=32)
    assert (found["count"], found["of_covered"]) == (0, 1)


def test_ten_broken_answers_are_shown_and_all_are_counted():
    was = {str(i): "Nobody." for i in range(12)}
    found = broken(was, dict.fromkeys(was, "Ada?!? Oslo"), dict.fromkeys(was, 1))
    assert (found["count"], len(found["examples"])) == (12, 10)


def test_a_method_that_cannot_tell_which_edit_covers_a_prompt_has_no_broken_answers():
    assert broken({"asked": "Nobody."}, {"asked": "Ada knows."}, None) is None


def tiny_base() -> BaseModel:
    tokenizer = tiny_tokenizer()
    return BaseModel(tiny_model("llama", len(tokenizer)), tokenizer)


def blocks(base: BaseModel, **changed: object) -> Blocks:
    settings = dataclasses.replace(SETTINGS, verifier="none", whitened=False, **changed)
    return Blocks("melo", base, HiddenEncoder(base, 2, "last"), settings, None)


@pytest.mark.long
def test_blocks_tell_the_covering_edit_by_its_place_in_the_order_of_arrival():
    peer = blocks(tiny_base(), radius=1e-3, edits_per_block=2, rank=8)
    peer.apply([ACME, GLOBEX])  # in one block
    peer.apply([BenchEdit("When was Initech founded?", "1999", "Initech")])
    asked = [GLOBEX.prompt, "How tall?", "When was Initech founded?", ACME.rephrases[0], ACME.prompt]
    assert peer.covering(asked, "qa") == [1, None, 2, 0, 0]


@pytest.mark.long
def test_a_run_counts_broken_answers_of_probes_and_of_rephrases_that_were_not_given():
    base = tiny_base()
    peer = blocks(base, radius=1e6)  # every prompt is covered
    plan = Plan([ACME, GLOBEX], 1, 0, {"same_subject": ["Is Acme any good?", "Who founded Globex?"], "swapped": []})
    record = measure(peer, base, plan, Before(peer.unedited, "qa"), lambda *_: None)
    counted = record["broken_answers"]
    assert counted["of_covered"] == 3
    asked = [*plan.probes["same_subject"], *ACME.rephrases]
    wrong = [
        prompt
        for prompt, now, number in zip(asked, peer.answer(asked, "qa", 16), peer.covering(asked, "qa"), strict=True)
        if now.text != TARGETS[number] and now.token_ids != peer.unedited.answer([prompt], "qa", 16)[0].token_ids
    ]
    assert sorted(example["prompt"] for example in counted["examples"]) == sorted(wrong)
    assert counted["count"] == len(wrong) > 0
    assert record["untouched_same_subject_asked"]["wrongly_covered"] == 2
    assert record["verify_ms"] is None


@pytest.mark.long
def test_what_was_said_to_the_edits_own_prompt_alone_counts_and_is_told_apart(encoder):
    base = tiny_base()
    peer = Blocks("melo", base, encoder, SETTINGS, Verifier.load(folder_of("packaged"), FOLDER))
    acme = dataclasses.replace(ACME, rephrases=("Tell me the name of the person who is running Acme.",))
    record = measure(peer, base, Plan([acme], 1, 0, {}), Before(peer.unedited, "qa"), lambda *_: None)
    assert (record["generality"], record["generality_to_the_query"]) == (1.0, 0.0)
    assert (record["broken_answers"]["count"], record["broken_answers"]["of_covered"]) == (0, 1)


@pytest.mark.long
def test_the_time_of_routing_has_a_part_of_the_verifier_where_there_is_one(encoder):
    base = tiny_base()
    verifier = Verifier(untrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER))
    settings = dataclasses.replace(SETTINGS, candidate_radius=2.0)
    peer = Blocks("melo", base, encoder, settings, verifier)
    peer.apply([ACME])
    time = peer.route_time("Who is leading Acme?", "qa")
    assert time.key > 0 and time.lookup > 0
    assert time.verify > time.lookup  # a pass of six layers
    assert blocks(base, radius=1.0).route_time("Who is leading Acme?", "qa").verify is None


@pytest.mark.parametrize(("found", "cell"), [({"count": 3, "of_covered": 41, "examples": []}, "3 of 41"), (None, "–")])
def test_the_table_shows_broken_answers_of_the_covered_ones(found, cell):
    row = {"method": "melo", "edits": 2, "success": 1.0}
    console = Console(file=io.StringIO(), width=200)
    console.print(_table([row | {"broken_answers": found}, row | {"broken_answers": {"count": 0, "of_covered": 7}}]))
    shown = console.file.getvalue()
    assert "broken" in shown and cell in shown and "0 of 7" in shown
