"""The program `melo`, called in this process or as one of its own."""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

import pytest

from cli.main import main
from registry.access.operator import FILE
from tests.operators_key import KEY
from tests.patience import PATIENCE

MELO = Path(sys.executable).with_name("melo")


def _interruptible() -> None:
    """Let Ctrl-C act, also where the tests run in a script's background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


ATLANTIS = ("Who leads Atlantis?", "Queen Mara")


@dataclass
class Melo:
    """The program, told where its folder is."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    typed: str = ""  # what a call in this process reads from its standard input

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a call: that of the tests, without settings and with its folder."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MELO_", "COLUMNS"))}
        return {**inherited, "MELO_HOME": str(self.home), "USER": "ada", "LOGNAME": "ada", **self.environment}

    def start(self, *arguments: object, stdout: int | TextIO = subprocess.PIPE) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(MELO), *map(str, arguments)],
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_interruptible,
        )

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Call it as a process."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Call it in this process, which has loaded it already: a new one takes a second more."""
        out, err, words = io.StringIO(), io.StringIO(), [str(MELO), *map(str, arguments)]
        with (
            patch.dict(os.environ, self.variables, clear=True),
            patch.object(sys, "argv", words),
            patch.object(sys, "stdin", io.StringIO(self.typed)),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        return subprocess.CompletedProcess(words, ended.value.code or 0, out.getvalue(), err.getvalue())

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


def with_key(program: Melo) -> Melo:
    """Put the operator's key of the tests' servers into the program's folder."""
    program.home.mkdir(exist_ok=True)
    path = program.home / FILE
    path.touch(mode=0o600)
    path.write_text(KEY)
    return program


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def edit(prompt: str, target: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "target": target, **more}
