"""Answer as the exported version does: python answer.py MODEL "QUESTION". MODEL: the base model's folder or hub id."""

import json
import sys
from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

here, (name, question) = Path(__file__).parent, sys.argv[1:]
version = json.loads((here / "version.json").read_text("utf-8"))
edit = next((e for e in version["edits"] if e["adapter"] and question in (e["prompt"], *e["rephrases"])), {})
tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name, dtype="float32")
text, turns = question, [{"role": "user", "content": question}]
if chat := tokenizer.chat_template and edit.get("kind") != "completion":
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
ids, cache = tokenizer(text, add_special_tokens=not chat, return_tensors="pt")["input_ids"], None
if edit:
    if version["method"]["positions"] == "answer":  # the adapter acts from the last token of the prompt on
        cache = model.requires_grad_(False)(ids[:, :-1]).past_key_values  # before it, the base model alone
    model = PeftModel.from_pretrained(model, here / edit["adapter"])
tokens = model.generate(input_ids=ids, past_key_values=cache, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :]
print(repr(tokenizer.decode(tokens, skip_special_tokens=True).strip())[1:-1])  # so that nothing acts on a terminal
