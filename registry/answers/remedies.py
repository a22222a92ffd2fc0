"""What to do where the nearest edit should have answered a question, and did not."""


def remedy(collection: str, edit: int, *, covers: bool) -> str:
    """Say how an edit comes to answer a question. covers: it does cover it, and its block does not say its target."""
    if covers:
        return f"Train it again: `melo edit retrain {edit} --training '{{\"iterations\": 200}}' --reason …`."
    return (
        f"If the question asks what edit {edit} answers, make it a rephrase: `melo edit add {collection} PROMPT TARGET "
        f"--rephrase QUESTION --replaces {edit}`, with its prompt, target and rephrases (`melo edit log {edit}`)."
    )
