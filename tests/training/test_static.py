"""The static path learns vectors that are sums of words, alone, and the same ones each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers.students import WORDS, make_texts
from lengthwise.config import EncoderConfig, TokenizationSettings
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.errors import RunError
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.train_config import SourceSettings, TrainSettings
from lengthwise.training.batches import BatchRunner
from lengthwise.training.examples import Examples, Rows, make_examples
from lengthwise.training.learners import PairLearner
from lengthwise.training.static import train_static_path

DIM = 6
DIRECTIONS = dict(zip(WORDS, np.random.default_rng(0).normal(size=(len(WORDS), DIM)), strict=True))


def source(tokenizer: TextTokenizer, seed: int = 0, scale: float = 1.0, **settings: Any) -> Examples:
    """Texts whose vectors are the mean of their words' directions."""
    texts = make_texts(120, seed=seed)
    vectors = np.array([scale * np.mean([DIRECTIONS[word] for word in text.split()], axis=0) for text in texts])
    rows = Rows("0: teacher", SourceSettings(kind="teacher", **settings), (texts,))
    return make_examples(rows, lambda chosen: vectors[chosen], tokenizer, TokenizationSettings(), held_out=12, seed=0)


def pairs(tokenizer: TextTokenizer, *, own: bool = False, **settings: Any) -> Examples:
    """Texts with the same words in another order; with `own`, and another text as the only negative."""
    texts = make_texts(120, seed=2)
    sides = [texts, [" ".join(reversed(text.split())) for text in texts]]
    if own:
        sides.append([*texts[1:], texts[0]])
        settings |= {"negative_columns": ["negative"], "in_batch_negatives": False}
    rows = Rows("1: pairs", SourceSettings(kind="pairs", **settings), tuple(sides))
    return make_examples(rows, None, tokenizer, TokenizationSettings(), held_out=12, seed=0)


def settings(**changes: Any) -> TrainSettings:
    stage = {"epochs": 40, "batch_size": 16, "learning_rate": 0.05, "embedding_learning_rate": 0.05}
    return TrainSettings.model_validate({"static": {**stage, **changes.pop("static", {})}, **changes})


@pytest.fixture
def encoder(encoder_config: Callable[..., EncoderConfig]) -> PackedEncoder:
    return seeded_encoder(encoder_config(static_residual=True, projection_dim=DIM), 0)


def weights(encoder: PackedEncoder) -> dict[str, NDArray[np.float32]]:
    return {name: weight.detach().numpy().copy() for name, weight in encoder.named_parameters()}


@pytest.mark.parametrize("normalize", [False, True])
def test_vectors_that_words_add_up_to_are_learned_without_the_lstm(
    tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig], normalize: bool
) -> None:
    config = encoder_config(static_residual=True, projection_dim=DIM, normalize=normalize)
    encoder, examples = seeded_encoder(config, 0), source(tokenizer)
    before = weights(encoder)
    loss = train_static_path(encoder, [examples, source(tokenizer, seed=1)], settings())
    assert loss is not None
    assert loss < 0.02
    changed = {name for name, weight in weights(encoder).items() if not np.array_equal(weight, before[name])}
    assert changed == {"embedding.weight", "static_projection.weight", "projection.bias"}
    with torch.no_grad():
        encoder.projection.weight.zero_()  # type: ignore[union-attr]
        vectors = BatchRunner(encoder, 64, "fp32").group(examples.sides[0], examples.held_out).numpy()
    targets = examples.targets(examples.held_out)  # type: ignore[misc]
    cosines = (vectors * targets).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(targets, axis=1)
    assert cosines.min() > 0.95


def synonyms(tokenizer: TextTokenizer, **settings: Any) -> Examples:
    """Pairs of single words: each with the next one."""
    rows = Rows("1: pairs", SourceSettings(kind="pairs", **settings), (list(WORDS[::2]), list(WORDS[1::2])))
    return make_examples(rows, None, tokenizer, TokenizationSettings(), held_out=0, seed=0)


def test_pairs_are_learned_too(tokenizer: TextTokenizer, encoder: PackedEncoder) -> None:
    initial = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    margins = {}
    for weight in (1e-9, 1.0):
        encoder.load_state_dict(initial)
        examples = synonyms(tokenizer, weight=weight)
        train_static_path(encoder, [source(tokenizer), examples], settings())
        with torch.no_grad():
            encoder.projection.weight.zero_()  # type: ignore[union-attr]
            runner = BatchRunner(encoder, 64, "fp32")
            first, second = (
                torch.nn.functional.normalize(runner.group(side, np.arange(len(side)))) for side in examples.sides
            )
        scores = first @ second.T
        margins[weight] = float(scores.diag().mean() - scores.mean())
    assert margins[1.0] > margins[1e-9] + 0.2


