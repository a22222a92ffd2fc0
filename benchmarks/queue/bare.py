"""The bare trainer: the same edits in the same batches, learned with their keys by melo_core alone."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from melo_core.base_model import load_base_model
from melo_core.hidden import HiddenEncoder
from melo_core.learning import EditRequest, learn
from melo_core.settings import MethodSettings


def train_bare(wish: Mapping[str, Any]) -> None:
    """Train `model` with `settings` on the batches of corrections in the file `edits`; write the cost to `out`."""
    settings = MethodSettings.from_json(wish["settings"])
    base = load_base_model(Path(wish["model"]))
    encoder = HiddenEncoder(base, settings.key_layer, settings.key_pooling)
    batches = json.loads(Path(wish["edits"]).read_text("utf-8"))
    started, spent, reproduced = time.time(), time.process_time(), 0
    for batch in batches:
        requests = [EditRequest(edit["prompt"], edit["prompt"], edit["prompt"], edit["target"]) for edit in batch]
        reproduced += sum(learned.reproduced for learned in learn(base, settings, requests))
        for edit in batch:
            encoder.key(edit["prompt"])
    spent = time.process_time() - spent
    done = {"started": started, "ended": time.time(), "cpu_seconds": spent, "reproduced": reproduced}
    Path(wish["out"]).write_text(json.dumps(done), "utf-8")
