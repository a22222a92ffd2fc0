"""The packaged verifier, and others that may take its place."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from melo_core.errors import MeloError
from melo_core.verifier import Verifier, pair, untrained
from melo_core.verifier_files import WEIGHTS, digest_of, folder_of
from tests.melo_core.conftest import FOLDER

CEO = "Who is the CEO of Acme?"


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    return Verifier.load(folder_of("packaged"), FOLDER)


def test_it_tells_a_rephrase_from_another_question(verifier):
    assert verifier.score(CEO, "Which person runs Acme as its chief executive?") < 0.5
    assert verifier.score(CEO, "How many people work at Acme?") > 0.5


def test_what_ships_is_small_and_its_digest_is_that_of_its_bytes(tmp_path):
    shipped = folder_of("packaged") / WEIGHTS
    assert shipped.stat().st_size <= 22_000_000
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(shipped, copy)
    assert digest_of(str(copy)) == digest_of("packaged") and len(digest_of("packaged")) == 64
    tensors = load_file(shipped)
    tensors["classifier.bias"] += 1
    save_file(tensors, copy / WEIGHTS)
    changed = tmp_path / "changed"
    copy.rename(changed)
    assert digest_of(str(changed)) != digest_of("packaged")
    assert digest_of("none") == ""


def test_of_long_texts_the_ends_are_read_and_a_pair_never_exceeds_the_window(verifier):
    story = "The train was late again and nobody knew why. " * 60
    tokens = pair(verifier.tokenizer, story, f"{story} {CEO}")
    assert len(tokens["input_ids"]) == 512
    assert verifier.tokenizer.decode(tokens["input_ids"]).endswith("who is the ceo of acme? [SEP]")
    assert 0 <= verifier.score(story, f"{story} {CEO}") <= 1


def test_a_folder_with_a_cross_encoder_may_take_its_place_and_one_with_several_outputs_is_refused(tmp_path):
    for outputs in (1, 2):
        folder = tmp_path / str(outputs)
        model = AutoModelForSequenceClassification.from_pretrained(FOLDER, num_labels=outputs)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(FOLDER).save_pretrained(folder)
    assert 0 < Verifier.load(folder_of(str(tmp_path / "1")), FOLDER).score(CEO, CEO) < 1
    with pytest.raises(MeloError, match="has 2 outputs; a verifier has one"):
        Verifier.load(folder_of(str(tmp_path / "2")), FOLDER)


def test_weights_over_other_embeddings_or_of_another_shape_are_refused(tmp_path):
    weights = {name: t for name, t in untrained(FOLDER).state_dict().items() if "embeddings" not in name}
    save_file(weights, tmp_path / WEIGHTS, metadata={"embeddings": "0" * 64})
    with pytest.raises(MeloError, match=r"trained on other embeddings \(000000000000…\)"):
        Verifier.load(tmp_path, FOLDER)
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(MeloError, match="is not a verifier"):
        Verifier.load(tmp_path, FOLDER)


def test_it_computes_in_float32_whatever_it_is_stored_in(verifier):
    assert {parameter.dtype for parameter in verifier.model.parameters()} == {torch.float32}