def test_sources_count_by_their_weights(tokenizer: TextTokenizer, encoder: PackedEncoder) -> None:
    initial = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    losses = []
    for weight in (1e-9, 1.0, 1e9):
        encoder.load_state_dict(initial)
        opposed = source(tokenizer, scale=-1.0, weight=weight)
        train_static_path(encoder, [source(tokenizer), opposed], settings(static={"epochs": 10}))
        with torch.no_grad():
            encoder.projection.weight.zero_()  # type: ignore[union-attr]
            vectors = BatchRunner(encoder, 64, "fp32").group(opposed.sides[0], opposed.train)
        targets = torch.from_numpy(opposed.targets(opposed.train))  # type: ignore[misc]
        losses.append(float(1 - torch.nn.functional.cosine_similarity(vectors, targets).mean()))
    assert losses[0] > losses[1] + 0.5 > losses[2] + 1


def test_pairs_that_differ_in_order_alone_are_left_to_the_lstm(
    tokenizer: TextTokenizer, encoder: PackedEncoder
) -> None:
    initial = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    found = []
    for others in ([], [pairs(tokenizer, own=True)]):
        encoder.load_state_dict(initial)
        train_static_path(encoder, [source(tokenizer), *others], settings(static={"epochs": 2}))
        found.append(weights(encoder)["embedding.weight"])
    np.testing.assert_array_equal(*found)


def test_pairs_are_in_every_step_and_count_by_weight_and_share(
    tokenizer: TextTokenizer, encoder: PackedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = []
    learn = PairLearner.loss

    def counted(self: PairLearner, runner: Any, rows: NDArray[np.int64]) -> torch.Tensor:
        groups.append(len(rows))
        return learn(self, runner, rows)

    monkeypatch.setattr(PairLearner, "loss", counted)
    initial, found = {name: weight.clone() for name, weight in encoder.state_dict().items()}, []
    for shares in ({"weight": 0.75, "share": 1.0}, {"weight": 3.0, "share": 0.25}):
        encoder.load_state_dict(initial)
        train_static_path(encoder, [source(tokenizer), pairs(tokenizer, **shares)], settings(static={"epochs": 4}))
        found.append(weights(encoder)["embedding.weight"])
    assert groups == [16] * (2 * 4 * (108 // 16))
    np.testing.assert_array_equal(*found)


def test_lengths_count_where_the_loss_is_mse(tokenizer: TextTokenizer, encoder: PackedEncoder) -> None:
    sources = [source(tokenizer, scale=3.0, loss="mse"), source(tokenizer, seed=1, scale=3.0)]
    loss = train_static_path(encoder, sources, settings())
    assert loss is not None
    assert loss < 0.1


def test_the_seed_decides(tokenizer: TextTokenizer, encoder: PackedEncoder) -> None:
    initial = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    found = []
    for seed in (0, 0, 1):
        encoder.load_state_dict(initial)
        train_static_path(encoder, [source(tokenizer)], settings(seed=seed, static={"epochs": 2.5}))
        found.append(weights(encoder)["embedding.weight"])
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("changes", [{"static": {"epochs": 0}}, {"embedding_learning_rate": 0}])
def test_nothing_is_learned_where_that_is_asked(
    tokenizer: TextTokenizer, encoder: PackedEncoder, changes: dict[str, Any]
) -> None:
    before = weights(encoder)
    assert train_static_path(encoder, [source(tokenizer)], settings(**changes)) is None
    assert all(np.array_equal(weight, before[name]) for name, weight in weights(encoder).items())


def test_an_encoder_without_a_static_residual_is_left_as_it_is(
    tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = seeded_encoder(encoder_config(projection_dim=DIM), 0)
    assert train_static_path(encoder, [source(tokenizer)], settings()) is None


def test_divergence_names_the_setting(tokenizer: TextTokenizer, encoder: PackedEncoder) -> None:
    examples = source(tokenizer, loss="mse", scale=1e30)
    with pytest.raises(RunError, match=r"step 1 of the static path.*lower train\.static\.learning_rate"):
        train_static_path(encoder, [examples], settings())
