"""Tokenizers: train one on a dataset, load one, and know which one it is.

Notable decisions:
- Padding and truncation that were saved inside a tokenizer.json are switched off on loading: batching and
  truncation are the pipeline's own work, and a saved "pad to 128" would make every text 128 tokens long.
- The fingerprint is a hash of what the tokenizer does, not of the file: the same tokenizer saved with other
  padding, or indented otherwise, has the same fingerprint.
- Where a post-processor puts special tokens is found by asking the tokenizer, once, on a probe text. What it
  says is a prefix and a suffix, which is all that a single sequence's template can be.
- Training is repeatable, to the byte, for bpe, byte_bpe, wordlevel and char. It is not for wordpiece and unigram:
  the tokenizers library walks a hash table there, so each training numbers its tokens otherwise, and wordpiece
  may settle ties between merges otherwise. Train once and keep the file; its fingerprint says which it is.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lengthwise.config import EncoderConfig, RunConfig, TokenizerTraining
from lengthwise.errors import TokenizerError
from lengthwise.util.compat import is_tokenizers_error

MOST_IDS = 2**24  # many times the largest vocabulary that is in use


class TextTokenizer:
    """A `tokenizers.Tokenizer` without padding or truncation, and what the pipeline has to know of it.

    Attributes:
        prefix: ids that the post-processor puts before every text.
        suffix: ids that it puts after every text.
        fingerprint: sha256 (hex) of what the tokenizer does.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        canonical = json.dumps(json.loads(self._tokenizer.to_str()), sort_keys=True, ensure_ascii=False)
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
        self.prefix, self.suffix = _special_affixes(self._tokenizer)
        _check_largest(max((*self.prefix, *self.suffix), default=0))

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that the tokenizer can give."""
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        return max((*ids, *self.prefix, *self.suffix), default=-1) + 1

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Encodings without special tokens; offsets are not tracked.

        Raises:
            TokenizerError: the tokenizers library refuses a text, e.g. for lack of an unknown token.
        """
        try:
            return self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except BaseException as error:
            if not isinstance(error, Exception) and not is_tokenizers_error(error):
                raise
            raise TokenizerError(
                f"the tokenizer cannot encode these texts ({error}); use one whose vocabulary has its unknown token"
            ) from error

    def token_id(self, token: str) -> int | None:
        """The id of a token, or None."""
        return self._tokenizer.token_to_id(token)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of tokens that are never part of a text."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)

    def token(self, token_id: int) -> str | None:
        """The token of an id, or None."""
        return self._tokenizer.id_to_token(token_id)

    def to_json(self) -> str:
        """The contents of a tokenizer.json."""
        return self._tokenizer.to_str(pretty=True)


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """Load any tokenizer.json.

    Raises:
        TokenizerError: there is no such file, or the tokenizers library cannot read it.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TokenizerError(
            f"{path}: there is no such tokenizer; train one with scripts/train_tokenizer.py, or set tokenizer.path"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: the tokenizer cannot be read ({error})") from error
    try:
        _check_ids(text)
        return TextTokenizer(Tokenizer.from_str(text))
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error
    except RecursionError:
        raise TokenizerError(f"{path}: nested too deep to be a tokenizer.json") from None
    except BaseException as error:
        if not is_tokenizers_error(error):
            raise
        raise TokenizerError(
            f"{path}: not a tokenizer.json that can be read ({error}); train one with scripts/train_tokenizer.py"
        ) from error


def load_run_tokenizer(run: RunConfig, folder: str | Path, config: EncoderConfig) -> TextTokenizer:
    """The tokenizer of a run: the one at `tokenizer.path`, or else the one in the model's folder; it has to fit.

    Raises:
        TokenizerError: it cannot be loaded, or is not the encoder's.
    """
    if run.tokenizer.path is None:
        path, origin = Path(folder) / "tokenizer.json", str(Path(folder) / "tokenizer.json")
    else:
        path, origin = Path(run.tokenizer.path), f"tokenizer.path = {run.tokenizer.path}"
    tokenizer = load_tokenizer(path)
    check_tokenizer_fits(tokenizer, config, origin)
    return tokenizer


def train_tokenizer(texts: Iterable[str], settings: TokenizerTraining, *, show_progress: bool = False) -> TextTokenizer:
    """Train a tokenizer.

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
        raise TokenizerError(f"a training text is not Unicode ({error}); mend it in the input") from error
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


def check_tokenizer_fits(tokenizer: TextTokenizer, config: EncoderConfig, origin: str) -> None:
    """Refuse a tokenizer whose ids the encoder was not made for.

    Raises:
        TokenizerError: an id has no row in the embedding table, or it is another tokenizer.
    """
    if tokenizer.vocab_size > config.vocab_size:
        raise TokenizerError(
            f"{origin} has {tokenizer.vocab_size} ids, but the encoder's embedding table has {config.vocab_size} rows;"
            " use the tokenizer that the encoder was trained with"
        )
    if config.tokenizer_fingerprint not in (None, tokenizer.fingerprint):
        raise TokenizerError(
            f"{origin} has fingerprint {tokenizer.fingerprint[:12]}, but the checkpoint was made for"
            f" {str(config.tokenizer_fingerprint)[:12]}; use the checkpoint's own (leave tokenizer.path out),"
            " or make a new checkpoint for this tokenizer"
        )


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


def _special_affixes(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the post-processor puts before and after a text."""
    content: list[int] = []
    for probe in ("a", *sorted(tokenizer.get_vocab(with_added_tokens=False))):
        content = tokenizer.encode(probe, add_special_tokens=False).ids
        if content:
            break
    whole = tokenizer.encode(probe, add_special_tokens=True)
    start = whole.special_tokens_mask.index(0) if 0 in whole.special_tokens_mask else len(whole.ids)
    stop = start + len(content)
    if whole.ids[start:stop] != content:
        raise TokenizerError(
            f"the tokenizer's post-processor changes a text's own tokens ({content} becomes {whole.ids});"
            " only special tokens before and after a text are supported"
        )
    return tuple(whole.ids[:start]), tuple(whole.ids[stop:])


def _check_ids(text: str) -> None:
    """Refuse ids that the tokenizers library would count up to: to save a tokenizer with such an id takes minutes."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return  # the library says it better
    vocab = tree["model"].get("vocab") if isinstance(tree, dict) and isinstance(tree.get("model"), dict) else None
    added = tree.get("added_tokens") if isinstance(tree, dict) else None
    ids = list(vocab.values()) if isinstance(vocab, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    _check_largest(max((number for number in ids if isinstance(number, int)), default=0))
    _check_character_maps(tree.get("normalizer") if isinstance(tree, dict) else None)


def _check_largest(number: int) -> None:
    if number >= MOST_IDS:
        raise TokenizerError(f"has the id {number}; ids run from 0, without large gaps, and end below {MOST_IDS:,}")


def _check_character_maps(normalizer: Any) -> None:
    """Refuse a map that says it is larger than it is: the library makes room first, up to 8 GB, and aborts without."""
    if not isinstance(normalizer, dict):
        return
    encoded, inner = normalizer.get("precompiled_charsmap"), normalizer.get("normalizers")
    if isinstance(encoded, str):
        try:
            size, room = int.from_bytes(base64.b64decode(encoded[:8])[:4], "little"), len(encoded) * 3 // 4
        except ValueError:
            return  # the library says it better
        if size > room:
            raise TokenizerError(f"its precompiled_charsmap says {size} bytes, but has {room}; get the file again")
    for each in inner if isinstance(inner, list) else []:
        _check_character_maps(each)
