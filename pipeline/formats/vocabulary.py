"""Vocabularies of other models: read from JSON, text, pickles or a checkpoint, and made into a tokenizer.

- Ids are those of the model; what it does with an unknown token is either an id or nothing at all. A model of the
  tokenizers library that drops what it does not know is a BPE without merges and without an unknown token.
- Lower case is that of Python's `str.lower`, spaces are those of `str.split`, and patterns match as in Python's `re`.
- Every token is encoded alone once, and has to give its own id. Where most do not, texts are not cleaned as those were
  that the vocabulary was made of; where some do not, a note says how many.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from lengthwise.errors import CheckpointError, ConfigError, TokenizerError
from lengthwise.formats.mapping import TokensMapping
from lengthwise.formats.patterns import WHITESPACE, library_pattern
from lengthwise.formats.pickles import read_pickle
from lengthwise.formats.tensors import TORCH_SUFFIXES, TensorFile, find_key
from lengthwise.formats.whitespace_tokenizer import lowercase
from lengthwise.formats.word_patterns import MARKS
from lengthwise.tokens.tokenizer import MAX_IDS, TextTokenizer, load_tokenizer
from lengthwise.util.compat import is_tokenizers_error
from lengthwise.util.text_files import read_text

_CLEANING = {
    "nfc": normalizers.NFC,
    "nfd": normalizers.NFD,
    "nfkc": normalizers.NFKC,
    "nfkd": normalizers.NFKD,
}
_WORD_MARK = chr(MARKS[0])


def import_tokenizer(
    settings: TokensMapping, folder: Path, weights: TensorFile | None, rows: int, notes: list[str]
) -> tuple[TextTokenizer, int, int | None]:
    """The tokenizer that a mapping describes.

    Args:
        folder: what the mapping's paths are relative to.
        weights: the model's file, which may hold the vocabulary.
        rows: of the embedding.
        notes: what a user should know is added to them.

    Returns:
        The tokenizer, the id of the padding, and that of unknown tokens.

    Raises:
        CheckpointError: there is no vocabulary, or it does not fit the embedding.
        TokenizerError: it cannot be made into a tokenizer.
    """
    if settings.tokenizer is not None:
        tokenizer = load_tokenizer(_find(folder, settings.tokenizer))
        padding, unknown = (_id_of(tokenizer, each, "tokens") for each in (settings.padding, settings.unknown))
        known = {number for number in range(tokenizer.vocab_size) if tokenizer.token(number) is not None}
        _check_rows(known, rows, settings.tokenizer, unused=settings.unused_ids)
        return tokenizer, padding or 0, unknown
    ids, origin = read_vocabulary(settings, folder, weights)
    _check_ids(ids, origin)
    special = {
        name: _resolve(getattr(settings, name), ids, f"{origin}: tokens.{name}")
        for name in ("padding", "unknown", "start", "end")
    }
    named = {*ids.values(), *(number for number in special.values() if number is not None)}
    _check_rows(named, rows, origin, unused=settings.unused_ids)
    tokenizer = _build(settings, ids, special, rows, origin)
    ordinary = {token: number for token, number in ids.items() if token and number not in special.values()}
    if settings.unit == "characters":
        ordinary = {token: number for token, number in ordinary.items() if len(token) == 1}
    _check_tokens(tokenizer, ordinary, origin, notes)
    has_capitals = any(token != token.lower() for token in ordinary)
    if not has_capitals and "lowercase" not in settings.clean and any(token.islower() for token in ordinary):
        notes.append(
            "tokens: no token has a capital letter, and texts keep theirs; set clean: [lowercase] if that is so"
        )
    return tokenizer, special["padding"] or 0, special["unknown"]


def _check_rows(named: Collection[int], rows: int, origin: str, *, unused: bool) -> None:
    """Refuse a vocabulary of other ids than those of the embedding's rows."""
    largest = max(named, default=-1)
    if largest >= rows:
        raise CheckpointError(
            f"{origin}: the vocabulary has the id {largest}, but the embedding has {rows} rows; give the vocabulary"
            " that the model was trained with"
        )
    unnamed = [number for number in range(rows) if number not in named]
    if unnamed and not unused:
        raise CheckpointError(
            f"{origin}: the vocabulary names {rows - len(unnamed)} of the {rows} rows of the embedding; {unnamed[0]} is"
            " one of those that it does not. Give the vocabulary that the model was trained with, or set"
            " tokens.unused_ids to true if the model has rows that no text leads to"
        )


