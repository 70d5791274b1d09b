"""A student's tokenizer from its teacher's: with whole words added that it splits, and without tokens that are rare.

- A word with a token of its own has the embedding that the teacher's vector of the word gives, where a mean of its
  pieces says little of it; and a text has fewer tokens, which is time in training and in use.
- What is cut are entries of the vocabulary: a word whose token is gone is split into smaller pieces, as the algorithm
  does with any word that it does not have. Special tokens and single characters are kept, so that there are such
  pieces.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lengthwise.errors import ConfigError
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenizer import TextTokenizer

_CONTINUATION = "##"  # of WordPiece, in front of pieces inside a word
_SPACE = "▁"  # of Unigram, for a space


def add_words(
    tokenizer: TextTokenizer, texts: Sequence[RaggedTokens], number: int
) -> tuple[TextTokenizer, NDArray[np.int64]]:
    """The tokenizer with tokens for whole words of letters: those whose tokens save the texts most of theirs.

    Args:
        texts: tokens of texts, without special tokens.
        number: how many words are added, at most.

    Returns:
        The tokenizer, whose new tokens come after its old ones, and int64[vocabulary], how often each of its tokens is
        in the texts, without regard to words that begin with a new one.

    Raises:
        ConfigError: it is not a WordPiece tokenizer.
    """
    tree = json.loads(tokenizer.to_json())
    model = tree["model"]
    if model.get("type") != "WordPiece" or model["continuing_subword_prefix"] != _CONTINUATION:
        raise ConfigError(
            f"train.init.words is {number}, but words can be added to a WordPiece tokenizer alone, not to"
            f" {model.get('type')}; leave it out"
        )
    names = [tokenizer.token(each) or "" for each in range(tokenizer.vocab_size)]
    special = tokenizer.special_ids
    continues = np.array([name.startswith(_CONTINUATION) for name in names])
    words = {
        pieces: count
        for pieces, count in _split_words(texts, continues).items()
        if special.isdisjoint(pieces) and _joined(names, pieces).isalpha()
    }
    saved = sorted(words, key=lambda pieces: (words[pieces] * (1 - len(pieces)), pieces))
    chosen = saved[:number]
    counts = np.concatenate([count_tokens(texts, len(names)), np.zeros(len(chosen), np.int64)])
    for new, pieces in enumerate(chosen, len(names)):
        model["vocab"][_joined(names, pieces)] = new
        counts[new] = words[pieces]
        np.subtract.at(counts, list(pieces), words[pieces])  # a piece may occur twice
    return TextTokenizer(Tokenizer.from_str(json.dumps(tree))), counts


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


def count_tokens(texts: Sequence[RaggedTokens], vocab_size: int) -> NDArray[np.int64]:
    """How often each id occurs, int64[vocabulary]."""
    counts = np.zeros(vocab_size, np.int64)
    for tokens in texts:
        counts += np.bincount(tokens.values, minlength=vocab_size)
    return counts


def _split_words(texts: Sequence[RaggedTokens], continues: NDArray[np.bool_]) -> Counter[tuple[int, ...]]:
    """How often each word of several pieces occurs, by its pieces.

    Args:
        continues: bool[vocabulary], whether a token is a piece inside a word.
    """
    found: Counter[tuple[int, ...]] = Counter()
    for tokens in texts:
        is_start = ~continues[tokens.values]
        is_start[tokens.offsets[:-1][tokens.lengths > 0]] = True
        starts = np.flatnonzero(is_start)
        lengths = np.diff(np.append(starts, len(tokens.values)))
        for start, length in zip(starts[lengths > 1].tolist(), lengths[lengths > 1].tolist(), strict=True):
            found[tuple(tokens.values[start : start + length].tolist())] += 1
    return found


def _joined(names: Sequence[str], pieces: Iterable[int]) -> str:
    """A word from its pieces."""
    return "".join(names[piece].removeprefix(_CONTINUATION) for piece in pieces)


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
