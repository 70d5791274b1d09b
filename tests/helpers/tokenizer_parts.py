"""Every model, normalizer, pre-tokenizer, post-processor and decoder of the tokenizers library, with sampling on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?\u2581\u0120é "
_MERGES = [("t", "h"), ("th", "e"), ("a", "t"), ("o", "n"), ("c", "at"), ("m", "at"), ("r", "ain"), ("\u2581", "the")]
_WORDS = ("the", "cat", "mat", "rain", "on", "a", "##t", "##e")
_IDENTITY_MAP = (1024).to_bytes(4, "little") + bytes(1024)  # a SentencePiece character map with an empty trie


def _vocabulary(*tokens: str) -> dict[str, int]:
    return {token: number for number, token in enumerate(dict.fromkeys((*SPECIAL, *tokens)))}


def _bpe(sampled: bool) -> models.BPE:
    parts = dict.fromkeys((*_LETTERS, *"ain", "ai", "ain", "th", "the", "at", "on", "cat", "mat", "rain", "\u2581the"))
    merges = [("a", "i"), ("ai", "n"), *_MERGES]
    return models.BPE(_vocabulary(*parts), merges, unk_token="[UNK]", dropout=0.5 if sampled else None)


def _unigram(sampled: bool) -> models.Unigram:
    scores = [(token, -1.0 - number / 50) for number, token in enumerate(_vocabulary(*_LETTERS, *_WORDS[:5], "th"))]
    options = {"alpha": 0.1, "nbest_size": 8} if sampled else {}
    return models.Unigram(scores, 1, **options)


MODELS: Mapping[str, Callable[[bool], Any]] = {
    "BPE": _bpe,
    "Unigram": _unigram,
    "WordLevel": lambda sampled: models.WordLevel(_vocabulary(*_WORDS), unk_token="[UNK]"),
    "WordPiece": lambda sampled: models.WordPiece(_vocabulary(*_WORDS, *_LETTERS), unk_token="[UNK]"),
}
NORMALIZERS: Mapping[str, Callable[[], Any]] = {
    "BertNormalizer": normalizers.BertNormalizer,
    "ByteLevel": normalizers.ByteLevel,
    "Lowercase": normalizers.Lowercase,
    "NFC": normalizers.NFC,
    "NFD": normalizers.NFD,
    "NFKC": normalizers.NFKC,
    "NFKD": normalizers.NFKD,
    "Nmt": normalizers.Nmt,
    "Precompiled": lambda: normalizers.Precompiled(_IDENTITY_MAP),
    "Prepend": lambda: normalizers.Prepend("\u2581"),
    "Replace": lambda: normalizers.Replace(Regex(r"\s+"), " "),
    "Sequence": lambda: normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]),
    "Strip": normalizers.Strip,
    "StripAccents": normalizers.StripAccents,
}
PRE_TOKENIZERS: Mapping[str, Callable[[], Any]] = {
    "BertPreTokenizer": pre_tokenizers.BertPreTokenizer,
    "ByteLevel": pre_tokenizers.ByteLevel,
    "CharDelimiterSplit": lambda: pre_tokenizers.CharDelimiterSplit(" "),
    "Digits": lambda: pre_tokenizers.Digits(individual_digits=True),
    "FixedLength": lambda: pre_tokenizers.FixedLength(length=3),
    "Metaspace": lambda: pre_tokenizers.Metaspace(prepend_scheme="first"),
    "Punctuation": pre_tokenizers.Punctuation,
    "Sequence": lambda: pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits()]),
    "Split": lambda: pre_tokenizers.Split(Regex(r"[aeiou]"), "merged_with_next"),
    "UnicodeScripts": pre_tokenizers.UnicodeScripts,
    "Whitespace": pre_tokenizers.Whitespace,
    "WhitespaceSplit": pre_tokenizers.WhitespaceSplit,
}
_AROUND = (("[SEP]", 3), ("[CLS]", 2))
PROCESSORS: Mapping[str, Callable[[], Any]] = {
    "BertProcessing": lambda: processors.BertProcessing(*_AROUND),
    "ByteLevel": processors.ByteLevel,
    "RobertaProcessing": lambda: processors.RobertaProcessing(*_AROUND),
    "Sequence": lambda: processors.Sequence([processors.ByteLevel(), processors.BertProcessing(*_AROUND)]),
    "TemplateProcessing": lambda: processors.TemplateProcessing(
        single="[CLS] $A [SEP] [SEP]", special_tokens=list(_AROUND)
    ),
}
DECODERS: Mapping[str, Callable[[], Any]] = {
    "BPEDecoder": decoders.BPEDecoder,
    "ByteFallback": decoders.ByteFallback,
    "ByteLevel": decoders.ByteLevel,
    "CTC": decoders.CTC,
    "Fuse": decoders.Fuse,
    "Metaspace": decoders.Metaspace,
    "Replace": lambda: decoders.Replace("\u2581", " "),
    "Sequence": lambda: decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()]),
    "Strip": decoders.Strip,
    "WordPiece": decoders.WordPiece,
}
KINDS: Mapping[str, tuple[ModuleType, Mapping[str, Callable[..., Any]]]] = {
    "model": (models, MODELS),
    "normalizer": (normalizers, NORMALIZERS),
    "pre_tokenizer": (pre_tokenizers, PRE_TOKENIZERS),
    "post_processor": (processors, PROCESSORS),
    "decoder": (decoders, DECODERS),
}
ABSTRACT = frozenset({"Model", "Normalizer", "PreTokenizer", "PostProcessor", "Decoder", "DecodeStream"})


def assemble(*, sampled: bool = True, model: str = "BPE", **parts: str | None) -> Tokenizer:
    """A tokenizer of the named parts; `sampled` turns on what its model has of subword regularization."""
    tokenizer = Tokenizer(MODELS[model](sampled))
    tokenizer.add_special_tokens(list(SPECIAL))
    for kind, name in parts.items():
        if name is not None:
            setattr(tokenizer, kind, KINDS[kind][1][name]())
    return tokenizer