def _check_tokens(tokenizer: TextTokenizer, ids: Mapping[str, int], origin: str, notes: list[str]) -> None:
    """Encode every token alone: it is a text that should give its id."""
    encodings = tokenizer.encode_batch(list(ids))
    lost = [token for (token, number), found in zip(ids.items(), encodings, strict=True) if found.ids != [number]]
    if not lost:
        return
    found = tokenizer.encode_batch([lost[0]])[0].ids
    example = f"no text leads to {len(lost)} of {len(ids)} tokens, such as {lost[0]!r}, which becomes the ids {found}"
    if len(lost) > max(2, len(ids) // 2):
        raise CheckpointError(
            f"{origin}: {example} and not {ids[lost[0]]}; give one token per line, and set tokens.unit, clean and"
            " pattern to what was done to the texts that the model was trained on"
        )
    notes.append(f"tokens: {example}")


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
        if first_id:
            raise ConfigError(f"{origin}: names its own ids, so tokens.first_id has no effect; leave it out")
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
    vocab = {(_marked(name) if skips_words else name): number for number, name in names.items()}
    model: models.Model
    if unknown is None:
        model = models.BPE(vocab=vocab, merges=[], ignore_merges=not characters)
    else:
        model = models.WordLevel(vocab=vocab, unk_token=names[unknown])
    tokenizer = Tokenizer(model)
    try:
        steps = list(_cleaning(settings))
        if skips_words:
            steps.append(normalizers.Replace(_WORD_MARK, "\ufffd" if _marked("\ufffd") not in vocab else " "))
        if steps:
            tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.pre_tokenizer = _splitter(settings, characters, skips_words)
    except ConfigError:
        raise
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
    """A name for every id; those without a token are named by their use, with a space, which no word has."""
    names = {number: token or f"[EMPTY {number}]" for token, number in ids.items()}
    for use, number in special.items():
        if number is not None:
            names.setdefault(number, f"[{use.upper()} {number}]")
    for number in range(rows):
        names.setdefault(number, f"[UNUSED {number}]")
    return names


def _marked(name: str) -> str:
    """A word as the model has it that leaves out unknown words."""
    return _WORD_MARK + name.replace(" ", _WORD_MARK)


def _cleaning(settings: TokensMapping) -> Iterator[normalizers.Normalizer]:
    for step in settings.clean:
        if step == "lowercase":
            yield from lowercase()
        elif step == "strip_accents":  # which strips those that are characters of their own
            yield from (normalizers.NFD(), normalizers.StripAccents())
        elif isinstance(step, str):
            yield _CLEANING[step]()
        else:
            pattern = library_pattern(step.pattern, "tokens.clean", may_be_empty=not step.by)
            yield normalizers.Replace(Regex(pattern), step.by)


def _splitter(settings: TokensMapping, characters: bool, skips_words: bool) -> pre_tokenizers.PreTokenizer:
    if characters:
        return pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    if settings.pattern is None:
        split = pre_tokenizers.Split(Regex(f"[{WHITESPACE}]+"), "removed")
    else:
        pattern = library_pattern(settings.pattern, "tokens.pattern")
        split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    if not skips_words:
        return split
    mark = pre_tokenizers.Metaspace(replacement=_WORD_MARK, prepend_scheme="always", split=False)
    return pre_tokenizers.Sequence([split, mark])
