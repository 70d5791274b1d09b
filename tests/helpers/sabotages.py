"""Sabotages: faults of an export, each introduced into a correct graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Sabotage = Callable[[onnx.ModelProto], None]


def lstms(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "LSTM"]


def edit_weight(model: onnx.ModelProto, name: str, edit: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
    initializer = next(item for item in model.graph.initializer if item.name == name)
    initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(edit(numpy_helper.to_array(initializer))), name))


def lengths_ignored(model: onnx.ModelProto) -> None:
    for node in lstms(model):
        node.input[4] = ""


def lengths_ignored_in_the_last_layer(model: onnx.ModelProto) -> None:
    lstms(model)[-1].input[4] = ""


def gates_swapped(model: onnx.ModelProto) -> None:
    def swap(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        i, o, f, c = np.split(weight, 4, axis=1)
        return np.concatenate([i, f, o, c], axis=1)

    edit_weight(model, lstms(model)[0].input[1], swap)


def directions_swapped(model: onnx.ModelProto) -> None:
    for position in (1, 2, 3):
        edit_weight(model, lstms(model)[0].input[position], lambda weight: weight[::-1])


def bias_dropped(model: onnx.ModelProto) -> None:
    lstms(model)[0].input[3] = ""


def one_weight_is_stale(model: onnx.ModelProto) -> None:
    def nudge(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        weight = weight.copy()
        weight[0, 0, 0] += 1e-2
        return weight

    edit_weight(model, lstms(model)[-1].input[2], nudge)


def unknown_token_moved(model: onnx.ModelProto) -> None:
    gather = next(node for node in model.graph.node if node.op_type == "Gather")
    edit_weight(model, gather.input[0], lambda table: np.concatenate([table[1:], table[:1]]))


def at_least_one(model: onnx.ModelProto) -> tuple[int, onnx.NodeProto]:
    """The node that makes lengths of at least one of the sums of the mask, and where it is."""
    sums = [node.output[0] for node in model.graph.node if node.op_type == "ReduceSum" and "mask" in node.input[0]]
    return next(
        (i, node) for i, node in enumerate(model.graph.node) if node.op_type == "Where" and node.input[1] in sums
    )


def lengths_off_by_one(model: onnx.ModelProto) -> None:
    """Each row of more than one token is read one token short."""
    position, lengths = at_least_one(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    model.graph.node.insert(position, helper.make_node("Sub", [lengths.input[1], "one"], ["shorter"]))
    model.graph.node.insert(position + 1, helper.make_node("Max", ["shorter", "one"], ["still_one"]))
    lengths.input[1] = "still_one"


def reverse_run_as_forward(model: onnx.ModelProto) -> None:
    """Both directions read from the first token: the reverse weights on a forward pass."""
    node = lstms(model)[0]
    halves: list[list[str]] = [[], []]
    for position in (1, 2, 3):
        weight = numpy_helper.to_array(
            next(item for item in model.graph.initializer if item.name == node.input[position])
        )
        for half in (0, 1):
            name = f"{node.input[position]}.{half}"
            model.graph.initializer.append(numpy_helper.from_array(weight[half : half + 1], name))
            halves[half].append(name)
    index = list(model.graph.node).index(node)
    x, lengths, outputs, hidden = node.input[0], node.input[4], list(node.output), node.attribute
    size = next(item.i for item in hidden if item.name == "hidden_size")
    model.graph.node.remove(node)
    new = [
        helper.make_node("LSTM", [x, *halves[half], lengths], [f"Y.{half}", f"H.{half}"], hidden_size=size)
        for half in (0, 1)
    ]
    new.append(helper.make_node("Concat", ["Y.0", "Y.1"], [outputs[0]], axis=1))
    for offset, made in enumerate(new):
        model.graph.node.insert(index + offset, made)


def pooled_over_padding(model: onnx.ModelProto) -> None:
    """The mean divides by the sequence axis, as a plain mean over the padded batch does."""
    division = next(node for node in model.graph.node if node.op_type == "Div")
    position = list(model.graph.node).index(division)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "axis"))
    model.graph.node.insert(position, helper.make_node("Shape", ["input_ids"], ["shape"]))
    model.graph.node.insert(position + 1, helper.make_node("Gather", ["shape", "axis"], ["width"]))
    model.graph.node.insert(position + 2, helper.make_node("Cast", ["width"], ["width_float"], to=1))
    division.input[1] = "width_float"


def static_mean_reads_padding(model: onnx.ModelProto) -> None:
    """The mean of embeddings has those of the padding in it, divided by the number of real tokens."""
    by_output = {output: node for node in model.graph.node for output in node.output}

    def is_embedding(name: str) -> bool:
        node = by_output.get(name)
        if node is not None and node.op_type == "Transpose":
            node = by_output.get(node.input[0])
        return node is not None and node.op_type == "Gather"

    mask = next(node for node in model.graph.node if node.op_type == "Where" and is_embedding(node.input[1]))
    total = next(node for node in model.graph.node if node.input[:1] == mask.output[:1])
    total.input[0] = mask.input[1]


def batch_baked_in(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2


def length_baked_in(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[1].dim_value = 7


def outputs_in_another_order(model: onnx.ModelProto) -> None:
    first, second = (onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend([second, first])


def half_precision_out(model: onnx.ModelProto) -> None:
    output = model.graph.output[0]
    node = next(node for node in model.graph.node if output.name in node.output)
    node.output[0] = "float32_vectors"
    model.graph.node.append(helper.make_node("Cast", ["float32_vectors"], [output.name], to=onnx.TensorProto.FLOAT16))
    output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def outputs_swapped(model: onnx.ModelProto) -> None:
    first, second = model.graph.output
    for node in model.graph.node:
        for names in (node.input, node.output):
            swapped = {first.name: second.name, second.name: first.name}
            for index, name in enumerate(names):
                names[index] = swapped.get(name, name)
    shapes = [value.type.SerializeToString() for value in (first, second)]
    first.type.ParseFromString(shapes[1])
    second.type.ParseFromString(shapes[0])


def lengths_cut_at_512(model: onnx.ModelProto) -> None:
    """The graph reads 512 tokens at most."""
    position, lengths = at_least_one(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array(512, np.int64), "most"))
    model.graph.node.insert(position + 1, helper.make_node("Min", [lengths.output[0], "most"], ["cut"]))
    for node in list(model.graph.node)[position + 2 :]:
        for index, name in enumerate(node.input):
            if name == lengths.output[0]:
                node.input[index] = "cut"


def one_layer_missing(model: onnx.ModelProto) -> None:
    """The second layer's input product is the first one's weights: it reads what the first one should have."""
    first, second = lstms(model)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == second.output[0]:
                node.input[index] = first.output[0]


def last_step_off_by_one(model: onnx.ModelProto) -> None:
    """Every row's last step is taken one token early."""
    subtraction = next(node for node in model.graph.node if node.op_type == "Sub")
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.int64), "two"))
    subtraction.input[1] = "two"


