"""Where an answer came from, for people: the version, the edit that answered, and those that were considered."""

from typing import Any

from registry.answers.remedies import remedy

SHOWN = 3  # edits that were considered
SAID_TO = {"prompt": ", by its answer to the edit's own prompt"}


def explanation(melo: dict[str, Any]) -> list[tuple[str, object]]:
    """Describe which edit acted and why, in which version, and who made it; or why none did, and which came near.

    melo: the field of that name in a server's answer.
    """
    edit, nearest = melo["edit"], melo["considered"][:SHOWN]
    considered: list[tuple[str, object]] = [
        ("considered", f"edit {found['edit']}: {found['text']} – {_verdict(found, melo['threshold'])}")
        for found in nearest
    ]
    version = ("version", f"{melo['version']} ({melo['digest'][:12]})")
    if melo.get("read_as"):
        considered.insert(0, ("read as", melo["read_as"]))
    if edit is None:
        why = "no edit covers the prompt" if nearest else "no edit lies near"
        if melo.get("said_to") == "base" and nearest:
            why = f"edit {nearest[0]['edit']} covers the prompt, but its block does not say its target"
        found = [version, ("answered by", f"the base model: {why}"), *considered]
        if nearest:
            collection = melo["version"].partition("@")[0]
            todo = remedy(collection, nearest[0]["edit"], covers=nearest[0]["covers"])
            found.append(("to do", todo))
        return found
    return [
        version,
        ("answered by", f"edit {edit['id']}{SAID_TO.get(str(melo.get('said_to')), '')}"),
        ("edit", f"{edit['prompt']} → {edit['target']}"),
        ("author", edit["author"]),
        ("reason", edit["reason"]),
        ("source", edit["source"]),
        ("batch", edit["batch"]),
        *considered,
    ]


def _verdict(found: dict[str, Any], threshold: float) -> str:
    """Describe the distance, and what counted for or against the edit."""
    away = f"distance {found['distance']:.3f}"
    if found["guard"] is not None:
        return f"{away}; nearer to the guard {found['guard']!r}"
    if found["difference"] is not None:
        return f"{away}; differs by {found['difference']}"
    if found["score"] is None:
        return f"{away}; {'within' if found['covers'] else 'beyond'} the radius"
    side = "at most" if found["covers"] else "above"
    return f"{away}; probability that it asks something else: {found['score']:.3f}, {side} the threshold {threshold:g}"
