"""`melo demo`: correct a real model through the real registry, see it answer, and undo the correction."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session, sessionmaker

from cli.errors import CommandError
from cli.follow import follow
from cli.invocation import Invocation
from cli.show import visible
from embedded.stack import Stack, running
from melo_core.edited_model import Answer
from registry.base.database import make_engine, make_sessions
from registry.client import MeloClient
from registry.versions.reading import resolve
from worker.conversion_line import line_on
from worker.demo.figures import Figures, generality, success, untouched
from worker.demo.questions import Correction, read_questions
from worker.loader import load_version
from worker.model_cache import ModelCache

MODEL = "smollm2-135m-instruct"
LONGEST_ANSWER = 24  # tokens
OF_BASE = 0
SHOWN_ANSWER = 60  # characters
GENERALITY = 0.8  # the minimum: what the verifier does not confidently take for the same question is left alone


def run_demo(call: Invocation, json_file: Path | None, keep: bool) -> None:
    """Run the demo and print its figures. Raises CommandError where a figure misses its requirement."""
    started = time.monotonic()
    if json_file is not None:
        _require_writable(json_file)
    folder = Path(tempfile.mkdtemp(prefix="melo-demo-"))
    starting = call.err.status("starting PostgreSQL, Valkey, the relay, a worker and the API")
    try:
        with starting, running(folder) as stack:
            starting.stop()
            call.out.print(f"The stack runs: API {stack.api_url}")
            figures = _Demo(call, stack).run(started)
    finally:
        if keep:
            call.out.print(f"Kept: melo --home {folder} up")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if json_file is not None:
        json_file.write_text(json.dumps(dataclasses.asdict(figures), indent=2) + "\n", "utf-8")
    _require(figures)


class _Demo:
    """The steps of the demo, in order."""

    def __init__(self, call: Invocation, stack: Stack) -> None:
        self.call, self.stack, self.questions = dataclasses.replace(call), stack, read_questions()
        self.client = self.call.client = MeloClient(stack.api_url, stack.api_key, actor="demo")
        self.sessions: sessionmaker[Session] = make_sessions(make_engine(stack.database_url))
        self.model_cache = ModelCache(call.settings.cache, call.settings.dtype, converting=line_on(call.err))
        self.answers: dict[int, list[Answer]] = {}  # by version, in the order of the questions
        self.train_seconds = 0.0

    def run(self, started: float) -> Figures:
        call, questions = self.call, self.questions
        with self.client as client:
            name = self._collection()
            self._ask(name, OF_BASE, "the model as it is")
            for number in (1, 2):
                batch = [c for c in questions.corrections if c.batch == number]
                self._apply(name, batch, number)
                self._ask(name, number, f"version {number}")
            back = client.rollback(name, 1, "demo: back to version 1")
            call.out.print(f"Rolled back: version {back.number} restores version {back.restores}.")
            self._ask(name, back.number, f"version {back.number}")
            first = client.version(name, 1)
            reloaded = {number: self._asked_elsewhere(name, number) for number in (2, back.number)}
            with call.err.status("verifying the audit log and every digest"):
                audit = client.verify()
        self._show_table(back.number)
        figures = Figures(
            success=success(questions, self._texts(2)),
            generality=generality(questions, self._texts(2)),
            untouched=untouched(questions, self._tokens(OF_BASE), self._tokens(2)),
            rollback_equal=back.content_digest == first.content_digest and self._tokens(back.number) == self._tokens(1),
            reload_equal=all(tokens == self._token_list(number) for number, tokens in reloaded.items()),
            audit_ok=audit.ok,
            edits=len(questions.corrections),
            train_seconds=round(self.train_seconds, 1),
            total_seconds=round(time.monotonic() - started, 1),
        )
        self._show_figures(figures, back.number)
        return figures

    def _collection(self) -> str:
        taken = {collection.name for collection in self.client.collections()}
        name = next(n for n in ("demo", *(f"demo-{i}" for i in range(2, 10_000))) if n not in taken)
        self.client.create_collection(name, MODEL, self_approval=True, preflight="none")
        self.call.out.print(f"Collection {name}: corrections to {MODEL}")
        return name

    def _apply(self, name: str, corrections: Sequence[Correction], number: int) -> None:
        submitted = self.client.submit(name, [c.as_edit() for c in corrections], message=f"demo, part {number}")
        if submitted.batch is None:
            raise CommandError("The demo failed", "Its corrections were not stored.", "Report this.")
        self.client.approve(submitted.batch.id, "demo")
        applied = follow(self.call, submitted.batch.id)
        if applied.version != number:
            raise CommandError("The demo failed", f"Batch {applied.id} made version {applied.version}.", "Report this.")
        timings = (applied.job and applied.job.timings) or {}
        self.train_seconds += timings.get("train", 0.0)

    def _ask(self, name: str, number: int, title: str) -> None:
        """Ask all questions of a version, rebuilt from the record."""
        with self.sessions() as session:
            collection_id = resolve(session, name).collection.id
        with _bar(self.call, f"asking {title}", len(self.questions.all)) as advance:
            loaded = load_version(self.sessions, self.model_cache, collection_id, number)
            self.answers[number] = loaded.model.ask(
                self.questions.all, max_new_tokens=LONGEST_ANSWER, on_progress=advance
            )

    def _asked_elsewhere(self, name: str, number: int) -> list[tuple[int, ...]]:
        """Ask all questions by `melo ask` in a separate process, which gets only the database's address."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MELO_")}
        environment |= {"MELO_DATABASE_URL": self.stack.database_url, "MELO_CACHE": str(self.call.settings.cache)}
        command = [sys.executable, "-c", "from cli.main import main; main()"]
        command += ["ask", f"{name}@{number}", "--file", "-", "--max-tokens", str(LONGEST_ANSWER), "--json"]
        command += ["--in-process"]
        with self.call.err.status(f"asking version {number} in a second process"):
            done = subprocess.run(
                command, input="\n".join(self.questions.all), env=environment, capture_output=True, text=True
            )
        if done.returncode:
            raise CommandError("The demo failed", f"`melo ask` in a second process said: {done.stderr}", "Report this.")
        return [tuple(record["token_ids"]) for record in json.loads(done.stdout)]

    def _token_list(self, number: int) -> list[tuple[int, ...]]:
        return [answer.token_ids for answer in self.answers[number]]

    def _tokens(self, number: int) -> dict[str, tuple[int, ...]]:
        return dict(zip(self.questions.all, self._token_list(number), strict=True))

    def _texts(self, number: int) -> dict[str, str]:
        return dict(zip(self.questions.all, (answer.text for answer in self.answers[number]), strict=True))

    def _show_table(self, back: int) -> None:
        before, after, rolled = (self._texts(number) for number in (OF_BASE, 2, back))
        table = Table(title="Corrections", title_justify="left", expand=True)
        for column in ("question", "the model says", "version 2 says", "rephrases", f"version {back} says"):
            table.add_column(column, overflow="fold")
        for c in self.questions.corrections:
            right = sum(after[rephrase] == c.target for rephrase in c.rephrases)
            table.add_row(
                Text(c.prompt),
                _shown(before[c.prompt], c.target),
                _shown(after[c.prompt], c.target),
                f"{right} of {len(c.rephrases)}",
                _shown(rolled[c.prompt], c.target),
            )
        self.call.out.print(table)

    def _show_figures(self, figures: Figures, back: int) -> None:
        unrelated, near = len(self.questions.unrelated), len(self.questions.near_misses)
        rows = [
            ("success", f"{figures.success:.2f}", f"of {figures.edits} corrections answered with exactly the target"),
            ("generality", f"{figures.generality:.2f}", "of their rephrases, none of which was trained on"),
            ("untouched", f"{figures.untouched:.2f}", f"of {unrelated} unrelated questions and {near} near misses"),
            ("rollback", _yes(figures.rollback_equal), f"version {back} = version 1: digest, and every token"),
            ("reload", _yes(figures.reload_equal), "a second process, from the database alone: every token"),
            ("audit verify", "intact" if figures.audit_ok else "BROKEN", "hash chain, blocks, versions: recomputed"),
            ("training", f"{figures.train_seconds:.1f} s", f"for {figures.edits} edits"),
            ("in all", f"{figures.total_seconds:.1f} s", ""),
        ]
        table = Table(title="Measured by free generation", title_justify="left", show_header=False)
        for row in rows:
            table.add_row(*row)
        self.call.out.print(table)


