"""`melo bench serve`: the start over a version of many edits, by the database and by the API."""

import json

import httpx
import pytest
import structlog
from typer.testing import CliRunner

from benchmarks.serving.load import WITH_KEY
from benchmarks.serving.start import _api
from cli.main import make_app


@pytest.mark.long
def test_the_start_is_measured_by_either_way_and_a_corrected_question_is_asked(tmp_path):
    out = tmp_path / "start.json"
    done = CliRunner().invoke(make_app(), ["bench", "serve", "--start-edits", "30", "--json", str(out)])
    assert done.exit_code == 0, done.output + repr(done.exception)
    found = json.loads(out.read_text())
    assert found["start_edits"] == 30
    for way in ("database", "api"):
        assert 0 < found[f"start_seconds_by_{way}"] < found[f"first_answer_seconds_by_{way}"]
        assert found[f"first_corrected_seconds_by_{way}"] > 0


def test_the_bench_leaves_the_log_as_it_was(database_url):
    before = structlog.get_config()
    with _api(database_url) as url:
        assert httpx.get(f"{url}/healthz", headers=WITH_KEY).is_success
        assert structlog.get_config() != before
    assert structlog.get_config() == before
