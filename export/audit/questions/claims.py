"""Does the model do what its files say: length 1, pooling, modules, tokenizer settings; and agree with a reference?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.artifact.difference import cosines
from lengthwise.export.audit.answers import Answer, Cell, Example
from lengthwise.export.audit.inquiry import Inquiry, nan_to_inf, row_differences
from lengthwise.export.audit.targets.base import IdTarget, NotAsked, Target, Unanswered
from lengthwise.export.audit.targets.onnx_graph import OnnxTarget
from lengthwise.export.graphs.variants import FP16, INT8, VARIANTS
from lengthwise.export.validation.cases import Case
from lengthwise.formats.embedding_folder import POOLINGS, scale_to_length_1

_LENGTH_TOLERANCE = {"float32": 1e-3}
_COARSE_LENGTH_TOLERANCE = 1e-2
_POOLING_TOLERANCE = 1e-2  # of directions; other poolings are an order of magnitude further off
_FREQUENT = ("mean", "cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len_tokens")  # directions may be equal
_ROWS, _ROWS_QUICK = 16, 6
_ANOTHER_MODEL = 0.8  # a cosine below which rounding does not explain the difference
_COSINES = {
    "float32": 1 - 1e-6,
    "float16": VARIANTS[FP16].cosine,
    "bfloat16": VARIANTS[FP16].cosine,
    "int8": VARIANTS[INT8].cosine,
}


def ask_length_1(inquiry: Inquiry) -> Answer:
    """Vectors whose files claim length 1 have it."""
    target = inquiry.target
    if not target.claims.settings.normalize:
        raise NotAsked("no file claims vectors of length 1")
    if isinstance(target, OnnxTarget) and target.pooling is not None:
        raise NotAsked("the graph gives token states: pooling them and scaling to length 1 is its client's work")
    vectors = np.concatenate([inquiry.alone(row) for row in _rows(inquiry)])
    off = float(nan_to_inf(np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1)).max())
    tolerance = _LENGTH_TOLERANCE.get(target.precision, _COARSE_LENGTH_TOLERANCE)
    cells = (Cell("1 row", "from length 1", off),)
    if off <= tolerance:
        return Answer("pass", "vectors have length 1, as its files say", off, tolerance, cells)
    says = f"its files say that vectors have length 1, and they are off by up to {off:.2g}"
    return Answer("fail", says, off, tolerance, cells)


def ask_pooling(inquiry: Inquiry) -> Answer:
    """The graph's vectors are its token states, pooled as the files say."""
    target = inquiry.target
    if not isinstance(target, OnnxTarget):
        raise NotAsked("only a graph that gives vectors and token states can be compared with itself")
    dense = [kind for kind in target.claims.settings.modules if kind == "Dense"]
    if target.pooling is not None:
        if dense:
            says = "the graph gives token states, and its modules.json has Dense layers, which a client has to compute"
            return Answer("limit", says)
        mode, stated = " and ".join(target.pooling), target.claims.settings.pooling is not None
        source = "its files say" if stated else "no file says how: mean was taken"
        raise NotAsked(f"the graph gives token states, which its client has to pool ({mode}; {source})")
    states_output = target.states_output
    if states_output is None:
        raise NotAsked("the graph gives vectors alone, and no token states to pool")
    try:
        vectors, pooled = _pooled(inquiry, target, states_output)
    except Unanswered as error:
        raise NotAsked(f"its states cannot be pooled ({error})") from error
    off = {mode: _direction(vectors, each) for mode, each in pooled.items() if each.shape == vectors.shape}
    found = next((mode for mode in sorted(off, key=_FREQUENT.index) if off[mode] <= _POOLING_TOLERANCE), None)
    modes = target.claims.settings.pooling
    if dense and found is not None:
        says = (
            f"modules.json has Dense layers after the pooling, and the graph leaves them out: its vectors are {found}"
        )
        return Answer("fail", says, off[found], _POOLING_TOLERANCE)
    if modes is None:
        raise NotAsked(f"no file says how it pools{'' if found is None else f' (it is {found})'}")
    if len(modes) > 1 or dense or modes[0] not in off:
        raise NotAsked(f"its pooling ({' and '.join(modes)}) is followed by other layers in the graph, or unknown here")
    (mode,) = modes
    cells = tuple(Cell("1 row", name, value) for name, value in off.items())
    if off[mode] <= _POOLING_TOLERANCE:
        return Answer("pass", f"it pools by {mode}, as its files say", off[mode], _POOLING_TOLERANCE, cells)
    says = f"its files say that it pools by {mode}, and the graph does not" + (f": it is {found}" if found else "")
    return Answer("fail", says, off[mode], _POOLING_TOLERANCE, cells)


