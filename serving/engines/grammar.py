"""Answers in a form: JSON that keeps to a schema, token by token."""

from functools import cached_property
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from melo_core.base_model import BaseModel
from registry.base.errors import InvalidRequest

BYTES = LLTokenizer("byte")


class Grammar:
    """The place of one answer in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self, logits: Tensor) -> Tensor:
        """Return logits (vocabulary,) in which the tokens that the grammar forbids have no chance."""
        marks = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        return logits.masked_fill(marks[: len(logits)].to(logits.device) == 0, -torch.inf)

    def take(self, token: int) -> None:
        """Go on behind a token. Raises ValueError where the grammar has become too large."""
        if not self._matcher.consume_token(token):
            raise ValueError(f"the answer left its schema: {self._matcher.get_error()}")


class Grammars:
    """Makes grammars over one model's tokens."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base

    @cached_property
    def _tokens(self) -> LLTokenizer:
        size = self._base.model.config.get_text_config().vocab_size
        fast: Any = self._base.tokenizer
        return from_tokenizer(fast, n_vocab=size, eos_token=sorted(self._base.end_tokens))

    def of(self, schema: str) -> Grammar:
        """Return the grammar of a JSON schema, at its beginning."""
        return Grammar(LLMatcher(self._tokens, _grammar(schema), log_level=0))


def require_schema(schema: str) -> None:
    """Raise InvalidRequest for a JSON schema that is none, or that no grammar can be made of."""
    if wrong := LLMatcher.validate_grammar(_grammar(schema)):
        raise InvalidRequest(f"response_format: the JSON schema cannot be used: {wrong.splitlines()[0]}.")


def keeps_to(schema: str, text: str) -> bool:
    """Tell whether a JSON text is one that the grammar of a schema allows."""
    matcher = LLMatcher(BYTES, _grammar(schema), log_level=0)
    return matcher.consume_tokens(list(text.encode())) and matcher.is_accepting()


def _grammar(schema: str) -> str:
    """Return the grammar of a schema, in one spelling: a model that may write any white space may write it for ever."""
    spelling: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return LLMatcher.grammar_from_json_schema(schema, overrides=spelling)
