"""A block acts on the last prompt token and on every token of the answer, however they are computed."""

import numpy as np
from melo_vllm.positions import from_last_prompt_token


def step(*requests):
    """requests: (adapter, computed before, scheduled now, tokens of the prompt)"""
    return from_last_prompt_token(*(np.array(each, dtype=np.int64) for each in zip(*requests, strict=True)))


def test_only_the_last_token_of_a_whole_prompt_gets_the_block():
    assert step((7, 0, 4, 4)) == (0, 0, 0, 7)


def test_every_token_of_the_answer_gets_it():
    assert step((7, 4, 1, 4), (7, 9, 1, 4)) == (7, 7)


def test_a_prompt_in_chunks_gets_it_in_the_last_one_alone():
    assert step((7, 0, 2, 5)) == (0, 0)
    assert step((7, 2, 3, 5)) == (0, 0, 7)
    assert step((7, 0, 4, 5)) == (0, 0, 0, 0)


def test_an_answer_computed_again_after_preemption_gets_it_as_before():
    assert step((7, 0, 6, 4)) == (0, 0, 0, 7, 7, 7)


def test_each_request_of_a_mixed_batch_keeps_its_own():
    assert step((7, 0, 3, 3), (0, 5, 1, 2), (9, 8, 1, 2), (8, 1, 2, 9)) == (0, 0, 7, 0, 9, 0, 0)


def test_a_step_without_tokens_has_none():
    assert step((7, 0, 0, 3)) == ()
