"""The content digest of a webhook in its events."""

from registry.base.digests import canonical_json, sha256_hex
from registry.tables.webhooks import Webhook


def content_digest(webhook: Webhook) -> str:
    """Return a digest over what is fixed when a webhook is added, without the secret."""
    return sha256_hex(
        canonical_json({"url": webhook.url, "events": webhook.events, "collection_id": webhook.collection_id})
    )
