"""The registry's programs stay small."""

import subprocess
import sys


def test_the_api_and_the_relay_run_without_torch():
    program = (
        "import sys; sys.modules.update(torch=None, transformers=None, melo_core=None, worker=None); "
        "import registry.app, registry.relay, registry.client"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
