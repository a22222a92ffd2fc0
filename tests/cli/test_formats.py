"""Formats of records that other tools write: each is recognised, named and mapped, or refused."""

import json

import pytest

from cli.errors import CommandError
from tests.cli.reading import in_lines, pairs, refusals, table

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a?"}]


SAID = {"role": "assistant", "content": "b"}


CORRECTION = {"dataType": "CORRECTION", "name": "output", "value": 0, "stringValue": "b", "observationId": None}


@pytest.mark.parametrize(
    ("name", "record", "expected"),
    [
        ("OpenAI chat", {"messages": [*MESSAGES, SAID]}, {}),
        ("OpenAI chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a?"}]}, SAID]}, {}),
        ("ShareGPT", {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]}, {}),
        ("OpenAI preferences", {"input": {"messages": MESSAGES}, "preferred_output": [SAID],
                                "non_preferred_output": [SAID]}, {}),
        ("OpenAI prompt and completion", {"prompt": "a?", "completion": " b"}, {}),
        ("OpenAI prompt and completion", {"prompt": MESSAGES, "completion": [SAID]}, {}),
        ("Alpaca", {"instruction": "a?", "input": "", "output": "b"}, {}),
        ("Alpaca", {"instruction": "Answer.", "input": "a?", "output": "b"}, {"prompt": "Answer.\n\na?"}),
        ("EasyEdit", {"prompt": "a?", "target_new": "b", "rephrase_prompt": "A?", "subject": "x", "ground_truth": "z",
                      "locality": {"n": {"prompt": "c?", "ground_truth": "d"}}},
         {"rephrases": ["A?"], "unchanged": ["c?"], "kind": "qa"}),
        ("zsRE in the form of EasyEdit", {"case_id": "zsre_1", "prompt": "a?", "target_new": "b",
                                          "locality": [{"prompt": "c?", "metric": "m"}]},
         {"unchanged": ["c?"], "kind": "qa"}),
        ("KnowEdit", {"prompt": "The mother of {} is", "subject": "Ann", "target_new": "b",
                      "portability": {"Subject_Aliasing": [{"prompt": "Annie's mother is", "ground_truth": [["b"]]}],
                                      "Reasoning": [{"prompt": "no", "ground_truth": "no"}]},
                      "locality": {"Relation_Specificity": [{"prompt": "The father of Ann is", "ground_truth": "d"}]}},
         {"prompt": "The mother of Ann is", "rephrases": ["Annie's mother is"], "unchanged": ["The father of Ann is"],
          "kind": "completion"}),
        ("zsRE", {"src": "a?", "alt": "b", "rephrase": "A?", "loc": "nq question: who is it", "subject": "x",
                  "pred": "z", "answers": ["z"]}, {"rephrases": ["A?"], "unchanged": ["who is it?"]}),
        ("CounterFact", {"case_id": 0, "requested_rewrite": {"prompt": "The mother tongue of {} is", "subject": "Ann",
                                                             "target_new": {"str": "b"}, "target_true": {"str": "z"}},
                         "paraphrase_prompts": ["Ann speaks"], "neighborhood_prompts": ["Bob speaks"],
                         "attribute_prompts": [], "generation_prompts": []},
         {"prompt": "The mother tongue of Ann is", "rephrases": ["Ann speaks"], "unchanged": ["Bob speaks"],
          "kind": "completion"}),
        ("MQuAKE", {"case_id": 1, "requested_rewrite": [{"prompt": "{} is", "subject": "x", "question": "a?",
                                                         "target_new": {"str": "b", "id": "Q1"}}],
                    "questions": ["m1?", "m2?"], "new_answer": "n",
                    "new_single_hops": [{"question": "a?", "answer": "b", "answer_alias": ["B.", "bee"]}]},
         {"alternatives": ["B.", "bee"], "kind": "qa"}),
        ("Langfuse corrections", {"id": "t", "input": {"messages": MESSAGES}, "output": "z",
                                  "scores": [CORRECTION]}, {}),
        ("Langfuse corrections", {"trace": {"input": "z?"}, "observations": [{"id": "o", "input": {"question": "a?"}}],
                                  "scores": [{**CORRECTION, "observationId": "o"}, {"dataType": "NUMERIC"}]}, {}),
        ("Langfuse corrections", {"input": "a?", "output": "z", "correctedOutput": "b"}, {}),
        ("Langfuse dataset", {"id": 1, "input": {"question": "a?"}, "expectedOutput": {"answer": "b"}}, {}),
        ("input and expected_output", {"input": "a?", "actual_output": "z", "expected_output": "b"}, {}),
        ("OpenAI chat", {"messages": [MESSAGES[1], {**SAID, "content": "z", "weight": 0}, SAID]}, {}),
        ("OpenAI chat", {"messages": [{"role": "User", "content": "a?"}, {"role": "Chatbot", "content": "b"}]}, {}),
        ("ShareGPT", {"conversation": [MESSAGES[1], SAID]}, {}),
        ("Gemini", {"contents": [{"role": "user", "parts": [{"text": "a?"}]},
                                 {"role": "model", "parts": [{"text": "b"}]}]}, {}),
        ("Alpaca", {"instruction": "Who?", "context": "At Acme.", "response": "b", "category": "closed_qa"},
         {"prompt": "Who?\n\nAt Acme."}),
        ("OpenAI prompt and completion", {"prompt": "\n\nHuman: a?\n\nAssistant:", "completion": " b"}, {}),
        ("preferences", {"prompt": "a?", "chosen": "b", "rejected": "z"}, {}),
        ("preferences", {"prompt": MESSAGES, "chosen": [SAID], "rejected": [SAID]}, {}),
        ("preferences", {"chosen": [*MESSAGES, SAID], "rejected": [*MESSAGES, SAID]}, {}),
        ("preferences", {"chosen": "\n\nHuman: a?\n\nAssistant: b", "rejected": "\n\nHuman: a?\n\nAssistant: z"}, {}),
        ("preferences", {"conversations": [{"from": "human", "value": "a?"}], "chosen": {"from": "gpt", "value": "b"},
                         "rejected": {"from": "gpt", "value": "z"}}, {}),
        ("preferences", {"instruction": "Who?", "input": "At Acme.", "chosen": "b", "rejected": "z"},
         {"prompt": "Who?\n\nAt Acme."}),
        ("LangSmith", {"id": "x", "inputs": {"question": "a?"}, "outputs": {"answer": "b"}}, {}),
        ("input and output", {"input": {"question": "a?"}, "output": {"answer": "b"}}, {}),
        ("Argilla", {"fields": {"prompt": "a?"}, "responses": [
            {"values": {"text": {"value": "b"}}, "status": "submitted"},
            {"values": {"text": {"value": "z"}}, "status": "draft"}]}, {}),
        ("Argilla", {"fields": {"prompt": "a?"}, "responses": {"text": [{"value": "b", "user_id": "u"}]}}, {}),
        ("Label Studio", {"data": {"prompt": "a?"}, "annotations": [
            {"result": [{"type": "textarea", "from_name": "fix", "value": {"text": ["b"]}}]},
            {"was_cancelled": True, "result": [{"type": "textarea", "value": {"text": ["z"]}}]}]}, {}),
        ("promptfoo", {"vars": {"q": "a?"}, "assert": [{"type": "equals", "value": "b"}]}, {}),
        ("question and answer", {"question": "a?", "answer": {"value": "b", "aliases": ["B"]}},
         {"alternatives": ["B"]}),
        ("question and possible_answers", {"question": "a?", "possible_answers": '["b", "B"]'},
         {"alternatives": ["B"]}),
    ],
)  # fmt: skip
def test_each_format_is_recognised_named_and_mapped(read, name, record, expected):
    file = read(in_lines(record), "edits.jsonl")

    assert file.format == name and file.remarks.problems == []
    (made,) = map(json.loads, file.lines)
    assert made == {"line": 1, "prompt": "a?", "target": "b", **expected}


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"messages": [MESSAGES[1], SAID, MESSAGES[1], SAID]}, "2 questions"),
        ({"messages": MESSAGES}, "no answer of the assistant"),
        ({"messages": [MESSAGES[1], {"role": "tool", "content": "x"}, SAID]}, "neither the user nor the assistant"),
        ({"requested_rewrite": "x"}, "no requested_rewrite"),
        ({"scores": [CORRECTION]}, "without what was asked"),
        ({"messages": [MESSAGES[1], SAID, SAID]}, "2 answers"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a?"}, {"type": "image_url"}]}, SAID]},
         "image_url"),
        ({"prompt": [MESSAGES[1], SAID, MESSAGES[1]], "completion": [SAID]}, "2 questions"),
        ({"instruction": "a?", "output": "b", "history": [["q", "a"]]}, "history"),
        ({"prompts": ["a?", "c?"], "target_new": ["b"]}, "different lengths"),
        ({"vars": {"q": "a?"}, "assert": [{"type": "llm-rubric", "value": "is polite"}]}, "equals"),
        ({"question": "a?", "__expected": "contains: b"}, "a check (contains)"),
        ({"fields": {"prompt": "a?"}, "responses": {"x": [{"value": "b"}, {"value": "c"}]}}, "2 answers"),
        ({"fields": {"q": "a?"}, "responses": {"x": [{"value": "b"}], "y": [{"value": "c"}]}}, "several questions"),
    ],
)  # fmt: skip
def test_records_of_a_known_format_that_hold_no_correction_are_refused(read, record, told):
    assert told in refusals(read(in_lines(record), "e.jsonl"))[0][2]


