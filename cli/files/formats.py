"""The formats that are known: by which fields each is recognised. docs/submitting.md has them in a table."""

from collections.abc import Callable, Mapping, Sequence

from cli.files.columns import own
from cli.files.conversations import MESSAGES, alpaca, chat, openai_preferences, preferences
from cli.files.fact_sets import easyedit, rewrites, zsre
from cli.files.platforms import argilla, label_studio, langfuse, langsmith, promptfoo
from cli.files.shapes import LABELS, Shape, normal, shape

EASYEDIT = {
    "prompt": "prompt", "target": "target_new", "rephrases": "rephrase_prompt", "unchanged": "locality",
}  # fmt: skip
REWRITE = {"prompt": "requested_rewrite", "target": "requested_rewrite.target_new"}
LANGFUSE = {"prompt": "input", "target": "corrected_output, scores"}


def recognised(columns: Sequence[str], mapped: Mapping[str, str]) -> Shape | None:
    """Return the format of records with these columns. mapped: an edit's field to the column's name.

    None: they have no prompt or no target. Raises CommandError where two columns could be the same field.
    """
    names = {normal(name) for name in columns}
    if mapped or {"prompt", "target"} <= names:
        return own(columns, mapped)
    return next((found for has, found in KNOWN if has(names)), None) or own(columns, mapped)


# In the order in which they are tried.
KNOWN: tuple[tuple[Callable[[set[str]], bool], Shape], ...] = (
    (
        lambda names: {"requested_rewrite", "questions"} <= names,
        shape("MQuAKE", rewrites, REWRITE, "new_single_hops"),
    ),
    (
        lambda names: "requested_rewrite" in names,
        shape("CounterFact", rewrites,
              {**REWRITE, "rephrases": "paraphrase_prompts", "unchanged": "neighborhood_prompts"}),
    ),
    (
        lambda names: "alt" in names and bool({"src", "input"} & names),
        shape("zsRE", zsre,
              {"prompt": "src, input", "target": "alt", "rephrases": "rephrase, rephrases", "unchanged": "loc"}),
    ),
    (
        lambda names: {"prompt", "target_new", "portability"} <= names and "rephrase_prompt" not in names,
        shape("KnowEdit", easyedit, EASYEDIT, "portability", "subject", "rephrase"),
    ),
    (
        lambda names: "target_new" in names and bool({"prompt", "prompts"} & names),
        shape("EasyEdit", easyedit, EASYEDIT, "portability", "locality_prompt", "subject", "rephrase", "prompts",
              "rephrase_prompts"),
    ),
    (
        lambda names: {"input", "preferred_output"} <= names,
        shape("OpenAI preferences", openai_preferences, {"prompt": "input", "target": "preferred_output"}),
    ),
    (
        lambda names: {"chosen", "rejected"} <= names,
        shape("preferences", preferences, {"prompt": "prompt, question, instruction, conversations",
                                           "target": "chosen"}, "rejected", "input", "query", "messages"),
    ),
    (
        lambda names: "messages" in names,
        shape("OpenAI chat", chat, dict.fromkeys(("prompt", "target"), "messages"), *LABELS),
    ),
    (
        lambda names: bool({"conversations", "conversation"} & names),
        shape("ShareGPT", chat, dict.fromkeys(("prompt", "target"), "conversations"), *MESSAGES, *LABELS),
    ),
    (lambda names: "contents" in names, shape("Gemini", chat, dict.fromkeys(("prompt", "target"), "contents"))),
    (
        lambda names: {"instruction", "output"} <= names or {"instruction", "context", "response"} <= names,
        shape("Alpaca", alpaca, {"prompt": "instruction, input", "target": "output"}, "context", "response"),
    ),
    (
        lambda names: "scores" in names or {"input", "corrected_output"} <= names
        or {"data_type", "trace_id"} <= names,
        shape("Langfuse corrections", langfuse, LANGFUSE, "trace", "observations", "data_type", "value",
              "string_value", "long_string_value", "observation_id"),
    ),
    (
        lambda names: {"input", "expected_output"} <= names and "actual_output" not in names,
        shape("Langfuse dataset", langfuse, {"prompt": "input", "target": "expected_output"}, "status"),
    ),
    (
        lambda names: {"inputs", "outputs"} <= names,
        shape("LangSmith", langsmith, {"prompt": "inputs", "target": "outputs"}),
    ),
    (
        lambda names: {"fields", "responses"} <= names,
        shape("Argilla", argilla, {"prompt": "fields", "target": "responses"}),
    ),
    (
        lambda names: {"data", "annotations"} <= names,
        shape("Label Studio", label_studio, {"prompt": "data", "target": "annotations"}),
    ),
    (
        lambda names: {"vars", "assert"} <= names,
        shape("promptfoo", promptfoo, {"prompt": "vars", "target": "assert"}),
    ),
)  # fmt: skip
