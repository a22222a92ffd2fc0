"""The README of an export: what the folder is, and how to load it."""

from collections.abc import Sequence
from importlib.resources import files
from string import Template

from melo_core.structure import Kind
from registry.versions.content import VersionContent

ANSWER = "answer.py"
PROGRAM = """\
```sh
pip install peft
python answer.py MODEL "{prompt}"    # MODEL: the base model's folder or hub id
```

The program has 20 lines; read it to write your own.
"""
FROM_THE_END = """\
An adapter acts **from the last token of the prompt on**. The keys and values before it are the base model's:
`answer.py` computes them before it adds the adapter.
"""
ORDINARY = """\
The adapters are ordinary LoRA: a program that lets them act on the whole prompt (PEFT's `generate`, vLLM, llama.cpp)
may answer otherwise.
"""
ACTIVATED = """\
Adapters with `alora_invocation_tokens` in their configuration are activated LoRA: PEFT and llama.cpp's server let them
act from that token on, which is the last one of every question, so `generate` needs no more. vLLM refuses them: without
that field they are ordinary LoRA, which acts on the whole prompt and may answer otherwise.
"""
EVERYWHERE = """\
An adapter acts on all positions{where}, which is what every program does with ordinary LoRA.
"""


def readme(content: VersionContent, kind: Kind, adapters: int, activated: Sequence[str]) -> bytes:
    """Return `README.md`. activated: the folders of adapters that are activated LoRA."""
    collection, method = content.collection, content.collection.method
    first = next(iter(content.edits.values()))
    loading = ""
    if kind is Kind.CAUSAL:
        loading += PROGRAM.format(prompt=first.prompt.translate(str.maketrans('"`$\\\n', "'''/ ")))
    if kind is Kind.CAUSAL and method["positions"] == "answer":
        loading += "\n" + FROM_THE_END + (ACTIVATED if activated else ORDINARY)
    else:
        loading += "\n" * bool(loading) + EVERYWHERE.format(where=" of the decoder" if kind is Kind.SEQ2SEQ else "")
    hidden = method["key_encoder"] == "hidden"
    text = Template(_packaged("README.template.md").decode()).substitute(
        name=f"{collection.name}@{content.number}",
        model=collection.model,
        model_digest=collection.model_digest,
        content_digest=content.content_digest,
        edits=len(content.edits),
        adapters=adapters,
        loading=loading,
        whitening="| `whitening.safetensors` | of keys: normalise (key - `mean`) · `matrix` to length 1 |\n"
        if collection.calibration
        else "",
        whitened=", whitens the key" if collection.calibration else "",
        encoder=f"layer {method['key_layer']} of the model" if hidden else f"{collection.encoder}",
    )
    return text.encode()


def program() -> bytes:
    """Return `answer.py`."""
    return _packaged(ANSWER)


def _packaged(name: str) -> bytes:
    return files("worker.export").joinpath(name).read_bytes()
