"""A student's tokenizer from its teacher's, optionally with only the tokens that occur most often.

What is cut are entries of the vocabulary: a word whose token is gone is split into smaller pieces, as the algorithm
does with any word that it does not have. Special tokens and single characters are kept, so that there are such pieces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lengthwise.errors import ConfigError
from lengthwise.tokens.tokenizer import TextTokenizer

_CONTINUATION = "##"  # of WordPiece, in front of pieces inside a word
_SPACE = "▁"  # of Unigram, for a space


def cut_vocabulary(tokenizer: TextTokenizer, counts: NDArray[np.int64], size: int) -> TextTokenizer:
    """The tokenizer with at most `size` tokens, renumbered in their old order.

    Args:
        counts: int64[vocabulary], how often each id occurs in the texts.

    Raises:
        ConfigError: its algorithm is one whose vocabulary cannot be cut, or special tokens and characters alone are
            more than `size`.
    """
    tree = json.loads(tokenizer.to_json())
    model = tree["model"]
    kind = model.get("type")
    if kind not in ("WordPiece", "WordLevel", "Unigram"):
        raise ConfigError(
            f"train.init.vocabulary is {size}, but the vocabulary of a {kind} tokenizer cannot be cut; leave it out"
        )
    ids = _ids(tree)
    needed = {ids[name] for name in _needed_tokens(tree, ids)}
    if len(needed) > size:
        raise ConfigError(
            f"train.init.vocabulary is {size}, but special tokens and single characters are already {len(needed)};"
            " set it to more"
        )
    others = [number for number in np.argsort(-counts, kind="stable").tolist() if number not in needed]
    kept = sorted(needed | set(others[: size - len(needed)]))
    new_id = {old: new for new, old in enumerate(kept)}
    if kind == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new_id]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_id[model["unk_id"]]
    else:
        model["vocab"] = {name: new_id[number] for name, number in model["vocab"].items() if number in new_id}
    for token in tree.get("added_tokens") or []:
        token["id"] = new_id[token["id"]]
    _renumber_template(tree.get("post_processor"), new_id)
    return TextTokenizer(Tokenizer.from_str(json.dumps(tree)))


def _ids(tree: Mapping[str, Any]) -> dict[str, int]:
    """The id of every token by its name."""
    vocab = tree["model"]["vocab"]
    names = {entry[0]: number for number, entry in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
    return {**names, **{token["content"]: token["id"] for token in tree.get("added_tokens") or []}}


def _needed_tokens(tree: Mapping[str, Any], ids: Mapping[str, int]) -> Iterable[str]:
    """Special tokens, the unknown token, and tokens of one character."""
    yield from (token["content"] for token in tree.get("added_tokens") or [])
    model = tree["model"]
    if model.get("unk_token") in ids:
        yield model["unk_token"]
    if model.get("unk_id") is not None:
        yield model["vocab"][model["unk_id"]][0]
    for name in ids:
        if len(name.removeprefix(_CONTINUATION).removeprefix(_SPACE)) <= 1:
            yield name


def _renumber_template(processor: Any, new_id: Mapping[int, int]) -> None:
    """Renumber the ids of special tokens in a post-processor, in place."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors") or []:
        _renumber_template(inner, new_id)
    for name in ("sep", "cls"):  # of BertProcessing and RobertaProcessing: [token, id]
        if isinstance(processor.get(name), list):
            processor[name][1] = new_id[processor[name][1]]
    special = processor.get("special_tokens")
    for token in special.values() if isinstance(special, dict) else []:
        token["ids"] = [new_id[number] for number in token["ids"]]
