"""The prompt's KV blocks are everybody's; those that a block has touched are found only by who has the same prompt."""

from melo_vllm.prefix import shared_keys

LORA, SALT = ("lora", "abc", "/tmp/abc"), ("cache_salt", "s")


def test_what_ends_before_the_last_prompt_token_is_hashed_without_the_adapter():
    assert shared_keys((LORA,), end=32, prompt=33) is None
    assert shared_keys((LORA, SALT), end=32, prompt=33) == (SALT,)


def test_what_holds_the_last_prompt_token_is_hashed_with_it():
    assert shared_keys((LORA,), end=32, prompt=32) == ((*LORA, 32),)


def test_the_same_tokens_are_another_block_where_the_prompt_ended_elsewhere():
    assert shared_keys((LORA,), end=64, prompt=40) != shared_keys((LORA,), end=64, prompt=60)


def test_a_request_without_an_adapter_is_hashed_as_ever():
    assert shared_keys(None, end=32, prompt=20) is None
    assert shared_keys((SALT,), end=32, prompt=20) == (SALT,)
