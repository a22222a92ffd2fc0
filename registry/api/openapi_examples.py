"""Examples for the OpenAPI document, built from those of single fields: none is duplicated or becomes outdated."""

from typing import Any

Schema = dict[str, Any]

MOMENT = "2026-11-17T14:05:00Z"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
# Texts by field name, for fields whose schema has no example.
NAMED = {
    "action": "collection:version:apply",
    "actor": "ben",
    "after": SHA256,
    "aliases": "production",
    "alternatives": "Astana, the former Nur-Sultan",
    "answer": "Nursultan",
    "answer_now": "Almaty",
    "approvers": "ben",
    "author": "ada",
    "before": SHA256,
    "by": "ada",
    "calibration": "WAAAAAAAAAB7Im1lYW4iOg==",
    "collection": "facts",
    "comment": "she retired in May",
    "created_by": "ada",
    "decided_by": "ben",
    "description": "clears the answer cache",
    "detail": "Its digest is not that of its content.",
    "device": "cuda:0",
    "encoder": "all-minilm-l6-v2",
    "error": "The worker ran out of memory.",
    "waits_for": "It waits for a decision: `melo batch approve 7` or `melo batch reject 7 --reason …`.",
    "key": "melo_3fk2a9_0f5wQm2n6l8Zt1yBv4cXh7jRk3pDs9gUe5aLi0oTqWz",
    "message": "capitals",
    "message_id": "msg_5f0c6a1e6c3d4d7a9a430d9f6a2f0c11",
    "model": "smollm2-135m-instruct",
    "name": "facts",
    "prefix": "3fk2a9",
    "prompt": "What is the capital of Kazakhstan?",
    "protected_by": "ada",
    "public_key": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    "reason": "checked against the source",
    "registry": "0b0f7f0e-9a3c-4a52-8a52-0f7c4a5f2d11",
    "rephrases": "Which city is Kazakhstan's capital?",
    "replaced_prompt": "What is the capital of Kazakhstan?",
    "replaced_target": "Nursultan",
    "request_id": "9a430d9f6a2f0c115f0c6a1e6c3d4d7a",
    "revoked_by": "ada",
    "role": "approver",
    "set_by": "ben",
    "signature": "dWlSg2Xm5k0p3mUe1c5YfHk1mO1b8m3k4J6QyT0v2s9RrZ8aXw1Lq7NcBtVhGfDjEoIu5yP4xKzMnSbAa3QeDg==",
    "signatures": "Signatures were checked against 1 public key.",
    "signed_by": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    "source": "https://example.org/capitals",
    "subject": "version/facts/3",
    "submitted_by": "ada",
    "target": "Astana",
    "time": MOMENT,
    "unchanged": "What is the capital of France?",
    "url": "https://example.org/melo",
    "what": "applied in version 3",
    "who": "ben",
    "why": "checked against the source",
    "worker": "gpu-1",
}


class NoExample(LookupError):
    """A text has no example: add one to its field, or for its name here."""


class Examples:
    def __init__(self, schemas: dict[str, Schema]) -> None:
        self._schemas = schemas

    def of(self, schema: Schema, name: str = "") -> Any:
        """Return a value that fits the schema; `name` is the name of the field or parameter."""
        if "$ref" in schema:
            return self.of(self._schemas[schema["$ref"].rpartition("/")[2]], name)
        if schema.get("examples"):
            return schema["examples"][0]
        if "example" in schema:
            return schema["example"]
        if "default" in schema:
            return schema["default"]
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        for several in ("anyOf", "oneOf", "allOf"):
            if several in schema:
                kinds = [each for each in schema[several] if each.get("type") != "null"]
                ends = _may_be_null(schema) and kinds[0].get("format") == "date-time"
                return None if ends else self.of(kinds[0], name)  # optional times are ends, which are still to come
        return self._of_type(schema, name)

    def _of_type(self, schema: Schema, name: str) -> Any:
        match schema.get("type"):
            case "object":
                needed = schema.get("required", ())
                return {
                    field: self.of(each, field)
                    for field, each in schema.get("properties", {}).items()
                    if field in needed or not _may_be_null(each)
                }
            case "array":
                return [self.of(schema["items"], name)] if schema.get("items") else []
            case "integer":
                return max(1, schema.get("minimum", 1))
            case "number":
                return 0.5
            case "boolean":
                return True
            case "string":
                return self._text(schema, name)
            case _:
                return {}

    def _text(self, schema: Schema, name: str) -> str:
        if schema.get("format") == "date-time":
            return MOMENT
        if name in NAMED:
            return NAMED[name]
        if name.endswith(("digest", "sha256", "hash")):
            return SHA256
        raise NoExample(name)


def _may_be_null(schema: Schema) -> bool:
    return any(each.get("type") == "null" for each in schema.get("anyOf", ()))
