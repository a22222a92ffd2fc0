"""Keys from the base model's own hidden states, and calibrations given with a collection: from creation to answers."""

import json
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from melo_core.base_model import load_base_model
from melo_core.encoder import SentenceEncoder, Whitening
from melo_core.hidden import HiddenEncoder
from melo_core.settings import MethodSettings
from registry.base.digests import sha256_hex
from registry.base.model_files import find_encoder
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.tables.jobs import Job
from tests.cli.program import Melo
from tests.registry.workflow import ADA, Workflow
from tests.worker.conftest import METHOD
from tests.worker.training import PAIRS, ask, correct, load
from worker.model_cache import ModelCache, hidden_digest
from worker.training_job import run_job

FEW = METHOD | {"edits_per_block": 1, "key_layer": 2, "radius": 0.5}  # four layers, of which the last two are edited
ASKED = [*(prompt for prompt, _ in PAIRS), "Who ran Acme before?", "Name three rivers in Peru."]


def workflow_with(sessions: Any, folder: Path, method: Mapping[str, Any], **fields: Any) -> Workflow:
    with sessions.begin() as session:
        given = {"name": "facts", "model": str(folder), "method": dict(method), "preflight": "none"} | fields
        collections.create(session, NewCollection.model_validate(given), ADA)
    return Workflow(sessions)


def failure(workflow: Workflow, worker: Any) -> str:
    """Why the job of a first correction failed."""
    batch = workflow.submit({"prompt": PAIRS[0][0], "target": PAIRS[0][1]}).batch
    run_job(worker, workflow.approve(batch.id))
    with workflow.sessions() as session:
        job = session.query(Job).one()
        assert job.state == "failed"
        return str(job.error)


def test_a_collection_of_the_papers_preset_answers_rightly_and_is_read_again_with_the_same_routes(
    sessions, worker, tiny_folder, tmp_path
):
    workflow = workflow_with(sessions, tiny_folder, FEW, preset="paper")
    correct(workflow, worker, *PAIRS)
    correct(workflow, worker, ("When was Initech founded?", "1999"))
    loaded, again = load(worker, workflow, 2), load(worker, workflow, 2, ModelCache(tmp_path))

    assert ask(loaded, *(prompt for prompt, _ in PAIRS), "When was Initech founded?") == ["Ada", "Oslo", "1999"]
    here, there = loaded.model.ask(ASKED, max_new_tokens=8), again.model.ask(ASKED, max_new_tokens=8)
    assert here == there
    collection, settings = loaded.content.collection, MethodSettings.from_json(loaded.content.collection.method)
    assert (collection.encoder, collection.calibration) == ("hidden", None)
    assert collection.encoder_digest == hidden_digest(collection.model_digest, settings)
    key = HiddenEncoder(loaded.model.base, 2, "last").key(PAIRS[0][0])
    assert key.tolist() in [list(point.key) for point in loaded.content.points.values()]
    assert workflow.verify().ok


def test_whitened_hidden_keys_are_fitted_by_the_first_job_and_kept(sessions, worker, tiny_folder, tmp_path):
    method = FEW | {"key_encoder": "hidden", "key_pooling": "mean"}
    workflow = workflow_with(sessions, tiny_folder, method)
    correct(workflow, worker, PAIRS[0])
    correct(workflow, worker, PAIRS[1])
    loaded, again = load(worker, workflow, 2), load(worker, workflow, 2, ModelCache(tmp_path))
    assert loaded.model.scope.encoder.whitening is not None
    assert loaded.model.scope.encoder.key("Hm").norm().item() == pytest.approx(1, abs=1e-5)
    assert [loaded.model.route(asked) for asked in ASKED] == [again.model.route(asked) for asked in ASKED]
    assert ask(loaded, *(prompt for prompt, _ in PAIRS)) == ["Ada", "Oslo"]


def test_a_prompt_to_complete_has_the_key_of_a_prompt_to_complete(sessions, worker, tiny_folder, tmp_path):
    base = load_base_model(tiny_folder)
    base.tokenizer.chat_template = "Q: {{ messages[0]['content'] }}\nA:"
    base.model.save_pretrained(tmp_path / "chat")
    base.tokenizer.save_pretrained(tmp_path / "chat")
    workflow = workflow_with(sessions, tmp_path / "chat", FEW, preset="paper")
    correct(workflow, worker, ("Acme is run by", "Ada"), kind="completion", rephrases=["The boss of Acme is"])
    model = load(worker, workflow, 1).model
    for prompt in ("Acme is run by", "The boss of Acme is"):  # letter case apart, or the text alone would decide
        away = {kind: model.route(prompt.lower(), kind).match.distance for kind in ("completion", "qa")}
        keys = [model.scope.encoder.key(prompt.lower(), kind) for kind in ("completion", "qa")]
        assert model.route(prompt, "completion").match.distance == 0
        assert away["completion"] != away["qa"] and not torch.equal(*keys)


def test_keys_of_a_sentence_encoder_need_not_be_whitened(sessions, worker, tiny_folder):
    workflow = workflow_with(sessions, tiny_folder, METHOD | {"whitened": False, "radius": 0.1})
    correct(workflow, worker, *PAIRS)
    loaded = load(worker, workflow, 1)
    assert loaded.content.collection.calibration is None and loaded.model.scope.encoder.whitening is None
    assert ask(loaded, *(prompt for prompt, _ in PAIRS)) == ["Ada", "Oslo"]