def test_traces_without_a_correction_are_left_out_and_facts_of_several_questions_taken_once(read):
    file = read(in_lines({"input": "a?", "scores": [CORRECTION]}, {"input": "c?", "scores": []}), "e.jsonl")
    assert pairs(file) == [("a?", "b")]
    assert file.notes == ["Records without a corrected output were left out (line 2)"]
    rewrite = {"prompt": "{} is", "subject": "x", "question": "a?", "target_new": {"str": "b"}}
    file = read(in_lines(*[{"requested_rewrite": [rewrite], "questions": [q]} for q in ("m?", "n?")]), "e.jsonl")
    assert pairs(file) == [("a?", "b")]


def test_records_that_nobody_has_answered_or_that_are_archived_are_left_out(read):
    traces = "input,output,correctedOutput\na?,z,b\nc?,z,\n"
    assert pairs(read(traces)) == [("a?", "b")]
    items = [{"input": "a?", "expectedOutput": "b", "status": s} for s in ("ACTIVE", "ARCHIVED")]
    file = read(in_lines(*items), "e.jsonl")
    assert len(file.lines) == 1 and "Archived items were left out (line 2)" in file.notes
    tasks = [{"data": {"text": "a?"}, "annotations": []}, {"fields": {"q": "a?"}, "responses": []}]
    for task in tasks:
        with pytest.raises(CommandError, match="without a text of an annotator"):
            read(in_lines(task), "e.jsonl")


def test_lists_of_prompts_and_targets_are_edits_one_by_one(read):
    file = read(json.dumps({"prompts": ["a?", "{} is"], "target_new": ["b", "d"], "subject": ["s", "Ann"]}), "e.json")
    assert pairs(file) == [("a?", "b"), ("Ann is", "d")]


def test_messages_that_python_wrote_into_a_cell_are_read(read):
    messages = str([MESSAGES[1], SAID])
    assert pairs(read(table(header=("id", "messages"), rows=[("1", messages)]))) == [("a?", "b")]
    answers = str({"text": ["b"], "answer_start": [1]})
    assert pairs(read(table(header=("question", "answers"), rows=[("a?", answers)]))) == [("a?", "b")]


def test_promptfoos_column_of_whole_answers_is_read(read):
    assert pairs(read("question,__expected\na?,b\nc?,equals: d: e\n")) == [("a?", "b"), ("c?", "d: e")]
