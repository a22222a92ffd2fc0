"""Collections: what they are made of, and why one is refused."""

import json
from base64 import b64encode

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from registry.base.digests import sha256_hex
from registry.collections.method import complete_settings
from registry.collections.schemas import MAX_CALIBRATION_BYTES
from tests.registry.problem import is_problem
from tests.registry.workflow import calibration


def test_a_collection_is_created_shown_and_listed(api, model_folder):
    made = api.post("/v1/collections", json={"name": "facts", "model": model_folder, "method": {"rank": 2}})
    assert made.status_code == 201
    assert made.json()["window"] == 256
    assert api.get("/v1/collections/facts").json() == made.json()
    assert api.get("/v1/collections").json() == [made.json()]
    is_problem(api.post("/v1/collections", json={"name": "facts", "model": model_folder}), 409, "name-taken")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "facts", "model": "gpt-17"}, 422, "unknown-model"),
        ({"name": "facts", "model": "m" * 300}, 422, "unknown-model"),
        ({"name": "facts", "model": "x", "method": {"verifier": "v" * 300}}, 422, "invalid-request"),
        ({"name": "facts", "model": "/tmp", "encoder": "x"}, 422, "unknown-model"),
        ({"name": "Facts!", "model": "x"}, 422, "invalid-request"),
        *[
            ({"name": name, "model": "x"}, 422, "invalid-request")
            for name in ("latest", "base", "17", "007", "1.5", "1e3")
        ],
        ({"name": "facts"}, 422, "invalid-request"),
        ({"name": "facts", "model": "x", "colour": "red"}, 422, "invalid-request"),
        ({"name": "facts", "model": "x", "method": {"a": "\x00"}}, 422, "invalid-request"),
        ([], 422, "invalid-request"),
    ],
)
def test_a_collection_that_cannot_be_made_is_a_problem(api, body, status, code):
    is_problem(api.post("/v1/collections", json=body), status, code)
    assert api.get("/v1/collections").json() == []


def refused_collection(api: TestClient, model: str, code: str = "invalid-request", **fields: object) -> str:
    """Why no collection was made."""
    body = is_problem(api.post("/v1/collections", json={"name": "odd", "model": model} | fields), 422, code)
    assert api.get("/v1/collections").json() == []
    return body["detail"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "mamba"}, "of the family mamba cannot carry a block: it keeps one state of all that it read"),
        ({"model_type": "lfm2"}, "some of its layers keep one state"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "awq"}}, "are quantised (awq)"),
        ({"model_type": "clip", "architectures": ["CLIPModel"]}, "CLIPModel is not a causal LM"),
        ({"model_type": "novel"}, "novel is not one of the families"),
        ({}, "names no model_type"),
    ],
)
def test_a_model_that_cannot_carry_a_block_is_refused_with_the_reason_before_anything_is_stored(
    api, tmp_path, config, says
):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert says in refused_collection(api, str(tmp_path))


def test_a_folder_that_no_worker_could_load_is_refused_with_what_it_lacks(api, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "model-1.safetensors").write_bytes(b"weights")
    assert "has no tokenizer" in refused_collection(api, str(tmp_path), "unknown-model")
    (tmp_path / "tokenizer.json").write_text("{}")
    weights = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(weights))
    assert "lacks model-2.safetensors, a part of its weights" in refused_collection(api, str(tmp_path), "unknown-model")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "an adapter of PEFT" in refused_collection(api, str(tmp_path), "unknown-model")


def test_a_family_that_is_not_known_is_taken_with_the_modules_to_edit(api, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "novel"}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    body = {"name": "facts", "model": str(tmp_path), "method": {"modules": ["model.layers.0.mlp.out"]}}
    assert api.post("/v1/collections", json=body).status_code == 201


def test_a_collection_stores_all_settings_of_its_method_so_that_a_later_default_changes_nothing(api, model_folder):
    made = api.post("/v1/collections", json={"name": "facts", "model": model_folder, "method": {"rank": 2}}).json()
    assert made["method"] == complete_settings({"rank": 2}, "default")
    assert {"radius", "layers", "key_encoder"} < made["method"].keys()
    assert made["encoder"] == "all-minilm-l6-v2"
    assert api.get("/v1/audit/verify").json()["ok"]


def test_a_preset_gives_the_settings_that_are_not_given_and_hidden_keys_name_the_model_as_encoder(api, model_folder):
    body = {"name": "facts", "model": model_folder, "preset": "paper", "method": {"key_layer": 3}}
    made = api.post("/v1/collections", json=body).json()
    assert made["method"] == complete_settings({"key_layer": 3}, "paper")
    assert (made["encoder"], made["method"]["key_encoder"], made["method"]["key_layer"]) == ("hidden", "hidden", 3)
    assert made["calibration_sha256"] is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": {"ranks": 2}}, "'ranks'"),
        ({"method": {"rank": "2"}}, "rank must be a whole number"),
        ({"method": {"rank": 0}}, "rank must be at least 1"),
        ({"method": {"key_pooling": "first"}}, "key_pooling"),
        ({"preset": "papper"}, "'papper'"),
        ({"preset": "paper", "encoder": "all-minilm-l6-v2"}, "'all-minilm-l6-v2' would not be used"),
        ({"encoder": "hidden"}, "key_encoder is sentence"),
    ],
)
def test_settings_that_the_method_does_not_take_are_refused_by_name(api, model_folder, fields, said):
    assert said in refused_collection(api, model_folder, **fields)


def test_a_calibration_given_at_creation_is_the_collections_and_is_told_in_the_audit_log(api, model_folder, engine):
    given = calibration(metric=[384, 384])
    body = {"name": "facts", "model": model_folder, "calibration": b64encode(given).decode()}
    made = api.post("/v1/collections", json=body)
    assert made.status_code == 201
    assert made.json()["calibration_sha256"] == sha256_hex(given)
    (event,) = api.get("/v1/audit", params={"collection": "facts"}).json()
    assert event["details"]["calibration"] == sha256_hex(given)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT data FROM calibrations")).scalar_one() == given
    assert api.get("/v1/audit/verify").json()["ok"]


@pytest.mark.parametrize(
    ("given", "method", "said"),
    [
        (b"", {}, "not a calibration"),
        (b"mean and covariance", {}, "not a calibration"),
        (b"\xff" * 8 + b"{}", {}, "not a calibration"),
        (calibration()[:-1], {}, "not a calibration"),
        (calibration() + b" ", {}, "not a calibration"),
        (calibration(dtype="F16"), {}, "not a calibration"),
        (calibration(matrix=[384, 383]), {}, "not a calibration"),
        (calibration(metric=[2, 2]), {}, "not a calibration"),
        (calibration(other=[1]), {}, "not a calibration"),
        (calibration(32), {}, "keys of 32 dimensions, but this collection's have 384"),
        (calibration(), {"whitened": False}, "whitened is false"),
    ],
)
def test_bytes_that_are_no_calibration_of_the_encoder_are_refused(api, model_folder, given, method, said):
    encoded = b64encode(given).decode()
    assert said in refused_collection(api, model_folder, calibration=encoded, method=method)


def test_a_calibration_that_is_no_base64_or_too_large_is_refused(api, model_folder):
    assert "Base64" in refused_collection(api, model_folder, calibration="mean and covariance!!")
    long = b64encode(bytes(MAX_CALIBRATION_BYTES + 1)).decode()
    assert f"may have {MAX_CALIBRATION_BYTES:,}" in refused_collection(api, model_folder, calibration=long)
