"""What the README shows, as a reader would type it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

pytestmark = pytest.mark.long

README = Path(__file__).parents[2] / "README.md"
ACTIVATE = ". .venv/bin/activate"


def test_the_commands_of_the_readme_work_one_after_the_other(tmp_path):
    shown = re.search(r"^## Use it\n\n```sh\n(.*?)^```", README.read_text(), re.M | re.S)
    assert shown and ACTIVATE in shown[1]
    environment = os.environ | {
        "MELO_HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    commands = shown[1].replace(ACTIVATE, "")  # the tests' own environment is active
    try:
        done = subprocess.run(
            ["bash", "-ec", commands], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
        )
    finally:
        subprocess.run([Path(sys.executable).parent / "melo", "down"], env=environment, check=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nJo Doe\n" in done.stdout
    assert "facts@production is version 1" in done.stdout
    assert "facts@2 was made: 0 edits act" in done.stdout
    assert "All as written" in done.stdout