def _shown(answer: str, target: str) -> Text:
    """Shorten an answer, and colour it green if it is the target."""
    line = visible(" ".join(answer.split()))
    return Text(line if len(line) <= SHOWN_ANSWER else line[:SHOWN_ANSWER] + "…", "green" if answer == target else "")


def _yes(fact: bool) -> str:
    return "equal" if fact else "DIFFERENT"


@contextmanager
def _bar(call: Invocation, title: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=call.err, transient=True) as bars:
        task = bars.add_task(title, total=total)
        yield lambda done: bars.update(task, completed=done)


def _require_writable(file: Path) -> None:
    """Fail before the minutes that the demo takes, not after."""
    try:
        file.touch()
    except OSError as error:
        raise CommandError("The file cannot be written", f"{file}: {error.strerror}.", "Name another file.") from None


def _require(figures: Figures) -> None:
    """Raise CommandError unless the figures show what the registry promises."""
    broken = [name for name in ("rollback_equal", "reload_equal", "audit_ok") if not getattr(figures, name)]
    broken += [name for name, least in (("success", 1.0), ("generality", GENERALITY), ("untouched", 1.0))
               if getattr(figures, name) < least]  # fmt: skip
    if broken:
        raise CommandError("The demo failed", f"Not as it must be: {', '.join(broken)}.", "Report this with the table.")
