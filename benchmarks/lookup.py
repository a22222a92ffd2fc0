"""Measure a lookup beside a decoding step of the same model, in the same process, and an insertion.

    python -m benchmarks.lookup [--threads 1 2] [--json FILE]

Each lookup follows a decoding step, as in serving: reading the model's weights has just evicted the index from the
CPU's caches. Keys are random directions (no two alike, so the nearest is hard to tell) and the figures medians.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from melo_core.base_model import load_base_model
from melo_core.encoder import SentenceEncoder, ordinary_questions
from melo_core.index import Cluster, ClusterIndex
from registry.base.model_files import find_encoder, find_model
from registry.base.settings import Settings

DIMENSION, RADIUS, REPEATS = 384, 0.85, 40


def random_keys(n: int, seed: int) -> torch.Tensor:
    """Return random keys (n, d) of length 1."""
    return F.normalize(torch.randn(n, DIMENSION, generator=torch.Generator().manual_seed(seed)), dim=-1)


def index_of(n: int) -> ClusterIndex:
    keys = dict(enumerate(random_keys(n, seed=n)))
    return ClusterIndex(
        DIMENSION, RADIUS, clusters=[Cluster(i, key, RADIUS, (i,), (i,)) for i, key in keys.items()], keys=keys
    )


def decoding_step(model_name: str) -> Callable[[], float]:
    """Return a function that times one token after a question of usual length, with all before it cached, in ms."""
    files = find_model(model_name)
    cache = Settings().cache.expanduser() / "models"
    base = load_base_model(files.path, files.gguf_file, digest=files.digest, cache=cache, device=torch.device("cpu"))
    prompt = torch.tensor([base.prompt_ids("What is the capital of Kazakhstan?")])
    past = base.model(input_ids=prompt, use_cache=True).past_key_values

    def step() -> float:
        started = time.perf_counter()
        base.model(input_ids=prompt[:, -1:], past_key_values=past, use_cache=True)
        taken = time.perf_counter() - started
        past.crop(-1)
        return 1000 * taken

    return step


def lookups(step: Callable[[], float], n: int, query_keys: int) -> dict[str, float]:
    index, steps, taken = index_of(n), [], []
    centres = torch.stack([cluster.centre for cluster in index.clusters.values()])
    for query in random_keys(query_keys * REPEATS, seed=0).split(query_keys):  # type: ignore[no-untyped-call]
        steps.append(step())
        started = time.perf_counter()
        match = index.lookup(query)
        taken.append(1000 * (time.perf_counter() - started))
        away = torch.cdist(query, centres, compute_mode="donot_use_mm_for_euclid_dist")
        assert match and abs(match.distance - float(away.min())) < 1e-5, "not the nearest"
    lookup, decode = statistics.median(taken), statistics.median(steps)
    return {"clusters": n, "query_keys": query_keys, "lookup_ms": lookup, "step_ms": decode, "ratio": lookup / decode}


def insertions(upto: int) -> dict[str, float]:
    """Time insertions, around the 100th and around the last, into the index alone and with the prompt's encoding."""
    encoder = SentenceEncoder.load(find_encoder("all-minilm-l6-v2").path)
    encoded = []
    for question in ordinary_questions()[:REPEATS]:
        started = time.perf_counter()
        encoder.key(question)
        encoded.append(1000 * (time.perf_counter() - started))
    index, taken = ClusterIndex(DIMENSION, RADIUS), []
    for point, key in enumerate(random_keys(upto, seed=1)):
        started = time.perf_counter()
        index.insert(point, key, (point,))
        taken.append(1000 * (time.perf_counter() - started))
    early, late = statistics.median(taken[50:150]), statistics.median(taken[-100:])
    key = statistics.median(encoded)
    with_key = (key + late) / (key + early)
    return {
        "insertions": upto,
        "early_ms": early,
        "late_ms": late,
        "ratio": late / early,
        "key_ms": key,
        "ratio_with_key": with_key,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    figures: dict[str, Any] = {"machine": machine, "model": asked.model, "lookups": [], "insertions": []}
    print(machine)
    with torch.no_grad():
        step = decoding_step(asked.model)
        for threads in asked.threads:
            torch.set_num_threads(threads)
            for n in (10_000, 100_000):
                for query_keys in (1, 2):
                    row = {"threads": threads, **lookups(step, n, query_keys)}
                    figures["lookups"].append(row)
                    print(
                        f"{threads} threads, {n:>7,} clusters, {query_keys} query keys: {row['lookup_ms']:.2f} ms, "
                        f"{row['ratio']:.1%} of a decoding step ({row['step_ms']:.1f} ms)"
                    )
            row = {"threads": threads, **insertions(10_000)}
            figures["insertions"].append(row)
            print(
                f"{threads} threads, insertion: {row['early_ms']:.3f} ms around the 100th, {row['late_ms']:.3f} ms "
                f"around the {row['insertions']:,}th, {row['ratio']:.2f} times; "
                f"with the key ({row['key_ms']:.1f} ms) {row['ratio_with_key']:.2f} times"
            )
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
