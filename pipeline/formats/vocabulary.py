"""Vocabularies of other models: read from JSON, text, pickles or a checkpoint, and made into a tokenizer.

- Ids are those of the model; what it does with an unknown token is either an id or nothing at all. A model of the
  tokenizers library that drops what it does not know is a BPE without merges and without an unknown token.
- Lower case is that of Python's `str.lower`, and spaces are those of `str.split`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from lengthwise.errors import CheckpointError, ConfigError, TokenizerError
from lengthwise.formats.mapping import TokensMapping
from lengthwise.formats.pickles import read_pickle
from lengthwise.formats.tensors import TORCH_SUFFIXES, TensorFile, find_key
from lengthwise.formats.whitespace_tokenizer import WHITESPACE, lowercase
from lengthwise.tokens.tokenizer import MAX_IDS, TextTokenizer, load_tokenizer
from lengthwise.util.compat import is_tokenizers_error
from lengthwise.util.text_files import read_text

_CLEANING = {
    "nfc": normalizers.NFC,
    "nfd": normalizers.NFD,
    "nfkc": normalizers.NFKC,
    "nfkd": normalizers.NFKD,
    "strip_accents": normalizers.StripAccents,
}
_CHECKED = 4_000
_WORD_MARK = "\U000f0000"


def import_tokenizer(
    settings: TokensMapping, folder: Path, weights: TensorFile | None, rows: int
) -> tuple[TextTokenizer, int, int | None]:
    """The tokenizer that a mapping describes.

    Args:
        folder: what the mapping's paths are relative to.
        weights: the model's file, which may hold the vocabulary.
        rows: of the embedding.

    Returns:
        The tokenizer, the id of the padding, and that of unknown tokens.

    Raises:
        CheckpointError: there is no vocabulary, or it does not fit the embedding.
        TokenizerError: it cannot be made into a tokenizer.
    """
    if settings.tokenizer is not None:
        tokenizer = load_tokenizer(_find(folder, settings.tokenizer))
        padding, unknown = (_id_of(tokenizer, each, "tokens") for each in (settings.padding, settings.unknown))
        _check_rows(set(range(tokenizer.vocab_size)), rows, settings, settings.tokenizer)
        return tokenizer, padding or 0, unknown
    ids, origin = read_vocabulary(settings, folder, weights)
    _check_ids(ids, origin)
    special = {
        name: _resolve(getattr(settings, name), ids, f"{origin}: tokens.{name}")
        for name in ("padding", "unknown", "start", "end")
    }
    size = 1 + max((*ids.values(), *(number for number in special.values() if number is not None)))
    if size > rows:
        raise CheckpointError(
            f"{origin}: the vocabulary has the id {size - 1}, but the embedding has {rows} rows; give the vocabulary"
            " that the model was trained with"
        )
    _check_rows({*ids.values(), *special.values()}, rows, settings, origin)
    tokenizer = _build(settings, ids, special, rows, origin)
    _check_reachable(tokenizer, ids, settings, origin)
    return tokenizer, special["padding"] or 0, special["unknown"]


def _check_rows(named: set[int | None], rows: int, settings: TokensMapping, origin: str) -> None:
    """Refuse a vocabulary that is smaller than the embedding."""
    unnamed = [number for number in range(rows) if number not in named]
    if unnamed and not settings.unused_ids:
        raise CheckpointError(
            f"{origin}: the vocabulary names {rows - len(unnamed)} of the {rows} rows of the embedding; {unnamed[0]} is"
            " one of those that it does not. Give the vocabulary that the model was trained with, or set"
            " tokens.unused_ids to true if the model has rows that no text leads to"
        )


def _check_reachable(tokenizer: TextTokenizer, ids: Mapping[str, int], settings: TokensMapping, origin: str) -> None:
    """Refuse a vocabulary most of whose tokens no text leads to: its file or `clean` is not what the model had."""
    is_character = settings.unit == "characters"
    tokens = [token for token in islice(ids, _CHECKED) if token and (len(token) == 1 or not is_character)]
    found = tokenizer.encode_batch(tokens)
    lost = [token for token, each in zip(tokens, found, strict=True) if each.ids != [ids[token]]]
    if len(lost) > max(3, len(tokens) // 2):
        raise CheckpointError(
            f"{origin}: no text leads to {len(lost)} of its tokens, such as {lost[0]!r}; check the file, tokens.unit"
            " and tokens.clean (is lowercase missing, or one too many?)"
        )


def read_vocabulary(settings: TokensMapping, folder: Path, weights: TensorFile | None) -> tuple[dict[str, int], str]:
    """The id of each token, and where they come from."""
    if settings.tokens:
        return {token: settings.first_id + number for number, token in enumerate(settings.tokens)}, "tokens.tokens"
    if settings.vocabulary is not None:
        path = _find(folder, settings.vocabulary)
        data, origin = _read(path), str(path)
    elif weights is not None and settings.key is not None:
        data, origin = weights.other, str(weights.path)
    else:
        raise CheckpointError(
            "the mapping names no vocabulary; set tokens.vocabulary to a file, or tokens.key to a place in the weights'"
            " file, or list tokens.tokens"
        )
    if settings.key is not None:
        data, origin = find_key(data, settings.key, origin), f"{origin}: {settings.key}"
    return as_ids(data, settings.first_id, origin), origin


def as_ids(data: Any, first_id: int, origin: str) -> dict[str, int]:
    """Token to id, from such a mapping, its inverse, or a list of tokens."""
    if isinstance(data, Mapping):
        items = list(data.items())
        if items and all(isinstance(token, str) and _is_id(number) for token, number in items):
            return {token: int(number) for token, number in items}
        if items and all(_is_id(number) and isinstance(token, str) for number, token in items):
            inverse = {token: int(number) for number, token in items}
            if len(inverse) == len(items):
                return inverse
    elif isinstance(data, Sequence) and not isinstance(data, str) and all(isinstance(token, str) for token in data):
        ids = {token: first_id + number for number, token in enumerate(data)}
        if len(ids) == len(data) > 0:
            return ids
    raise CheckpointError(
        f"{origin}: not a vocabulary (one id per token, or a list of different tokens), but {type(data).__name__}; name"
        " the place of it with tokens.key"
    )


def _is_id(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdecimal())


def _read(path: Path) -> Any:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such vocabulary")
    if suffix in TORCH_SUFFIXES:
        return read_pickle(path)
    try:
        text = read_text(path)
        if suffix == ".json":
            return json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the vocabulary cannot be read ({error})") from error
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _find(folder: Path, name: str) -> Path:
    """A file that a mapping names, in its folder or below."""
    return Path(name) if Path(name).is_absolute() else folder / name


def _check_ids(ids: Mapping[str, int], origin: str) -> None:
    seen: dict[int, str] = {}
    for token, number in ids.items():
        if not 0 <= number < MAX_IDS:
            raise CheckpointError(f"{origin}: {token!r} has the id {number}; ids run from 0 to {MAX_IDS - 1}")
        if number in seen:
            raise CheckpointError(
                f"{origin}: {seen[number]!r} and {token!r} both have the id {number}; keep one of them"
            )
        seen[number] = token


def _resolve(value: str | int | None, ids: Mapping[str, int], origin: str) -> int | None:
    if isinstance(value, str):
        if value not in ids:
            raise CheckpointError(f"{origin} is {value!r}, which the vocabulary does not have; give a token or an id")
        return ids[value]
    return value


def _id_of(tokenizer: TextTokenizer, value: str | int | None, origin: str) -> int | None:
    if isinstance(value, str):
        number = tokenizer.token_id(value)
        if number is None:
            raise CheckpointError(f"{origin}: the tokenizer has no token {value!r}")
        return number
    return value


def _build(
    settings: TokensMapping, ids: Mapping[str, int], special: Mapping[str, int | None], rows: int, origin: str
) -> TextTokenizer:
    names = _names(ids, special, rows)
    unknown, characters = special["unknown"], settings.unit == "characters"
    skips_words = unknown is None and not characters
    vocab = {(_WORD_MARK + name if skips_words else name): number for number, name in names.items()}
    model: models.Model
    if unknown is None:
        model = models.BPE(vocab=vocab, merges=[], ignore_merges=not characters)
    else:
        model = models.WordLevel(vocab=vocab, unk_token=names[unknown])
    tokenizer = Tokenizer(model)
    try:
        steps = list(_cleaning(settings))
        if skips_words:
            steps.append(normalizers.Replace(_WORD_MARK, "\ufffd" if _WORD_MARK + "\ufffd" not in vocab else " "))
        if steps:
            tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.pre_tokenizer = _splitter(settings, characters, skips_words)
    except BaseException as error:
        if not is_tokenizers_error(error) and not isinstance(error, Exception):
            raise
        raise ConfigError(f"tokens: a pattern is not a regular expression that can be used ({error})") from error
    affixes = [(place, special[place]) for place in ("start", "end") if special[place] is not None]
    if affixes:
        at = {place: names[number] for place, number in affixes if number is not None}
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[piece for piece in (at.get("start"), "$A", at.get("end")) if piece is not None],
            special_tokens=sorted({(names[number], number) for _, number in affixes if number is not None}),
        )
    try:
        return TextTokenizer(tokenizer)
    except TokenizerError as error:
        raise TokenizerError(f"{origin}: {error}") from error


def _names(ids: Mapping[str, int], special: Mapping[str, int | None], rows: int) -> dict[int, str]:
    """A name for every id; those that the vocabulary has none for are named by their use."""
    names = {number: token or f"[EMPTY {number}]" for token, number in ids.items()}
    for use, number in special.items():
        if number is not None and number not in names:
            names[number] = f"[{use.upper()} {number}]"  # with a space, so that it is never a word of a text
    for number in range(rows):
        names.setdefault(number, f"[UNUSED {number}]")
    return names


def _cleaning(settings: TokensMapping) -> Iterator[normalizers.Normalizer]:
    for step in settings.clean:
        if step == "lowercase":
            yield from lowercase()
        elif isinstance(step, str):
            if step == "strip_accents":
                yield normalizers.NFD()  # which parts a letter from its accents
            yield _CLEANING[step]()
        else:
            yield normalizers.Replace(Regex(step.pattern), step.by)


def _splitter(settings: TokensMapping, characters: bool, skips_words: bool) -> pre_tokenizers.PreTokenizer:
    if characters:
        return pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    if settings.pattern is None:
        split = pre_tokenizers.Split(Regex(f"[{WHITESPACE}]+"), "removed")
    else:
        split = pre_tokenizers.Split(Regex(settings.pattern), "removed", invert=True)
    if not skips_words:
        return split
    mark = pre_tokenizers.Metaspace(replacement=_WORD_MARK, prepend_scheme="always", split=False)
    return pre_tokenizers.Sequence([split, mark])
