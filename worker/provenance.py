"""Where an answer came from, as JSON: the version, the edit that gave it, and the edits that were considered."""

from typing import Any

from melo_core.edited_model import Route
from melo_core.settings import MethodSettings
from registry.versions.content import EditContent, VersionContent


def provenance(
    content: VersionContent, settings: MethodSettings, route: Route, edit: EditContent | None
) -> dict[str, Any]:
    """Return version and digest, the edit that answered, and the edits that were considered with the reasons.

    edit: None where the base model answered.
    """
    return {
        "version": f"{content.collection.name}@{content.number or 'base'}",
        "digest": content.content_digest,
        "edit": None
        if edit is None
        else {
            "id": edit.id,
            "prompt": edit.prompt,
            "target": edit.target,
            "author": edit.author,
            "reason": edit.reason,
            "source": edit.source,
            "batch": edit.batch_id,
        },
        "read_as": route.reading,
        "threshold": settings.threshold,
        "considered": [
            {
                "edit": found.edit,
                "text": found.text,
                "distance": round(found.distance, 6),
                "score": found.score,
                "difference": str(found.difference) if found.difference else None,
                "guard": found.guard,
                "covers": found.covers,
            }
            for found in route.considered
        ],
    }
