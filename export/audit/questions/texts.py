"""Does a vector depend on all of its text? Other texts, each token, long and empty texts, single tokens, rare ids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lengthwise.export.audit.answers import Answer, Cell, Example
from lengthwise.export.audit.inquiry import Inquiry, OutOfTime, Trial, nan_to_inf, row_differences
from lengthwise.export.audit.targets.base import IdTarget, NoAnswer, NotAsked, TextTarget, Unanswered
from lengthwise.export.validation.cases import Case

_TEXTS, _DISTINCT_LENGTH = 6, 3
_TOKENS = 12
_OTHERS = 4  # tokens that are tried at a place before it is taken for one that is not read
_SAME = 1e-7  # relative; a difference up to here is none
_MOST, _MOST_QUICK = 8192, 512  # tokens of the longest text that is tried; units of texts that are words
_MOST_WORDS = 4096
_BEYOND = 8


def ask_distinct(inquiry: Inquiry) -> Answer:
    """Texts of as many other words have other vectors, and these are numbers."""
    rows = [inquiry.row(min(_DISTINCT_LENGTH, inquiry.longest), seed=seed) for seed in range(_TEXTS)]
    vectors = np.concatenate([inquiry.alone(row) for row in rows])
    if not np.isfinite(vectors).all():
        wrong = _describe(inquiry, rows[int(np.argwhere(~np.isfinite(vectors))[0, 0])])
        says = "a vector holds values that are not numbers"
        return Answer("fail", says, float("inf"), example=Example((wrong,), "", float("inf")))
    apart = max(float(row_differences(vectors[[row]], vectors[[0]])[0]) for row in range(1, len(rows)))
    cells = (Cell("1 row", "the largest difference of two texts", apart),)
    if apart > _SAME:
        return Answer("pass", "different texts have different vectors", apart, cells=cells)
    texts = (_describe(inquiry, rows[0]), _describe(inquiry, rows[1]))
    says = "all texts have the same vector: this is no embedding of texts, or its ids are not read"
    return Answer("fail", says, apart, None, cells, Example(texts, "both have the same vector", apart))


def ask_every_token(inquiry: Inquiry) -> Answer:
    """Another token at each place changes the vector; in a quick audit, at the beginning, in the middle, at the end."""
    length = min(_TOKENS, inquiry.longest)
    row = inquiry.row(length)
    cells = []
    for place in dict.fromkeys([0, length // 2, length - 1]) if inquiry.quick else range(length):
        found = _change_at(inquiry, row, place)
        cells.append(Cell("1 row", f"token {place + 1} of {length}", found))
        if found <= _SAME:
            other = _with_other(row, place, 1)
            example = Example((_describe(inquiry, row), _describe(inquiry, other)), "both have the same vector", found)
            says = f"token {place + 1} of {length} is not read: any other one in its place gives the same vector"
            return Answer("fail", says, found, cells=tuple(cells), example=example)
    least = min(cell.difference for cell in cells)
    return Answer("pass", "each token of a text changes its vector", least, cells=tuple(cells))


def ask_long_texts(inquiry: Inquiry) -> Answer:
    """Up to which length a text is read, and what becomes of the rest: an error, or silence."""
    if isinstance(inquiry.target, TextTarget):
        return _long_words(inquiry)
    return _long_ids(inquiry)


def _long_ids(inquiry: Inquiry) -> Answer:
    target = inquiry.target
    most, special = _MOST_QUICK if inquiry.quick else _MOST, target.special_tokens
    claimed = None if target.claims.max_length is None else max(1, target.claims.max_length - special)
    limit = min(claimed or most, most)
    last = _reads_last(inquiry, limit)
    if last is not None and last > _SAME:
        if claimed is None or claimed > most:
            return Answer("pass", f"a text is read to its end, up to {limit + special} tokens", None)
        return _beyond(inquiry, limit)
    length, stopped = _first_unread(inquiry, limit)
    read = length - 1 + (len(target.affixes[0]) if isinstance(target, IdTarget) else 0)
    says = f"at {length + special} tokens" if stopped else f"only the first {read} tokens are read"
    claim = f", although {target.claims.max_length_from} is {target.claims.max_length}" if claimed else ""
    if stopped and claimed is None:
        return Answer(
            "pass", f"a text is read up to {length + special - 1} tokens; longer ones are an error: {stopped}"
        )
    what = f"it fails {says}{claim}: {stopped}" if stopped else f"{says}{claim}, and the rest is left out silently"
    return Answer("fail", what, float(length), float(limit), example=_cut_example(inquiry, length))


def _beyond(inquiry: Inquiry, limit: int) -> Answer:
    """What becomes of a text that is longer than the files allow."""
    special = inquiry.target.special_tokens
    maximum = f"{limit + special} tokens"
    if _texts_are_cut(inquiry, limit + _BEYOND):
        says = f"a text is read up to {maximum}, as its files say; the library cuts longer ones silently"
        return Answer("limit", says, example=_cut_example(inquiry, limit + 1))
    try:
        found = _change_at(inquiry, inquiry.row(limit + _BEYOND), limit + _BEYOND - 1)
    except Unanswered as error:
        return Answer("pass", f"a text is read up to {maximum}, as its files say; a longer one is an error: {error}")
    if found > _SAME:
        return Answer("pass", f"a text is read to its end, also beyond the {maximum} that its files name")
    says = f"a text is read up to {maximum}, as its files say, and the rest of a longer one is left out silently"
    return Answer("limit", says, example=_cut_example(inquiry, limit + 1))


def _texts_are_cut(inquiry: Inquiry, length: int) -> bool:
    """Whether two texts that differ in the last word alone have the same vector, given as texts."""
    row = inquiry.row(length)
    texts = [inquiry.target.units.text(each.input_ids[0].tolist()) for each in (row, _with_other(row, length - 1, 1))]
    try:
        one, other = (inquiry.target.encode_texts([text]) for text in texts)
    except (Unanswered, NotAsked):
        return False
    return bool(row_differences(one, other)[0] <= _SAME)


def _long_words(inquiry: Inquiry) -> Answer:
    """Texts of 8, 16, ... words, until the last word does not count."""
    length, before = 8, 1
    while length <= (_MOST_QUICK if inquiry.quick else _MOST_WORDS):
        if inquiry.is_late:
            return Answer("pass", f"a text is read to its end, up to {before} words; there was no time for longer ones")
        try:
            found = _change_at(inquiry, inquiry.row(length), length - 1)
        except NoAnswer:
            raise
        except Unanswered as error:
            return Answer("pass", f"a text is read up to {before} words at least; one of {length} is an error: {error}")
        if found <= _SAME:
            first, stopped = _first_unread(inquiry, length, before)
            says = f"from about word {first} on, the rest of a text is left out silently"
            if stopped:
                says = f"a text of {first} words is an error: {stopped}"
            return Answer("limit", says, float(first), example=_cut_example(inquiry, first))
        before, length = length, length * 2
    return Answer("pass", f"a text is read to its end, up to {before} words")


def ask_empty(inquiry: Inquiry) -> Answer:
    """A text without tokens has a vector of numbers, the same in any batch, and spoils no other vector."""
    target, tolerance = inquiry.target, inquiry.tolerances.other_shape
    empty = inquiry.row(0)
    try:
        vector = target.encode(empty)
    except NoAnswer:
        raise
    except Unanswered as error:
        return Answer("pass", f"an empty text is refused with an error: {error}")
    shown = Example((repr(""),), "", float("inf"))
    if not np.isfinite(vector).all():
        return Answer("fail", "an empty text gets values that are not numbers", float("inf"), tolerance, (), shown)
    other = inquiry.row(min(5, inquiry.longest))
    ids = np.concatenate([np.resize(empty.input_ids, other.input_ids.shape), other.input_ids])
    batch = replace(other, input_ids=ids, lengths=np.concatenate([empty.lengths, other.lengths]))
    trial = Trial(batch, "beside another text", inquiry.against_alone)
    return inquiry.ask(
        [Trial(empty, "alone, again", inquiry.against_alone), trial],
        tolerance,
        "an empty text has a vector, the same in any batch" + (" (of zeros)" if not vector.any() else ""),
        "an empty text, or the one beside it, has another vector than alone",
    )


def ask_one_token(inquiry: Inquiry) -> Answer:
    """Rows of one token, alone and together."""
    return inquiry.ask(
        (Trial(case, case.group, inquiry.against_alone) for case in inquiry.of_one_token()),
        inquiry.tolerances.other_shape,
        "a text of one token has a vector, the same in any batch",
        "a text of one token has another vector in a batch ({batch})",
    )


def ask_edge_ids(inquiry: Inquiry) -> Answer:
    """Ids at the ends of the vocabulary: looked up, told apart, and refused beyond."""
    target = inquiry.target
    if not isinstance(target, IdTarget):
        raise NotAsked("it takes texts, and no ids")
    rows = target.embedding_rows
    largest = None if target.tokenizer is None else target.tokenizer.vocab_size - 1
    if rows is not None and largest is not None and largest >= rows:
        says = f"the tokenizer gives ids up to {largest}, and the embedding has {rows} rows"
        return Answer("fail", says, float(largest), float(rows - 1))
    last = largest if largest is not None else None if rows is None else rows - 1
    if last is None:
        raise NotAsked("neither a tokenizer nor the graph tells how many ids there are")
    for number in (0, last):
        try:
            vector = _of_ids(target, [number])
        except Unanswered as error:
            return Answer("fail", f"the id {number}, which the vocabulary has, is an error: {error}", float(number))
        if not np.isfinite(vector).all():
            return Answer("fail", f"the id {number} gives values that are not numbers", float(number))
    apart = _apart(target, last)
    if apart is not None and apart <= _SAME:
        says = f"the ids {last} and {last - 1} are read as the same one, although their embeddings differ"
        return Answer("fail", says, apart)
    beyond = last + 1 if rows is None else rows
    try:
        _of_ids(target, [beyond])
    except Unanswered:
        return Answer("pass", f"ids up to {last} are looked up, and {beyond} is an error", apart)
    return Answer("limit", f"the id {beyond}, which no embedding has, is answered without an error", apart)


def _apart(target: IdTarget, last: int) -> float | None:
    """How far the vectors of the last two ids are apart; None where their embeddings may be equal."""
    if last < 2 or not target.embeddings_differ(last, last - 1):
        return None
    return float(row_differences(_of_ids(target, [last]), _of_ids(target, [last - 1]))[0])


def _of_ids(target: IdTarget, ids: list[int]) -> np.ndarray:
    prefix, suffix = target.affixes
    input_ids = np.array([[*prefix, *ids, *suffix]], np.int64)
    return target.run(input_ids, np.ones_like(input_ids))


def _change_at(inquiry: Inquiry, row: Case, place: int) -> float:
    """The largest change of a row's vector through other tokens at a place; a few are tried."""
    before, largest = inquiry.target.encode(row), 0.0
    for step in range(1, _OTHERS + 1):
        if inquiry.is_late and step == 1:
            raise OutOfTime
        after = inquiry.target.encode(_with_other(row, place, step))
        largest = max(largest, float(nan_to_inf(row_differences(after, before))[0]))
        if largest > _SAME:
            break
    return largest


