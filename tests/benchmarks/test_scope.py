"""`melo bench scope`: routing alone, with the real encoder and the packaged verifier."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.scope.run import misspelt
from cli.main import make_app

CEO, HOURS = "Who is the CEO of Acme?", "When does the Acme shop in Utrecht open?"
PAIRS = [
    {"edit": CEO, "query": "Which person leads Acme as its chief executive?", "same": True, "kind": "rephrase"},
    {"edit": CEO, "query": "Hello! Who is the CEO of Acme?", "same": True, "kind": "wrapped"},
    {"edit": CEO, "query": "Who is the CFO of Acme?", "same": False, "kind": "role"},
    {"edit": CEO, "query": "When was Acme founded?", "same": False, "kind": "relation"},
]
ASK = [
    {"text": "who's the ceo of acme", "edit": CEO},
    {"text": "opening time of the acme shop in utrecht", "edit": HOURS},
    {"text": "Is Acme profitable?", "edit": None},
    {"turns": ["When was Acme founded?", "In 1987.", "And who is its CEO?"], "edit": CEO},
    {"turns": ["Who is the CEO of Acme?", "Jo Doe.", "And its fax number?"], "edit": None},
]


def lines(file: Path, records: list[dict[str, Any]]) -> str:
    file.write_text("\n".join(json.dumps(record) for record in records))
    return str(file)


def bench(tmp_path: Path, *options: str) -> dict[str, Any]:
    out = tmp_path / "scope.json"
    done = CliRunner().invoke(make_app(), ["bench", "scope", *options, "--json", str(out)])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return dict(json.loads(out.read_text()))


@pytest.mark.long
def test_pairs_are_counted_by_kind_and_an_organisations_questions_by_where_they_arrive(tmp_path):
    asked = lines(
        tmp_path / "ask.jsonl", [*ASK, {"text": "Who is the CEO of Acme", "edit": HOURS}]
    )  # as if mislabelled
    found = bench(
        tmp_path, "--pairs", lines(tmp_path / "pairs.jsonl", PAIRS), "--typos", "--ask", asked,
        "--facts", lines(tmp_path / "facts.jsonl", [{"prompt": CEO}, {"prompt": HOURS}]),
    )  # fmt: skip

    accepted = {kind: (c["same"], c["n"], c["accepted"]) for kind, c in found["pairs"].items()}
    assert accepted == {
        "rephrase": (True, 1, 1), "typo": (True, 1, 1), "wrapped": (True, 1, 1),
        "role": (False, 1, 0), "relation": (False, 1, 0),
    }  # fmt: skip
    ask = found["ask"]
    counted = ("same", "same_n", "left_alone", "near_n", "wrong_edit")
    assert [ask[name] for name in counted] == [3, 4, 2, 2, 1]
    assert [(w["verdict"], w["text"]) for w in ask["wrong"]] == [("wrong edit", "Who is the CEO of Acme")]
    assert all(found[name] > 0 for name in ("verify_ms", "key_ms", "lookup_ms"))


def test_a_public_file_of_questions_is_asked_as_near_misses(tmp_path):
    facts = lines(tmp_path / "facts.jsonl", [{"prompt": CEO}, {"prompt": HOURS}])
    questions = [
        {"question": "who sings the song let me love you", "answer": ["x"]},
        {"question": CEO, "answer": ["y"]},
    ]
    ask = bench(tmp_path, "--facts", facts, "--ask", lines(tmp_path / "questions.jsonl", questions))["ask"]
    assert (ask["same_n"], ask["left_alone"], ask["near_n"]) == (0, 1, 2)
    assert [(w["verdict"], w["text"]) for w in ask["wrong"]] == [("taken", CEO)]


@pytest.mark.long
def test_without_a_verifier_near_misses_are_taken_which_the_bench_sees(tmp_path):
    pairs = lines(tmp_path / "pairs.jsonl", PAIRS)
    found = bench(tmp_path, "--pairs", pairs, "--method", '{"verifier": "none", "radius": 1.3}')
    assert found["pairs"]["role"]["accepted"] == 1 and found["verify_ms"] is None


@pytest.mark.long
def test_growth_asks_the_same_questions_among_ever_more_edits(tmp_path):
    lines(tmp_path / "scope_pairs.jsonl", PAIRS)
    lines(tmp_path / "nq_open.jsonl", [{"question": f"Who won race {n}?", "answer": ["x"]} for n in range(120)])
    found = bench(tmp_path, "--grow", str(tmp_path))
    rows = [(row["edits"], row["arrived"], row["rephrases"], row["taken"]) for row in found["growth"]]
    assert rows == [(100, 1, 1, 0), (121, 1, 1, 0), (121, 1, 1, 0)]


def test_a_typing_error_is_always_the_same_one():
    assert list(misspelt(PAIRS)) == list(misspelt(PAIRS))
    (typed,) = misspelt(PAIRS)
    assert typed["kind"] == "typo" and typed["query"] != PAIRS[0]["query"]


@pytest.mark.parametrize(
    ("options", "said"),
    [([], "Nothing to measure"), (["--facts", "x"], "Half a test"), (["--pairs", "/none"], "/none")],
)
def test_what_cannot_be_measured_is_said(options, said):
    done = CliRunner().invoke(make_app(), ["bench", "scope", *options])
    assert done.exit_code != 0 and said in f"{done.exception}{getattr(done.exception, 'title', '')}"
