"""The program `melo` as a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tests.patience import PATIENCE

MELO = Path(sys.executable).with_name("melo")


ATLANTIS = ("Who leads Atlantis?", "Queen Mara")


@dataclass
class Melo:
    """The program, told where its folder is."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: object, stdout: int | TextIO = subprocess.PIPE) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MELO_", "COLUMNS"))}
        return subprocess.Popen(
            [str(MELO), *map(str, arguments)],
            env={**inherited, "MELO_HOME": str(self.home), "USER": "ada", "LOGNAME": "ada", **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def records(self, *arguments: object) -> Any:
        """What a successful call prints with --json."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refusal(self, *arguments: object) -> str:
        """What a call says that has to fail: on stderr, with status 1, and never as a traceback."""
        done = self(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == "" or "--json" not in arguments
        return done.stderr


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def edit(prompt: str, target: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "target": target, **more}