def _with_other(row: Case, place: int, step: int) -> Case:
    ids = row.input_ids.copy()
    ids[0, place] = (ids[0, place] + step * max(1, row.vocab_size // (_OTHERS + 1))) % row.vocab_size
    return replace(row, input_ids=ids)


def _reads_last(inquiry: Inquiry, length: int) -> float | None:
    """The change through the last token of a text; None where the model raises.

    Raises:
        NoAnswer: it kept silent.
    """
    try:
        return _change_at(inquiry, inquiry.row(length), length - 1)
    except NoAnswer:
        raise
    except Unanswered:
        return None


def _first_unread(inquiry: Inquiry, limit: int, read: int = 1) -> tuple[int, str]:
    """The shortest length at which the last token does not count, and the error, if that is why."""
    low, high = read, limit  # the last token counts at `low`, and not at `high`
    while high - low > 1:
        middle = (low + high) // 2
        found = _reads_last(inquiry, middle)
        low, high = (middle, high) if found is not None and found > _SAME else (low, middle)
    try:
        inquiry.target.encode(inquiry.row(high))
    except Unanswered as error:
        return high, str(error)
    return high, ""


def _cut_example(inquiry: Inquiry, length: int) -> Example:
    row = inquiry.row(length)
    texts = (_describe(inquiry, row), _describe(inquiry, _with_other(row, length - 1, 1)))
    unit = "words" if isinstance(inquiry.target, TextTarget) else "tokens"
    note = f"{length + inquiry.target.special_tokens} {unit}, of which the last of the text does not count"
    return Example(texts if length <= _TOKENS * 2 else (), note, 0.0)


def _describe(inquiry: Inquiry, row: Case) -> str:
    return inquiry.target.describe(row.input_ids[0, : row.lengths[0]].tolist())
