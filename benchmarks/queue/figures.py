"""The results: as a JSON file, and as a table for people."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.queue.invariants import Findings
from benchmarks.queue.rounds import Tally
from benchmarks.queue.throughput import Throughput
from cli.show import table

LEAST_RATIO = 0.85
MOST_GROWTH = 1.1  # of a worker's memory; includes what an allocator keeps
MOST_IDLE = 0.01
FINDINGS_KEPT = 100


@dataclass
class Figures:
    """The figures, filled in step by step; None: not measured."""

    seed: int
    rounds: int
    machine: dict[str, object]
    tally: Tally
    throughput: Throughput | None = None
    idle_core_share: float | None = None
    seconds: float = 0.0

    @property
    def findings(self) -> Findings:
        all_of_them = Findings()
        all_of_them += self.tally.findings
        if self.throughput:
            all_of_them += self.throughput.findings
        return all_of_them

    def as_json(self) -> dict[str, Any]:
        found, tally, speed = self.findings, self.tally, self.throughput
        return {
            "jobs": tally.jobs + (speed.batches if speed else 0),
            "faults": tally.faults.total(),
            "lost": len(found.lost),
            "repeated": len(found.repeated),
            "orphan_blocks": len(found.orphans),
            "missing_events": len(found.events),
            "other_findings": len(found.others),
            "throughput_ratio": speed and round(speed.ratio, 3),
            "idle_core_share": self.idle_core_share and round(self.idle_core_share, 5),
            "seed": self.seed,
            "rounds": self.rounds,
            "batches_by_state": dict(tally.states),
            "failed_after_faults": dict(tally.reasons),
            "faults_by_kind": dict(sorted(tally.faults.items())),
            "unclean_ends": tally.unclean_ends,
            "slowest_recovery_seconds": round(tally.slowest_seconds, 1),
            "throughput": speed and {
                "edits": speed.edits,
                "batches": speed.batches,
                "edits_per_second_queue": round(speed.queue_rate, 2),
                "edits_per_second_bare": round(speed.bare_rate, 2),
                "reproduced": {name: round(share, 4) for name, share in speed.reproduced.items()},
                "cpu_seconds": speed.cpu_seconds,
                "cpu_ratio": round(speed.cpu_ratio, 3),
                "stage_seconds": speed.stages,
                "worker_memory_mb": speed.memory_mb,
                "memory_growth": round(speed.memory_growth, 3),
                "batches_by_state": speed.states,
            },
            "findings": found.all[:FINDINGS_KEPT],
            "machine": self.machine,
            "seconds": round(self.seconds, 1),
        }  # fmt: skip

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n", "utf-8")

    def missed(self) -> list[str]:
        """Return the requirements not met, whatever the machine; speed is for the reader to judge."""
        return [f"{name.replace('_', ' ')}: {count}" for name, count in self._counts().items() if count]

    def _counts(self) -> dict[str, int]:
        shown = self.as_json()
        names = ("lost", "repeated", "orphan_blocks", "missing_events", "other_findings")
        return {name: shown[name] for name in names} | {"unclean_ends": len(self.tally.unclean_ends)}

    def show(self, console: Console) -> None:
        shown, speed = self.as_json(), self.throughput
        rows: list[list[object]] = [
            ["jobs", f"{shown['jobs']:,}", ""],
            ["faults", f"{shown['faults']:,}", ""],
            *([name.replace("_", " "), count, 0] for name, count in self._counts().items()),
        ]
        if self.rounds:
            rows.append(["seconds until all had ended, at most", shown["slowest_recovery_seconds"], ""])
        if speed:
            rows += [
                ["edits/s through the queue", round(speed.queue_rate, 1), ""],
                ["edits/s of the bare trainer", round(speed.bare_rate, 1), ""],
                ["throughput ratio", shown["throughput_ratio"], f"at least {LEAST_RATIO}"],
                ["worker's memory, end to early", round(speed.memory_growth, 2), f"at most {MOST_GROWTH}"],
            ]
        if self.idle_core_share is not None:
            rows.append(["core share of an idle worker", shown["idle_core_share"], f"at most {MOST_IDLE}"])
        table(console, ["figure", "measured#", "aim#"], rows, empty="")
        table(console, ["fault", "times#"], sorted(self.tally.faults.items()), empty="No faults.")
        for reason, times in self.tally.reasons.most_common():
            console.print(f"{times} failed: {reason}", markup=False)
