"""What vLLM is told: the layers that the collections' blocks change, and where the model is."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from melo_core.settings import MethodSettings
from melo_core.structure import structure_of
from registry.base.database import make_engine
from registry.base.errors import InvalidRequest
from serving.sources.database import DatabaseSource
from serving.versions import model_to_serve
from serving.vllm_options import options
from tests.serving.conftest import Site
from tests.worker.conftest import METHOD


def test_the_command_writes_what_a_vllm_server_for_the_collections_needs(site: Site, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from cli.main import main; main()", "vllm-config", str(tmp_path / "vllm")]
    done = subprocess.run(command, env=os.environ | {"MELO_DATABASE_URL": site.url}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"vllm serve --config {tmp_path / 'vllm' / 'config.yaml'}" in done.stderr.replace("\n", " ")
    written = json.loads((tmp_path / "vllm" / "config.yaml").read_text())
    model = Path(written["model"])
    assert (model / "model.safetensors").is_file() and written["served-model-name"] == str(model)
    layers = [name for name in written["lora-target-modules"] if name.endswith("mlp.down_proj")]
    assert len(layers) == len(written["lora-target-modules"])
    assert len(layers) >= METHOD["layers"]  # other tests' collections over the model may change more
    assert (written["max-lora-rank"], written["dtype"], written["enforce-eager"]) == (8, "float32", True)


def test_several_collections_over_a_model_are_served_together(site: Site) -> None:
    base = site.cache.base(*model_to_serve(DatabaseSource(make_engine(site.url)).collections(), None))
    one = MethodSettings.from_json({"layers": 1, "rank": 2})
    found = options(base, "tiny", Path("/m"), [one, replace(one, layers=2, rank=12)], "float32", 4)
    assert found["lora-target-modules"] == sorted(structure_of(base.model, replace(one, layers=2)).modules)
    assert (found["max-lora-rank"], found["max-loras"]) == (16, 4)
    everywhere = replace(one, positions="all")
    assert options(base, "tiny", Path("/m"), [one, everywhere], "float32")["max-lora-rank"] == 8
    with pytest.raises(InvalidRequest, match="act from the last prompt token on"):
        options(base, "tiny", Path("/m"), [everywhere], "float32")
