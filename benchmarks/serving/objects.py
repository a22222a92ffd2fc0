"""Corrected questions that are answered in JSON: whether the target is where it belongs, and what else changed.

Each line of `objects.jsonl` has an edit (prompt and target), the question, the properties of the object that is asked
for, and the key of the value that the edit corrects. A server of its own is asked, over the base model and the version.

python -m benchmarks.serving.objects
"""

import argparse
import asyncio
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serving.load import API_KEY, PATIENCE_SECONDS, WITH_KEY, served
from embedded.stack import running
from registry.base.vocabulary import BatchState
from registry.client import MeloClient

OBJECTS = Path(__file__).with_name("objects.jsonl")
COLLECTION, MODEL = "facts", "smollm2-135m-instruct"
SECONDS = 2.0  # between two looks at a training


def schema_of(properties: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON schema of an object with these properties and no others. properties: types by name."""
    types = {name: {"type": type} for name, type in properties.items()}
    return {"type": "object", "properties": types, "required": [*types], "additionalProperties": False}


def compared(record: Mapping[str, Any], base: str, answer: str) -> Counter[str]:
    """Return what is right about one answer, as counts."""
    try:
        was, now = json.loads(base), json.loads(answer)
    except ValueError:
        return Counter({"objects": 1, "cut off": 1})
    key = record["key"]
    others = [name for name in was if name != key]
    kept = sum(now[name] == was[name] for name in others)
    right = str(now[key]) == record["target"]
    whole = right and kept == len(others)
    anywhere = record["target"] in map(str, now.values())
    counts = {"with target": anywhere, "target in place": right, "others": len(others), "others kept": kept}
    return Counter({"objects": 1, "right as a whole": whole, **counts})


async def measure(url: str, records: Sequence[Mapping[str, Any]], tokens: int, together: int) -> Counter[str]:
    """Ask each question of the base model and of the version, and compare."""
    limit, found = asyncio.Semaphore(together), Counter[str]()

    async with httpx.AsyncClient(base_url=url, headers=WITH_KEY, timeout=PATIENCE_SECONDS) as http:

        async def ask(record: Mapping[str, Any], version: str) -> str:
            form = {"name": "said", "strict": True, "schema": schema_of(record["properties"])}
            body = {
                "model": f"{COLLECTION}@{version}",
                "messages": [{"role": "user", "content": record["question"]}],
                "response_format": {"type": "json_schema", "json_schema": form},
                "temperature": 0,
                "max_tokens": tokens,
            }
            async with limit:
                answer = await http.post("/v1/chat/completions", json=body)
            answer.raise_for_status()
            return str(answer.json()["choices"][0]["message"]["content"])

        async def one(record: Mapping[str, Any]) -> None:
            base, answer = await asyncio.gather(ask(record, "base"), ask(record, "latest"))
            told = compared(record, base, answer)
            found.update(told)
            if not told["right as a whole"]:
                print(f"{record['question']}\n  base    {base[:160]}\n  version {answer[:160]}", flush=True)

        await asyncio.gather(*map(one, records))
    return found


async def trained(client: MeloClient, records: Sequence[Mapping[str, Any]]) -> None:
    """Make the collection, and wait until its edits are trained."""
    client.create_collection(COLLECTION, MODEL, self_approval=True, preflight="none")
    batch = client.submit(COLLECTION, [{name: record[name] for name in ("prompt", "target")} for record in records])
    assert batch.batch is not None
    client.approve(batch.batch.id, "bench")
    while not (state := client.batch(batch.batch.id).state).is_over:
        await asyncio.sleep(SECONDS)
    assert state is BatchState.APPLIED, state


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=Path, default=OBJECTS, metavar="FILE")
    parser.add_argument("--tokens", type=int, default=160, help="most tokens of an answer")
    parser.add_argument("--together", type=int, default=8, help="requests at once")
    given = parser.parse_args()
    records = [json.loads(line) for line in given.objects.read_text("utf-8").splitlines()]
    folder = Path(tempfile.mkdtemp(prefix="melo-bench-objects-"))
    try:
        with running(folder) as stack, MeloClient(stack.api_url, stack.api_key, actor="bench") as client:
            await trained(client, records)
            own = {"MELO_DATABASE_URL": stack.database_url, "MELO_HOME": str(folder), "MELO_API_KEY": API_KEY}
            with served(os.environ | own, folder) as (url, _):
                found = await measure(url, records, given.tokens, given.together)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, count in found.items():
        print(f"{name:20} {count}")


if __name__ == "__main__":
    asyncio.run(main())
