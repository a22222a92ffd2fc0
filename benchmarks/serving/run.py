"""One run of `melo bench serve`: the engine alone, then a server of its own under load; printed and written as JSON."""

from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.edits.run import bars, require_writable, write
from benchmarks.machine import machine
from benchmarks.serving.engine import measure_engine
from benchmarks.serving.load import measure_load
from benchmarks.serving.start import measure_start
from cli.invocation import Invocation

# Figure, and what it says.
MEANINGS = {
    "out_of_scope_ratio": "tokens per CPU second: questions that no edit covers, routed and served, of generate's",
    "engine_ratio": "the same without routing",
    "out_of_scope_equal": "of these answers, with the very tokens of generate",
    "in_scope_ratio": "tokens per CPU second: a different block for each request, of EditedModel's static batch",
    "in_scope_equal": "of these answers, with the very tokens",
    "peft_ratio": "the same, of PEFT's mixed batch with as many adapters of the same shapes",
    "batching_ratio": "tokens per CPU second: all at once, of one after another",
    "prefix_reused": "of prompts' tokens with a common opening, asked by four versions in turn: not computed again",
    "prefix_reused_of_one": "the same, by one version",
    "first_token_p50_ms": "first token, 16 clients at once",
    "first_token_p99_ms": "the same, of the slowest one in a hundred",
    "answers": "answers under load",
    "alias_flips": "moves of the alias that they asked",
    "mixed_answers": "answers that differ from what their version says when asked alone",
    "errors": "errors",
    "start_edits": "edits of the version over which a server was started",
} | {
    f"{name}_by_{way}": f"{meaning}, versions by the {way}"
    for way in ("database", "api")
    for name, meaning in {
        "start_seconds": "until the server answers at all",
        "first_answer_seconds": "until its first answer out of scope",
        "first_corrected_seconds": "from there to the first answer in scope, whose block is read then",
        "next_version_seconds": "the first answer of another version with almost as many edits",
        "megabytes_per_1000_edits": "memory that this one takes",
    }.items()
}


def run_bench(
    call: Invocation,
    model: str,
    edits: int,
    tokens: int,
    rounds: int,
    flips: int,
    start_edits: int,
    json_file: Path | None,
) -> None:
    """Run the benchmark. Raises CommandError and MeloError."""
    if json_file is not None:
        require_writable(json_file)
    with bars(call) as titled:
        found: dict[str, Any]
        if start_edits:
            found = measure_start(call, model, start_edits, titled("start"))
        else:
            found = measure_engine(call, model, edits, tokens, rounds, titled("serve"))
            if flips:
                found |= measure_load(call, model, flips, tokens, titled("load"))
            found |= {"vllm_ratio": None, "edits": edits, "tokens": tokens}
    found["model"] = model
    found["machine"] = machine(torch.device("cpu"))
    if json_file is not None:
        write(found, json_file)
    table = Table(title="Serving", title_justify="left", show_header=False)
    for name, meaning in MEANINGS.items():
        if (value := found.get(name)) is not None:
            table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value), meaning)
    call.out.print(table)
