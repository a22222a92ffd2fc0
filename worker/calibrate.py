"""`melo calibrate`: whitening, metric and radius for one's own questions, and the trade-off to choose by."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from registry.cli.errors import CommandError
from registry.cli.files import lines_of
from registry.cli.invocation import Invocation, invocation
from registry.cli.show import AsJson, fields, print_json, table

if TYPE_CHECKING:
    from melo_core.calibration import Calibration, Rephrased
    from melo_core.encoder import KeyEncoder


def calibrate(
    context: typer.Context,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ordinary questions, one a line. Default: the packaged ones.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSONL with `prompt` and `rephrases`, to measure recall on.")
    ] = None,
    negatives: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions that no edit may cover, one a line.")
    ] = None,
    false_rate: Annotated[float, typer.Option(help="Share of any set that may be covered wrongly.")] = 0.01,
    metric: Annotated[bool, typer.Option("--metric", help="Also learn a metric from the pairs.")] = False,
    encoder: Annotated[
        str | None, typer.Option(help="Sentence encoder of the keys. Default: all-minilm-l6-v2.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="In place of an encoder: keys are this base model's hidden states.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="With --model: the layer. Default: 0, the embeddings.")] = None,
    pooling: Annotated[
        Literal["last", "mean"] | None,
        typer.Option(help="With --model: the last token's state or the mean. Default: mean."),
    ] = None,
    whitened: Annotated[
        bool, typer.Option("--whitened/--no-whitening", help="Whiten the keys, or leave them in their own units.")
    ] = True,
    epsilon: Annotated[float | None, typer.Option(help="ε of the whitening. Default: the method's.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the calibration.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the trade-off.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit the keys to given questions, and find the radius that keeps to a false-activation rate."""
    call = invocation(context)
    asked = lines_of(questions) if questions else None
    avoided = lines_of(negatives) if negatives else None
    rephrased = _pairs(pairs)
    if metric and not rephrased:
        raise CommandError("Nothing to learn from", "--metric needs rephrases.", "Give them with --pairs FILE.")
    if out and not whitened:
        raise CommandError("Nothing to write", "Keys that are not whitened need no calibration.", "Leave --out out.")
    if model is None and (layer is not None or pooling):
        raise CommandError("No model", "--layer and --pooling choose among a model's hidden states.", "Give --model.")
    if model and encoder:
        raise CommandError("Two encoders", "--encoder and --model exclude each other.", "Leave one of them out.")
    with call.err.status("loading the encoder"):
        if model:
            keys, digest = _hidden(call, model, layer or 0, pooling or "mean")
        else:
            keys, digest = _sentence(encoder or "all-minilm-l6-v2")
    found = _calibrated(call, keys, asked, avoided, rephrased, epsilon, false_rate, whitened, metric)
    if out and found.whitening is not None:
        _write(out, found.whitening.to_bytes())
    if plot:
        _draw(found, false_rate, plot)
    if as_json:
        print_json(record(found, false_rate, digest))
    else:
        _show(call, found, false_rate, out)


def record(found: "Calibration", false_rate: float, encoder_digest: str) -> dict[str, Any]:
    """A calibration as JSON, without its tensors."""
    return {
        "radius": found.radius,
        "false_rate": false_rate,
        "encoder_digest": encoder_digest,
        "whitened": found.whitening is not None,
        "metric": _has_metric(found),
        "edits": found.edits,
        "questions": found.questions,
        "rephrases": found.rephrases,
        "trade_off": [
            {"radius": reach.radius, "recall": reach.recall, "false": reach.false} for reach in found.reaches
        ],
    }


def _sentence(spec: str) -> "tuple[KeyEncoder, str]":
    from melo_core.encoder import SentenceEncoder
    from registry.base_models import find_encoder

    files = find_encoder(spec)
    return SentenceEncoder.load(files.path), files.digest


def _hidden(call: Invocation, spec: str, layer: int, pooling: Literal["last", "mean"]) -> "tuple[KeyEncoder, str]":
    from melo_core.errors import MeloError
    from melo_core.hidden import HiddenEncoder
    from melo_core.settings import MethodSettings
    from registry.base_models import find_model
    from worker.shelf import Shelf, hidden_digest

    digest = find_model(spec).digest
    try:
        base = Shelf(call.settings.cache, call.settings.dtype).base(spec, digest)
        encoder = HiddenEncoder(base, layer, pooling)
    except MeloError as error:
        raise CommandError("No keys", str(error)) from None
    return encoder, hidden_digest(digest, MethodSettings(key_layer=layer, key_pooling=pooling))


