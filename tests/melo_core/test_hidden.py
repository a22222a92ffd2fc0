"""Keys from the base model's own hidden states, on tiny models of every architecture."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from melo_core.base_model import BaseModel
from melo_core.block import Block
from melo_core.edited_model import EditedModel, Route
from melo_core.encoder import KeyEncoder, Whitening
from melo_core.errors import MeloError
from melo_core.hidden import HiddenEncoder
from melo_core.index import ClusterIndex
from melo_core.scope import Scope, ScopedText
from melo_core.settings import MethodSettings
from melo_core.structure import Kind, structure_of
from tests.melo_core.conftest import ARCHITECTURES, tiny_model, tiny_tokenizer

PROMPT = "Who runs Acme?"
LAYERS = 4


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request: pytest.FixtureRequest) -> BaseModel:
    tokenizer = tiny_tokenizer()
    return BaseModel(tiny_model(request.param, len(tokenizer)), tokenizer)


@pytest.fixture(scope="module")
def llama() -> BaseModel:
    tokenizer = tiny_tokenizer()
    return BaseModel(tiny_model("llama", len(tokenizer)), tokenizer)


def edited(base: BaseModel, settings: MethodSettings, encoder: KeyEncoder, *keys: torch.Tensor) -> EditedModel:
    """Points 0, 1, … with these keys lead to block 7."""
    index = ClusterIndex(encoder.dimension, 1.0)
    for point, key in enumerate(keys):
        index.insert(point, key, (1,))
    points = range(len(keys))
    scope = Scope(encoder, index, settings, {point: ScopedText(1, "") for point in points})
    return EditedModel(base, settings, scope, {7: _block(base, settings)} if keys else {}, dict.fromkeys(points, 7))


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_key_is_the_models_own_hidden_state_at_the_layers_output(base, layer, pooling):
    model = base.model.get_encoder() if base.kind is Kind.SEQ2SEQ else base.model
    ids = torch.tensor([base.prompt_ids(PROMPT)])
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
    encoder = HiddenEncoder(base, layer, pooling)
    key = encoder.key(PROMPT)
    torch.testing.assert_close(key, states[-1] if pooling == "last" else states.mean(0))
    assert key.shape == (encoder.dimension,) and key.dtype == torch.float32


def test_nothing_behind_the_layer_runs(llama):
    ran = []
    hooks = [
        layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(llama.model.model.layers)
    ]
    try:
        HiddenEncoder(llama, 2, "last").key(PROMPT)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == [0, 1]


def test_a_key_depends_neither_on_what_else_is_asked_nor_on_padding(base):
    layers, settings = 1, MethodSettings(layers=2)
    encoder = HiddenEncoder(base, layers, "last")
    alone = encoder.key(PROMPT)
    model = edited(base, settings, encoder, alone)
    longer = "Please tell me at once and in one word: where do the bees of Acme sleep in winter?"
    together = model.ask([longer, PROMPT, "Hm"], max_new_tokens=2)
    assert together[1].route.match.distance == 0.0 and together[1].route.block == 7
    assert together[1] == model.ask([PROMPT], max_new_tokens=2)[0]
    assert torch.equal(encoder.key(PROMPT), alone)


def _block(base: BaseModel, settings: MethodSettings) -> Block:
    shapes = structure_of(base.model, settings).shapes
    return Block({name: (torch.ones(1, i), torch.ones(o, 1)) for name, (i, o) in shapes.items()}, 1.0)


def test_keys_are_the_same_while_another_thread_answers_with_the_same_model_and_do_not_disturb_it(llama):
    settings = MethodSettings(layers=2)
    encoder = HiddenEncoder(llama, 2, "mean")
    key = encoder.key(PROMPT)
    model = edited(llama, settings, encoder, key)

    def answer() -> tuple[int, ...]:
        return model.answer([PROMPT], [Route(7, None)], max_new_tokens=40)[0].token_ids

    with ThreadPoolExecutor(1) as other:
        expected = answer()
        answers = [other.submit(answer) for _ in range(5)]
        keys = 0
        while not all(future.done() for future in answers):
            assert torch.equal(encoder.key(PROMPT), key)
            keys += 1
        assert keys > 10 and [future.result() for future in answers] == [expected] * 5


def test_a_layer_that_a_block_could_change_is_refused_and_both_are_named(base):
    settings = MethodSettings(layers=2)
    edited(base, settings, HiddenEncoder(base, 2, "last"))
    if base.kind is Kind.SEQ2SEQ:  # its blocks act in the decoder, and its keys are the encoder's
        edited(base, settings, HiddenEncoder(base, LAYERS, "last"))
        settings = MethodSettings(modules=("encoder.block.2.layer.1.DenseReluDense.wo",))
    with pytest.raises(MeloError, match=r"key_layer 3 .* first edited layer, which is layer 3"):
        edited(base, settings, HiddenEncoder(base, 3, "last"))


def test_a_layer_that_is_not_there_is_refused(base):
    with pytest.raises(MeloError, match=r"key_layer 5 is no layer of the model.*to 4"):
        HiddenEncoder(base, 5, "last")


def test_a_prompts_form_is_part_of_its_key_where_the_model_has_a_chat_template(llama):
    encoder = HiddenEncoder(llama, 2, "last")
    assert torch.equal(encoder.key(PROMPT, "qa"), encoder.key(PROMPT, "completion"))
    llama.tokenizer.chat_template, before = "{{ messages[0]['content'] }} So:", llama.tokenizer.chat_template
    try:
        assert torch.equal(encoder.key(PROMPT, "qa"), encoder.key(f"{PROMPT} So:", "completion"))
        settings = MethodSettings(layers=2)
        model = edited(llama, settings, encoder, encoder.key(PROMPT, "qa"))
        away = [model.route(PROMPT, kind).match.distance for kind in ("qa", "completion")]
        assert away[0] == 0.0 < away[1]
        assert model.ask([PROMPT], kind="completion", max_new_tokens=1)[0].route.match.distance == away[1]
    finally:
        llama.tokenizer.chat_template = before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_keys_of_a_half_precision_model_are_near_the_full_ones_and_float32(llama, dtype):
    half = BaseModel(tiny_model("llama", len(llama.tokenizer)).to(dtype), llama.tokenizer)
    key, full = (HiddenEncoder(each, 2, "mean").key(PROMPT) for each in (half, llama))
    assert key.dtype == torch.float32
    assert 0 < torch.dist(key, full) < 0.05 * full.norm()


def test_a_state_that_overflowed_is_refused(llama):
    broken = BaseModel(tiny_model("llama", len(llama.tokenizer)).to(torch.float16), llama.tokenizer)
    broken.model.get_input_embeddings().weight.mul_(1e5)
    with pytest.raises(MeloError, match=r"no finite number in torch\.float16; load the model in float32"):
        HiddenEncoder(broken, 0, "last").key(PROMPT)


def test_hidden_keys_can_be_whitened_and_a_calibration_of_another_width_is_refused(llama):
    encoder = HiddenEncoder(llama, 2, "mean")
    raw = torch.stack([encoder.raw_key(f"What is {n} times two?") for n in range(100)])
    white = dataclasses.replace(encoder, whitening=Whitening.fit(raw, 0.01))
    assert white.key(PROMPT).norm().item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(MeloError, match="keys of 384 dimensions, and this encoder's have 32"):
        dataclasses.replace(encoder, whitening=Whitening(torch.zeros(384), torch.eye(384)))
