"""A model whose files changed is not taken for the collection's: the error says which files, and what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.base.errors import UnknownModel
from registry.collections import service as collections
from registry.tables.jobs import Job
from tests.worker.training import PAIRS, model_of
from worker.model_cache import ModelCache
from worker.training_job import run_job
from worker.watch import Worker


@pytest.fixture
def copied(tiny_folder, tmp_path) -> Path:
    """A copy of the collection's model, to be changed."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


@pytest.fixture
def refusal(tiny_workflow, copied, sessions, tmp_path) -> Callable[[], UnknownModel]:
    def refused() -> UnknownModel:
        with sessions() as session:
            recorded = collections.get(session, "facts").model_files
        with pytest.raises(UnknownModel) as caught:
            ModelCache(tmp_path / "cache").base(str(copied), model_of(tiny_workflow)[1], recorded)
        return caught.value

    return refused


def test_the_error_names_the_only_file_that_changed_and_offers_a_copy_of_the_collection(copied, refusal):
    (copied / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    assert "collection's: generation_config.json is changed; the weights are the same." in refusal().detail
    assert "melo collection copy" in refusal().remedy


def test_the_error_tells_changed_new_and_missing_files_apart(copied, refusal):
    (copied / "model.safetensors").write_bytes(b"others")
    (copied / "chat_template.jinja").write_text("{{ messages }}")
    (copied / "tokenizer_config.json").unlink()
    told = "chat_template.jinja is new; model.safetensors is changed; tokenizer_config.json is missing."
    assert told in refusal().detail


def test_a_job_whose_models_file_changed_says_which(tiny_workflow, tiny_folder, sessions, tmp_path):
    prompt, target = PAIRS[0]
    job = tiny_workflow.approve(tiny_workflow.submit({"prompt": prompt, "target": target}).batch.id)
    file = tiny_folder / "generation_config.json"
    before = file.read_bytes()
    try:
        file.write_text("{}")
        run_job(Worker("w1", sessions, ModelCache(tmp_path), lease_seconds=60, libraries={}), job)
    finally:
        file.write_bytes(before)
    with sessions() as session:
        assert "generation_config.json is changed" in session.get(Job, job).error
