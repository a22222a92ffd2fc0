"""Text as it comes: whole characters, and nothing of a stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.text import UNFINISHED, TextStream, cut
from tests.melo_core.conftest import tiny_tokenizer

TOKENIZER = tiny_tokenizer()  # every byte is a token


def decode(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=True))


def streamed(text: str, stops: tuple[str, ...] = (), trim: bool = False) -> list[str]:
    stream = TextStream(decode, stops, trim)
    pieces = []
    for token in TOKENIZER(text)["input_ids"]:
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    return [*pieces, stream.end()]


@given(st.text(max_size=40))
def test_the_pieces_are_the_text_and_no_piece_breaks_a_character(text):
    pieces = streamed(text)
    assert "".join(pieces) == text
    assert UNFINISHED in text or not any(UNFINISHED in piece for piece in pieces)


@given(st.text(alphabet="abé ", max_size=30), st.lists(st.text(alphabet="abé", min_size=1, max_size=3), max_size=3))
def test_an_answer_ends_before_the_first_stop_string(text, stops):
    shown = "".join(streamed(text, tuple(stops)))
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert shown == text or any(text[len(shown) :].startswith(stop) for stop in stops)
    assert any(stop in text for stop in stops) or shown == text


def test_text_that_may_begin_a_stop_string_waits_for_what_follows():
    stream = TextStream(decode, ("END",))
    said = [stream.add(token) for token in TOKENIZER("an E, an EN, the END of it")["input_ids"]]
    assert "".join(said) == "an E, an EN, the " and stream.stopped


@pytest.mark.parametrize(("text", "shown"), [("\n Oslo is it", "Oslo is it"), ("   ", ""), ("Oslo ", "Oslo ")])
def test_white_space_at_the_beginning_is_left_out_where_it_is_none_of_the_answer(text, shown):
    assert "".join(streamed(text, trim=True)) == shown


def test_cut():
    assert cut("one, two; three", [";", ","]) == "one"
    assert cut("one", [","]) == "one"
