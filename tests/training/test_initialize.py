"""The embedding that training begins with: principal components of the teacher's, weighted by frequency."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.students import make_texts
from lengthwise.config import EncoderSettings, TokenizationSettings, TokenizerTraining
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import ConfigError
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer
from lengthwise.train_config import InitSettings
from lengthwise.training.initialize import initialize_embedding, new_encoder, principal_components
from lengthwise.training.vocabulary import count_tokens


def student(tokenizer: TextTokenizer, width: int = 6) -> PackedEncoder:
    shape = EncoderSettings(embedding_dim=width, hidden_size=4)
    return new_encoder(shape, tokenizer, TokenizationSettings(), 0, ("[PAD]", "[UNK]"))


def test_components_keep_the_distances_that_fit() -> None:
    draw = np.random.default_rng(0)
    low = draw.normal(size=(200, 4)) * [5, 3, 2, 1]
    turn, _ = np.linalg.qr(draw.normal(size=(16, 16)))
    table = np.hstack([low - low.mean(axis=0), np.zeros((200, 12))]) @ turn
    components = principal_components(table, np.full(200, 1 / 200), 4)
    np.testing.assert_allclose(components.T @ components, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(table @ components @ components.T, table, atol=1e-9)
    assert (np.diff((table @ components).var(axis=0)) < 0).all()


def test_frequent_rows_count_as_much_as_all_rows() -> None:
    """One direction has many rows, another one frequent row."""
    table = np.zeros((101, 3))
    table[:100, 0], table[100, 1] = np.resize([1, -1], 100), 3
    shares = np.r_[np.full(100, 0.001), 0.9]
    assert abs(principal_components(table, shares, 1)[1, 0]) == pytest.approx(1)
    assert abs(principal_components(table, shares[::-1], 1)[0, 0]) == pytest.approx(1)


def rows_of(tokenizer: TextTokenizer) -> dict[str, int]:
    return {str(tokenizer.token(number)): number for number in range(tokenizer.vocab_size)}


def initialized(tokenizer: TextTokenizer, table: np.ndarray, **changes: Any) -> tuple[PackedEncoder, np.ndarray]:
    """A student, and the share of each token in its texts."""
    encoder, counts = student(tokenizer), count_tokens([tokenize_texts(make_texts(300), tokenizer)], len(table))
    settings = InitSettings.model_validate(changes)
    assert initialize_embedding(encoder, tokenizer, rows_of(tokenizer), table, counts, settings, is_output=True) == len(
        table
    )
    return encoder, (counts + 1) / (counts.sum() + len(counts))


@pytest.fixture
def table(tokenizer: TextTokenizer) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(tokenizer.vocab_size, 8)).astype(np.float32)


def test_frequent_tokens_are_weighted_down(tokenizer: TextTokenizer, table: np.ndarray) -> None:
    plain, shares = initialized(tokenizer, table, frequency_weight=None)
    weighted, _ = initialized(tokenizer, table, frequency_weight=0.01)
    ratio = (weighted.embedding.weight / plain.embedding.weight).detach().numpy()
    expected = 0.01 / (0.01 + shares)
    np.testing.assert_allclose(ratio / ratio[0, 0], np.repeat(expected[:, None] / expected[0], 6, 1), rtol=1e-4)


def test_scale_is_the_one_that_is_set(tokenizer: TextTokenizer, table: np.ndarray) -> None:
    encoder, _ = initialized(tokenizer, table, embedding_scale=0.25)
    assert float(encoder.embedding.weight.detach().square().mean().sqrt()) == pytest.approx(0.25, rel=0.01)


def test_token_that_the_teacher_lacks_keeps_a_random_embedding_of_that_scale(tokenizer: TextTokenizer) -> None:
    other = train_tokenizer(["the cat sat"], TokenizerTraining(model="wordlevel", min_frequency=1))
    vectors = np.random.default_rng(0).normal(size=(other.vocab_size, 8)).astype(np.float32)
    encoder, counts = student(tokenizer), np.ones(tokenizer.vocab_size, np.int64)
    before = encoder.embedding.weight.detach().clone()
    common = initialize_embedding(encoder, tokenizer, rows_of(other), vectors, counts, InitSettings(), is_output=True)
    assert common == 5
    kept = (encoder.embedding.weight == 0.3 * before).all(1)
    assert int(kept.sum()) == tokenizer.vocab_size - 5
    assert not kept[tokenizer.token_id("cat")]


def test_wider_embedding_than_the_teachers_is_refused(tokenizer: TextTokenizer, table: np.ndarray) -> None:
    counts = np.ones(tokenizer.vocab_size, np.int64)
    with pytest.raises(ConfigError, match=r"embedding_dim is 9, but the teacher's vectors of tokens have 8 values"):
        initialize_embedding(student(tokenizer, 9), tokenizer, tokenizer, table, counts, InitSettings(), is_output=True)


def test_weights_depend_on_the_seed_alone(tokenizer: TextTokenizer) -> None:
    one, other = student(tokenizer), student(tokenizer)
    assert all((one.state_dict()[name] == other.state_dict()[name]).all() for name in one.state_dict())
    assert one.config.pad_token_id == 0
    assert one.config.unk_token_id == 1
