"""Loading tokenizers: each is identified and used correctly, independent of the settings it was saved with."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import PreTokenizedString, Regex, Tokenizer, models, pre_tokenizers, processors

from helpers.tokenizer_parts import ABSTRACT, KINDS, assemble
from helpers.training import TEXTS, library, token_ids, train
from lengthwise.config import EncoderConfig, TokenizerModel
from lengthwise.errors import TokenizerError
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer, _special_affixes, check_tokenizer_fits, load_tokenizer

MODELS = get_args(TokenizerModel)
PARTS = [(kind, name) for kind, (_, recipes) in KINDS.items() for name in recipes]
LINE = "the cat sat on a mat rain thethe CAT Été 12,5 a\tb naïve \ufb01n 東京 [CLS] [PAD] ... \u200d \U0001f600"
WORDS = [*LINE.split(" "), ""]
MANY = [" ".join(random.Random(row).choices(WORDS, k=row % 9)) for row in range(200)] * 5
VOCAB = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5}


def build(post_processor: Any = None, vocab: dict[str, int] = VOCAB) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    return tokenizer


def template(single: str) -> processors.TemplateProcessing:
    named = [(token, VOCAB[token]) for token in ("[UNK]", "[CLS]", "[SEP]") if token in single]
    return processors.TemplateProcessing(single=single, special_tokens=named)


@pytest.mark.parametrize("model", MODELS)
def test_saved_tokenizer_loads_as_the_same_tokenizer(tmp_path: Path, model: str) -> None:
    tokenizer = train(model=model, eos_token="</s>")
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    for path in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        loaded = load_tokenizer(path)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.suffix == tokenizer.suffix
        assert token_ids(loaded, TEXTS[0]) == token_ids(tokenizer, TEXTS[0])


@pytest.mark.parametrize("model", MODELS)
def test_saved_padding_and_truncation_are_disabled(tmp_path: Path, model: str) -> None:
    tokenizer = train(model=model)
    saved = library(tokenizer)
    saved.enable_padding(length=128)
    saved.enable_truncation(3)
    path = tmp_path / "tokenizer.json"
    saved.save(str(path), pretty=False)
    assert len(saved.encode(TEXTS[0]).ids) == 128
    loaded = load_tokenizer(path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert token_ids(loaded, TEXTS[0]) == token_ids(tokenizer, TEXTS[0])
    assert '"padding": null' in loaded.to_json()
    assert '"truncation": null' in loaded.to_json()
    assert saved.padding is not None  # the caller's own tokenizer is unchanged


def test_different_tokenizers_have_different_fingerprints() -> None:
    tokenizers = [
        build(),
        build(template("[CLS] $A")),
        build(vocab={**VOCAB, "c": 6}),
        build(vocab={**VOCAB, "a": 5, "b": 4}),
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
def test_special_tokens_are_found_as_prefix_and_suffix(
    post_processor: Any, prefix: tuple[int, ...], suffix: tuple[int, ...]
) -> None:
    tokenizer = TextTokenizer(build(post_processor))
    assert (tokenizer.prefix, tokenizer.suffix) == (prefix, suffix)


def test_special_token_equal_to_the_probe_text_is_found() -> None:
    without_a = {token: number for token, number in VOCAB.items() if number < 4}
    prefixed = TextTokenizer(build(template("[UNK] $A"), without_a))
    suffixed = TextTokenizer(build(template("$A [UNK]"), without_a))
    assert (prefixed.prefix, prefixed.suffix) == ((1,), ())
    assert (suffixed.prefix, suffixed.suffix) == ((), (1,))


def test_probe_text_that_the_library_cannot_encode_is_skipped() -> None:
    """Without a token for it, or by a panic; what is no error of the library is raised."""
    library = build(vocab={"a" * 40 + "b": 0, "z": 1})
    library.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")  # exponential: the library gives up
    assert token_ids(TextTokenizer(library), "z") == [1]

    class Exhausted:
        def get_vocab(self, **_: bool) -> dict[str, int]:
            return {"z": 0}

        def encode(self, *_: Any, **__: Any) -> Any:
            raise MemoryError

    with pytest.raises(MemoryError):
        _special_affixes(Exhausted())  # type: ignore[arg-type]


def test_template_other_than_prefix_and_suffix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    build(template("[CLS] $A [SEP] $A")).save(str(path))
    with pytest.raises(TokenizerError, match="only special tokens before and after a text are supported") as caught:
        load_tokenizer(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_tokenizer_is_refused(tmp_path: Path) -> None:
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
def test_json_of_something_else_is_refused(tmp_path: Path, contents: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(contents)
    with pytest.raises(TokenizerError, match=r"not a tokenizer\.json that can be read") as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            '{"model": {"type": "BPE", "vocab": {"a": 2147483648}, "merges": []}}',
            "has the id 2147483648; ids run from 0",
        ),
        ('{"added_tokens": [{"id": 99999999, "content": "a"}], "model": {}}', "has the id 99999999"),
        ("[" * 100_000, "nested too deep|not a tokenizer"),
    ],
)
def test_harmful_json_is_refused(tmp_path: Path, contents: str, message: str) -> None:
    """The library would iterate up to the largest id, for minutes."""
    (tmp_path / "tokenizer.json").write_text(contents)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_huge_id_of_a_special_token_is_refused() -> None:
    tokenizer = build()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 2**31)])
    with pytest.raises(TokenizerError, match="has the id 2147483648"):
        TextTokenizer(tokenizer)


@pytest.mark.parametrize("nested", [False, True])
def test_character_map_of_a_false_size_is_refused(tmp_path: Path, nested: bool) -> None:
    """The library would allocate 8 GB, and abort the process where there is less."""
    tree = json.loads(build().to_str())
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    tree["normalizer"] = {"type": "Sequence", "normalizers": [normalizer]} if nested else normalizer
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(TokenizerError, match=r"json: its precompiled_charsmap claims 4294967295 bytes, but has"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_tokenizer_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(path)


def test_vocab_size_includes_added_tokens() -> None:
    tokenizer = build()
    tokenizer.add_tokens(["zebra"])
    assert TextTokenizer(tokenizer).vocab_size == 7
    assert TextTokenizer(build(vocab={"[UNK]": 0, "a": 40})).vocab_size == 41


def test_vocab_size_includes_special_tokens() -> None:
    tokenizer = build()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 70)])
    assert TextTokenizer(tokenizer).vocab_size == 71


def test_unknown_word_without_an_unknown_token_is_explained() -> None:
    tokenizer = TextTokenizer(build(vocab={"a": 0}))
    assert token_ids(tokenizer, "a a") == [0, 0]
    with pytest.raises(TokenizerError, match="cannot encode these texts"):
        token_ids(tokenizer, "a c")


def test_library_panic_is_explained() -> None:
    library = build()
    library.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")  # exponential: the library gives up
    tokenizer = TextTokenizer(library)
    with pytest.raises(TokenizerError, match=r"cannot encode these texts \(Onig: Regex search error: retry-limit"):
        tokenizer.encode_batch(["b", "a" * 40 + "b"])
    assert token_ids(tokenizer, "b") == [5]


def test_tokenizer_with_more_ids_than_embeddings_is_refused() -> None:
    tokenizer = TextTokenizer(build())
    check_tokenizer_fits(tokenizer, EncoderConfig(vocab_size=6), "here")
    check_tokenizer_fits(tokenizer, EncoderConfig(vocab_size=7), "here")
    with pytest.raises(TokenizerError, match="here has 6 ids, but the encoder's embedding table has 5 rows; use"):
        check_tokenizer_fits(tokenizer, EncoderConfig(vocab_size=5), "here")


def test_tokenizer_of_another_fingerprint_is_refused() -> None:
    tokenizer, other = TextTokenizer(build()), TextTokenizer(build(template("[CLS] $A")))
    config = EncoderConfig(vocab_size=6, tokenizer_fingerprint=tokenizer.fingerprint)
    check_tokenizer_fits(tokenizer, config, "here")
    with pytest.raises(TokenizerError, match=r"leave tokenizer\.path out") as caught:
        check_tokenizer_fits(other, config, "here")
    assert tokenizer.fingerprint[:12] in str(caught.value)
    assert other.fingerprint[:12] in str(caught.value)


def ids_of(tokenizer: TextTokenizer, texts: list[str]) -> list[list[int]]:
    tokens = tokenize_texts(texts, tokenizer)
    return [row.tolist() for row in np.split(tokens.values, tokens.offsets[1:-1])] if texts else []


def check_encodes_the_same(parts: dict[str, Any], texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer whose sampling is on gives, however it is called, the ids of the one whose sampling is off."""
    reference = assemble(**parts, sampled=False)
    expected = {text: reference.encode(text).ids for text in texts}
    tokenizer = TextTokenizer(assemble(**parts))
    for parallelism in ("true", "false"):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallelism)
        for _ in range(2):
            assert ids_of(tokenizer, texts) == [expected[text] for text in texts]
    backwards = TextTokenizer(assemble(**parts))  # its cache fills in another order
    for text in reversed([*expected]):
        assert ids_of(backwards, [text]) == [expected[text]]
    assert backwards.fingerprint == tokenizer.fingerprint == TextTokenizer(reference).fingerprint
    assert Tokenizer.from_str(tokenizer.to_json()).encode_batch(texts)[-1].ids == expected[texts[-1]]


