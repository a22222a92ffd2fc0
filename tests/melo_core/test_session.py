"""Editing in memory, batch after batch."""

import dataclasses

from melo_core.session import Edit, EditSession
from melo_core.verifier import Verifier
from melo_core.verifier_files import folder_of
from tests.melo_core.conftest import FOLDER
from tests.melo_core.test_training_and_answers import SETTINGS


def test_the_first_batch_still_answers_after_the_last_and_conflicts_are_reported(tiny, encoder):
    session = EditSession(tiny("llama"), encoder, SETTINGS)
    first = session.apply([Edit("Who runs Acme?", "Ada"), Edit("Where is the head office of Globex?", "Oslo")])
    second = session.apply([Edit("When was Initech founded?", "1999"), Edit("Who runs Acme", "Bob")])

    assert first.conflicts == []
    assert second.conflicts == [(3, 0)]
    asked = ["Who runs Acme?", "Where is the head office of Globex?", "When was Initech founded?", "Who runs Acme"]
    assert [a.text for a in session.model.ask(asked, max_new_tokens=8)] == ["Ada", "Oslo", "1999", "Bob"]


def test_a_block_that_was_not_learned_is_reported(tiny, encoder):
    session = EditSession(tiny("llama"), encoder, dataclasses.replace(SETTINGS, iterations=1))
    assert session.apply([Edit("Who runs Acme?", "Ada")]).unreached == [0]


def test_an_edit_that_the_model_does_not_give_back_is_reported(tiny, encoder):
    settings = dataclasses.replace(SETTINGS, rounds=1)
    lost = Edit("Where is the head office of Globex?", "Oslo")
    base = tiny("llama")
    base.model.generation_config.eos_token_id = base.tokenizer.convert_tokens_to_ids(["</s>", "s"])  # its second token
    assert EditSession(base, encoder, settings).apply([Edit("Who runs Acme?", "Ada"), lost]).unlearned == [1]


def test_edits_share_blocks_and_each_batch_has_its_own(tiny, encoder):
    session = EditSession(tiny("llama"), encoder, dataclasses.replace(SETTINGS, edits_per_block=2, rank=8))
    session.apply([Edit("Who runs Acme?", "Ada"), Edit("Where is the head office of Globex?", "Oslo")])
    session.apply([Edit("When was Initech founded?", "1999")])

    asked = ["Who runs Acme?", "Where is the head office of Globex?", "When was Initech founded?"]
    answers = session.model.ask(asked, max_new_tokens=8)
    assert [a.text for a in answers] == ["Ada", "Oslo", "1999"]
    assert [a.route.block for a in answers] == [0, 0, 1]
    assert list(session.blocks) == [0, 1]


RUNS, REPHRASED = "Who runs Acme?", "Tell me the name of the person who is running Acme."


def test_a_block_says_its_target_also_where_it_breaks_off_when_asked_in_other_words(tiny, encoder):
    session = EditSession(tiny("llama"), encoder, SETTINGS, Verifier.load(folder_of("packaged"), FOLDER))
    session.apply([Edit(RUNS, "Ada")])

    route = session.model.route(REPHRASED)
    own, other, base = session.model.ask([RUNS, REPHRASED, "When did it rain?"], max_new_tokens=8)

    assert route.block == 0
    assert (own.text, own.said_to) == ("Ada", "query")
    assert (other.text, other.said_to, other.route.block) == ("Ada", "prompt", 0)  # so small a model knows no rephrases
    assert (base.route.block, base.said_to) == (None, "query")
    cut = session.model.answer([RUNS], [route], max_new_tokens=3)[0]
    assert (cut.text, cut.said_to) == ("Ad", "query")


def test_a_block_that_never_says_its_target_leaves_the_answer_to_the_base_model(tiny, encoder):
    settings = dataclasses.replace(SETTINGS, iterations=2, rounds=1)
    session = EditSession(tiny("llama"), encoder, settings, Verifier.load(folder_of("packaged"), FOLDER))
    before = session.model.ask([RUNS, REPHRASED], max_new_tokens=8)
    assert session.apply([Edit(RUNS, "Ada")]).unlearned == [0]

    after = session.model.ask([RUNS, REPHRASED], max_new_tokens=8)

    assert [a.token_ids for a in after] == [a.token_ids for a in before]
    assert [(a.route.block, a.said_to) for a in after] == [(0, "base")] * 2
