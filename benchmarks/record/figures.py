"""The results: as a JSON file, and as a table for people."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.record.measure import OF_EDITS, OF_VERSIONS, Submission, Timing
from benchmarks.record.signing import SigningCost
from benchmarks.record.writers import Tally
from cli.show import table

LONGEST_MS = 100  # limit of the median of an operation on one version
MOST_OF_A_COPY = 4
NAMED = ("diff", "version_at", "show", "alias", "rollback")
ERRORS_KEPT = 20


@dataclass
class Figures:
    """The figures, filled in step by step."""

    edits: int
    versions: int
    writers: int
    writer_seconds: float
    machine: dict[str, Any]
    timings: dict[str, Timing]
    bytes_of_tables: dict[str, int]
    generate_seconds: float
    verify_seconds: float
    submission: Submission
    signing: SigningCost
    version_gaps: int
    digest_mismatches: int
    events_missing: int
    chain_ok: bool
    findings: list[str]
    tally: Tally
    forgeries: dict[str, bool]

    @property
    def bytes_per_version(self) -> float:
        """Bytes of everything that a version has whatever it changes: its row, events, batch, approval and job."""
        return round(sum(self.bytes_of_tables[table] for table in OF_VERSIONS) / self.versions, 1)

    @property
    def bytes_per_edit(self) -> float:
        return round(sum(self.bytes_of_tables[table] for table in OF_EDITS) / self.edits, 1)

    def as_json(self) -> dict[str, Any]:
        return {
            "edits": self.edits,
            "versions": self.versions,
            "version_gaps": self.version_gaps,
            "digest_mismatches": self.digest_mismatches,
            "events_missing": self.events_missing,
            "chain_ok": self.chain_ok,
            "forgeries_tried": len(self.forgeries),
            "forgeries_caught": sum(self.forgeries.values()),
            "median_ms": {name: self.timings[name].median for name in NAMED},
            "p95_ms": {name: self.timings[name].p95 for name in NAMED},
            "all_timings_ms": {name: asdict(timing) for name, timing in self.timings.items()},
            "versions_page_ms": {
                "first": self.timings["versions_first_page"].median,
                "last": self.timings["versions_last_page"].median,
            },
            "bytes_per_version": self.bytes_per_version,
            "bytes_per_edit": self.bytes_per_edit,
            "bytes_of_tables": self.bytes_of_tables,
            "submit_vs_copy": self.submission.ratio,
            "submission": asdict(self.submission),
            "signing": {
                **asdict(self.signing),
                "ratio": self.signing.ratio,
                "events_per_second": self.signing.events_per_second,
            },
            "generate_seconds": self.generate_seconds,
            "verify_seconds": self.verify_seconds,
            "writers": {
                "count": self.writers,
                "seconds": self.writer_seconds,
                "done": dict(self.tally.done),
                "refused": dict(self.tally.refused),
                "errors": self.tally.errors[:ERRORS_KEPT],
                "error_count": len(self.tally.errors),
            },
            "forgeries": self.forgeries,
            "findings": self.findings,
            "machine": self.machine,
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n", "utf-8")

    def missed(self) -> list[str]:
        """Return the requirements not met, whatever the machine; speed is for the reader to judge."""
        wrong = {
            "version_gaps": self.version_gaps,
            "digest_mismatches": self.digest_mismatches,
            "events_missing": self.events_missing,
            "errors of writers": len(self.tally.errors),
            "forgeries that nothing named": len(self.forgeries) - sum(self.forgeries.values()),
            "findings in the chain": 0 if self.chain_ok else 1,
        }
        return [f"{name}: {count}" for name, count in wrong.items() if count]

    def show(self, console: Console) -> None:
        console.print(f"{self.edits:,} edits in {self.versions:,} versions")
        rows = [
            [_WORDS[name], timing.median, timing.p95, f"under {LONGEST_MS}" if name in NAMED else ""]
            for name, timing in self.timings.items()
        ]
        table(console, ["operation", "median ms#", "p95 ms#", "aim#"], rows, empty="")
        caught = f"{sum(self.forgeries.values())} of {len(self.forgeries)}"
        facts: list[list[object]] = [
            ["numbers missing between versions", self.version_gaps, 0],
            ["contents that differ from their digest", self.digest_mismatches, 0],
            ["changes without their event", self.events_missing, 0],
            ["chain of events intact", self.chain_ok, True],
            ["forgeries named", caught, "all"],
            ["what the writers did", f"{sum(self.tally.done.values()):,}", ""],
            ["refused, since another was first", f"{sum(self.tally.refused.values()):,}", ""],
            ["errors of writers", len(self.tally.errors), 0],
            ["bytes of a version", f"{self.bytes_per_version:,}", ""],
            ["bytes of an edit", f"{self.bytes_per_edit:,}", ""],
            [f"{self.submission.edits:,} edits submitted, in a bare COPY's time", self.submission.ratio,
             f"at most {MOST_OF_A_COPY}"],
            ["a change with its event signed, of the time of one that is not", self.signing.ratio, ""],
            ["seconds of audit verify", self.verify_seconds, ""],
        ]  # fmt: skip
        table(console, ["figure", "measured#", "aim#"], facts, empty="")


_WORDS = {
    "diff": "diff of neighbours",
    "diff_random": "diff of any two",
    "version_at": "version at",
    "show": "show",
    "alias": "alias move",
    "retire": "retire one edit",
    "rollback": "rollback to any version",
    "versions_first_page": "versions, first page",
    "versions_last_page": "versions, last page",
}
