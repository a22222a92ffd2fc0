"""`melo bench serve`: the start over a version of many edits, by the database and by the API."""

import json

import pytest
from typer.testing import CliRunner

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
