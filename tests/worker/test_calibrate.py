"""`melo calibrate` with the packaged encoder and verifier: the threshold, its trade-off, and what is refused."""

import json
import re
import shlex
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from melo_core.method import complete
from melo_core.settings import MethodSettings
from tests.worker.test_hidden_way import melo

NAMES = ["Brenwick", "Tarrant", "Ostley", "Calder", "Mirefield", "Pelham"]
ASKED = [
    ("Who is the chief executive of {}?", ["Which person runs {} as its CEO?", "Who leads {}?"]),
    ("Where does {} have its head office?", ["In which city are {}'s headquarters?", "Where is {} based?"]),
]
NEAR = {
    "Who is the chief executive of {}?": ["Who was the chief executive of {} before?", "Who is the lawyer of {}?"],
    "Where does {} have its head office?": ["How many work at the head office of {}?", "When did {} open its office?"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("calibrate")
    pairs = [{"prompt": p.format(n), "rephrases": [r.format(n) for r in rs]} for n in NAMES for p, rs in ASKED]
    near = [{"prompt": p.format(n), "near": [x.format(n) for x in xs]} for n in NAMES for p, xs in NEAR.items()]
    questions = folder / "questions.txt"
    questions.write_text("\n".join(f"What is {n} times {n + 7}, and why?" for n in range(100)))
    return {
        "QUESTIONS": str(questions),
        "PAIRS": jsonl(folder / "pairs.jsonl", pairs),
        "NEAR": jsonl(folder / "near.jsonl", near),
    }


def jsonl(path: Path, records: Iterable[Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def given(files: dict[str, str], *words: str) -> list[str]:
    return ["calibrate", *(files.get(word, word) for word in ("--questions", "QUESTIONS", *words))]


@pytest.mark.long
def test_a_threshold_keeps_to_the_rate_and_a_collection_takes_it_as_it_was_printed(files, tmp_path):
    words = given(files, "--pairs", "PAIRS", "--near", "NEAR", "--false-rate", "0.1")
    keys, plot = tmp_path / "my keys.safetensors", tmp_path / "plot.png"
    found = json.loads(melo(*words, "--json", "--plot", str(plot)))
    told = {each["threshold"]: each for each in found["threshold_trade_off"]}
    assert (found["rephrases"], found["near_misses"], found["verifier"]) == (24, 24, "packaged")
    assert told[found["threshold"]]["false"] <= 0.1 < max(each["false"] for each in told.values())
    assert told[found["threshold"]]["recall"] >= 0.75
    assert width(plot) == 2 * 1050  # of a panel

    printed = melo(*words, "--out", str(keys)).splitlines()
    options = shlex.split(printed[-1])
    method = json.loads(options[options.index("--method") + 1])
    assert options[options.index("--calibration") + 1] == str(keys) and keys.is_file()
    assert method == found["method"] == {"threshold": found["threshold"]}
    assert MethodSettings.from_json(complete(method)).threshold == found["threshold"]
    assert any("near misses taken" in line for line in printed)
    assert any(f"{found['threshold']:.3g}, the greatest at which at most 10.0%" in line for line in printed)


@pytest.mark.long
def test_without_near_misses_the_other_prompts_and_the_negatives_are_what_a_prompt_must_leave_alone(files, tmp_path):
    negatives = tmp_path / "negatives.txt"
    negatives.write_text("\n".join(text.format(NAMES[0]) for texts in NEAR.values() for text in texts))
    words = given(files, "--pairs", "PAIRS", "--json", "--false-rate", "0.1")
    alone, with_negatives = json.loads(melo(*words)), json.loads(melo(*words, "--negatives", str(negatives)))
    assert 0 < alone["near_misses"] < with_negatives["near_misses"]
    assert with_negatives["threshold_trade_off"] != alone["threshold_trade_off"]
    fewer = json.loads(melo(*words, "--candidate-radius", "0.5"))
    assert fewer["near_misses"] < alone["near_misses"]
    assert fewer["method"].get("candidate_radius") == 0.5


def test_without_a_verifier_the_radius_is_what_a_collection_is_given(files, tmp_path):
    plot = tmp_path / "plot.png"
    words = given(files, "--pairs", "PAIRS", "--verifier", "none", "--json", "--plot", str(plot))
    found = json.loads(melo(*words))
    assert (found["threshold"], found["threshold_trade_off"], found["near_misses"]) == (None, [], 0)
    assert found["method"] == {"verifier": "none", "radius": found["radius"]}
    assert width(plot) == 1050


def test_without_rephrases_there_is_no_threshold_and_it_is_said(files):
    assert "Without --pairs no threshold is fitted." in melo(*given(files))


def test_the_broken_lines_of_near_misses_are_named_with_what_is_wrong(files, tmp_path):
    prompt, rephrases = ASKED[0][0].format(NAMES[0]), [text.format(NAMES[0]) for text in ASKED[0][1]]
    good = {"prompt": prompt, "near": ["Who cleans at Brenwick?"]}
    broken = [
        (["no object"], "it is not a JSON object"),
        ({"prompt": prompt}, "has no 'near'"),
        ({"prompt": prompt, "near": "Who cleans at Brenwick?"}, "near a list of texts"),
        ({"prompt": prompt, "near": []}, "near is empty"),
        ({"prompt": "Who is it?", "near": ["Who was it?"]}, "'Who is it?' is none of --pairs"),
        ({"prompt": prompt, "near": [f" {prompt}"]}, "is the prompt or one of its rephrases"),
        ({"prompt": prompt, "near": [rephrases[1]]}, f"{rephrases[1]!r} is the prompt or one of its rephrases"),
    ]
    near = jsonl(tmp_path / "near.jsonl", [good, *(record for record, _ in broken)])
    said = melo(*given(files, "--pairs", "PAIRS", "--near", near), status=1)
    _, *lines = re.split(r" line (?=\d+:)", " ".join(said.split()))
    assert [line.split(":")[0] for line in lines] == [str(n) for n in range(2, len(broken) + 2)]
    assert all(expected in line for line, (_, expected) in zip(lines, broken, strict=True))
    assert "Correct these lines." in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--near", "NEAR"], "Give them with --pairs FILE."),
        (["--pairs", "PAIRS", "--near", "NEAR", "--verifier", "none"], "Leave --near or --verifier out."),
        (["--pairs", "PAIRS", "--near", "NOWHERE.jsonl"], "NOWHERE.jsonl: No such file"),
        (["--pairs", "PAIRS", "--verifier", "NOWHERE"], "there is no verifier 'NOWHERE'"),
        (["--pairs", "PAIRS", "--verifier", "JUNK"], "Name packaged, none, or a cross-encoder's folder."),
        (["--pairs", "PAIRS", "--candidate-radius", "0"], "candidate_radius must be positive"),
        (["--pairs", "EMPTY"], "holds no line"),
    ],
)
def test_what_gives_no_threshold_is_refused_with_the_remedy(files, tmp_path, words, said):
    (tmp_path / "model.safetensors").write_text("junk")
    (tmp_path / "empty.jsonl").write_text("\n")
    named = files | {"JUNK": str(tmp_path), "EMPTY": str(tmp_path / "empty.jsonl")}
    assert said in " ".join(melo(*given(named, *words), status=1).split())


def width(png: Path) -> int:
    return int(struct.unpack(">I", png.read_bytes()[16:20])[0])
