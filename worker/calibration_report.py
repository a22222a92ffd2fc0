"""Reports of a calibration: on the terminal, as JSON and as a plot."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from cli.errors import CommandError
from cli.invocation import Invocation
from cli.show import fields, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from melo_core.calibration import Calibration
    from melo_core.thresholds import Threshold


@dataclass(frozen=True)
class Report:
    """The results of a calibration, and the options that they were found with."""

    calibration: "Calibration"
    threshold: "Threshold | None"  # None: `unfitted` gives the reason
    unfitted: str
    false_rate: float
    encoder_digest: str
    verifier: str
    method: Mapping[str, Any]  # settings for a collection that will use the calibration
    out: Path | None

    @property
    def create_options(self) -> str:
        """Options for `melo collection create`, quoted for a shell."""
        calibration = ["--calibration", str(self.out)] if self.out else []
        return shlex.join([*calibration, "--method", json.dumps(self.method, ensure_ascii=False)])


def as_record(report: Report) -> dict[str, Any]:
    """Return a calibration as JSON, without its tensors."""
    found, threshold = report.calibration, report.threshold
    return {
        "radius": found.radius,
        "threshold": None if threshold is None else threshold.threshold,
        "false_rate": report.false_rate,
        "encoder_digest": report.encoder_digest,
        "verifier": report.verifier,
        "whitened": found.whitening is not None,
        "metric": _has_metric(found),
        "edits": found.edits,
        "questions": found.questions,
        "rephrases": found.rephrases,
        "near_misses": 0 if threshold is None else threshold.near_misses,
        "method": dict(report.method),
        "trade_off": [
            {"radius": reach.radius, "recall": reach.recall, "false": reach.false} for reach in found.reaches
        ],
        "threshold_trade_off": [
            {"threshold": outcome.threshold, "recall": outcome.recall, "false": outcome.false}
            for outcome in (() if threshold is None else threshold.outcomes)
        ],
    }


def show(call: Invocation, report: Report) -> None:
    """Print both trade-offs, the suggestions, and how to create a collection with them."""
    found = report.calibration
    _show_radii(call, found)
    if report.threshold is not None:
        _show_thresholds(call, report.threshold)
    rate = f"at most {report.false_rate:.1%}"
    sets = ", ".join(f"{count} {name}" for name, count in found.questions.items())
    fields(
        call.out,
        [
            ("suggested radius", f"{_number(found.radius)}, the greatest that wrongly covers {rate} of each"),
            ("measured on", f"{found.edits} edits; {sets}; {found.rephrases} rephrases"),
            *([] if report.threshold is None else _threshold_fields(report.threshold, rate)),
            ("keys", "whitened" if found.whitening is not None else "as they are: plain Euclidean distances"),
            ("metric", "learned, measured on pairs held out" if _has_metric(found) else "none"),
            ("written to", report.out),
        ],
    )
    if not found.rephrases:
        _warn(call, "Without --pairs the questions stand for edits: the radius says nothing of lookalikes.")
    if report.unfitted:
        _warn(call, report.unfitted)
    counts = found.questions | ({} if report.threshold is None else {"near misses": report.threshold.near_misses})
    for name, count in counts.items():
        if count * report.false_rate < 1:
            _warn(call, f"{count} {name} are too few to tell a rate of {report.false_rate:.1%}.")
    if report.method:
        call.out.print(Text(f"melo collection create NAME --model MODEL {report.create_options}"), soft_wrap=True)


def draw(report: Report, path: Path) -> None:
    """Draw the trade-offs of the radius and of the threshold side by side. Raises CommandError."""
    from matplotlib.figure import Figure

    panels = 1 if report.threshold is None else 2
    figure = Figure(figsize=(7 * panels, 4.5), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _draw_radii(axes[0], report.calibration)
    if report.threshold is not None:
        _draw_thresholds(axes[1], report.threshold)
    for each in axes:
        each.axhline(report.false_rate, color="grey", linewidth=1, linestyle=":")
        each.set(ylabel="share", ylim=(-0.02, 1.02))
        each.legend()
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise CommandError("The plot cannot be written", f"{path}: {error.strerror}") from None


def _show_radii(call: Invocation, found: "Calibration") -> None:
    names = list(found.questions)
    rows = []
    for reach in found.reaches:
        shares = [*(reach.false[name] for name in names), *([] if reach.recall is None else [reach.recall])]
        rows.append(_row(_number(reach.radius), shares, reach == found.suggested))
    recall = ["rephrases covered by their own#"] if found.rephrases else []
    table(call.out, ["radius#", *(f"{name} covered#" for name in names), *recall], rows, "")


def _show_thresholds(call: Invocation, found: "Threshold") -> None:
    rows = [_row(f"{o.threshold:.3g}", [o.false, o.recall], o == found.suggested) for o in found.outcomes]
    table(call.out, ["threshold#", "near misses taken#", "rephrases taken by their own#"], rows, "")


def _row(value: str, shares: Sequence[float], suggested: bool) -> list[Text]:
    style = "bold" if suggested else ""
    return [Text(value, style), *(Text(f"{share:.1%}", style) for share in shares)]


def _threshold_fields(found: "Threshold", rate: str) -> list[tuple[str, object]]:
    suggested = f"{found.threshold:.3g}, the greatest at which {rate} of the near misses are taken"
    measured = f"{found.near_misses} near misses; {found.rephrases} rephrases"
    recall = f"{found.suggested.recall:.1%} of the rephrases are taken by their own edit"
    return [("suggested threshold", suggested), ("measured on", measured), ("recall at it", recall)]


def _draw_radii(axes: "Axes", found: "Calibration") -> None:
    radii = [reach.radius for reach in found.reaches]
    recall = [reach.recall for reach in found.reaches if reach.recall is not None]
    if recall:
        axes.plot(radii, recall, label="rephrases covered by their own edit")
    for name in found.questions:
        axes.plot(radii, [reach.false[name] for reach in found.reaches], "--", label=f"{name}: wrongly covered")
    axes.axvline(found.radius, color="grey", linewidth=1, label=f"suggested: {_number(found.radius)}")
    axes.set(title="without a verifier", xlabel="radius, in key units")


def _draw_thresholds(axes: "Axes", found: "Threshold") -> None:
    thresholds = [outcome.threshold for outcome in found.outcomes]
    axes.plot(thresholds, [outcome.recall for outcome in found.outcomes], label="rephrases taken by their own edit")
    axes.plot(thresholds, [outcome.false for outcome in found.outcomes], "--", label="near misses: wrongly taken")
    axes.axvline(found.threshold, color="grey", linewidth=1, label=f"suggested: {found.threshold:.3g}")
    axes.set(title="with the verifier", xlabel="threshold of the verifier")


def _warn(call: Invocation, note: str) -> None:
    call.out.print(Text(note, "yellow"))


def _has_metric(found: "Calibration") -> bool:
    return found.whitening is not None and found.whitening.metric is not None


def _number(radius: float) -> str:
    return f"{radius:.3f}" if radius >= 0.1 else f"{radius:.3g}"