def test_every_part_of_the_library_is_tested() -> None:
    for module, recipes in KINDS.values():
        classes = {name for name, value in vars(module).items() if isinstance(value, type)}
        assert recipes.keys() == classes - ABSTRACT


def test_sampling_changes_ids_in_the_library_itself() -> None:
    for model in ("BPE", "Unigram"):
        sampled = assemble(model=model)
        assert len({tuple(sampled.encode("the cat on the mat").ids) for _ in range(50)}) > 1


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_encoding_is_the_same_each_time_with_every_part(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind each model that has a sampling; parts together with the other models are in the property below."""
    for model in ("BPE", "Unigram") if kind != "model" else (name,):
        check_encodes_the_same({"model": model, kind: name}, MANY[: 1_000 if kind == "model" else 50], monkeypatch)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.fixed_dictionaries({kind: st.sampled_from([*recipes]) for kind, (_, recipes) in KINDS.items()}),
    texts=st.lists(st.text(max_size=20) | st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), min_size=1),
)
def test_encoding_is_the_same_each_time_with_any_parts_together(
    parts: dict[str, str], texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_encodes_the_same(parts, texts, monkeypatch)


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_dropout_is_disabled_and_not_saved(tmp_path: Path, dropout: float) -> None:
    path = tmp_path / "tokenizer.json"
    tree = json.loads(assemble(sampled=False).to_str())
    tree["model"]["dropout"] = dropout
    path.write_text(json.dumps(tree))
    loaded = load_tokenizer(path)
    assert loaded.fingerprint == TextTokenizer(assemble(sampled=False)).fingerprint
    assert json.loads(loaded.to_json())["model"]["dropout"] is None


def test_checkpoint_that_records_a_tokenizer_with_dropout_is_accepted() -> None:
    """Versions that did not disable dropout recorded the fingerprint of the whole file."""
    with_dropout = TextTokenizer(assemble())
    old = EncoderConfig(vocab_size=100, tokenizer_fingerprint=with_dropout.fingerprint_with_sampling)
    assert old.tokenizer_fingerprint != with_dropout.fingerprint
    check_tokenizer_fits(with_dropout, old, "here")
    with pytest.raises(TokenizerError, match="has fingerprint"):
        check_tokenizer_fits(TextTokenizer(assemble(model="WordPiece")), old, "here")


class _PythonPreTokenizer:
    def pre_tokenize(self, text: PreTokenizedString) -> None:
        """Leave the text in one piece."""


def test_tokenizer_that_no_file_can_hold_is_refused() -> None:
    in_python = assemble()
    in_python.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(_PythonPreTokenizer())
    with pytest.raises(TokenizerError, match=r"cannot be saved to a tokenizer\.json .*not ones written in Python"):
        TextTokenizer(in_python)
    special_as_text = assemble()
    special_as_text.encode_special_tokens = True
    with pytest.raises(TokenizerError, match=r"encode_special_tokens = True, .*set it to False"):
        TextTokenizer(special_as_text)
