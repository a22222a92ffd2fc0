"""A frozen model with its tokenizer: loading it from files, and turning prompts and answers into tokens."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import melo_core.quiet  # noqa: F401  # for its effect
from melo_core.boundary import continued
from melo_core.converted import Converting, converted, untold
from melo_core.errors import MeloError, PromptTooLong, UnsupportedModel
from melo_core.structure import Kind, kind_of

PLACE = "MELO"  # of an answer, in a chat that shows what the template puts behind it
CONTEXT = 8  # tokens of a prompt on which the text of the next ones can depend


def choose_device() -> torch.device:
    """Return CUDA if available, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


@dataclass
class BaseModel:
    """The model that edits correct. It is never changed."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        self.kind = kind_of(self.model)
        self.model.train(False).requires_grad_(False)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def window(self) -> int:
        """The most tokens that prompt and answer can have together."""
        config = self.model.config.get_text_config()
        for name in ("max_position_embeddings", "n_positions"):
            if isinstance(size := getattr(config, name, None), int) and size > 0:
                return size
        return int(min(self.tokenizer.model_max_length, 1 << 20))

    @property
    def chats(self) -> bool:
        """Whether the model is causal and has a chat template."""
        return self.kind is Kind.CAUSAL and bool(self.tokenizer.chat_template)

    @property
    def takes_tools(self) -> bool:
        """Whether the chat template has a place for tools that the model may call."""
        return self.chats and re.search(r"\btools\b", str(self.tokenizer.chat_template)) is not None

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end an answer: the tokenizer's, the chat template's, and all of the generation settings."""
        named = getattr(self.model.generation_config, "eos_token_id", None)
        listed = named if isinstance(named, list) else [named]
        every = (*listed, self.tokenizer.eos_token_id, self._turn_end)
        return frozenset(token for token in every if token is not None)

    @cached_property
    def _turn_end(self) -> int | None:
        """The token that the chat template puts behind the model's turn; None where it is no token of its own.

        Many a chat model's files name another end alone: a GGUF file of Gemma, that of a whole text.
        """
        if not self.chats:
            return None
        turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": PLACE}]
        try:
            text = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        except TemplateError:
            return None
        after = text.rpartition(PLACE)[2].lstrip()
        ids = self.tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
        return ids[0] if ids and ids[0] in self.control_tokens.values() else None

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """The tokens that steer the model rather than stand for text, by how they are written."""
        added = self.tokenizer.added_tokens_decoder
        special = {token.content: id for id, token in added.items() if token.special}
        return special | dict(zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True))

    def require_plain(self, text: str) -> None:
        """Raise MeloError where a text holds a control token: the model would not read it as text."""
        found = next((token for token in self.control_tokens if token in text), None)
        if found is not None:
            raise MeloError(
                f"{text[:60]!r} holds the model's control token {found}, which would end or begin a turn rather than "
                "be read; leave it out"
            )

    def prompt_ids(self, prompt: str, edit_kind: str = "qa") -> list[int]:
        """Return the tokens that the model gets for a prompt.

        `qa` goes through the chat template, where the model has one; `completion` is passed unchanged.
        Raises PromptTooLong.
        """
        if edit_kind == "qa" and self.chats:
            return self.conversation_ids([{"role": "user", "content": prompt}])
        return self._within_window(self.tokenizer(prompt)["input_ids"], prompt)

    def conversation_ids(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Return the tokens that the model gets for a conversation (role and content of each turn), up to its answer.

        tools: functions that the model may call, with name, description and parameters, as OpenAI's API describes them.
        Raises PromptTooLong, or MeloError where the model has no chat template, or one that knows no tools, or one that
        refuses the conversation.
        """
        if not self.chats:
            raise MeloError("the model has no chat template, so it takes no conversation; ask a single prompt")
        if tools and not self.takes_tools:
            raise MeloError("the model's chat template has no place for tools; ask without them")
        turns = [dict(message) for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                turns, tools=[dict(tool) for tool in tools] or None, add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:  # many allow only turns that alternate, or no system prompt
            raise MeloError(f"the model's chat template refuses the conversation: {error}") from error
        return self._within_window(self.tokenizer(text, add_special_tokens=False)["input_ids"], turns[-1]["content"])

    def _within_window(self, ids: list[int], prompt: str) -> list[int]:
        if len(ids) >= self.window:
            raise PromptTooLong(
                f"the prompt has {len(ids)} tokens and the model's window is {self.window}; shorten {prompt[:60]!r}…"
            )
        return list(ids)

    def target_ids(self, target: str, edit_kind: str = "qa", prompt: str = "") -> list[int]:
        """Return the tokens of an answer, including the end of sequence; for a classifier, the class number.

        prompt: what it answers; a text that is continued decides about the space before the answer. Raises MeloError
        for a class that the classifier does not have.
        """
        if self.kind is Kind.CLASSIFIER:
            labels: dict[str, int] = self.model.config.label2id or {}  # type: ignore[assignment]
            if target not in labels:
                raise MeloError(f"{target!r} is none of the classifier's classes: {', '.join(map(str, labels))}")
            return [int(labels[target])]
        turn = edit_kind == "qa" and self.chats
        if self.kind is Kind.CAUSAL and not turn:
            ids = self._continuation(prompt, continued(prompt, target))
        else:
            ids = self.tokenizer(target, add_special_tokens=False)["input_ids"]
        end = self._turn_end if turn and self._turn_end is not None else self.tokenizer.eos_token_id
        return [*ids, min(self.end_tokens) if end is None else end]

    def _continuation(self, prompt: str, text: str) -> list[int]:
        """Return the tokens of a text that reads exactly so behind the prompt's tokens.

        Some tokenizers put a space before every text: such a text is cut out of a longer one.
        """
        before = list(self.tokenizer(prompt)["input_ids"]) if prompt else []
        alone: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        break_ids = self.tokenizer("\n", add_special_tokens=False)["input_ids"]
        behind_break = self.tokenizer(f"\n{text}", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(prompt + text)["input_ids"] if prompt else []
        ways = [
            whole[len(before) :] if before and whole[: len(before)] == before else None,
            alone,
            behind_break[len(break_ids) :] if behind_break[: len(break_ids)] == break_ids else None,
        ]
        return next((ids for ids in ways if ids and self.raw_in(before, ids) == text), alone)

    def answer_in(self, generated: list[int]) -> tuple[str, tuple[int, ...]]:
        """Return an answer's text and its tokens, including the end of sequence."""
        end = next((i for i, token in enumerate(generated, 1) if token in self.end_tokens), len(generated))
        generated = generated[:end]
        return self.decoded(generated).strip(), tuple(generated)

    def raw_in(self, prompt_ids: Sequence[int], generated: Sequence[int]) -> str:
        """Return the text of tokens as it continues that of a prompt's, with the white space at the boundary."""
        before = list(prompt_ids[-CONTEXT:])
        return self.decoded([*before, *generated])[len(self.decoded(before)) :]

    def decoded(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without control tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def pad(self, rows: list[list[int]], side: str) -> tuple[Tensor, Tensor]:
        """Pad rows of tokens on the given side; return ids and mask (len(rows), longest) on the model's device."""
        return pad(rows, self.tokenizer.pad_token_id, side, self.device)


def pad(rows: list[list[int]], fill: int, side: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad rows with `fill` on the given side; return ids and mask (len(rows), longest)."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), fill)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row), 1
    return ids.to(device), mask.to(device)


def load_base_model(
    folder: Path,
    gguf_file: str | None = None,
    *,
    digest: str = "",
    cache: Path | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    converting: Converting = untold,
) -> BaseModel:
    """Load a transformers folder, or a GGUF file in it.

    A GGUF file takes long to read, so with `cache` (a folder) and `digest` (of the file) it is converted once to
    float32, with the same values, and read from there afterwards. dtype: None means float32 on a CPU, bfloat16
    elsewhere. converting: shows the progress of that. Raises UnsupportedModel or OSError.
    """
    device = device or choose_device()
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    folder, source = _source(folder, gguf_file, digest, cache, converting)
    config = AutoConfig.from_pretrained(folder, **source)
    tokenizer = AutoTokenizer.from_pretrained(folder, **source)
    model = _auto_class(config).from_pretrained(folder, dtype=dtype, **source)
    return BaseModel(model.to(device), tokenizer)


def load_without_weights(
    folder: Path,
    gguf_file: str | None = None,
    *,
    digest: str = "",
    cache: Path | None = None,
    converting: Converting = untold,
) -> BaseModel:
    """Load a model's modules and its tokenizer: what it is made of and how it reads a prompt, without computing.

    The arguments and errors are those of `load_base_model`.
    """
    folder, source = _source(folder, gguf_file, digest, cache, converting)
    config = AutoConfig.from_pretrained(folder, **source)
    model = _auto_class(config).from_pretrained(folder, device_map="meta", **source)  # with its generation settings
    return BaseModel(model, AutoTokenizer.from_pretrained(folder, **source))


def _source(
    folder: Path, gguf_file: str | None, digest: str, cache: Path | None, converting: Converting
) -> tuple[Path, dict[str, str]]:
    """Return the folder to load from and further arguments for it. With a cache, a GGUF file is converted once."""
    if not gguf_file:
        return folder, {}
    if not cache or not digest:
        return folder, {"gguf_file": gguf_file}
    return converted(folder, gguf_file, cache / digest, converting), {}


def _auto_class(config: object) -> Any:
    architecture = (getattr(config, "architectures", None) or ["ForCausalLM"])[0]
    if architecture.endswith("ForSequenceClassification"):
        return AutoModelForSequenceClassification
    if getattr(config, "is_encoder_decoder", False):
        return AutoModelForSeq2SeqLM
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return AutoModelForCausalLM
    raise UnsupportedModel(f"{architecture} is not a causal LM, an encoder-decoder or a classifier")


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a transformers folder atomically, even if several processes do so at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        part = Path(scratch) / "model"
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        if not folder.is_dir():
            part.rename(folder)
