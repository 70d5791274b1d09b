"""Tokenizers: each algorithm trains and repeats itself, and a loaded one is understood whatever it was saved with."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

from lengthwise.config import EncoderConfig, Normalizer, PreTokenizer, TokenizerModel, TokenizerTraining
from lengthwise.errors import TokenizerError
from lengthwise.tokens.tokenizer import TextTokenizer, check_tokenizer_fits, load_tokenizer, train_tokenizer

MODELS = get_args(TokenizerModel)
REPEATABLE = ("bpe", "byte_bpe", "wordlevel", "char")
VOCAB = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5}


def made_up_texts(rows: int = 300, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiouéü"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(400)]
    return [" ".join(draw.choices(words, k=draw.randint(1, 12))) + draw.choice(".!?") for _ in range(rows)]


TEXTS = made_up_texts()


def train(texts: Sequence[str] = TEXTS, **changes: Any) -> TextTokenizer:
    return train_tokenizer(texts, TokenizerTraining(**{"vocab_size": 400, **changes}))


def ids(tokenizer: TextTokenizer, text: str) -> list[int]:
    return tokenizer.encode_batch([text])[0].ids


def library(tokenizer: TextTokenizer) -> Tokenizer:
    return Tokenizer.from_str(tokenizer.to_json())


def by_hand(post_processor: Any = None, vocab: dict[str, int] = VOCAB) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    return tokenizer


def template(single: str) -> processors.TemplateProcessing:
    named = [(token, VOCAB[token]) for token in ("[UNK]", "[CLS]", "[SEP]") if token in single]
    return processors.TemplateProcessing(single=single, special_tokens=named)


@pytest.fixture(scope="module")
def byte_bpe() -> Tokenizer:
    return library(train(model="byte_bpe", normalizers=()))


@pytest.mark.parametrize("model", MODELS)
def test_each_model_trains_with_its_special_tokens_first(model: str) -> None:
    tokenizer = train(model=model, bos_token="<s>", eos_token="</s>", special_tokens=("[MASK]",))
    assert [tokenizer.token_id(t) for t in ("[PAD]", "[UNK]", "<s>", "</s>", "[MASK]")] == [0, 1, 2, 3, 4]
    assert (tokenizer.token(0), tokenizer.token(1)) == ("[PAD]", "[UNK]")
    assert (tokenizer.prefix, tokenizer.suffix) == ((2,), (3,))
    assert 20 < tokenizer.vocab_size <= 400
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]
    assert all(encoded)
    assert max(map(max, encoded)) < tokenizer.vocab_size
    assert library(tokenizer).encode(TEXTS[0]).ids == [2, *encoded[0], 3]
    assert sum(token == 0 for row in encoded for token in row) == 0


@pytest.mark.parametrize("model", [model for model in MODELS if model != "byte_bpe"])
def test_what_the_vocabulary_lacks_is_unknown(model: str) -> None:
    assert 1 in ids(train(model=model), "語")


@pytest.mark.parametrize("model", REPEATABLE)
def test_training_twice_gives_the_same_tokenizer(model: str) -> None:
    assert len({train(model=model, vocab_size=600).fingerprint for _ in range(3)}) == 1


@pytest.mark.parametrize("model", ["wordpiece", "unigram"])
def test_training_twice_gives_equal_sizes_where_it_does_not_repeat(model: str) -> None:
    """wordpiece and unigram do not repeat themselves (see pipeline/tokenizer.py); this much holds."""
    first, second = (train(model=model) for _ in range(2))
    assert first.vocab_size == second.vocab_size
    letters = {token for token in map(first.token, range(first.vocab_size)) if token and len(token) == 1}
    assert all(second.token_id(letter) is not None for letter in letters)
    assert set("bdfgklmnprstvz") <= letters


@pytest.mark.parametrize(
    ("normalizer", "text", "normal"),
    [
        ("nfc", "e\u0301", "\u00e9"),
        ("nfd", "\u00e9", "e\u0301"),
        ("nfkc", "\ufb01", "fi"),
        ("nfkd", "\ufb01\u00e9", "fie\u0301"),
        ("lowercase", "ABC", "abc"),
        ("strip", "  abc \n", "abc"),
        ("strip_accents", "\u00e9\u00fc", "eu"),
        ("bert", "A\tB\u00e9", "a be"),
    ],
)
def test_each_normalizer(normalizer: Normalizer, text: str, normal: str) -> None:
    everything = text + normal + " \n"
    tokenizer = train([everything], model="char", min_frequency=1, normalizers=(normalizer,))
    assert [tokenizer.token(token) for token in ids(tokenizer, text)] == list(normal)


def test_normalizers_are_applied_in_order() -> None:
    tokenizer = train(["fi FI \ufb01"], model="wordlevel", min_frequency=1, normalizers=("nfkc", "lowercase"))
    assert ids(tokenizer, "\ufb01 FI fi") == [2, 2, 2]
    assert tokenizer.vocab_size == 3


@pytest.mark.parametrize(
    ("pre_tokenizer", "words"),
    [
        ("whitespace", ["it", "'", "s", "no_1", "..."]),
        ("whitespace_split", ["it's", "no_1..."]),
        ("bert", ["it", "'", "s", "no", "_", "1", ".", ".", "."]),
        ("punctuation", ["it", "'", "s no", "_", "1", ".", ".", "."]),
        ("digits", ["it's no_", "1", "..."]),
        ("byte_level", ["it", "'s", "Ġno", "_", "1", "..."]),
        ("metaspace", ["▁it's", "▁no_1..."]),
    ],
)
def test_each_pre_tokenizer(pre_tokenizer: PreTokenizer, words: list[str]) -> None:
    text = "it's no_1..."
    tokenizer = train([text], model="wordlevel", min_frequency=1, normalizers=(), pre_tokenizer=pre_tokenizer)
    assert [tokenizer.token(token) for token in ids(tokenizer, text)] == words


@settings(max_examples=60, deadline=None)
@given(text=st.text() | st.text(alphabet="ab é\n\t\0\u3000\U0001f600'"))
def test_byte_bpe_is_lossless(byte_bpe: Tokenizer, text: str) -> None:
    encoded = byte_bpe.encode(text, add_special_tokens=False)
    assert byte_bpe.decode(encoded.ids, skip_special_tokens=False) == text


def test_byte_bpe_works_on_bytes_behind_any_pre_tokenizer() -> None:
    tokenizer = library(train(model="byte_bpe", normalizers=(), pre_tokenizer="punctuation"))
    text = "zzz 語, \U0001f600!"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@example(text="a\n\n\r\n  b")
@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab \n\r\t\u0301é\U0001f600"))
def test_char_gives_each_character_an_id(char: TextTokenizer, text: str) -> None:
    assert [char.token(token) for token in ids(char, text)] == list(text)


@pytest.fixture(scope="module")
def char() -> TextTokenizer:
    return train(["ab \n\r\t\u0301é\U0001f600"], model="char", min_frequency=1, normalizers=())


@pytest.mark.parametrize("model", MODELS)
def test_a_saved_tokenizer_is_the_same_tokenizer(tmp_path: Path, model: str) -> None:
    tokenizer = train(model=model, eos_token="</s>")
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    for path in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        loaded = load_tokenizer(path)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.suffix == tokenizer.suffix
        assert ids(loaded, TEXTS[0]) == ids(tokenizer, TEXTS[0])


@pytest.mark.parametrize("model", MODELS)
def test_saved_padding_and_truncation_do_not_leak(tmp_path: Path, model: str) -> None:
    tokenizer = train(model=model)
    saved = library(tokenizer)
    saved.enable_padding(length=128)
    saved.enable_truncation(3)
    path = tmp_path / "tokenizer.json"
    saved.save(str(path), pretty=False)
    assert len(saved.encode(TEXTS[0]).ids) == 128
    loaded = load_tokenizer(path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert ids(loaded, TEXTS[0]) == ids(tokenizer, TEXTS[0])
    assert '"padding": null' in loaded.to_json()
    assert '"truncation": null' in loaded.to_json()
    assert saved.padding is not None  # the caller's own tokenizer is left as it was


def test_the_fingerprint_tells_tokenizers_apart() -> None:
    tokenizers = [
        by_hand(),
        by_hand(template("[CLS] $A")),
        by_hand(vocab={**VOCAB, "c": 6}),
        by_hand(vocab={**VOCAB, "a": 5, "b": 4}),
    ]
    fingerprints = {TextTokenizer(tokenizer).fingerprint for tokenizer in tokenizers}
    assert len(fingerprints) == 4
    assert all(len(fingerprint) == 64 for fingerprint in fingerprints)


@pytest.mark.parametrize(
    ("post_processor", "prefix", "suffix"),
    [
        (None, (), ()),
        (template("[CLS] $A [SEP]"), (2,), (3,)),
        (template("[CLS] [CLS] $A [SEP]"), (2, 2), (3,)),
        (template("[CLS] $A"), (2,), ()),
        (template("$A [SEP]"), (), (3,)),
        (processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)), (2,), (3,)),
        (processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)), (2,), (3,)),
        (processors.ByteLevel(), (), ()),
        (processors.Sequence([processors.ByteLevel(), template("[CLS] $A [SEP]")]), (2,), (3,)),
    ],
)
def test_where_special_tokens_go(post_processor: Any, prefix: tuple[int, ...], suffix: tuple[int, ...]) -> None:
    tokenizer = TextTokenizer(by_hand(post_processor))
    assert (tokenizer.prefix, tokenizer.suffix) == (prefix, suffix)


def test_a_special_token_that_looks_like_the_text_is_still_found() -> None:
    without_a = {token: number for token, number in VOCAB.items() if number < 4}
    prefixed = TextTokenizer(by_hand(template("[UNK] $A"), without_a))
    suffixed = TextTokenizer(by_hand(template("$A [UNK]"), without_a))
    assert (prefixed.prefix, prefixed.suffix) == ((1,), ())
    assert (suffixed.prefix, suffixed.suffix) == ((), (1,))


def test_a_template_that_is_no_prefix_and_suffix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    by_hand(template("[CLS] $A [SEP] $A")).save(str(path))
    with pytest.raises(TokenizerError, match="only special tokens before and after a text are supported") as caught:
        load_tokenizer(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(TokenizerError, match="there is no such tokenizer; train one") as caught:
            load_tokenizer(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "contents",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"version": "1.0"}',
        '{"model": {"type": "WordLevel"}}',
        '{"version": "9.9", "model": null}',
    ],
)
def test_json_that_is_no_tokenizer(tmp_path: Path, contents: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(contents)
    with pytest.raises(TokenizerError, match=r"not a tokenizer\.json that can be read") as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        (
            '{"model": {"type": "BPE", "vocab": {"a": 2147483648}, "merges": []}}',
            "has the id 2147483648; ids run from 0",
        ),
        ('{"added_tokens": [{"id": 99999999, "content": "a"}], "model": {}}', "has the id 99999999"),
        ("[" * 100_000, "nested too deep|not a tokenizer"),
    ],
)
def test_json_that_is_meant_to_harm(tmp_path: Path, contents: str, told: str) -> None:
    """The library would count up to the largest id, for minutes."""
    (tmp_path / "tokenizer.json").write_text(contents)
    with pytest.raises(TokenizerError, match=told):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_special_token_with_an_id_beyond_all_bounds() -> None:
    tokenizer = by_hand()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 2**31)])
    with pytest.raises(TokenizerError, match="has the id 2147483648"):
        TextTokenizer(tokenizer)


@pytest.mark.parametrize("nested", [False, True])
def test_a_character_map_that_says_it_is_larger_than_it_is(tmp_path: Path, nested: bool) -> None:
    """The library would make room for 8 GB, and end the process where there is less."""
    tree = json.loads(by_hand().to_str())
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    tree["normalizer"] = {"type": "Sequence", "normalizers": [normalizer]} if nested else normalizer
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(TokenizerError, match=r"json: its precompiled_charsmap says 4294967295 bytes, but has"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_tokenizer_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(path)


def test_a_tokenizer_with_added_tokens_beyond_its_vocabulary() -> None:
    tokenizer = by_hand()
    tokenizer.add_tokens(["zebra"])
    assert TextTokenizer(tokenizer).vocab_size == 7
    assert TextTokenizer(by_hand(vocab={"[UNK]": 0, "a": 40})).vocab_size == 41


def test_special_tokens_beyond_the_vocabulary() -> None:
    tokenizer = by_hand()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 70)])
    assert TextTokenizer(tokenizer).vocab_size == 71


def test_a_vocabulary_without_its_unknown_token_is_explained() -> None:
    tokenizer = TextTokenizer(by_hand(vocab={"a": 0}))
    assert ids(tokenizer, "a a") == [0, 0]
    with pytest.raises(TokenizerError, match="cannot encode these texts"):
        ids(tokenizer, "a c")


def test_a_panic_of_the_library_is_explained() -> None:
    library = by_hand()
    library.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")  # takes exponential time, and is given up
    tokenizer = TextTokenizer(library)
    with pytest.raises(TokenizerError, match=r"cannot encode these texts \(Onig: Regex search error: retry-limit"):
        tokenizer.encode_batch(["b", "a" * 40 + "b"])
    assert ids(tokenizer, "b") == [5]


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
@pytest.mark.parametrize("model", MODELS)
def test_an_empty_corpus(model: str, texts: list[str]) -> None:
    with pytest.raises(TokenizerError, match="every training text is empty"):
        train(texts, model=model)


def test_a_corpus_in_which_nothing_is_frequent() -> None:
    with pytest.raises(TokenizerError, match=r"no token is seen 2 times \(tokenizer.training.min_frequency\)"):
        train(["one two three"], model="wordlevel")


def test_empty_texts_before_the_first_are_no_hindrance() -> None:
    assert train(["", *TEXTS], model="bpe").fingerprint == train(TEXTS, model="bpe").fingerprint
    assert train(iter(TEXTS), model="bpe").fingerprint == train(TEXTS, model="bpe").fingerprint


def test_a_corpus_that_is_not_unicode() -> None:
    with pytest.raises(TokenizerError, match="not Unicode"):
        train(["fine", "\ud800"], model="bpe")


def test_an_error_of_the_corpus_itself_comes_through() -> None:
    def texts() -> Any:
        yield "fine"
        raise KeyError("the corpus's own")

    with pytest.raises(KeyError, match="the corpus's own"):
        train_tokenizer(texts(), TokenizerTraining(model="bpe"))


@pytest.mark.parametrize("model", ["wordpiece", "bpe", "byte_bpe", "unigram"])
def test_a_vocabulary_too_small_for_its_characters(model: str) -> None:
    with pytest.raises(TokenizerError, match=r"vocab_size (is )?5"):
        train(model=model, vocab_size=5)


@pytest.mark.parametrize(
    "changes", [{"unk_token": "[PAD]"}, {"eos_token": "[UNK]"}, {"special_tokens": ("[X]", "[X]")}], ids=str
)
def test_a_special_token_named_twice(changes: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match="names a special token twice") as caught:
        train(**changes)
    assert "[PAD]" in str(caught.value)


def test_a_tokenizer_with_more_ids_than_the_encoder_has_rows() -> None:
    tokenizer = TextTokenizer(by_hand())
    check_tokenizer_fits(tokenizer, EncoderConfig(vocab_size=6), "here")
    check_tokenizer_fits(tokenizer, EncoderConfig(vocab_size=7), "here")
    with pytest.raises(TokenizerError, match="here has 6 ids, but the encoder's embedding table has 5 rows; use"):
        check_tokenizer_fits(tokenizer, EncoderConfig(vocab_size=5), "here")


def test_another_tokenizer_than_the_checkpoints() -> None:
    tokenizer, other = TextTokenizer(by_hand()), TextTokenizer(by_hand(template("[CLS] $A")))
    config = EncoderConfig(vocab_size=6, tokenizer_fingerprint=tokenizer.fingerprint)
    check_tokenizer_fits(tokenizer, config, "here")
    with pytest.raises(TokenizerError, match=r"leave tokenizer\.path out") as caught:
        check_tokenizer_fits(other, config, "here")
    assert tokenizer.fingerprint[:12] in str(caught.value)
    assert other.fingerprint[:12] in str(caught.value)