def test_a_layer_that_a_block_could_change_fails_the_job_before_training_with_the_reason(
    sessions, worker, tiny_folder, capsys
):
    reason = failure(workflow_with(sessions, tiny_folder, FEW | {"key_layer": 3}, preset="paper"), worker)
    assert "key_layer 3" in reason and "first edited layer, which is layer 3" in reason
    assert "training" not in capsys.readouterr().out  # as the worker says when it begins to


def test_a_layer_that_the_model_does_not_have_fails_the_job_with_the_reason(sessions, worker, tiny_folder):
    reason = failure(workflow_with(sessions, tiny_folder, METHOD, preset="paper"), worker)
    assert "key_layer 6 is no layer of the model" in reason


@pytest.fixture(scope="module")
def whitening() -> Whitening:
    """Of few questions, so that it cannot be taken for one that a job fits."""
    encoder = SentenceEncoder.load(find_encoder("all-minilm-l6-v2").path)
    return Whitening.fit(torch.stack([encoder.raw_key(f"How far is star {n}?") for n in range(20)]), 0.05)


def test_a_calibration_given_with_the_collection_is_what_its_keys_are_whitened_with(
    sessions, worker, tiny_folder, whitening
):
    data = whitening.to_bytes()
    workflow = workflow_with(sessions, tiny_folder, METHOD, calibration=_base64(data))
    correct(workflow, worker, *PAIRS)
    loaded = load(worker, workflow, 1)
    assert loaded.content.collection.calibration_sha256 == sha256_hex(data)
    assert loaded.content.collection.encoder_digest == find_encoder("all-minilm-l6-v2").digest
    expected = SentenceEncoder.load(find_encoder("all-minilm-l6-v2").path)
    expected.whitening = whitening
    keys = [list(point.key) for point in loaded.content.points.values()]
    assert keys == [expected.key(prompt).tolist() for prompt, _ in PAIRS]
    correct(workflow, worker, ("When was Initech founded?", "1999"))
    assert workflow.verify().ok


def test_a_given_calibration_that_holds_no_numbers_fails_the_first_job_with_the_reason(
    sessions, worker, tiny_folder, whitening
):
    broken = Whitening(whitening.mean, torch.full_like(whitening.matrix, torch.nan))
    reason = failure(workflow_with(sessions, tiny_folder, METHOD, calibration=_base64(broken.to_bytes())), worker)
    assert "are not a calibration (matrix is not (384, 384) finite float32 numbers)" in reason


def test_a_calibration_of_hidden_keys_has_the_models_width(sessions, worker, tiny_folder):
    calibration = Whitening(torch.zeros(32), torch.eye(32)).to_bytes()
    method = FEW | {"key_encoder": "hidden"}
    workflow = workflow_with(sessions, tiny_folder, method, calibration=_base64(calibration))
    correct(workflow, worker, PAIRS[0])
    assert load(worker, workflow, 1).content.collection.calibration == calibration


def test_a_calibration_is_fitted_to_hidden_keys_and_given_to_a_collection(sessions, worker, tiny_folder, tmp_path):
    questions, out = tmp_path / "questions.txt", tmp_path / "keys.safetensors"
    questions.write_text("\n".join(f"What is {n} times {n + 7}?" for n in range(120)))
    of_model = ["--model", str(tiny_folder), "--layer", "2", "--questions", str(questions)]
    found = json.loads(melo("calibrate", *of_model, "--pooling", "last", "--out", str(out), "--json"))
    method = FEW | {"key_encoder": "hidden", "key_pooling": "last", "radius": found["radius"]}
    workflow = workflow_with(sessions, tiny_folder, method, calibration=_base64(out.read_bytes()))
    correct(workflow, worker, PAIRS[0])
    collection = load(worker, workflow, 1).content.collection
    assert collection.calibration == out.read_bytes()
    assert collection.encoder_digest == found["encoder_digest"]

    plain = json.loads(melo("calibrate", *of_model, "--no-whitening", "--false-rate", "0.05", "--json"))
    assert plain["whitened"] is False and plain["encoder_digest"] != found["encoder_digest"]
    radii = [reach["radius"] for reach in plain["trade_off"]]
    assert plain["radius"] in radii and radii[0] < plain["radius"] < radii[-1]
    assert {reach["radius"]: reach["false"]["unrelated"] for reach in plain["trade_off"]}[plain["radius"]] <= 0.05


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layer", "2"], "Give --model"),
        (["--model", "TINY", "--encoder", "all-minilm-l6-v2"], "exclude each other"),
        (["--model", "TINY", "--layer", "5"], "key_layer 5 is no layer of the model"),
        (["--no-whitening", "--out", "keys.safetensors"], "not whitened"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_a_calibration_that_cannot_be_made_is_refused_with_the_reason(tiny_folder, words, said):
    words = [str(tiny_folder) if word == "TINY" else word for word in words]
    assert said in " ".join(melo("calibrate", *words, status=1).split())


def melo(*words: str, status: int = 0) -> str:
    """What `melo` prints, or what it complains of."""
    done = Melo(Path("nowhere"))(*words)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
