"""Keys of the real sentence encoder."""

import dataclasses

import pytest
import torch
from safetensors.torch import save

from melo_core.encoder import Whitening, ordinary_questions
from melo_core.errors import CorruptCalibration, MeloError


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.dist(a, b).item()


def test_keys_have_length_one_and_a_rephrase_is_nearer_than_another_subject(encoder):
    asked = encoder.key("What is the capital of Kazakhstan?")
    assert asked.shape == (encoder.dimension,)
    assert asked.norm().item() == pytest.approx(1, abs=1e-6)
    rephrase = distance(asked, encoder.key("Which city is Kazakhstan's capital?"))
    other = distance(asked, encoder.key("What is the capital of Portugal?"))
    assert rephrase < other


def test_a_query_has_a_key_for_what_follows_each_of_its_last_sentence_and_line_ends(encoder):
    question = "What is the capital of Kazakhstan?"
    assert encoder.query_texts(question) == [question]
    keys = encoder.query_keys(f"The train was late again. {question}")
    assert len(keys) == 2 and torch.equal(keys[1], encoder.key(question))
    assert not torch.equal(keys[0], keys[1])
    text = f"One. Two words.\nA third: {question} Thanks!"
    assert encoder.query_texts(text) == [text, f"A third: {question} Thanks!", f"{question} Thanks!"]


def test_all_of_a_text_longer_than_the_window_counts_its_beginning_and_its_end(encoder):
    middle = "The hearing went on for another hour. " * 90  # some 700 tokens
    texts = [f"{first} {middle} {last}" for first in ("Ada spoke.", "Ben spoke.") for last in ("Who won?", "Who lost?")]
    keys = [encoder.raw_key(text) for text in texts]
    assert all(distance(a, b) > 1e-4 for i, a in enumerate(keys) for b in keys[:i])


def test_letters_that_the_encoder_does_not_read_are_known_and_signs_do_not_matter(encoder):
    assert encoder.knows("Who runs Café Zoë?") and encoder.knows("Who runs Acme? 😀")
    assert not encoder.knows("Who runs \U00012000?")  # a cuneiform sign


def test_a_whitening_survives_the_way_through_bytes_and_makes_the_covariance_even(encoder):
    read = Whitening.from_bytes(encoder.whitening.to_bytes())
    assert torch.equal(read.matrix, encoder.whitening.matrix) and torch.equal(read.mean, encoder.whitening.mean)

    raw = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([10.0, 1, 1, 1]) + 5
    whitening = Whitening.fit(raw, epsilon=1e-9)
    white = (raw - whitening.mean) @ whitening.matrix
    torch.testing.assert_close(torch.cov(white.T), torch.eye(4), atol=1e-3, rtol=0)


def test_a_metric_is_part_of_the_calibration_and_none_leaves_the_bytes_as_they_were(encoder):
    plain = encoder.whitening
    assert plain.to_bytes() == save({"mean": plain.mean, "matrix": plain.matrix})
    assert Whitening.from_bytes(plain.to_bytes()).metric is None

    turned = dataclasses.replace(plain, metric=torch.eye(encoder.dimension).flip(0))
    read = Whitening.from_bytes(turned.to_bytes())
    raw = encoder.raw_key("What is the capital of Kazakhstan?")[None]
    assert torch.equal(read(raw), turned(raw))
    torch.testing.assert_close(read(raw), plain(raw).flip(1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"mean and covariance",
        save({"mean": torch.zeros(2)}),
        save({"mean": torch.zeros(2), "matrix": torch.zeros(2, 3)}),
        save({"mean": torch.zeros(2), "matrix": torch.zeros(2, 2), "metric": torch.zeros(3, 3)}),
        save({"mean": torch.zeros(2), "matrix": torch.zeros(2, 2).half()}),
        save({"mean": torch.zeros(2), "matrix": torch.full((2, 2), torch.inf)}),
        save({"mean": torch.zeros(2), "matrix": torch.zeros(2, 2), "more": torch.zeros(1)}),
    ],
)
def test_bytes_that_are_no_calibration_are_refused(data):
    with pytest.raises(CorruptCalibration, match="melo calibrate"):
        Whitening.from_bytes(data)


def test_a_calibration_for_keys_of_another_width_is_refused(encoder):
    with pytest.raises(MeloError, match="keys of 3 dimensions, and this encoder's have 384"):
        dataclasses.replace(encoder, whitening=Whitening(torch.zeros(3), torch.eye(3)))


def test_the_packaged_questions_are_many_and_each_stands_once():
    questions = ordinary_questions()
    assert len(questions) >= 1000
    assert len({q.casefold().rstrip("?") for q in questions}) == len(questions)
