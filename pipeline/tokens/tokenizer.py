"""Tokenizers: load one, identify it by a fingerprint, and know what it adds to a text.

- Padding and truncation saved in a tokenizer.json are disabled on loading: batching and truncation are the pipeline's
  work, and a saved "pad to 128" would make every text 128 tokens long.
- Subword regularization (BPE dropout, sampling of Unigram) is disabled too: it is meant for training, and a text would
  get other ids each time it is encoded.
- The fingerprint is a hash of what the tokenizer does, not of the file: the same tokenizer saved with other padding or
  indentation has the same fingerprint.
- The special tokens around a text are found by encoding one probe text: a prefix and a suffix, which is all that a
  single sequence's template can add.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from lengthwise.config import EncoderConfig
from lengthwise.errors import TokenizerError
from lengthwise.tokens.words import WordCache
from lengthwise.util.compat import is_tokenizers_error
from lengthwise.util.model_paths import explain_tokenizer_path, hub_hint
from lengthwise.util.text_files import EncodingError, read_text

TOKENIZER_FILE = "tokenizer.json"
MAX_IDS = 2**24  # many times the largest vocabulary in use
_SAMPLING = ("dropout", "alpha", "nbest_size")  # attributes of models: of BPE, and two of Unigram


class TextTokenizer:
    """A `tokenizers.Tokenizer` without padding, truncation or sampling, and what the pipeline needs to know of it.

    Attributes:
        prefix: ids that the post-processor adds before every text.
        suffix: ids that it adds after every text.
        fingerprint: sha256 (hex) of what the tokenizer does.
        fingerprint_with_sampling: as older versions computed it, which did not disable sampling; equal to `fingerprint`
            if there was none.
        words: the ids of words that were met before; None where texts cannot be cut into words.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Copy a tokenizer.

        Raises:
            TokenizerError: it has parts or settings that no tokenizer.json can hold, or a post-processor that does more
                than add tokens around a text.
        """
        self._tokenizer = _copy(tokenizer)
        self.fingerprint_with_sampling = _fingerprint(self._tokenizer)
        is_sampled = _disable_sampling(self._tokenizer)
        self.fingerprint = _fingerprint(self._tokenizer) if is_sampled else self.fingerprint_with_sampling
        self.prefix, self.suffix = _special_affixes(self._tokenizer)
        _check_largest_id(max((*self.prefix, *self.suffix), default=0))
        self.forget_words()

    @property
    def vocab_size(self) -> int:
        """One more than the tokenizer's largest id."""
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

    def known_ids(self, texts: Sequence[str]) -> list[bytes | None]:
        """The ids of texts without special tokens, int32 as bytes; None where `encode_batch` is needed."""
        return [None] * len(texts) if self.words is None else self.words.look_up(texts)

    def forget_words(self) -> None:
        """Begin with an empty cache of words, as benchmarks do that compare first runs."""
        self.words = WordCache.of(self._tokenizer)

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
    """Load any tokenizer.json, or the one in a folder.

    Raises:
        TokenizerError: there is no such file, or the tokenizers library cannot read it.
    """
    path = Path(path)
    try:
        return _load_file(path / TOKENIZER_FILE if path.is_dir() else path)
    except TokenizerError as error:
        explanation = explain_tokenizer_path(path)
        if explanation is None:
            raise
        raise TokenizerError(f"{path}: {explanation}") from error


def _load_file(path: Path) -> TextTokenizer:
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise TokenizerError(
            f"{path}: there is no such tokenizer; train one with lengthwise train-tokenizer, or set tokenizer.path"
            f"{hub_hint(path, TOKENIZER_FILE)}"
        ) from None
    except (OSError, EncodingError) as error:
        raise TokenizerError(f"{path}: the tokenizer cannot be read ({error})") from error
    try:
        _check_file(text)
        return TextTokenizer(Tokenizer.from_str(text))
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error
    except RecursionError:
        raise TokenizerError(f"{path}: nested too deep to be a tokenizer.json") from None
    except BaseException as error:
        if not is_tokenizers_error(error):
            raise
        raise TokenizerError(
            f"{path}: not a tokenizer.json that can be read ({error}); train one with lengthwise train-tokenizer"
        ) from error


