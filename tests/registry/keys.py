"""API keys, as requests carry them."""

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}


def key(api, name="ci", role="editor", collection=None, **more):
    """A new key, as the headers that carry it."""
    made = api.post("/v1/keys", json={"name": name, "roles": [{"role": role, "collection": collection}], **more})
    assert made.status_code == 201, made.text
    return carrying(made.json()["key"])


def carrying(text):
    return {"Authorization": f"Bearer {text}"}


def other_collection(api, model_folder, name="other"):
    assert api.post("/v1/collections", json={"name": name, "model": model_folder}).status_code == 201
