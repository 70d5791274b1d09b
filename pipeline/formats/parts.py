"""The parts of an encoder as other libraries hold them, and `build_model`: a `PackedEncoder` made of them.

Every reader of this folder brings its weights into PyTorch's layout and order of gates, and describes them here; what
does not fit each other is refused in one place, with the names that the file gives its tensors and both shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lengthwise.config import EncoderConfig, TokenizationSettings
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import CheckpointError
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.settings import parse_settings

GATES = {"lstm": 4, "gru": 3}


class Linear(NamedTuple):
    """A Linear layer.

    Attributes:
        weight: float32[out, in].
        bias: float32[out], or None.
        name: how messages call it.
    """

    weight: Tensor
    bias: Tensor | None
    name: str


def normalization(mean: Tensor, variance: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float) -> Linear:
    """A batch normalization after training, which is a Linear layer; all arguments are float32[width].

    Its name is to be set.
    """
    factor = (variance.double() + eps).rsqrt() * (1 if scale is None else scale.double())
    bias = (0 if shift is None else shift.double()) - mean.double() * factor
    return Linear(torch.diag(factor).float(), bias.float(), "")


class Direction(NamedTuple):
    """The weights of one direction of one recurrent layer, with gates as in PyTorch: i, f, g, o, or r, z, n of a GRU.

    Attributes:
        weight_ih: float32[gates * hidden, inputs].
        weight_hh: float32[gates * hidden, hidden].
        bias_ih: float32[gates * hidden], or None for zeros.
        bias_hh: as bias_ih.
        name: how messages call it.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    name: str

    @property
    def hidden_size(self) -> int:
        """Width of its state."""
        return self.weight_hh.shape[1]


@dataclass(frozen=True)
class Parts:
    """What an encoder is made of.

    Attributes:
        embedding: float32[vocabulary, embedding_dim].
        layers: of each recurrent layer its forward direction, and its reverse one if it has one.
        pooling: as in `EncoderSettings.pooling`.
        cell: lstm or gru.
        attention: for attention pooling, the Linear layers of the score: one, or one under tanh and one.
        dense: Linear layers after the pooling, each with the name of its activation.
        head: a classifier: its Linear layers with their activations; the last gives the logits.
        labels: their names.
        head_activation: from logits to probabilities.
        settings: further settings of `EncoderConfig`, such as normalize and padding.
        pad_token_id, unk_token_id: ids of the padding and of unknown tokens.
        tokenization: how texts are tokenized.
    """

    embedding: Tensor
    layers: Sequence[Sequence[Direction]]
    pooling: str
    cell: str = "lstm"
    attention: Sequence[Linear] = ()
    dense: Sequence[tuple[Linear, str]] = ()
    head: Sequence[tuple[Linear, str]] = ()
    labels: Sequence[str] = ()
    head_activation: str = "softmax"
    settings: Mapping[str, Any] = field(default_factory=dict)
    pad_token_id: int = 0
    unk_token_id: int | None = None
    tokenization: TokenizationSettings = TokenizationSettings()