def load_model_tokenizer(folder: str | Path, config: EncoderConfig, path: str | Path | None = None) -> TextTokenizer:
    """The tokenizer for a model: its own, in its folder, or the one at `path`, which a run's `tokenizer.path` names.

    Raises:
        TokenizerError: it cannot be loaded, or is not the encoder's.
    """
    own = Path(folder) / TOKENIZER_FILE
    tokenizer = load_tokenizer(own if path is None else path)
    check_tokenizer_fits(tokenizer, config, str(own) if path is None else f"tokenizer.path = {path}")
    return tokenizer


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
    accepted = (None, tokenizer.fingerprint, tokenizer.fingerprint_with_sampling)
    if config.tokenizer_fingerprint not in accepted:
        raise TokenizerError(
            f"{origin} has fingerprint {tokenizer.fingerprint[:12]}, but the checkpoint was made for"
            f" {str(config.tokenizer_fingerprint)[:12]}; use the checkpoint's own (leave tokenizer.path out),"
            " or make a new checkpoint for this tokenizer"
        )


def _copy(tokenizer: Tokenizer) -> Tokenizer:
    """A copy of what a tokenizer.json holds, without padding and truncation."""
    try:
        copied = Tokenizer.from_str(tokenizer.to_str())
    except BaseException as error:
        if not is_tokenizers_error(error):
            raise
        raise TokenizerError(
            f"the tokenizer cannot be saved to a tokenizer.json and read again ({error}); use the library's own"
            " normalizers, pre-tokenizers and decoders, not ones written in Python"
        ) from error
    if tokenizer.encode_special_tokens:
        raise TokenizerError(
            "the tokenizer has encode_special_tokens = True, which no tokenizer.json can hold, so a saved model would"
            " give other ids; set it to False"
        )
    copied.no_padding()
    copied.no_truncation()
    return copied


def _disable_sampling(tokenizer: Tokenizer) -> bool:
    """Make the model give a text the same ids each time; whether it did not."""
    found = [name for name in _SAMPLING if getattr(tokenizer.model, name, None) is not None]
    for name in found:
        setattr(tokenizer.model, name, None)
    return bool(found)


def _fingerprint(tokenizer: Tokenizer) -> str:
    """sha256 (hex) of the contents of tokenizer.json, independent of their order and indentation."""
    canonical = json.dumps(json.loads(tokenizer.to_str()), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _special_affixes(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the post-processor adds before and after a text."""
    content: list[int] = []
    for probe in ("a", *sorted(tokenizer.get_vocab(with_added_tokens=False))):
        try:
            content = tokenizer.encode(probe, add_special_tokens=False).ids
        except BaseException as error:
            if not is_tokenizers_error(error):
                raise
            continue  # it has no token, not even an unknown one
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


def _check_file(text: str) -> None:
    """Refuse what takes the tokenizers library minutes or aborts the process: huge ids and false sizes."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return  # the library's own message is better
    if not isinstance(tree, dict):
        return
    _check_largest_id(max((number for number in _declared_ids(tree) if isinstance(number, int)), default=0))
    _check_character_maps(tree.get("normalizer"))


def _declared_ids(tree: dict[str, Any]) -> list[Any]:
    """Ids in the vocabulary and the added tokens of a tokenizer.json, as far as it has the usual form."""
    model, added = tree.get("model"), tree.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocab.values()) if isinstance(vocab, dict) else []
    return ids + [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else ids


def _check_largest_id(number: int) -> None:
    if number >= MAX_IDS:
        raise TokenizerError(f"has the id {number}; ids run from 0, without large gaps, and are below {MAX_IDS:,}")


def _check_character_maps(normalizer: Any) -> None:
    """Refuse a map that claims to be larger than it is: the library allocates what it claims, and aborts on failure."""
    if not isinstance(normalizer, dict):
        return
    encoded, inner = normalizer.get("precompiled_charsmap"), normalizer.get("normalizers")
    if isinstance(encoded, str):
        try:
            claimed, actual = int.from_bytes(base64.b64decode(encoded[:8])[:4], "little"), len(encoded) * 3 // 4
        except ValueError:
            return  # the library's own message is better
        if claimed > actual:
            message = f"its precompiled_charsmap claims {claimed} bytes, but has {actual}; get the file again"
            raise TokenizerError(message)
    for each in inner if isinstance(inner, list) else []:
        _check_character_maps(each)