def _calibrated(
    call: Invocation,
    encoder: "KeyEncoder",
    asked: list[str] | None,
    avoided: list[str] | None,
    rephrased: "list[Rephrased]",
    epsilon: float | None,
    false_rate: float,
    whitened: bool,
    metric: bool,
) -> "Calibration":
    from melo_core.calibration import calibrate as fit
    from melo_core.encoder import ordinary_questions
    from melo_core.errors import MeloError
    from melo_core.settings import MethodSettings

    columns = (TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=call.err, transient=True) as bars:
            bar = bars.add_task("")
            return fit(
                encoder,
                ordinary_questions() if asked is None else asked,
                rephrased,
                avoided or [],
                epsilon=MethodSettings().whiten_epsilon if epsilon is None else epsilon,
                false_rate=false_rate,
                whitened=whitened,
                metric=metric,
                on_progress=lambda done, total: bars.update(bar, completed=done, total=total),
            )
    except MeloError as error:
        raise CommandError("No calibration", str(error)) from None


def _has_metric(found: "Calibration") -> bool:
    return found.whitening is not None and found.whitening.metric is not None


def _number(radius: float) -> str:
    return f"{radius:.3f}" if radius >= 0.1 else f"{radius:.3g}"


def _show(call: Invocation, found: "Calibration", false_rate: float, out: Path | None) -> None:
    names = list(found.questions)
    rows: list[list[object]] = []
    for reach in found.reaches:
        style = "bold" if reach == found.suggested else ""
        shares = [*(reach.false[name] for name in names), *([] if reach.recall is None else [reach.recall])]
        rows.append([Text(_number(reach.radius), style), *(Text(f"{share:.1%}", style) for share in shares)])
    recall = ["rephrases covered by their own#"] if found.rephrases else []
    table(call.out, ["radius#", *(f"{name} covered#" for name in names), *recall], rows, "")
    sets = ", ".join(f"{count} {name}" for name, count in found.questions.items())
    fields(
        call.out,
        [
            (
                "suggested radius",
                f"{_number(found.radius)}, the greatest that wrongly covers at most {false_rate:.1%} of each",
            ),
            ("measured on", f"{found.edits} edits; {sets}; {found.rephrases} rephrases"),
            ("keys", "whitened" if found.whitening is not None else "as they are: plain Euclidean distances"),
            ("metric", "learned, measured on pairs held out" if _has_metric(found) else "none"),
            ("written to", out),
        ],
    )
    if not found.rephrases:
        note = "Without --pairs the questions stand for edits: the radius says nothing of lookalikes."
        call.out.print(Text(note, "yellow"))
    for name, count in found.questions.items():
        if count * false_rate < 1:
            call.out.print(Text(f"{count} {name} are too few to tell a rate of {false_rate:.1%}.", "yellow"))


def _draw(found: "Calibration", false_rate: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    radii = [reach.radius for reach in found.reaches]
    recall = [reach.recall for reach in found.reaches if reach.recall is not None]
    if recall:
        axes.plot(radii, recall, label="rephrases covered by their own edit")
    for name in found.questions:
        axes.plot(radii, [reach.false[name] for reach in found.reaches], "--", label=f"{name}: wrongly covered")
    axes.axvline(found.radius, color="grey", linewidth=1, label=f"suggested: {_number(found.radius)}")
    axes.axhline(false_rate, color="grey", linewidth=1, linestyle=":")
    axes.set(xlabel="radius, in key units", ylabel="share", ylim=(-0.02, 1.02))
    axes.legend()
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise CommandError("The plot cannot be written", f"{path}: {error.strerror}") from None


def _pairs(path: Path | None) -> "list[Rephrased]":
    """Raises CommandError with the number of every broken line."""
    if path is None:
        return []
    from melo_core.calibration import Rephrased

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise CommandError(
            "The file cannot be read", f"{path}: {why}.", "Check its name; it is text in UTF-8."
        ) from None
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    found: list[Rephrased] = []
    problems = []
    for number, line in lines:
        try:
            pair = json.loads(line)
            prompt, rephrases = pair["prompt"], pair["rephrases"]
            if not _texts([prompt]) or not isinstance(rephrases, list) or not _texts(rephrases):
                raise ValueError("prompt must be a text and rephrases a list of texts, none of them empty")
            others = tuple(text for text in dict.fromkeys(rephrases) if text.strip() != prompt.strip())
            found.append(Rephrased(prompt, others))
        except (ValueError, TypeError) as error:
            problems.append({"line": number, "detail": str(error)})
        except KeyError as error:
            problems.append({"line": number, "detail": f"has no {error}"})
    if problems:
        raise CommandError("The file has broken lines", str(path), "Correct these lines.", problems)
    return found


def _texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) and value.strip() for value in values)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CommandError("The calibration cannot be written", f"{path}: {error.strerror}") from None