def reverse_over_padding(model: onnx.ModelProto) -> None:
    """The reverse direction mirrors the whole axis instead of each row's own length."""
    nodes = model.graph.node
    less = next(node for node in nodes if node.op_type == "Less")
    mirror = next(node for node in nodes if node.op_type == "Sub" and node.input[1] == less.input[0])
    position = list(nodes).index(mirror)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one_step"))
    nodes.insert(position, helper.make_node("Shape", ["input_ids"], ["columns"], start=1, end=2))
    nodes.insert(position + 1, helper.make_node("Sub", ["columns", "one_step"], ["last_column"]))
    mirror.input[0] = "last_column"
    less.input[1] = "columns"


def reverse_not_turned_back(model: onnx.ModelProto) -> None:
    """The reverse direction's states stay in the order in which they were read."""
    for node in model.graph.node:
        if node.op_type == "Concat" and len(node.input) == 2 and node.attribute[0].i == 1:
            turned = next(other for other in model.graph.node if node.input[1] in other.output)
            gather = next(other for other in model.graph.node if turned.input[0] in other.output)
            reshape = next(other for other in model.graph.node if gather.input[0] in other.output)
            node.input[1] = reshape.input[0]


def portable_bias_dropped(model: onnx.ModelProto) -> None:
    lstms(model)[1].input[3] = ""


def portable_directions_swapped(model: onnx.ModelProto) -> None:
    forward, reverse = lstms(model)[:2]
    for position in (1, 2, 3):
        forward.input[position], reverse.input[position] = reverse.input[position], forward.input[position]


SABOTAGES: list[Sabotage] = [
    lengths_ignored,
    lengths_ignored_in_the_last_layer,
    gates_swapped,
    directions_swapped,
    bias_dropped,
    one_weight_is_stale,
    unknown_token_moved,
    lengths_off_by_one,
    reverse_run_as_forward,
    pooled_over_padding,
    static_mean_reads_padding,
    batch_baked_in,
    length_baked_in,
    outputs_swapped,
    outputs_in_another_order,
    half_precision_out,
    one_layer_missing,
    lengths_cut_at_512,
]

PORTABLE_SABOTAGES: list[Sabotage] = [
    last_step_off_by_one,
    reverse_over_padding,
    reverse_not_turned_back,
    portable_bias_dropped,
    portable_directions_swapped,
    batch_baked_in,
    length_baked_in,
    pooled_over_padding,
    static_mean_reads_padding,
    lengths_cut_at_512,
]
