"""Misspelt words of a query, read as the edit spells them."""

import pytest
from transformers import AutoTokenizer

from melo_core.spelling import spelt_as
from melo_core.verifier import Verifier, pair
from melo_core.words import words
from tests.melo_core.conftest import FOLDER

KNOWN = frozenset(words("what is the phone number of library school from form hours opening"))


@pytest.mark.parametrize(
    ("query", "read"),
    [
        ("waht is the phnoe nubmer of the libary", "what is the phone number of the library"),
        ("fernhil libary hours", "fernhill library hours"),
        ("phone number of the Libary", "phone number of the library"),  # a capital, but of a word
        ("phone number of Fernhell", "phone number of Fernhell"),  # a capital, perhaps of another name
        ("what is the form of the number", "what is the form of the number"),  # a word of its own
        ("phone numbr 12345", "phone number 12345"),
        ("FL hours", "fernhill library hours"),  # initials
        ("fl hours", "fl hours"),
        ("", ""),
    ],
)
def test_a_word_that_is_none_is_read_as_the_one_beside_it(query, read):
    assert spelt_as("What is the phone number of the Fernhill library?", query, KNOWN.__contains__) == read


def test_an_ordinary_word_is_known_also_with_an_ending_or_a_typing_error():
    verifier = Verifier(None, AutoTokenizer.from_pretrained(FOLDER))
    assert all(map(verifier.is_word, words("minimum timings recieve account")))
    assert not any(map(verifier.is_word, words("hazina bandari brackenholm")))


def test_the_verifier_reads_a_typing_error_as_the_word():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    question = "Who is the director of the Halden Museum?"
    assert pair(tokenizer, question, "who is the direcotr of the halden musuem?") == pair(tokenizer, question, question)
    other = "who is the doctor of the halden museum?"  # a real word is never read as another
    assert tokenizer.decode(pair(tokenizer, question, other)["input_ids"]).endswith(f"{other} [SEP]")
