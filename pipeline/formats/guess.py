"""What the names and shapes of tensors say of a model: its recurrent layers, its embedding, its Linear layers.

Names alone never decide: a tensor is taken for what its shape allows. What several tensors could be is left open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from lengthwise.errors import CheckpointError
from lengthwise.formats.parts import GATES

_INPUT_WEIGHT = re.compile(r"(?P<prefix>.*?)\.?weight_ih(?:_l0)?$")
_CELLS = {gates: cell for cell, gates in GATES.items()}


def find_rnns(tensors: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of recurrent layers with PyTorch's names; "" where nothing precedes weight_ih_l0."""
    return [found["prefix"] for name in tensors if (found := _INPUT_WEIGHT.match(name)) is not None]


def find_cell(weight_ih: Tensor, weight_hh: Tensor, name: str, origin: str) -> str:
    """The kind of cell, from the number of gates in its shapes.

    Raises:
        CheckpointError: it is neither an LSTM nor a GRU.
    """
    shapes = f"weight_ih {list(weight_ih.shape)} and weight_hh {list(weight_hh.shape)}"
    if weight_ih.dim() != 2 or weight_hh.dim() != 2 or not weight_hh.shape[1]:
        raise CheckpointError(f"{origin}: {name} has {shapes}, which are not those of a recurrent layer")
    gates, remainder = divmod(weight_hh.shape[0], weight_hh.shape[1])
    if remainder == 0 and gates in _CELLS:
        return _CELLS[gates]
    if gates == 1 and remainder == 0:
        raise CheckpointError(f"{origin}: {name} has {shapes}: a plain RNN without gates; LSTM and GRU are imported")
    raise CheckpointError(
        f"{origin}: {name} has {shapes}, which fit neither an LSTM (4 x hidden, hidden) nor a GRU (3 x hidden, hidden)"
    )


def find_embeddings(tensors: Mapping[str, Tensor], inputs: int) -> list[str]:
    """Tensors that can be the embedding of a recurrent layer with so many inputs."""
    found = [
        name
        for name, tensor in tensors.items()
        if tensor.dim() == 2
        and tensor.shape[1] == inputs
        and tensor.is_floating_point()
        and "weight_ih" not in name
        and "weight_hh" not in name
    ]
    named = [name for name in found if "emb" in name.lower()]
    return named or found


def find_linears(tensors: Mapping[str, Tensor], used: frozenset[str]) -> list[str]:
    """Names of Linear layers and batch normalizations among the tensors that are not used yet, in the file's order."""
    return [
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if name.endswith(".weight")
        and name not in used
        and (tensor.dim() == 2 or is_normalization(tensors, name.removesuffix(".weight")))
    ]


def is_normalization(tensors: Mapping[str, Tensor], name: str) -> bool:
    """Whether a layer is a batch normalization."""
    return f"{name}.running_mean" in tensors


def find_attention(tensors: Mapping[str, Tensor], linears: Sequence[str]) -> list[str]:
    """Of these layers, those that score a state for attention: one, or a hidden one and the score; none by default."""
    named = [name for name in linears if "att" in name.lower() and tensors[f"{name}.weight"].dim() == 2]
    scores = [name for name in named if tensors[f"{name}.weight"].shape[0] == 1]
    if not scores:
        return []
    inputs = tensors[f"{scores[0]}.weight"].shape[1]
    hidden = [name for name in named if name != scores[0] and tensors[f"{name}.weight"].shape[0] == inputs]
    return [*hidden[:1], scores[0]]