def ask_precision(inquiry: Inquiry) -> Answer:
    """Vectors against those of a reference in float32. What few bits cost is a limit, up to a point."""
    target, reference = inquiry.target, inquiry.reference
    if reference is None:
        raise NotAsked("no reference was given (--reference)")
    least, tolerance = 1.0, 1 - _COSINES[target.precision]
    example = None
    for row in _rows(inquiry):
        found, expected = _both(target, reference, row)
        if found.shape != expected.shape:
            says = f"its vectors have {found.shape[1]} values, and those of the reference {expected.shape[1]}"
            return Answer("fail", says, float("inf"), tolerance)
        cosine = float(np.nan_to_num(cosines(found, expected), nan=-1)[0])
        if cosine < least:
            text = target.describe(row.input_ids[0, : row.lengths[0]].tolist())
            least, example = cosine, Example((text,), f"cosine {cosine:.6f} to the reference", 1 - cosine)
    off = max(0.0, 1 - least)
    cells = (Cell("1 row", "1 - cosine to the reference", off),)
    if off <= tolerance:
        return Answer(
            "pass", f"its vectors have a cosine of at least {least:.6f} to the reference", off, tolerance, cells
        )
    passes = f"in {target.precision} {1 - tolerance:.6g} passes"
    says = f"its vectors have a cosine down to {least:.6f} to the reference; {passes}"
    coarse = target.precision != "float32" and least >= _ANOTHER_MODEL
    return Answer("limit" if coarse else "fail", says, off, tolerance, cells, example)


def ask_tokenizer_files(inquiry: Inquiry) -> Answer:
    """Settings saved in tokenizer.json that change what a client computes."""
    target = inquiry.target
    if getattr(target, "tokenizer", None) is None:
        raise NotAsked("there is no tokenizer.json beside it")
    claims = target.claims
    if claims.sampling:
        says = f"tokenizer.json sets {' and '.join(claims.sampling)}: a text gets other ids each time it is tokenized"
        return Answer("fail", says)
    found = []
    if claims.truncation is not None:
        limit = claims.max_length
        others = f", and {claims.max_length_from} is {limit}" if limit not in (None, claims.truncation) else ""
        found.append(f"a client that loads tokenizer.json cuts texts at {claims.truncation} tokens silently{others}")
    if claims.fixed_padding is not None:
        found.append(f"pads each text to {claims.fixed_padding} tokens")
    if not found:
        return Answer("pass", "tokenizer.json saves neither padding nor truncation nor sampling")
    return Answer("limit", " and ".join(found))


def _rows(inquiry: Inquiry) -> list[Case]:
    number = _ROWS_QUICK if inquiry.quick else _ROWS
    return [inquiry.row(min(1 + 2 * seed, inquiry.longest), seed=seed) for seed in range(number)]


def _both(target: Target, reference: Target, row: Case) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The vectors of one text by both: as texts if both take those, else as ids."""
    ids = row.input_ids[0, : row.lengths[0]].tolist()
    try:
        text = [target.units.text(ids)]
        return target.encode_texts(text), reference.encode_texts(text)
    except NotAsked:
        if not isinstance(target, IdTarget) or not isinstance(reference, IdTarget) or target.units.ids is None:
            raise
    prefix, suffix = target.affixes
    input_ids = np.array([[*prefix, *(target.units.ids[number] for number in ids), *suffix]], np.int64)
    mask = np.ones_like(input_ids)
    return target.run(input_ids, mask), reference.run(input_ids, mask)


def _pooled(
    inquiry: Inquiry, target: OnnxTarget, states_output: str
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """The vectors of single rows, and the same rows' states under each pooling."""
    vectors, pooled = [], dict[str, list[NDArray[np.float32]]]()
    for row in _rows(inquiry):
        ids = [(target.units.ids or ())[number] for number in row.input_ids[0].tolist()]
        input_ids = np.array([[*target.affixes[0], *ids, *target.affixes[1]]], np.int64)
        vectors.append(target.run(input_ids, np.ones_like(input_ids)))
        for mode in POOLINGS:
            pooled.setdefault(mode, []).append(target.pooled(states_output, input_ids, mode))
    return np.concatenate(vectors), {mode: np.concatenate(rows) for mode, rows in pooled.items()}


def _direction(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """How far the directions are apart, whatever the lengths."""
    return float(nan_to_inf(row_differences(scale_to_length_1(found), scale_to_length_1(expected))).max())
