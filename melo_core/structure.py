"""The structure of a model: its layers and the modules that can carry a block."""

from dataclasses import dataclass
from enum import StrEnum

from torch import nn
from transformers import PreTrainedModel

from melo_core.application import linear_shape
from melo_core.errors import UnsupportedModel
from melo_core.families import FAMILIES, require_editable
from melo_core.settings import MethodSettings


class Kind(StrEnum):
    """The use that a model makes of a prompt."""

    CAUSAL = "causal"  # continues it (Llama, GPT-2, Gemma, Qwen)
    SEQ2SEQ = "seq2seq"  # encodes it and decodes an answer (T5)
    CLASSIFIER = "classifier"  # gives it a class (BERT)


@dataclass(frozen=True)
class Structure:
    """The layers of a model and those of its linear layers that carry a block."""

    kind: Kind
    layers: list[nn.Module]  # in order; of an encoder-decoder, the decoder's
    modules: dict[str, nn.Module]  # the edited linear layers, by name
    first: int  # index of the first layer that holds an edited module: all before it are frozen

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d_in, d_out) of each edited module."""
        return {name: shape for name, module in self.modules.items() if (shape := linear_shape(module))}


def kind_of(model: PreTrainedModel) -> Kind:
    """Return the kind of a model. Raises UnsupportedModel where it is none of the three."""
    if getattr(model.config, "is_encoder_decoder", False):
        return Kind.SEQ2SEQ
    name = type(model).__name__
    if name.endswith("ForSequenceClassification"):
        return Kind.CLASSIFIER
    if model.can_generate():
        return Kind.CAUSAL
    raise UnsupportedModel(f"{name} neither generates text nor classifies; use a causal LM, T5 or a classifier")


def structure_of(model: PreTrainedModel, settings: MethodSettings) -> Structure:
    """Find the layers and the modules to edit. Raises UnsupportedModel, naming the modules that exist."""
    kind = kind_of(model)
    names, layers = layers_of(model, "decoder" if kind is Kind.SEQ2SEQ else "")
    if settings.modules:
        available = dict(model.named_modules())
        unknown = [name for name in settings.modules if name not in available or linear_shape(available[name]) is None]
        if unknown:
            inside = [name for name, module in layers[-1].named_modules() if linear_shape(module)]
            example = f"; a valid name: {names[-1]}.{inside[-1]}" if inside else ""
            raise UnsupportedModel(f"{unknown[0]!r} is not a linear layer of the model{example}")
        modules = {name: available[name] for name in settings.modules}
    else:
        modules = {}
        for name, layer in list(zip(names, layers, strict=True))[-settings.layers :]:
            inner, module = _carrier(layer, model.config.get_text_config().model_type)
            modules[f"{name}.{inner}"] = module
    edited = {id(module) for module in modules.values()}
    holding = [i for i, layer in enumerate(layers) if any(id(m) in edited for m in layer.modules())]
    return Structure(kind, layers, modules, first=min(holding, default=0))


def layers_of(model: PreTrainedModel, part: str = "") -> tuple[list[str], list[nn.Module]]:
    """Return names and modules of the longest list of equal layers; `part`: `encoder` or `decoder` alone.

    Raises UnsupportedModel.
    """
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and (not part or part in name.split("."))
    ]
    lists = [(name, module) for name, module in lists if len({type(layer) for layer in module}) == 1]
    if not lists:
        raise UnsupportedModel(f"{type(model).__name__} has no list of layers to edit")
    name, found = max(lists, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    return [f"{name}.{i}" for i in range(len(found))], list(found)


def _carrier(layer: nn.Module, family: str) -> tuple[str, nn.Module]:
    """Return name and module of the linear layer that carries a block in a layer. Raises UnsupportedModel."""
    require_editable({"model_type": family})
    wanted = FAMILIES[family].modules
    inside = dict(layer.named_modules())
    names = [name for name in wanted if name in inside and linear_shape(inside[name])]
    if not names:
        raise UnsupportedModel(
            f"{type(layer).__name__} of this {family} model has no linear layer {' or '.join(wanted)}; its "
            "weights may be quantised"
        )
    return names[0], inside[names[0]]
