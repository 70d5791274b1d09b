"""Trains a tokenizer on texts.

Training is repeatable, to the byte, for bpe, byte_bpe, wordlevel and char. It is not for wordpiece and unigram, whose
trainers iterate over a hash table: each training numbers its tokens otherwise, and wordpiece may break ties between
merges otherwise. Train once and keep the file; its fingerprint says which one it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lengthwise.config import TokenizerTraining
from lengthwise.errors import TokenizerError
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.compat import is_tokenizers_error

_NORMALIZERS = {
    "nfc": normalizers.NFC,
    "nfd": normalizers.NFD,
    "nfkc": normalizers.NFKC,
    "nfkd": normalizers.NFKD,
    "lowercase": normalizers.Lowercase,
    "strip": normalizers.Strip,
    "strip_accents": lambda: normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "bert": normalizers.BertNormalizer,
}

_PRE_TOKENIZERS = {
    "whitespace": pre_tokenizers.Whitespace,
    "whitespace_split": pre_tokenizers.WhitespaceSplit,
    "bert": pre_tokenizers.BertPreTokenizer,
    "punctuation": pre_tokenizers.Punctuation,
    "digits": pre_tokenizers.Digits,
    "byte_level": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "metaspace": pre_tokenizers.Metaspace,
}

_USUAL_PRE_TOKENIZER = {
    "wordpiece": "bert",
    "bpe": "whitespace",
    "byte_bpe": "byte_level",
    "unigram": "metaspace",
    "wordlevel": "whitespace",
}


def train_tokenizer(texts: Iterable[str], settings: TokenizerTraining, *, show_progress: bool = False) -> TextTokenizer:
    """Train a tokenizer on texts.

    Args:
        texts: read once, in order.
        settings: the algorithm and its choices.

    Raises:
        TokenizerError: the texts hold nothing to train on, or the vocabulary cannot be made.
    """
    special = _special_tokens(settings)
    tokenizer, trainer = _untrained(settings, special, show_progress)
    tokenizer.normalizer = normalizers.Sequence([_NORMALIZERS[name]() for name in settings.normalizers])
    try:
        texts = iter(texts)
        first = next(filter(None, texts), None)
        if first is None:
            raise TokenizerError("every training text is empty, or there is none; check dataset.path and text_column")
        tokenizer.train_from_iterator(chain([first], texts), trainer)
    except UnicodeError as error:
        raise TokenizerError(f"a training text is not Unicode ({error}); fix it in the input") from error
    except BaseException as error:
        if not is_tokenizers_error(error):
            raise
        raise TokenizerError(
            f"training a {settings.model} tokenizer with vocab_size {settings.vocab_size} failed ({error});"
            " give more text, or another tokenizer.training.vocab_size"
        ) from error
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size <= len(special):
        raise TokenizerError(
            f"training a {settings.model} tokenizer found no token beside the special ones;"
            f" no token is seen {settings.min_frequency} times (tokenizer.training.min_frequency)"
        )
    if size > settings.vocab_size:
        raise TokenizerError(
            f"tokenizer.training.vocab_size is {settings.vocab_size}, but special tokens and single characters are"
            f" already {size} tokens of a {settings.model} tokenizer; set it to {size} or more"
        )
    _add_template(tokenizer, settings)
    return TextTokenizer(tokenizer)


def _special_tokens(settings: TokenizerTraining) -> list[str]:
    named = [settings.pad_token, settings.unk_token, settings.bos_token, settings.eos_token, *settings.special_tokens]
    tokens = [token for token in named if token is not None]
    if len(set(tokens)) != len(tokens):
        raise TokenizerError(f"tokenizer.training names a special token twice: {tokens}; give each its own name")
    return tokens


def _untrained(
    settings: TokenizerTraining, special: list[str], show_progress: bool
) -> tuple[Tokenizer, trainers.Trainer]:
    """An empty tokenizer of the configured algorithm, its pre-tokenizer and decoder, and its trainer."""
    tokenizer: Tokenizer
    trainer: Any
    unk = settings.unk_token
    common: dict[str, Any] = {
        "special_tokens": special,
        "vocab_size": settings.vocab_size,
        "show_progress": show_progress,
    }
    counted: dict[str, Any] = {**common, "min_frequency": settings.min_frequency}
    if settings.model == "wordpiece":
        tokenizer, trainer = Tokenizer(models.WordPiece(unk_token=unk)), trainers.WordPieceTrainer(**counted)
        tokenizer.decoder = decoders.WordPiece()
    elif settings.model == "bpe":
        tokenizer, trainer = Tokenizer(models.BPE(unk_token=unk)), trainers.BpeTrainer(**counted)
    elif settings.model == "byte_bpe":
        tokenizer = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(**counted, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        tokenizer.decoder = decoders.ByteLevel()
    elif settings.model == "unigram":
        tokenizer, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer(**common, unk_token=unk)
        tokenizer.decoder = decoders.Metaspace()
    else:  # words, or single characters, each with an id of its own
        tokenizer, trainer = Tokenizer(models.WordLevel(unk_token=unk)), trainers.WordLevelTrainer(**counted)
    if settings.model == "char":
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer.pre_tokenizer = _PRE_TOKENIZERS[settings.pre_tokenizer or _USUAL_PRE_TOKENIZER[settings.model]]()
    if settings.model == "byte_bpe" and settings.pre_tokenizer not in (None, "byte_level"):
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([tokenizer.pre_tokenizer, to_bytes])
    return tokenizer, trainer


def _add_template(tokenizer: Tokenizer, settings: TokenizerTraining) -> None:
    bos, eos = settings.bos_token, settings.eos_token
    if bos is None and eos is None:
        return
    template = [token for token in (bos, "$A", eos) if token is not None]
    ids = [(token, tokenizer.token_to_id(token)) for token in (bos, eos) if token is not None]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
