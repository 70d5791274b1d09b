"""What makes a vector depend on padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import onnx

from lengthwise.export.audit.answers import Cause
from lengthwise.export.audit.causes.common import (
    LENGTHS,
    MASKED_ATTENTION,
    MASKED_MEAN,
    REDUCTIONS,
    count_nodes,
    is_time_first,
    name_nodes,
)
from lengthwise.export.audit.graph import COLUMNS, CONTENT, ELEMENTWISE, IDS, ROWS, GraphView, attribute
from lengthwise.export.audit.questions.names import (
    BATCH_SIZE,
    EMPTY,
    EVERY_TOKEN,
    LEFT_PADDING,
    LONG_TEXTS,
    MIXED_LENGTHS,
    OF_PADDING,
    ONE_TOKEN,
    POOLING,
)

_POOLS = ("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool")
_ATTENTIONS: Mapping[str, tuple[int, ...]] = MappingProxyType(  # by operator, its inputs that may be a mask
    {"Attention": (3, 5), "MultiHeadAttention": (4, 5), "GroupQueryAttention": (5,), "QAttention": (5,)}
)
_COUNTING = ("Add", "Sub", "Min", "Mul", "Mod", "Div")


def _attention(view: GraphView) -> Iterator[Cause]:
    """Attention whose scores know nothing of the padding."""
    nodes = [node for node in view.nodes("Softmax") if _is_attention(view, node) and not view.is_masked(node.input[0])]
    for kind, places in _ATTENTIONS.items():
        for node in view.nodes(kind):
            masks = [node.input[place] for place in places if place < len(node.input) and node.input[place]]
            if not any(view.is_mask(name) for name in masks):
                nodes.append(node)
    if nodes:
        yield Cause(
            f"{count_nodes(nodes)}: attention without a mask, which reads the padding",
            "export the model with its attention_mask, as a named input (--fix adds it where there is one)",
            name_nodes(nodes),
            OF_PADDING,
            MASKED_ATTENTION,
        )


def _is_attention(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a Softmax is over the scores of tokens: products of two values with content, or over the columns."""
    if not view.depends_on(node.input[0], CONTENT):
        return False
    if attribute(node, "axis", -1) == 1:
        return True
    return any(
        sum(view.depends_on(name, CONTENT) for name in made.input) > 1
        for made in view.chain(node.input[0])
        if made.op_type in ("MatMul", "Einsum", "FusedMatMul", "Gemm")
    )


def _pooling(view: GraphView) -> Iterator[Cause]:
    """Reductions over the columns that do not leave the padding out."""
    columns = [[1], [-2], *([[0]] if is_time_first(view) else [])]
    nodes = [
        node
        for node in view.nodes(*REDUCTIONS)
        if view.depends_on(node.input[0], CONTENT)
        and view.axes(node) in columns
        and view.rank(node.input[0]) in (None, 3, 4)
        and not view.is_masked(node.input[0])
    ]
    nodes += [node for node in view.nodes(*_POOLS) if view.has_content(node) and not view.is_masked(node.input[0])]
    if nodes:
        means = any(node.op_type == "ReduceMean" for node in nodes)
        yield Cause(
            f"{count_nodes(nodes)} over the columns without a mask: padding is pooled too",
            "multiply the states by the attention_mask, and divide by its sum (--fix)",
            name_nodes(nodes),
            OF_PADDING,
            MASKED_MEAN if means else "",
        )


def _by_columns(view: GraphView) -> Iterator[Cause]:
    """Values that are computed with the numbers of columns, or of rows."""
    for source, what, questions in (
        (COLUMNS, "the number of columns, padding included", OF_PADDING),
        (ROWS, "the number of rows of the batch", frozenset({BATCH_SIZE, MIXED_LENGTHS, ONE_TOKEN, EMPTY})),
    ):
        nodes = [
            node
            for node in view.nodes("Mul", "Div", "Add", "Sub")
            if any(view.depends_on(name, CONTENT) for name in node.input)
            and any(_is_count(view, name, source) for name in node.input)
        ]
        if nodes:
            yield Cause(
                f"{count_nodes(nodes)} with {what}",
                "count the tokens of each row by its attention_mask",
                name_nodes(nodes),
                questions,
            )


def _is_count(view: GraphView, name: str, source: str) -> bool:
    """Whether a value is one number computed from a shape: without a Range, Expand or table in between."""
    if view.sources.get(name, frozenset()) - {source} or not view.depends_on(name, source):
        return False
    node = view.maker.get(name)
    while node is not None and node.op_type in (*ELEMENTWISE, "Gather", "Shape", "ReduceProd"):
        if node.op_type == "Shape":
            return True
        name = next((each for each in node.input if view.depends_on(each, source)), "")
        node = view.maker.get(name)
    return False


