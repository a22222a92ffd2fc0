"""What the worker keeps in its cache, and reads again only as it was written."""

from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from melo_core.encoder import KeyEncoder
from registry.base.model_files import find_model
from registry.base.vocabulary import Preflight
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.jobs.schemas import Progress
from tests.melo_core.gguf_file import write_gguf
from tests.registry.workflow import ADA, Workflow
from worker.conversion_line import line_on
from worker.model_cache import ModelCache
from worker.training_job import run_job
from worker.watch import Watch, Worker


class Letters(KeyEncoder):
    """An encoder that counts letters."""

    whitening = None
    in_parts = False
    dimension = 5

    def raw_key(self, text: str, kind: str = "qa") -> torch.Tensor:
        return torch.tensor([float(text.lower().count(letter)) for letter in "aeiou"])

    def require_unedited(self, structure: object) -> None:
        """Accept any: no block changes what letters a text has."""


def fitted(cache: Path) -> tuple[bytes, int]:
    """Return the whitening, and how many texts were encoded for it."""
    encoded: list[int] = []
    data = ModelCache(cache).fitted_whitening(Letters(), "d", 0.01, lambda done, total: encoded.append(done))
    return data, len(encoded)


def test_a_whitening_in_the_cache_that_is_not_what_was_written_is_fitted_again(tmp_path):
    first, encoded = fitted(tmp_path)
    assert encoded > 1000
    assert fitted(tmp_path) == (first, 0)
    (stored,) = (tmp_path / "whitenings").iterdir()
    for spoilt in (b"", b"cut off", stored.read_bytes()[:-1], stored.read_bytes()[:-1] + b"\1"):
        stored.write_bytes(spoilt)
        assert fitted(tmp_path) == (first, encoded)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_shows_a_conversion_in_one_line_and_a_log_nothing(tmp_path, is_terminal):
    screen, model = StringIO(), find_model(str(write_gguf(tmp_path / "tiny.gguf")))
    console = Console(file=screen, force_terminal=is_terminal, width=80)
    cache = ModelCache(tmp_path / "cache", converting=line_on(console))
    with console.status("loading") if is_terminal else console:  # as where a command loads the model
        cache.base(model.spec, model.digest)
    assert ("converting the model, once" in screen.getvalue()) == is_terminal
    assert is_terminal or screen.getvalue() == ""
    before = len(screen.getvalue())
    ModelCache(tmp_path / "cache", converting=line_on(console)).base(model.spec, model.digest)
    assert len(screen.getvalue()) == before  # it is read, not converted again


def test_a_batchs_readers_see_how_far_the_conversion_is(sessions, tmp_path, monkeypatch):
    with sessions.begin() as session:
        model = str(write_gguf(tmp_path / "tiny.gguf"))
        collections.create(session, NewCollection(name="facts", model=model, preflight=Preflight.NONE), ADA)
    workflow, seen = Workflow(sessions), list[Progress]()
    counted = Watch.count
    monkeypatch.setattr(Watch, "count", lambda *given: (counted(*given), seen.append(given[0].progress))[0])
    batch = workflow.submit({"prompt": "abc", "target": "d"}).batch
    run_job(Worker("w1", sessions, ModelCache(tmp_path), lease_seconds=60, libraries={}), workflow.approve(batch.id))
    converting = [(each.done, each.total) for each in seen if each.stage == "convert"]
    assert converting == [(done, 12) for done in range(13)]
