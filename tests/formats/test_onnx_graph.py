"""ONNX graphs back into a checkpoint: the same outputs however states are pooled, or a refusal that says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from lengthwise.errors import LengthwiseError
from lengthwise.formats.importing import ImportedModel, import_model
from lengthwise.formats.mapping import Mapping
from lengthwise.util.settings import parse_settings

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
WORDS = ["<pad>", *(f"w{number}" for number in range(1, 9))]
TOKENS = {"tokens": {"tokens": WORDS, "padding": "<pad>"}}


class Net(nn.Module):
    """An embedding, an LSTM, a pooling, and Linear layers."""

    def __init__(self, pool: Callable[[Tensor, Tensor], Tensor], width: int, layers: int, both: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embedding, self.pool = nn.Embedding(len(WORDS), 5), pool
        self.lstm = nn.LSTM(5, 4, layers, batch_first=True, bidirectional=both)
        self.head = nn.Sequential(nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, input_ids: Tensor) -> Tensor:
        states, (hidden, _) = self.lstm(self.embedding(input_ids))
        return self.head(self.pool(states, hidden))


def write(net: nn.Module, path: Path) -> Path:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    arguments = {"input_names": ["input_ids"], "dynamic_axes": {"input_ids": {0: "batch", 1: "sequence"}}}
    torch.onnx.export(net.eval(), (torch.tensor([[1, 2, 3]]),), str(path), dynamo=False, opset_version=17, **arguments)
    return path


def imported(path: Path, **changes: Any) -> ImportedModel:
    return import_model(path, parse_settings(Mapping, {**TOKENS, **changes}, "mapping"))


POOLINGS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "mean": (lambda states, _: states.mean(dim=1), 1),
    "max": (lambda states, _: states.max(dim=1).values, 1),
    "last": (lambda _, hidden: torch.cat([hidden[-2], hidden[-1]], dim=1), 1),
    "max_mean": (lambda states, _: torch.cat([states.max(dim=1).values, states.mean(dim=1)], dim=1), 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_graph_of_torch_comes_back(pooling: str, tmp_path: Path) -> None:
    pool, times = POOLINGS[pooling]
    net = Net(pool, 8 * times, layers=2, both=True)
    model = imported(write(net, tmp_path / "net.onnx"))
    assert model.encoder.config.pooling == pooling
    assert model.notes[0].startswith(f"pooling {pooling}: the graph gives the same on 5 rows of ids")
    ids = torch.tensor([[3, 1, 4, 1, 5, 8, 2, 6, 5, 3, 5]])
    with torch.no_grad():
        np.testing.assert_allclose(model.encoder(ids, torch.tensor([11])), net(ids), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_another_function_of_the_states_is_refused(tmp_path: Path) -> None:
    net = Net(lambda states, _: (states * states).mean(dim=1), 4, layers=1, both=False)
    with pytest.raises(LengthwiseError, match="what it does with the states is none of last, end, mean"):
        imported(write(net, tmp_path / "net.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("ending", [nn.LogSoftmax(dim=1), nn.Softmax(dim=1), nn.Sigmoid(), nn.Identity()])
def test_labels_of_a_graph(ending: nn.Module, tmp_path: Path) -> None:
    """Also where logits are so large that float32 rounds them to five digits after the point."""
    net = Net(POOLINGS["last"][0], 8, layers=1, both=True)
    with torch.no_grad():
        net.head[2].weight *= 300 if isinstance(ending, nn.Identity) else 1
    net.head.append(ending)
    path = write(net, tmp_path / "net.onnx")
    if not isinstance(ending, nn.Identity | nn.Sigmoid):
        with pytest.raises(LengthwiseError, match="its output is 3 probabilities; name them"):
            imported(path)
    model = imported(path, classifier={"labels": ["a", "b", "c"]})
    ids = torch.tensor([[3, 1, 4, 1, 5, 8, 2, 6, 5, 3, 5]])
    with torch.no_grad():
        logits = model.encoder.classifier(model.encoder(ids, torch.tensor([11])))  # type: ignore[misc]
        found = ending(logits)
        expected = net(ids)
    assert model.encoder.config.classifier is not None
    kind = {nn.LogSoftmax: "softmax", nn.Softmax: "softmax", nn.Sigmoid: "sigmoid", nn.Identity: "identity"}
    assert model.encoder.config.classifier.activation == kind[type(ending)]
    np.testing.assert_allclose(found, expected, atol=1e-6 * max(1, float(expected.abs().max())), rtol=0)


def lstm_graph(
    path: Path, scale: float = 1.0, output: str = "vector", growing: bool = False, **attributes: Any
) -> Path:
    """A graph of one LSTM node that gives its last state, or those of all tokens.

    Args:
        scale: the size of its weights.
        growing: whether its state grows with every token, so that the last state is the maximum.
    """
    random = np.random.default_rng(0)
    shapes = {"table": (9, 5), "w": (1, 16, 5), "r": (1, 16, 4), "b": (1, 32)}
    weights = {name: random.normal(size=shape) * scale for name, shape in shapes.items()}
    if growing:
        weights = {name: np.abs(values) for name, values in weights.items()}
        weights["w"][:, :12], weights["r"][:] = 0, 0
        weights["b"][:] = [[100.0] * 12 + [0.0] * 20]
    initializers = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()]
    initializers.append(numpy_helper.from_array(np.array([0]), "axis"))
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["steps", "w", "r", "b"], ["states", "hidden"], hidden_size=4, **attributes),
        helper.make_node("Squeeze", ["hidden", "axis"], ["vector"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])
    vector = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "lstm", [ids], [vector], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_outputs_that_do_not_tell_the_pooling_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(LengthwiseError, match="the same for each of 5 rows"):
        imported(lstm_graph(path, scale=1e-6))
    with pytest.raises(LengthwiseError, match="the poolings last, max all give what it gives"):
        imported(lstm_graph(path, scale=0.1, growing=True))
    assert imported(path, pooling="last").encoder.config.pooling == "last"
    with pytest.raises(LengthwiseError, match="has more values for longer rows"):
        imported(lstm_graph(path, output="states"))
    for name, value in (("normalize", True), ("embedding", "table"), ("gate_activation", "sigmoid")):
        with pytest.raises(LengthwiseError, match=f"leave {name} out"):
            imported(lstm_graph(path), **{name: value})


@pytest.mark.parametrize("side", ["pre", "post"])
def test_padding_is_part_of_what_is_compared(side: str, tmp_path: Path) -> None:
    model = imported(lstm_graph(tmp_path / "net.onnx"), padding={"to": 9, "side": side})
    assert model.notes[0].startswith("pooling last: the graph gives the same on 5 rows of ids")


def test_a_node_that_the_encoder_does_not_compute_is_named(tmp_path: Path) -> None:
    model = imported(lstm_graph(tmp_path / "plain.onnx"))
    assert model.encoder.config.pooling == "last"
    for attributes, message in (
        ({"direction": "reverse"}, "a reverse direction alone"),
        ({"clip": 3.0}, "has clip"),
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "other activations"),
    ):
        with pytest.raises(LengthwiseError, match=message):
            imported(lstm_graph(tmp_path / "other.onnx", **attributes))
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "plain.onnx").read_bytes()[:200])
    with pytest.raises(LengthwiseError, match="not an ONNX graph"):
        imported(tmp_path / "cut.onnx")
    with pytest.raises(LengthwiseError, match="the vocabulary has the id 9, but the embedding has 9 rows"):
        imported(tmp_path / "plain.onnx", tokens={"tokens": [*WORDS, "more"], "padding": "<pad>"})