def _recurrent(view: GraphView) -> Iterator[Cause]:
    """Recurrent layers without lengths, or with lengths that are not those of the texts."""
    nodes = [node for node in view.nodes("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM") if view.has_content(node)]
    without = [node for node in nodes if len(node.input) < 5 or not node.input[4]]
    risky = [node for node in without if _reads_padding(view, node)]
    if risky:
        yield Cause(
            f"{count_nodes(risky)} without sequence_lens: last states, or the reverse direction, come from the padding",
            "give them the lengths, the sums of the attention_mask, as sequence_lens (--fix)",
            name_nodes(risky),
            OF_PADDING,
            LENGTHS,
        )
    changed = [node for node in nodes if node not in without and _changes_lengths(view, node.input[4])]
    if changed:
        yield Cause(
            f"the sequence_lens of {count_nodes(changed)} are not the lengths of the texts: they are computed further",
            "give the sums of the attention_mask as sequence_lens",
            name_nodes(changed),
            OF_PADDING | {EVERY_TOKEN, LONG_TEXTS},
        )


def _reads_padding(view: GraphView, node: onnx.NodeProto) -> bool:
    is_forward = attribute(node, "direction", b"forward") in (b"forward", "forward")
    last = [name for name in node.output[1:] if name and (view.readers.get(name) or _is_output(view, name))]
    return not is_forward or bool(last)


def _changes_lengths(view: GraphView, name: str) -> bool:
    """Whether lengths are computed with more than a sum of the mask, and at least 1."""
    waiting, seen = [name], set[str]()
    while waiting:
        node = view.maker.get(waiting.pop())
        if node is None or node.op_type in ("ReduceSum", "CumSum", "ArgMax", "ArgMin"):
            continue
        bounded = node.op_type == "Clip" and len(node.input) > 2 and bool(node.input[2])
        if node.op_type in _COUNTING or bounded:
            return True
        for each in node.input:
            if each and each not in seen and view.constant(each) is None:
                seen.add(each)
                waiting.append(each)
    return False


def _positions(view: GraphView) -> Iterator[Cause]:
    """Positions that count columns, so that padding on the left moves them."""
    nodes = [
        node
        for node in view.nodes("Add")
        if any(_is_position(view, name) for name in node.input)
        and any(view.depends_on(name, IDS) and view.depends_on(name, CONTENT) for name in node.input)
    ]
    if nodes:
        yield Cause(
            "positions are counted from the first column, padding included",
            "pad on the right; or export position_ids as an input, computed from the attention_mask",
            name_nodes(nodes),
            OF_PADDING if view.side == "left" else frozenset({LEFT_PADDING}),
        )


def _is_position(view: GraphView, name: str) -> bool:
    """Whether a value is a table of positions, cut or looked up by columns alone."""
    for node in view.chain(name):
        if node.op_type == "Gather" and view.is_table(node):
            return not view.depends_on(node.input[1], IDS) and not view.is_mask(node.input[1])
    maker = view.maker.get(name)
    while maker is not None and maker.op_type in ("Slice", "Unsqueeze", "Expand", "Reshape", "Cast"):
        if maker.op_type == "Slice" and view.sources.get(maker.output[0], frozenset()) <= {ROWS, COLUMNS}:
            return any(view.depends_on(each, COLUMNS) for each in maker.input)
        maker = view.maker.get(maker.input[0])
    return False


def _first_column(view: GraphView) -> Iterator[Cause]:
    """Vectors that are the state at the first or the last column."""
    found: dict[int, list[onnx.NodeProto]] = {0: [], -1: []}
    for node in view.nodes("Gather"):
        place = view.constant(node.input[1])
        if attribute(node, "axis", 0) == 1 and view.depends_on(node.input[0], CONTENT) and place is not None:
            found.get(int(place.reshape(-1)[0]) if place.size == 1 else 1, []).append(node)
    for number, column, side in ((0, "first", "right"), (-1, "last", "left")):
        questions = frozenset({LEFT_PADDING}) if view.side == side else OF_PADDING
        if found[number]:
            yield Cause(
                f"the vector is read off the {column} column, padding or not",
                f"pad on the {side}; or look the {column} token up by the attention_mask",
                name_nodes(found[number]),
                questions | {POOLING},
            )


def _convolutions(view: GraphView) -> Iterator[Cause]:
    nodes = [
        node
        for node in view.nodes("Conv", "ConvInteger", "QLinearConv")
        if view.has_content(node) and not view.is_masked(node.input[0])
    ]
    if nodes:
        yield Cause(
            f"{count_nodes(nodes)} over states that no mask clears: a token next to the padding reads it",
            "multiply the states by the attention_mask before each convolution",
            name_nodes(nodes),
            OF_PADDING,
        )


def _is_output(view: GraphView, name: str) -> bool:
    return any(value.name == name for value in view.graph.output)


def _unguarded_division(view: GraphView) -> Iterator[Cause]:
    """A division by a number of tokens that nothing keeps above 0."""
    nodes = []
    for node in view.nodes("Div"):
        name = node.input[1]
        if not view.depends_on(node.input[0], CONTENT) or not view.is_mask(name):
            continue
        while name in view.maker and view.maker[name].op_type in ("Cast", "Unsqueeze", "Reshape", "Squeeze", "Sub"):
            name = view.maker[name].input[0]
        if name in view.maker and view.maker[name].op_type == "ReduceSum":
            nodes.append(node)
    if nodes:
        yield Cause(
            f"{count_nodes(nodes)} by a number of tokens that can be 0",
            "divide by at least 1: Clip or Max before the division",
            name_nodes(nodes),
            frozenset({EMPTY, ONE_TOKEN}),
        )


FINDERS = (_attention, _pooling, _by_columns, _recurrent, _positions, _first_column, _convolutions, _unguarded_division)
