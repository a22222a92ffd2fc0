"""The command `melo vllm-config`: what a vLLM server needs to answer with the versions over a base model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.invocation import Invocation
from serving.sources.opening import collections_in, opened


def vllm_config(
    call: Invocation,
    folder: Annotated[Path, typer.Argument(help="Where to write; vLLM must see it at the same place.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The base model. Default: MELO_SERVE_MODEL, that of the oldest collection."),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Different blocks that act in one step.")] = 16,
) -> None:
    """Write vLLM's settings for the collections' base model to FOLDER/config.yaml, and the model where need be.

    Then, with melo-vllm installed beside vLLM: vllm serve --config FOLDER/config.yaml

    Where there is no collection yet, it waits for the first.
    """
    with opened(call, call.settings.serve_registry) as source:
        collections = collections_in(source, call)
        from melo_core.settings import MethodSettings
        from serving.versions import model_to_serve
        from serving.vllm_options import options
        from worker.conversion_line import line_on
        from worker.model_cache import ModelCache

        name, digest = model_to_serve(collections, model or call.settings.serve_model or None)
        mine = [each for each in collections if each.model_digest == digest]
        methods = [MethodSettings.from_json(each.method) for each in mine]
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        model_cache = ModelCache(folder, converting=line_on(call.err))
        written = model_cache.folder_of(name, digest, mine[0].model_files)
        found = options(model_cache.without_weights(name, digest), name, written, methods, model_cache.dtype, slots)
        file = folder / "config.yaml"
        file.write_text(json.dumps(found, indent=2) + "\n")  # JSON is YAML
    call.err.print(f"{file} is written. Start: vllm serve --config {file}", markup=False, highlight=False)
