"""Which column becomes which field of an edit: by its usual name, by --map, by what stands beside it."""

import json

import pytest

from cli.errors import CommandError
from cli.files.reading import mapping
from tests.cli.reading import PAIRS, in_lines, pairs, refusals, table


@pytest.mark.parametrize(
    "header",
    [("Prompt", "TARGET"), (" prompt ", "target "), ("Question", "Answer"), ("query", "Correct answer"),
     ("INPUT", "expectedOutput"), ("\ufeffprompt", "target")],
)  # fmt: skip
def test_headers_are_read_in_any_case_and_by_their_usual_names(read, header):
    assert pairs(read(table(header=header))) == PAIRS


def test_other_headers_are_mapped(read):
    text = table(header=("Frage", "Antwort (neu)"))
    assert pairs(read(text, mapped=mapping(["prompt=frage", "target=Antwort (neu)"]))) == PAIRS
    with pytest.raises(CommandError, match=r"'Frage', 'Antwort") as error:
        read(text)
    assert "--map prompt=" in error.value.remedy
    with pytest.raises(CommandError, match="--map colour=x"):
        mapping(["colour=x"])
    assert pairs(read(in_lines({"q1": "a?", "a1": "b"}), "e.jsonl", mapped={"prompt": "q1", "target": "a1"}))


def test_a_wrong_answer_beside_the_correct_one_is_not_taken(read):
    assert pairs(read(in_lines({"input": "a?", "output": "wrong", "expected": "right"}))) == [("a?", "right")]
    assert pairs(read("question,answer,ground_truth\na?,wrong,right\n")) == [("a?", "right")]
    file = read("question,answer,correct_answer\na?,wrong,right\n")
    assert pairs(file) == [("a?", "right")]
    assert file.notes == ["Ignored: 'answer'."]
    with pytest.raises(CommandError, match="'question' and 'query' could be the prompt"):
        read("question,query,target\na?,b?,c\n")


def test_what_is_no_field_is_ignored_with_a_note_and_an_index_without(read):
    file = read("id,prompt,target,status\n7,a?,b,ok\n")
    assert pairs(file) == [("a?", "b")] and file.notes == ["Ignored: 'id', 'status'."]
    for index in ("", "Unnamed: 0", "index", "level_0"):
        file = read(f"{index},prompt,target\n0,a?,b\n")
        assert pairs(file) == [("a?", "b")] and file.notes == []


def test_columns_with_a_number_are_texts_of_one_field(read):
    (record,) = map(json.loads, read("prompt,target,rephrase 1,rephrase_2,answers\na?,b,c?,d?,x\n").lines)
    assert record["rephrases"] == ["c?", "d?"]


def test_an_answer_that_is_one_of_several_choices_is_its_text(read):
    choices = {"question": "a?", "choices": ["no", "b"]}
    for answer in (1, "B", "b"):
        assert pairs(read(in_lines({**choices, "answer": answer}))) == [("a?", "b")]
    arc = {"question": "a?", "choices": {"text": ["no", "b"], "label": ["1", "2"]}, "answerKey": "2"}
    assert pairs(read(in_lines(arc))) == [("a?", "b")]
    assert "none of its choices" in refusals(read(in_lines({**choices, "answer": 7})))[0][2]


def test_answers_that_are_labelled_as_bad_are_left_out(read):
    pair = {"prompt": "a?", "completion": "b"}
    file = read(in_lines({**pair, "label": True}, {**pair, "completion": "wrong", "label": False}))
    assert pairs(file) == [("a?", "b")] and "bad ones were left out (line 2)" in file.notes[0]
    assert pairs(read("prompt,completion,label\na?,b,True\na?,c,False\nd?,e,0\n")) == [("a?", "b")]
    chat = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    assert pairs(read(in_lines({"messages": chat, "kto_tag": True}, {"messages": chat, "kto_tag": False}))) == pairs(
        file
    )
    classes = read(in_lines({"prompt": "a?", "target": "b", "label": 0}))
    assert pairs(classes) == [("a?", "b")] and classes.notes == ["Ignored: 'label'."]


def test_a_prompt_and_a_target_that_look_like_a_programs_are_taken_as_they_stand_in_the_records_own_form(read):
    record = {"prompt": "\n\nHuman: a?\n\nAssistant:", "target": '{"text": "b"}', "kind": "completion"}
    assert pairs(read(in_lines(record), "e.jsonl")) == [(record["prompt"], record["target"])]


def test_nested_fields_are_named_and_mapped_by_their_paths(read):
    records = in_lines({"item": {"q": "a?", "checks": [{"right": "b"}]}}, {"item": {"q": "c?", "checks": []}})
    with pytest.raises(CommandError, match=r"'item\.q', 'item\.checks\.0\.right'"):
        read(records)
    file = read(records, mapped={"prompt": "item.q", "target": "item.checks.0.right"})
    assert [found[:2] for found in refusals(file)] == [(2, "item.checks.0.right")]
    assert json.loads(file.lines[0]) == {"line": 1, "prompt": "a?", "target": "b"}
