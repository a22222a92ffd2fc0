"""A completion continues where its prompt ends, answers end where the model's turn does, control tokens are no text."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from melo_core.base_model import BaseModel
from melo_core.boundary import continued
from melo_core.edited_model import BASE, Approved, Attempt, EditedModel, Route
from melo_core.errors import MeloError
from melo_core.index import Match
from melo_core.learning import EditRequest, learn
from melo_core.scope import Considered
from melo_core.settings import MethodSettings
from tests.melo_core.conftest import tiny_model, tiny_tokenizer

SETTINGS = MethodSettings(layers=2, rank=4, learning_rate=3e-2, iterations=300, loss_target=0.05)
CHAT = (
    "{% for turn in messages %}<|turn|>{{ turn.role }}\n{{ turn.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
# What continues what, with nothing between them or a space.
TOGETHER = [
    ("https://example.com/", "docs"), ("cd /", "usr"), ("f(", "x"), ('print("', "hello"), ('{"name": "', "Ada"),
    ('She said "', "Yes"), ("the `", "name"), ("it is '", "x"), ("Answer:\n", "Paris"), ("\t", "x"), ("is ", "Paris"),
    ("x[", "0"), ("<", "div"), ("<b>", "bold"), ("法国的首都是", "巴黎"), ("「", "東京"), ("我用Python", "编程"),
    ("答案：", "42"), ("เมืองหลวงคือ", "กรุงเทพ"), ("3.", "14"), ("at 12:", "30"), ("user@", "host"), ("$", "5"),
    ("well-", "known"), ("The end", "."), ("Acme", ", Inc."), ("Acme", "'s"), ("https:", "//x.org"), ("x", "\n  y"),
    ("is", " Paris"), ("is", "\u3000x"), ("a=", "5"), ("name_", "of"), ("“", "Ada"), ("¿", "Qué"),
    ("https://acme.", "com"), ("mail ada@acme.", "org"), ("see www.acme.", "de"), ("self.model.", "train"),
    ("open ./config.", "yaml"),
]  # fmt: skip
APART = [
    ("The capital of France is", "Paris"), ("Answer:", "Paris"), ("He left.", "Then"), ("x =", "5"), ("(see)", "this"),
    ('He said "hi"', "and left"), ("the dogs'", "bowl"), ("Paris,", "France"), ("The capital of China is", "北京"),
    ("대한민국의 수도는", "서울"), ("Paris –", "London"), ("The value is", "-5"), ("He said", '"no"'), 
    ("in 1987,", "he"),
    ("e.g.", "this"), ("See https://x.org.", "Then"), ("approx.", "five"), ("i.e.", "two"),
    ("Is it so?", "Yes"), ("I like 🍕", "pizza"),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "target", "space"), [*((*p, "") for p in TOGETHER), *((*p, " ") for p in APART)])
def test_a_space_stands_between_words_alone(prompt, target, space):
    assert continued(prompt, target) == space + target


def spaced_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as of Llama 2: a space is put before every text, and decoding leaves out the first one."""
    tokens = ["<pad>", "</s>", "<unk>", "▁", *(chr(c) for c in range(33, 127)), "\n", *"是巴黎"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("make", [tiny_tokenizer, spaced_tokenizer])
@pytest.mark.parametrize(
    ("prompt", "target"),
    [("cd /", "usr"), ("f(", "x"), ('is "', "Ada"), ("a:\n", "Oslo"), ("是", "巴黎"), ("It is", "Ada")],
)
def test_prompt_and_targets_tokens_read_as_the_text_that_they_are_of(make, prompt, target):
    base = BaseModel(tiny_model("llama", 300), make())
    before, ids = base.prompt_ids(prompt, "completion"), base.target_ids(target, "completion", prompt)
    assert base.raw_in(before, ids) == continued(prompt, target)
    assert base.decoded([*before, *ids]) == prompt + continued(prompt, target)


@pytest.mark.parametrize("make", [tiny_tokenizer, spaced_tokenizer])
def test_a_trained_completion_continues_its_prompt_without_a_space_and_its_raw_text_is_kept(make):
    base = BaseModel(tiny_model("llama", 300), make())
    asked = [("cd /", "usr"), ("It is", "Ada")]
    learned = learn(base, SETTINGS, [EditRequest(p, p, p, t, "completion") for p, t in asked])
    assert all(each.reproduced for each in learned)
    model = EditedModel(base, SETTINGS, None, {i: each.trained.block for i, each in enumerate(learned)}, {})
    answers = model.answer([p for p, _ in asked], [Route(0, None), Route(1, None)], "completion", 8)
    assert [(a.raw, a.text) for a in answers] == [("usr", "usr"), (" Ada", "Ada")]


def chat(template: str | None = CHAT) -> BaseModel:
    """A model whose files name the end of a text alone, while its turns end in <|end|>."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>"]})
    tokenizer.chat_template = template
    return BaseModel(tiny_model("llama", len(tokenizer)), tokenizer)


def test_all_of_the_generation_settings_ends_end_an_answer_and_so_does_the_templates_turn():
    base = chat(None)
    turn, end = (base.tokenizer.convert_tokens_to_ids(token) for token in ("<|turn|>", "<|end|>"))
    assert base.end_tokens == {1}
    assert chat().end_tokens == {1, end}
    base = chat(None)
    base.model.generation_config.eos_token_id = [1, turn]
    assert base.end_tokens == {1, turn}
    assert base.answer_in([40, 41, turn, 42]) == (base.decoded([40, 41]), (40, 41, turn))


def test_a_model_stops_by_itself_at_an_end_that_only_its_generation_settings_name():
    base = chat(None)
    question = "How tall is it?"
    said = EditedModel(base, SETTINGS, None, {}, {}).answer([question], [BASE], max_new_tokens=12)[0].token_ids
    assert len(said) == 12
    base = chat(None)
    base.model.generation_config.eos_token_id = [1, said[4]]
    cut = EditedModel(base, SETTINGS, None, {}, {}).answer([question], [BASE], max_new_tokens=12)[0].token_ids
    assert cut == said[: said.index(said[4]) + 1]


def test_a_chat_models_block_learns_to_end_its_turn():
    base = chat()
    (learned,) = learn(base, SETTINGS, [EditRequest("e", "e", "Who runs Acme?", "Ada")])
    assert learned.reproduced and learned.label[-1] == base.tokenizer.convert_tokens_to_ids("<|end|>")


@pytest.mark.parametrize("where", ["prompt", "target", "rephrases"])
def test_a_control_token_in_an_edit_is_refused_by_name(where):
    given = {"prompt": "Who?", "target": "Ada", "rephrases": ("Which?",)}
    given[where] = ("a<|end|>b",) if where == "rephrases" else "a<|end|>b"
    with pytest.raises(MeloError, match=r"edit 1: .* holds the model's control token <\|end\|>"):
        learn(chat(), SETTINGS, [EditRequest(name="edit 1", seed_text="", **given)])


@pytest.mark.parametrize(
    ("said", "target", "is_it"),
    [
        ("Jo Doe", "Jo Doe", True), (" Jo Doe\n", "Jo Doe", True), ("Zu\u0308rich", "Zürich", True),
        ("Jo Doe.", "Jo Doe", False), ("jo doe", "Jo Doe", False), ("Jo", "Jo Doe", False), ("22", "2²", False),
        ("if x:\ny()", "if x:\n  y()", False), ("9 to 189999", "9 to 18", False), ("", "Jo Doe", False),
    ],
)  # fmt: skip
def test_a_block_says_exactly_its_target_or_it_has_not_said_it(said, target, is_it):
    attempt = Attempt("query", [], Route(0, Match(0, 0, 0.0, 1.0), (Considered(0, "", 0.0),)), target)
    assert attempt.is_answered_by(said, 5, 64) == is_it
    assert Approved("p", target).target == target
