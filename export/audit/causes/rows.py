"""What makes a vector depend on the other rows of its batch, or on the run."""

from __future__ import annotations

from collections.abc import Iterator

from lengthwise.export.audit.answers import Cause
from lengthwise.export.audit.causes.common import (
    INFERENCE_MODE,
    PER_ROW_RANGES,
    RANGES,
    REDUCTIONS,
    count_nodes,
    is_time_first,
    name_nodes,
)
from lengthwise.export.audit.graph import CONTENT, ELEMENTWISE, ROWS, GraphView, attribute
from lengthwise.export.audit.questions.names import (
    AFTER_LONG,
    BATCH_SIZE,
    EMPTY,
    MIXED_LENGTHS,
    OF_ROWS,
    ONE_TOKEN,
    ORDER,
    REPEAT,
    THREADS,
)

_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")


def _ranges(view: GraphView) -> Iterator[Cause]:
    """Quantised activations whose range is that of the whole tensor."""
    nodes = [node for node in view.nodes(*RANGES) if view.has_content(node)]
    in_lstm = [node for node in nodes if node.op_type == "DynamicQuantizeLSTM"]
    others = [node for node in nodes if node not in in_lstm]
    taken = "the range of 8 bits is taken over all values of a tensor: over every row of the batch, and its padding"
    if others:
        yield Cause(
            f"{count_nodes(others)}: {taken}",
            "take ranges per row (--fix), or quantise with static ones (onnxruntime.quantization.quantize_static)",
            name_nodes(others),
            OF_ROWS,
            PER_ROW_RANGES,
        )
    if in_lstm:
        yield Cause(
            f"{count_nodes(in_lstm)}: {taken}; onnxruntime shares the rows out among its threads, so"
            " their number changes it too",
            "quantise the weights alone: onnxruntime has no LSTM of 8 bits with static ranges",
            name_nodes(in_lstm),
            OF_ROWS | {THREADS},
        )


def _computed_ranges(view: GraphView) -> Iterator[Cause]:
    """A reduction over the rows: a range by hand, a normalisation over the batch."""
    nodes = []
    for node in view.nodes(*REDUCTIONS, "CumSum", "Softmax"):
        if not view.depends_on(node.input[0], CONTENT) or is_time_first(view):
            continue
        if node.op_type == "Softmax":
            axes: list[int] | None = [int(attribute(node, "axis", -1))]
        elif node.op_type == "CumSum":
            value = view.constant(node.input[1])
            axes = None if value is None else value.reshape(-1).tolist()
        else:
            computed = len(node.input) > 1 and bool(node.input[1])
            of_all = None if computed or attribute(node, "noop_with_empty_axes", 0) else [0]
            axes = view.axes(node) or of_all
        if axes is not None and 0 in axes:
            nodes.append(node)
    if nodes:
        yield Cause(
            f"{count_nodes(nodes)} over the rows of the batch",
            "compute it over each row alone, along the last axes",
            name_nodes(nodes),
            OF_ROWS,
        )


def _batch_norm(view: GraphView) -> Iterator[Cause]:
    nodes = [node for node in view.nodes("BatchNormalization") if attribute(node, "training_mode", 0)]
    if nodes:
        yield Cause(
            f"{count_nodes(nodes)} in training mode: it takes mean and variance over the batch",
            "export the model in inference mode: model.eval()",
            name_nodes(nodes),
            OF_ROWS | {REPEAT, AFTER_LONG},
            INFERENCE_MODE,
        )


def _random_nodes(view: GraphView) -> Iterator[Cause]:
    nodes = view.nodes(*_RANDOM)
    if nodes:
        yield Cause(
            f"{count_nodes(nodes)}: each run draws other numbers",
            "export the model in inference mode: model.eval()",
            name_nodes(nodes),
            OF_ROWS | {REPEAT, AFTER_LONG},
        )


def _places(view: GraphView) -> Iterator[Cause]:
    """Numbers of rows that reach the vectors: a Range over the batch that is added or multiplied."""
    nodes = [
        node
        for node in view.nodes("Add", "Mul", "Sub", "Div")
        if any(view.depends_on(name, CONTENT) for name in node.input)
        and any(_is_numbering(view, name) for name in node.input)
    ]
    if nodes:
        yield Cause(
            f"{count_nodes(nodes)} with the number of a row in its batch",
            "leave the place in the batch out of the graph",
            name_nodes(nodes),
            frozenset({ORDER, BATCH_SIZE, MIXED_LENGTHS, ONE_TOKEN, EMPTY}),
        )


def _is_numbering(view: GraphView, name: str) -> bool:
    if view.sources.get(name, frozenset()) != {ROWS}:
        return False
    node = view.maker.get(name)
    while node is not None and node.op_type in ELEMENTWISE:
        name = next((each for each in node.input if view.depends_on(each, ROWS)), "")
        node = view.maker.get(name)
    return node is not None and node.op_type in ("Range", "CumSum")


FINDERS = (_ranges, _computed_ranges, _batch_norm, _random_nodes, _places)