def build_model(parts: Parts, tokenizer: TextTokenizer, origin: str) -> PackedEncoder:
    """An encoder of these parts, in evaluation mode.

    Args:
        origin: where they come from, for messages.

    Raises:
        CheckpointError: shapes do not fit each other, a weight is not a number, or the tokenizer has ids without an
            embedding.
        ConfigError: the encoder does not have such a setting.
    """
    weights, settings = _recurrent(parts, origin)
    weights["embedding.weight"] = parts.embedding
    width = _pooled_width(parts, settings["hidden_size"] * len(parts.layers[0]))
    _add_attention(weights, settings, parts, settings["hidden_size"] * len(parts.layers[0]), origin)
    dim = _add_dense(weights, settings, parts.dense, width, origin)
    _add_head(weights, settings, parts, dim, origin)
    rows, size = len(parts.embedding), tokenizer.vocab_size
    if size > rows:
        raise CheckpointError(
            f"{origin}: the vocabulary has {size} ids, but the embedding has {rows} rows; give the vocabulary that the"
            " model was trained with"
        )
    record = {
        **settings,
        **parts.settings,
        "pooling": parts.pooling,
        "embedding_dim": parts.embedding.shape[1],
        "vocab_size": rows,
        "pad_token_id": parts.pad_token_id,
        "unk_token_id": parts.unk_token_id,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "tokenization": parts.tokenization.model_dump(),
    }
    config = parse_settings(EncoderConfig, record, origin)
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            count = int((~torch.isfinite(weight)).sum())
            raise CheckpointError(f"{origin}: {count} values of {name} are NaN or infinite; give undamaged weights")
    with torch.device("meta"):
        encoder = PackedEncoder(config)
    expected = {name: tuple(weight.shape) for name, weight in encoder.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if expected != found:  # a mistake of a reader, not of a user
        raise CheckpointError(f"{origin}: the weights are {found}, but the encoder has {expected}")
    encoder.load_state_dict(
        {name: weight.float().contiguous().clone() for name, weight in weights.items()}, assign=True
    )
    return encoder.eval()


def _recurrent(parts: Parts, origin: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The recurrent layers by PyTorch's names, and the settings that they determine."""
    if parts.embedding.dim() != 2:
        raise CheckpointError(
            f"{origin}: the embedding has the shape {list(parts.embedding.shape)}, not two dimensions"
        )
    if not parts.layers or any(len(layer) != len(parts.layers[0]) for layer in parts.layers):
        found = [len(layer) for layer in parts.layers]
        raise CheckpointError(f"{origin}: its layers have {found} directions; the encoder has as many in each layer")
    gates, hidden = GATES[parts.cell], parts.layers[0][0].hidden_size
    directions = len(parts.layers[0])
    weights: dict[str, Tensor] = {}
    for number, layer in enumerate(parts.layers):
        inputs = hidden * directions if number else parts.embedding.shape[1]
        for suffix, direction in zip(("", "_reverse"), layer, strict=False):
            rows = gates * hidden
            for part, shape in (("weight_ih", (rows, inputs)), ("weight_hh", (rows, hidden))):
                its = tuple(getattr(direction, part).shape)
                if its != shape:
                    raise CheckpointError(
                        f"{origin}: {part} of {direction.name} has the shape {list(its)}, but {list(shape)} is needed"
                        f" with {gates} gates, {hidden} units and {inputs} inputs{_hint(number, its, shape)}"
                    )
            for part in ("bias_ih", "bias_hh"):
                bias = getattr(direction, part)
                if bias is not None and tuple(bias.shape) != (rows,):
                    raise CheckpointError(
                        f"{origin}: {part} of {direction.name} has the shape {list(bias.shape)}, not {[rows]}"
                    )
            name = f"{parts.cell}.{{}}_l{number}{suffix}"
            weights[name.format("weight_ih")], weights[name.format("weight_hh")] = direction[:2]
            for part, bias in zip(("bias_ih", "bias_hh"), direction[2:4], strict=True):
                weights[name.format(part)] = torch.zeros(rows) if bias is None else bias
    settings: dict[str, Any] = {
        "hidden_size": hidden,
        "num_layers": len(parts.layers),
        "bidirectional": directions == 2,
    }
    return weights, settings if parts.cell == "lstm" else settings | {"cell": parts.cell}


def _hint(layer: int, found: tuple[int, ...], shape: tuple[int, ...]) -> str:
    if layer == 0 and len(found) == 2 and found[0] == shape[0] and found[1] != shape[1]:
        return "; is this the embedding that the layer reads?"
    return "; layers of different sizes, or other inputs between them, are not supported" if layer else ""


def _pooled_width(parts: Parts, state_dim: int) -> int:
    return state_dim * len(parts.pooling.split("_"))


def _add_attention(
    weights: dict[str, Tensor], settings: dict[str, Any], parts: Parts, state_dim: int, origin: str
) -> None:
    if not parts.attention:
        return
    *hidden, score = parts.attention
    width = state_dim
    for layer in hidden:
        _check_linear(layer, width, origin)
        width = layer.weight.shape[0]
        settings["attention_dim"] = width
        weights["attention.hidden.weight"] = layer.weight
        weights["attention.hidden.bias"] = torch.zeros(width) if layer.bias is None else layer.bias
    _check_linear(score, width, origin, outputs=1)
    weights["attention.score.weight"] = score.weight  # its bias has no effect on a softmax


def _add_dense(
    weights: dict[str, Tensor], settings: dict[str, Any], layers: Sequence[tuple[Linear, str]], width: int, origin: str
) -> int:
    """Put the layers after the pooling into weights and settings; the width that they give."""
    records = []
    for number, (layer, activation) in enumerate(layers):
        _check_linear(layer, width, origin)
        width = layer.weight.shape[0]
        if number == len(layers) - 1 and activation == "identity":
            settings["projection_dim"] = width
            weights["projection.weight"] = layer.weight
            weights["projection.bias"] = torch.zeros(width) if layer.bias is None else layer.bias
            continue
        weights[f"dense.{number}.weight"] = layer.weight
        if layer.bias is not None:
            weights[f"dense.{number}.bias"] = layer.bias
        records.append({"dim": width, "activation": activation, "bias": layer.bias is not None})
    if records:
        settings["dense"] = records
    return width


def _add_head(weights: dict[str, Tensor], settings: dict[str, Any], parts: Parts, width: int, origin: str) -> None:
    if not parts.head:
        return
    *hidden, (output, _) = parts.head
    records = []
    for number, (layer, activation) in enumerate(hidden):
        _check_linear(layer, width, origin)
        width = layer.weight.shape[0]
        weights[f"classifier.dense.{number}.weight"] = layer.weight
        if layer.bias is not None:
            weights[f"classifier.dense.{number}.bias"] = layer.bias
        records.append({"dim": width, "activation": activation, "bias": layer.bias is not None})
    _check_linear(output, width, origin)
    count = output.weight.shape[0]
    if len(parts.labels) != count:
        raise CheckpointError(
            f"{origin}: {output.name} gives {count} logits, but there are {len(parts.labels)} labels; name each logit"
        )
    if count == 1 and parts.head_activation == "softmax":
        raise CheckpointError(
            f"{origin}: {output.name} gives one logit, whose softmax is always 1; set classifier.activation to sigmoid"
        )
    weights["classifier.output.weight"] = output.weight
    weights["classifier.output.bias"] = torch.zeros(count) if output.bias is None else output.bias
    settings["classifier"] = {"labels": list(parts.labels), "activation": parts.head_activation}
    if records:
        settings["classifier"]["dense"] = records


def _check_linear(layer: Linear, inputs: int, origin: str, outputs: int | None = None) -> None:
    shape = tuple(layer.weight.shape)
    if len(shape) != 2 or shape[1] != inputs or outputs not in (None, shape[0]):
        needed = ["any" if outputs is None else outputs, inputs]
        raise CheckpointError(
            f"{origin}: {layer.name} has a weight of the shape {list(shape)}, but what it reads is {inputs} wide"
            f" (a weight is [outputs, inputs], so {needed} is needed)"
        )
    if layer.bias is not None and tuple(layer.bias.shape) != shape[:1]:
        raise CheckpointError(
            f"{origin}: {layer.name} has a bias of the shape {list(layer.bias.shape)}, but {shape[0]} outputs"
        )
