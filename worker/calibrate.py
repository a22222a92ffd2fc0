"""`melo calibrate`: whitening, metric, radius and threshold for a deployment's own questions, and the trade-offs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli.errors import CommandError
from cli.files.lines import lines_of
from cli.invocation import Invocation
from melo_core.verifier_files import NONE, PACKAGED
from worker.calibration_report import Report, as_record, draw, show

if TYPE_CHECKING:
    from melo_core.calibration import Calibration, Rephrased
    from melo_core.encoder import KeyEncoder
    from melo_core.settings import MethodSettings
    from melo_core.structure import Kind
    from melo_core.thresholds import Asked, Threshold
    from melo_core.verifier import Verifier
    from worker.model_cache import ModelCache


def calibrate(
    call: Invocation,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ordinary questions, one a line. Default: the packaged ones.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSONL with `prompt` and `rephrases`, to measure recall on.")
    ] = None,
    negatives: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions that no edit may cover, one a line.")
    ] = None,
    near: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL with `prompt`, of --pairs, and `near`: what it must not answer."),
    ] = None,
    false_rate: Annotated[float, typer.Option(help="Share of any set that may be covered wrongly.")] = 0.01,
    verifier: Annotated[
        str, typer.Option(help="Whose threshold is fitted: packaged, none, or a folder. Needs --pairs.")
    ] = PACKAGED,
    candidate_radius: Annotated[
        float | None, typer.Option(help="What lies farther, the verifier never reads. Default: the method's.")
    ] = None,
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
) -> None:
    """Fit the keys to given questions, and find the radius and threshold that keep to a false-activation rate."""
    if near and not pairs:
        raise CommandError("No rephrases", "--near needs rephrases to weigh against.", "Give them with --pairs FILE.")
    if near and verifier == NONE:
        raise CommandError("No verifier", "--near is for a verifier's threshold.", "Leave --near or --verifier out.")
    if metric and not pairs:
        raise CommandError("Nothing to learn from", "--metric needs rephrases.", "Give them with --pairs FILE.")
    if out and not whitened:
        raise CommandError("Nothing to write", "Keys that are not whitened need no calibration.", "Leave --out out.")
    if model is None and (layer is not None or pooling):
        raise CommandError("No model", "--layer and --pooling choose among a model's hidden states.", "Give --model.")
    if model and encoder:
        raise CommandError("Two encoders", "--encoder and --model exclude each other.", "Leave one of them out.")
    asked = lines_of(questions) if questions else None
    avoided = lines_of(negatives) if negatives else []
    from melo_core.calibration import measured_on
    from melo_core.thresholds import lookalikes

    rephrased, near_misses = _texts(pairs, near)
    given: dict[str, Any] = {} if verifier == PACKAGED else {"verifier": verifier}
    given |= {"key_encoder": "hidden", "key_layer": layer or 0, "key_pooling": pooling or "mean"} if model else {}
    given |= {} if whitened else {"whitened": False}
    given |= {} if epsilon is None else {"whiten_epsilon": epsilon}
    given |= {} if candidate_radius is None else {"candidate_radius": candidate_radius}
    settings = _settings(given)
    with call.err.status("loading the encoder"):
        keys, digest, judge = _loaded(call, settings, model, encoder or "all-minilm-l6-v2")
    found = _calibrated(call, keys, asked, avoided, rephrased, settings, false_rate, metric)
    keys.whitening = found.whitening
    threshold, unfitted = None, ""
    if judge is None:
        given["radius"] = found.radius
    elif not rephrased:
        unfitted = "Without --pairs no threshold is fitted."
    else:
        measured = measured_on(rephrased, metric)
        near_misses = near_misses or lookalikes(keys, settings, [pair.prompt for pair in measured], avoided)
        if near_misses:
            threshold = _threshold(call, keys, judge, settings, measured, near_misses, false_rate)
            given["threshold"] = threshold.threshold
        else:
            unfitted = "No prompt lies near another: to fit a threshold, give near misses with --near FILE."
    report = Report(found, threshold, unfitted, false_rate, digest, verifier, given, out)
    if out and found.whitening is not None:
        _write(out, found.whitening.to_bytes())
    if plot:
        draw(report, plot)
    call.emit(as_record(report), lambda: show(call, report))


def _settings(given: Mapping[str, Any]) -> "MethodSettings":
    """Return the settings of a collection that would use the calibration. Raises CommandError."""
    from melo_core.errors import MeloError
    from melo_core.method import complete
    from melo_core.settings import MethodSettings

    try:
        return MethodSettings.from_json(complete(given))
    except MeloError as error:
        raise CommandError("No calibration", str(error)) from None


def _loaded(
    call: Invocation, settings: "MethodSettings", model: str | None, encoder: str
) -> "tuple[KeyEncoder, str, Verifier | None]":
    """Load the encoder with its digest, and the verifier; no verifier for a classifier."""
    from melo_core.errors import MeloError
    from melo_core.hidden import HiddenEncoder
    from melo_core.structure import Kind
    from registry.base.model_files import find_model
    from worker.conversion_line import line_on
    from worker.model_cache import ModelCache, hidden_digest

    model_cache = ModelCache(call.settings.cache, call.settings.dtype, converting=line_on(call.err))
    try:
        if model is None:
            keys, digest = model_cache.encoder(encoder, None, None)
            return keys, digest, _verifier(model_cache, settings, Kind.CAUSAL)
        model_digest = find_model(model).digest
        base = model_cache.base(model, model_digest)
        hidden = HiddenEncoder(base, settings.key_layer, settings.key_pooling)
        return hidden, hidden_digest(model_digest, settings), _verifier(model_cache, settings, base.kind)
    except MeloError as error:
        raise CommandError("No keys", str(error)) from None


def _verifier(model_cache: "ModelCache", settings: "MethodSettings", kind: "Kind") -> "Verifier | None":
    from melo_core.errors import MeloError

    try:
        return model_cache.verifier_of(settings, kind)
    except (MeloError, OSError, ValueError) as error:  # transformers raises the last two for an invalid folder
        raise CommandError(
            "No verifier", f"{settings.verifier}: {error}", "Name packaged, none, or a cross-encoder's folder."
        ) from None


def _calibrated(
    call: Invocation,
    encoder: "KeyEncoder",
    asked: list[str] | None,
    avoided: list[str],
    rephrased: "Sequence[Rephrased]",
    settings: "MethodSettings",
    false_rate: float,
    metric: bool,
) -> "Calibration":
    from melo_core.calibration import calibrate as fit
    from melo_core.encoder import ordinary_questions
    from melo_core.errors import MeloError

    try:
        with _progress(call, "encoding") as advance:
            return fit(
                encoder,
                ordinary_questions() if asked is None else asked,
                rephrased,
                avoided,
                epsilon=settings.whiten_epsilon,
                false_rate=false_rate,
                whitened=settings.whitened,
                metric=metric,
                on_progress=advance,
            )
    except MeloError as error:
        raise CommandError("No calibration", str(error)) from None


def _threshold(
    call: Invocation,
    encoder: "KeyEncoder",
    verifier: "Verifier",
    settings: "MethodSettings",
    rephrased: "Sequence[Rephrased]",
    near_misses: "Sequence[Asked]",
    false_rate: float,
) -> "Threshold":
    from melo_core.errors import MeloError
    from melo_core.thresholds import Asked, fit_threshold, weigh

    rephrases = [Asked(pair.prompt, text) for pair in rephrased for text in pair.rephrases]
    try:
        with _progress(call, "reading") as advance:
            weighed = weigh(encoder, verifier, settings, [*rephrases, *near_misses], advance)
        return fit_threshold(weighed[: len(rephrases)], weighed[len(rephrases) :], false_rate)
    except MeloError as error:
        raise CommandError("No threshold", f"{error}.") from None


@contextmanager
def _progress(call: Invocation, what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=call.err, transient=True) as bars:
        bar = bars.add_task("")
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _texts(pairs: Path | None, near: Path | None) -> "tuple[list[Rephrased], list[Asked]]":
    """Read the given rephrases and near misses. Raises CommandError."""
    from worker.calibration_files import read_near_misses, read_pairs

    rephrased = read_pairs(pairs) if pairs else []
    return rephrased, read_near_misses(near, rephrased) if near else []


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CommandError("The calibration cannot be written", f"{path}: {error.strerror}") from None
