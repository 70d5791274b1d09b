"""Why questions fail: what can be read off a graph, off the files beside it, or off the modules of a PyTorch model.

A cause is found by its nodes and by the flow of data (`graph.GraphView`), and names the questions that fail through it.
One that is there without any such failure is reported apart: the audit does not show an effect of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lengthwise.export.audit.answers import Cause
from lengthwise.export.audit.causes import inputs, padding, rows
from lengthwise.export.audit.causes.common import NAMED
from lengthwise.export.audit.graph import GraphView
from lengthwise.export.audit.questions.names import (
    AFTER_LONG,
    EDGE_IDS,
    OF_PADDING,
    OF_ROWS,
    PRECISION,
    REPEAT,
    TOKENIZER_FILES,
)
from lengthwise.export.audit.targets.base import Target
from lengthwise.export.audit.targets.onnx_graph import OnnxTarget
from lengthwise.export.audit.targets.sentence_transformer import SentenceIds, SentenceTexts

FINDERS: Sequence[Callable[[GraphView], Iterator[Cause]]] = (*rows.FINDERS, *padding.FINDERS, *inputs.FINDERS)


def can_be_inspected(target: Target) -> bool:
    """Whether the inside of a target can be seen."""
    return isinstance(target, OnnxTarget | SentenceIds | SentenceTexts)


def find_causes(target: Target, reference: Target | None = None) -> tuple[Cause, ...]:
    """What may make questions fail; nothing of a server or a function, whose inside cannot be seen."""
    if isinstance(target, OnnxTarget):
        found = [*(cause for find in FINDERS for cause in find(target.view)), *_of_files(target)]
        if isinstance(reference, OnnxTarget):
            found += _other_weights(target.view, reference.view)
        return tuple(found)
    if isinstance(target, SentenceIds | SentenceTexts):
        return tuple(_of_modules(target.model))
    return ()


def _of_files(target: OnnxTarget) -> Iterator[Cause]:
    """Causes that are in the interface, or in the files beside the graph."""
    if not target.has_mask:
        yield Cause(
            "the graph takes no attention_mask, so it cannot tell padding from text",
            "export it with an attention_mask; until then, give it texts of one length at a time",
            (),
            OF_PADDING,
        )
    if target.claims.sampling:
        names = " and ".join(target.claims.sampling)
        yield Cause(
            f"tokenizer.json has {names}, which is meant for training",
            f"set {names} to null in tokenizer.json",
            ("tokenizer.json",),
            frozenset({TOKENIZER_FILES}),
        )
    rows = target.embedding_rows
    if rows is not None and target.tokenizer is not None and target.tokenizer.vocab_size > rows:
        yield Cause(
            f"the tokenizer has {target.tokenizer.vocab_size} ids, and the embedding table {rows} rows",
            "give the tokenizer that the model was trained with",
            ("tokenizer.json",),
            frozenset({EDGE_IDS}),
        )


def _other_weights(view: GraphView, reference: GraphView) -> Iterator[Cause]:
    """Weights of the same name and shape that hold other values than the reference's."""
    expected = {each.name: each for each in reference.graph.initializer}
    changed = [
        each.name
        for each in view.graph.initializer
        if each.name in expected
        and (each.dims, each.data_type) == (expected[each.name].dims, expected[each.name].data_type)
        and each.SerializeToString() != expected[each.name].SerializeToString()
    ]
    if changed:
        yield Cause(
            f"{len(changed)} weights hold other values than the reference's of the same names",
            "export both from the same checkpoint",
            tuple(changed[:NAMED]),
            frozenset({PRECISION}),
        )


def _of_modules(model: Any) -> Iterator[Cause]:
    """Causes in the modules of a PyTorch model."""
    training = sorted({type(module).__name__ for module in model.modules() if module.training})
    if training:
        yield Cause(
            "modules are in training mode",
            "call model.eval()",
            tuple(training[:NAMED]),
            OF_ROWS | {REPEAT, AFTER_LONG},
        )
    dynamic = [name for name, module in model.named_modules() if "quantized.dynamic" in type(module).__module__]
    if dynamic:
        yield Cause(
            f"{len(dynamic)} dynamically quantised layers take the range of their 8 bits over the whole batch",
            "quantise with static ranges, or leave the layers in float32",
            tuple(dynamic[:NAMED]),
            OF_ROWS,
        )
