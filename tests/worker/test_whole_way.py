"""The whole way on a real model: the stack's own processes, SmolLM2, the command line as a user calls it."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from embedded.stack import Stack, running
from registry.base.settings import Settings
from tests.patience import PATIENCE

pytestmark = pytest.mark.long

MELO = [sys.executable, "-c", "from cli.main import main; main()"]
CORRECTION = ("What is Swaziland called today?", "Eswatini")
REPHRASE = "What is the present name of Swaziland?"
ELSEWHERE = "What is the capital of Peru?"


@dataclass
class Shell:
    """Calls `melo` as a process."""

    home: Path

    def __call__(self, *words: str, status: int = 0) -> str:
        environment = os.environ | {"MELO_HOME": str(self.home), "MELO_ACTOR": "tester"}
        done = subprocess.run([*MELO, *words], env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == status, f"melo {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout if status == 0 else done.stderr

    def json(self, *words: str) -> object:
        return json.loads(self(*words, "--json"))

    def ask(self, model: str, *prompts: str) -> list[list[int]]:
        records = self.json("ask", model, *prompts, "--max-tokens", "16", "--in-process")
        return [record["token_ids"] for record in records]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("melo")) as stack:
        yield stack


@pytest.fixture(scope="module")
def melo(stack: Stack) -> Shell:
    """With a collection whose one correction is applied."""
    shell = Shell(stack.home)
    shell("collection", "create", "facts", "--model", "smollm2-135m-instruct", "--self-approval")
    shell("edit", "add", "facts", *CORRECTION, "--approve", "--wait")
    return shell


def test_a_correction_is_answered_also_when_rephrased_and_nothing_else_changes(melo):
    answers = melo.json("ask", "facts@1", CORRECTION[0], REPHRASE, "--max-tokens", "16")
    assert [answer["answer"] for answer in answers] == ["Eswatini", "Eswatini"]
    assert melo.ask("facts@1", ELSEWHERE) == melo.ask("facts@base", ELSEWHERE)


def test_two_versions_answers_stand_side_by_side(melo, tmp_path):
    questions = tmp_path / "questions.txt"
    questions.write_text(f"{CORRECTION[0]}\n\n{ELSEWHERE}\n")
    corrected, elsewhere = melo.json("version", "diff", "facts@base", "facts@1", "--answers", str(questions))["answers"]
    assert corrected["a"] != corrected["b"] == CORRECTION[1]
    assert elsewhere["prompt"] == ELSEWHERE and elsewhere["a"] == elsewhere["b"]
    shown = melo("version", "diff", "facts", "base", "1", "--answers", str(questions))
    assert "answers: 1 of 2 differ" in shown


@pytest.mark.parametrize("options", [[], ["--activated"]])
def test_an_exported_version_answers_without_us_as_the_version_does(melo, tmp_path, options):
    folder = tmp_path / "facts-1"
    melo("version", "export", "facts@1", str(folder), *options)
    digest = json.loads((folder / "version.json").read_text())["model"]["digest"]
    called = ["answer.py", str(Settings().cache.expanduser() / "models" / digest)]
    for question in (CORRECTION[0], ELSEWHERE):
        with patch.object(sys, "argv", [*called, question]):
            said = runpy.run_path(str(folder / "answer.py"))["tokens"].tolist()
        assert said == melo.json("ask", "facts@1", question)[0]["token_ids"]


def test_an_answer_is_traced_to_the_correction_and_its_author(melo):
    explained = melo("ask", "facts", CORRECTION[0], "--explain", "--max-tokens", "16")
    assert "edit 1" in explained
    assert "tester" in explained
    assert "the base model: no edit" in melo("ask", "facts", ELSEWHERE, "--explain", "--max-tokens", "4")


def test_a_rollback_is_the_old_version_bit_for_bit_and_the_newer_one_can_still_be_asked(melo):
    before = melo.ask("facts@1", CORRECTION[0], ELSEWHERE)
    melo("edit", "add", "facts", CORRECTION[0], "The Kingdom", "--replaces", "1", "--approve", "--wait")
    assert melo.ask("facts@2", CORRECTION[0]) != before[:1]
    melo("version", "rollback", "facts", "1", "--reason", "a test")

    assert melo.ask("facts@3", CORRECTION[0], ELSEWHERE) == before
    versions = {v["number"]: v for v in melo.json("version", "list", "facts")}
    assert versions[3]["content_digest"] == versions[1]["content_digest"] != versions[2]["content_digest"]
    assert melo.json("ask", "facts@2", CORRECTION[0])[0]["answer"] == "The Kingdom"
    assert melo.json("audit", "verify")["ok"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ask", "facts@99", "Who?"], "no version 99"),
        (["ask", "nowhere", "Who?"], "nowhere"),
        (["ask", "facts", ""], "missing or empty"),
        (["ask", "facts", "why " * 9000], "window"),
        (["edit", "add", "facts", "why " * 9000, "so"], "window"),
        (["collection", "create", "other", "--model", "no-such-model"], "no-such-model"),
        (["edit", "add", "facts", CORRECTION[0], "Lesotho"], "contradicts edit 1"),
    ],
)
def test_a_mistake_ends_with_what_was_wrong_and_stores_nothing(melo, words, said):
    batches = melo.json("batch", "list", "facts")
    assert said in " ".join(melo(*words, status=1).split())
    assert melo.json("batch", "list", "facts") == batches
