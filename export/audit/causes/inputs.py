"""What makes a graph refuse, cut or change its inputs, or give other values than the files say."""

from __future__ import annotations

from collections.abc import Iterator

from lengthwise.export.audit.answers import Cause
from lengthwise.export.audit.causes.common import NAMED, count_nodes, name_nodes
from lengthwise.export.audit.graph import CONTENT, ELEMENTWISE, IDS, MASK, GraphView
from lengthwise.export.audit.questions.names import (
    BATCH_SIZE,
    DISTINCT,
    EDGE_IDS,
    EMPTY,
    EVERY_TOKEN,
    LENGTH_1,
    LONG_TEXTS,
    MIXED_LENGTHS,
    NEIGHBOURS,
    OF_PADDING,
    ONE_TOKEN,
    ORDER,
    PADDING_WIDTH,
    PRECISION,
)

_COMPARISONS = ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Not")
_NORMS = ("LpNormalization", "ReduceL2", "ReduceSumSquare")


def _cut(view: GraphView) -> Iterator[Cause]:
    """A constant end of the columns that are read."""
    nodes = []
    for node in view.nodes("Slice"):
        ends = view.constant(node.input[2]) if len(node.input) > 2 else None
        axes = view.constant(node.input[3]) if len(node.input) > 3 and node.input[3] else None
        if ends is None or not view.depends_on(node.input[0], IDS, CONTENT) or axes is None:
            continue
        along = [int(end) for end, axis in zip(ends.reshape(-1), axes.reshape(-1), strict=False) if axis == 1]
        if any(1 < end < 2**31 - 1 for end in along):
            nodes.append(node)
    if nodes:
        yield Cause(
            f"{count_nodes(nodes)} along the columns with a constant end: what is behind it is not read",
            "export with a dynamic sequence axis, and refuse texts that are too long",
            name_nodes(nodes),
            frozenset({LONG_TEXTS, EVERY_TOKEN, PADDING_WIDTH, MIXED_LENGTHS}),
        )


def _unread(view: GraphView) -> Iterator[Cause]:
    """Inputs that no node reads."""
    for name, role in view.roles.items():
        if not view.readers.get(name):
            yield Cause(
                f"no node reads the input {name}",
                "export again, with tensors of their own for each input: one that is given twice becomes one input",
                (name,),
                OF_PADDING if role == MASK else frozenset({DISTINCT, EVERY_TOKEN, LONG_TEXTS, EDGE_IDS}),
            )


def _fixed_shapes(view: GraphView) -> Iterator[Cause]:
    for axis, what, questions in (
        (0, "rows", frozenset({BATCH_SIZE, MIXED_LENGTHS, NEIGHBOURS, ORDER, ONE_TOKEN, EMPTY})),
        (1, "columns", frozenset({PADDING_WIDTH, MIXED_LENGTHS, LONG_TEXTS, EMPTY, ONE_TOKEN, EVERY_TOKEN})),
    ):
        found = []
        for value in view.graph.input:
            dims = value.type.tensor_type.shape.dim
            if len(dims) == 2 and dims[axis].HasField("dim_value"):
                size = dims[axis].dim_value
                found.append(f"{value.name}: {size} {what.removesuffix('s') if size == 1 else what}")
        if found:
            yield Cause(
                f"the inputs have a fixed number of {what}",
                f"export with a dynamic number of {what} (dynamic_shapes of torch.onnx.export)",
                tuple(found[:NAMED]),
                questions,
            )


def _clipped_ids(view: GraphView) -> Iterator[Cause]:
    """Ids that are computed with before they are looked up."""
    nodes = []
    for node in view.nodes("Gather"):
        name = node.input[1] if view.is_table(node) and _are_ids(view, node.input[1]) else ""
        found = []
        while name in view.maker and view.maker[name].op_type in (*ELEMENTWISE, "Mod"):
            maker = view.maker[name]
            if maker.op_type in ("Clip", "Min", "Max", "Mod", "Where", "Add", "Sub", "Mul", "Div"):
                found.append(maker)
            name = next((each for each in maker.input if _are_ids(view, each)), "")
        if view.roles.get(name) == IDS:  # and not positions, which are counted from the ids
            nodes += found
    if nodes:
        yield Cause(
            f"{count_nodes(nodes)} of the ids before they are looked up",
            "look the ids up as they are",
            name_nodes(nodes),
            frozenset({EDGE_IDS, EVERY_TOKEN, DISTINCT}),
        )


def _are_ids(view: GraphView, name: str) -> bool:
    """Whether a value is made of the ids, and not only of whether they are this one or that."""
    return view.depends_on(name, IDS) and (name not in view.maker or view.maker[name].op_type not in _COMPARISONS)


def _no_norm(view: GraphView) -> Iterator[Cause]:
    if not view.nodes(*_NORMS):
        yield Cause(
            "no node scales the vectors",
            "export with the Normalize module, or scale vectors to length 1 in the client",
            (),
            frozenset({LENGTH_1}),
        )


def _coarse(view: GraphView) -> Iterator[Cause]:
    if view.precision != "float32":
        yield Cause(
            f"the graph computes in {view.precision}",
            "compare on your own task, or take the graph in float32",
            (),
            frozenset({PRECISION}),
        )


FINDERS = (_unread, _cut, _fixed_shapes, _clipped_ids, _no_norm, _coarse)
