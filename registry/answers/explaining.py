"""The reason for an answer in words, from what was logged with it."""

from collections.abc import Sequence

from registry.answers.schemas import Considered
from registry.tables.answers import LoggedAnswer


def reason(answer: LoggedAnswer, threshold: float | None) -> str:
    """Say why an edit answered, or why none did.

    threshold: the collection's, at which a score still covers a question; None: its method has none.
    """
    considered = [Considered.model_validate(each) for each in answer.considered]
    first = considered[0] if considered else None
    if answer.version == 0:
        return "The base model was asked, in which no edit acts."
    if first is None:
        return "No edit lies near the question, so the base model answered."
    if answer.said_to is None:
        return route_reason(considered, threshold)
    covers = route_reason(considered, threshold).removesuffix(".")
    match answer.said_to:
        case "query":
            return f"{covers}; its block answered."
        case "prompt":
            return f"{covers}; its block gave its target to the edit's own prompt, and not to the question itself."
        case _:
            return f"{covers}; but its block did not give its target, so the base model answered."


def route_reason(considered: Sequence[Considered], threshold: float | None) -> str:
    """Say which edit covers a question, or what decides against the nearest one. considered: best first."""
    if not considered:
        return "No edit lies near the question, so the base model answers."
    first = considered[0]
    if first.covers:
        return f"Edit {first.edit} covers the question, {_distance(first)}{_for(first, threshold)}."
    return f"Edit {first.edit} comes closest, {_distance(first)}, but {_against(first, threshold)}."


def _distance(found: Considered) -> str:
    return f"at distance {found.distance:.3f}"


def _for(found: Considered, threshold: float | None) -> str:
    if found.score is None:
        return ""
    under = "" if threshold is None else f", at most the threshold {threshold:g}"
    return f" (probability of asking something else: {found.score:.3f}{under})"


def _against(found: Considered, threshold: float | None) -> str:
    if found.guard:
        return "one of its guards is nearer"
    if found.rule is not None:
        return f"the two differ by the word rule `{found.rule}`"
    if found.score is not None:
        over = "" if threshold is None else f", above the threshold {threshold:g}"
        return f"the verifier says that the question asks something else (probability {found.score:.3f}{over})"
    return "the question is outside of its radius"
