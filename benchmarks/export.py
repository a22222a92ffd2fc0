"""An exported version in PEFT: how often edits' answers are their targets, by where a program lets adapters act.

`from the last token` computes the prompt's keys and values without the adapter, as the packaged answer.py does;
`activated` leaves it to PEFT's activated LoRA; `everywhere` is ordinary LoRA on the whole prompt, as programs do that
know no other (vLLM, llama.cpp's command line). Questions are the edits' prompts and rephrases, and those of a file with
a JSON object a line: `text`, and the prompt of its edit in `edit` (null: left out).

python -m benchmarks.export FOLDER MODEL --ask benchmarks/organisations/hotel/ask.jsonl
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from melo_core.scope import same_words

Way = Callable[[Tensor], list[int]]  # from a prompt's token ids (1, t) to an answer's tokens


def ways_of(model: Any, end: int, tokens: int, *, is_activated: bool) -> dict[str, Way]:
    """Return the ways to answer with a model that has two adapters: `plain` and, the same, `activated`."""

    def answer(ids: Tensor, **more: Any) -> list[int]:
        out: list[int] = model.generate(input_ids=ids, max_new_tokens=tokens, do_sample=False, **more)[0].tolist()
        said = out[ids.shape[1] :]
        return said[: said.index(end) + 1] if end in said else said

    def from_last(ids: Tensor) -> list[int]:
        model.set_adapter("plain")
        with model.disable_adapter():
            cache = model(input_ids=ids[:, :-1]).past_key_values
        return answer(ids, past_key_values=cache)

    def everywhere(ids: Tensor) -> list[int]:
        model.set_adapter("plain")
        return answer(ids)

    def activated(ids: Tensor) -> list[int]:
        model.set_adapter("activated")
        return answer(ids)

    found: dict[str, Way] = {"from the last token": from_last, "everywhere": everywhere}
    return found | ({"activated": activated} if is_activated else {})


def loaded(base: Any, folder: Path) -> tuple[Any, bool]:
    """Return the model with an adapter as ordinary LoRA, and as activated LoRA where it is; and whether it is."""
    config: Any = PeftConfig.from_pretrained(str(folder))
    is_activated = config.alora_invocation_tokens is not None
    config.alora_invocation_tokens = None
    model: Any = PeftModel.from_pretrained(base, folder, adapter_name="plain", config=config)
    if is_activated:
        model.load_adapter(folder, adapter_name="activated")
    return model, is_activated


def questions_of(edit: Mapping[str, Any], asked: Mapping[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Yield the questions to an edit: `prompt` or `other words`, and the text."""
    yield "prompt", edit["prompt"]
    for text in dict.fromkeys([*edit["rephrases"], *asked.get(edit["prompt"], ())]):
        yield "other words", text


def measure(
    folder: Path, name: str, asked: Mapping[str, list[str]], system: str, tokens: int, most: int | None
) -> dict[str, dict[str, list[int]]]:
    """Return, by question's kind and way: right answers, answers with the tokens of `from the last token`, answers.

    system: a text before every question; empty: none. most: edits that are asked, the first ones.
    """
    version = json.loads((folder / "version.json").read_text("utf-8"))
    tokenizer: Any = AutoTokenizer.from_pretrained(name)
    base: Any = AutoModelForCausalLM.from_pretrained(name, dtype="float32").requires_grad_(False)
    found: dict[str, dict[str, list[int]]] = {}
    for edit in version["edits"][:most]:
        if edit["kind"] != "qa" or not edit["adapter"]:
            continue
        model, is_activated = loaded(base, folder / edit["adapter"])
        for kind, question in questions_of(edit, asked):
            turns = [{"role": "system", "content": system}] if system else []
            turns.append({"role": "user", "content": question})
            text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            ways = ways_of(model, tokenizer.eos_token_id, tokens, is_activated=is_activated)
            said = {way: answer(ids) for way, answer in ways.items()}
            for way, ids_said in said.items():
                right = same_words(tokenizer.decode(ids_said, skip_special_tokens=True).strip(), edit["target"])
                row = found.setdefault(kind, {}).setdefault(way, [0, 0, 0])
                row[0] += right
                row[1] += ids_said == said["from the last token"]
                row[2] += 1
        base = model.unload()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `melo version export` wrote")
    parser.add_argument("model", help="the base model: a transformers folder, or a hub id")
    parser.add_argument("--ask", type=Path, nargs="*", default=[], metavar="FILE", help="more questions")
    parser.add_argument("--system", default="", metavar="TEXT", help="a system prompt before each question")
    parser.add_argument("--limit", type=int, metavar="N", help="ask the first N edits alone")
    parser.add_argument("--tokens", type=int, default=32, help="longest answer")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    asked: dict[str, list[str]] = {}
    for line in (line for file in given.ask for line in file.read_text("utf-8").splitlines()):
        record = json.loads(line)
        if record["edit"] is not None:
            asked.setdefault(record["edit"], []).append(record["text"])
    with torch.no_grad():
        found = measure(given.folder, given.model, asked, given.system, given.tokens, given.limit)
    for kind, ways in found.items():
        for way, (right, same, of) in ways.items():
            print(f"{kind:12} {way:20} target: {right} of {of}; tokens of `from the last token`: {same} of {of}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
