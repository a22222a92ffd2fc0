"""The registry's programs stay small: they are installed, and serve, without torch."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
SERVE = """
import importlib.util, os, secrets
missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name)]
assert not missing, missing
import registry.relay, registry.client, cli.main
from registry.base.database import upgrade
upgrade(os.environ["MELO_DATABASE_URL"])
from fastapi.testclient import TestClient
from registry.api.app import app_factory
os.environ["MELO_API_KEY"] = key = secrets.token_hex(32)
with TestClient(app_factory(), headers={"Authorization": f"Bearer {key}"}) as api:
    assert api.get("/readyz").json() == {"status": "ready"}, api.get("/readyz").text
    assert api.get("/v1/collections").json() == []
print("served")
"""


def test_the_api_and_the_relay_run_without_torch():
    program = (
        "import sys; sys.modules.update(torch=None, transformers=None, melo_core=None, worker=None, benchmarks=None); "
        "import registry.api.app, registry.relay, registry.client"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=False).returncode == 0


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The programs of an environment of its own, with what the package itself asks for and nothing else."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", ROOT], check=True, timeout=PATIENCE)
    return folder / "bin"


@pytest.fixture
def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("MELO_", "PYTHON"))}


@pytest.mark.long
def test_the_bench_is_no_part_of_a_wheel_and_says_how_to_get_it(installed, environment, tmp_path):
    bench = [installed / "melo", "bench", "scope", "--held-out"]
    done = subprocess.run(
        bench, cwd=tmp_path, env=environment, timeout=PATIENCE, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "This needs the package benchmarks" in done.stderr
    assert "pip install --editable" in done.stderr and "checkout" in done.stderr


@pytest.mark.long
def test_the_registry_is_installed_migrates_and_serves_where_there_is_no_torch(
    installed, environment, tmp_path, empty_database_url
):
    served = subprocess.run(
        [installed / "python", "-c", SERVE],
        cwd=tmp_path,
        env=environment | {"MELO_DATABASE_URL": empty_database_url},
        timeout=PATIENCE,
        check=False,
        capture_output=True,
        text=True,
    )
    assert served.stdout == "served\n", served.stderr
