"""Data sets of model editing: EasyEdit, KnowEdit, zsRE, CounterFact and MQuAKE."""

from collections.abc import Iterable, Mapping
from typing import Any

from cli.files.cells import Unusable
from cli.files.rows import Remarks
from cli.files.shapes import Fields, Values, as_list, as_mapping, normal, parsed


def easyedit(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    """Read EasyEdit's and KnowEdit's records, and lists of prompts and targets as its editor takes them."""
    prompts, targets = fields.get("prompt", fields.get("prompts")), parsed(fields.get("target_new"))
    if not isinstance(prompts, list):
        return [_edited(fields, targets)]
    columns = {"prompt": prompts, "target_new": as_list(targets)}
    for name in ("subject", "rephrase_prompts"):
        if isinstance(fields.get(name), list):
            columns[name.removesuffix("s")] = fields[name]
    if len({len(each) for each in columns.values()}) > 1:
        raise Unusable("has lists of different lengths", "Write as many targets as prompts.")
    rows = zip(*columns.values(), strict=True)
    return [_edited(each, each["target_new"]) for each in (dict(zip(columns, row, strict=True)) for row in rows)]


def _edited(fields: Fields, target: Any) -> Values:
    prompt = fields.get("prompt")
    if isinstance(prompt, str) and isinstance(fields.get("subject"), str):
        prompt = prompt.replace("{}", fields["subject"])
    rephrases = [*as_list(parsed(fields.get("rephrase_prompt"))), *as_list(parsed(fields.get("rephrase")))]
    for name, items in as_mapping(parsed(fields.get("portability"))).items():
        if normal(name) == "subject_aliasing":
            rephrases += _prompts(items)
    unchanged = [*_prompts(parsed(fields.get("locality"))), *as_list(parsed(fields.get("locality_prompt")))]
    return {
        "prompt": ("prompt", prompt),
        "target": ("target_new", target),
        "rephrases": ("rephrase_prompt", rephrases),
        "unchanged": ("locality", unchanged),
        "kind": ("prompt", _kind_of(prompt)),
    }


def zsre(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    question = "src" if fields.get("src") is not None else "input"
    beside = str(fields.get("loc") or "").removeprefix("nq question: ").strip()
    rephrases = [*as_list(parsed(fields.get("rephrase"))), *as_list(parsed(fields.get("rephrases")))]
    return [
        {
            "prompt": (question, fields.get(question)),
            "target": ("alt", parsed(fields.get("alt"))),
            "rephrases": ("rephrase", rephrases),
            "unchanged": ("loc", [beside if beside.endswith("?") else f"{beside}?"] if beside else []),
        }
    ]


def rewrites(fields: Fields, remarks: Remarks, line: int) -> Iterable[Values]:
    """Read CounterFact, where one fact is rewritten, and MQuAKE, where it may be several."""
    found = parsed(fields.get("requested_rewrite"))
    for rewrite in found if isinstance(found, list) else [found]:
        if not isinstance(rewrite, Mapping) or not isinstance(rewrite.get("target_new"), Mapping | str):
            raise Unusable(
                "has no requested_rewrite with target_new",
                'Write {"requested_rewrite": {"prompt": …, "subject": …, "target_new": {"str": …}}}.',
            )
        new, prompt, asked = rewrite["target_new"], rewrite.get("prompt"), rewrite.get("question")
        target = new.get("str") if isinstance(new, Mapping) else new
        if isinstance(prompt, str) and isinstance(rewrite.get("subject"), str):
            prompt = prompt.replace("{}", rewrite["subject"])
        values: Values = {
            "prompt": ("requested_rewrite", asked if isinstance(asked, str) and asked.strip() else prompt),
            "target": ("requested_rewrite.target_new", [target, *_aliases(fields, asked, target)]),
            "kind": ("requested_rewrite", _kind_of(asked or prompt)),
        }
        if not isinstance(found, list):
            values["rephrases"] = ("paraphrase_prompts", parsed(fields.get("paraphrase_prompts")))
            values["unchanged"] = ("neighborhood_prompts", parsed(fields.get("neighborhood_prompts")))
        yield values


def _aliases(fields: Fields, question: Any, target: Any) -> list[Any]:
    """Return MQuAKE's other names of an answer: those of the hop that asks the same."""
    hops = parsed(fields.get("new_single_hops"))
    for hop in hops if isinstance(hops, list) else []:
        if isinstance(hop, Mapping) and hop.get("question") == question and hop.get("answer") == target:
            return as_list(hop.get("answer_alias"))
    return []


def _kind_of(prompt: Any) -> str:
    return "qa" if str(prompt).rstrip().endswith(("?", "？", "؟")) else "completion"


def _prompts(value: Any) -> list[Any]:
    """Return the prompts in whatever lists and objects EasyEdit and KnowEdit nest them."""
    if isinstance(value, list):
        return [prompt for each in value for prompt in _prompts(each)]
    if isinstance(value, Mapping):
        return as_list(value["prompt"]) if "prompt" in value else [p for each in value.values() for p in _prompts(each)]
    return []
