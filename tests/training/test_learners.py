"""What is learned from a batch: every row counts alike, and the same text is no negative of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from helpers.students import make_texts
from lengthwise.config import EncoderConfig, TokenizationSettings
from lengthwise.encoder.model import seeded_encoder
from lengthwise.errors import ConfigError
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.train_config import SourceSettings, TrainSettings
from lengthwise.training.batches import BatchRunner
from lengthwise.training.examples import Rows, make_examples
from lengthwise.training.learners import PairLearner, TextLearner
from lengthwise.training.losses import cosine_loss

TEXTS = make_texts(60)


@pytest.fixture
def runner(encoder_config: Callable[..., EncoderConfig]) -> BatchRunner:
    return BatchRunner(seeded_encoder(encoder_config(), 0), 30, "fp32")


def vectors(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)[rows]


def pairs(
    tokenizer: TextTokenizer, *sides: Sequence[str], held_out: int = 0, group: int = 4, **settings: bool
) -> PairLearner:
    columns = ("n",) * (len(sides) - 2)
    source = SourceSettings(kind="pairs", group=group, window=None, negative_columns=columns, **settings)
    rows = Rows("0: pairs", source, tuple(list(side) for side in sides))
    examples = make_examples(rows, None, tokenizer, TokenizationSettings(), held_out=held_out, seed=0)
    return PairLearner(examples, 0, TrainSettings())


def next_loss(learner: TextLearner | PairLearner, runner: BatchRunner, parts: int = 2) -> float:
    return sum(float(learner.loss(runner, rows)) for rows in learner.next_parts(parts))


@pytest.mark.parametrize("parts", [1, 2, 50])
def test_rows_of_an_epoch_have_the_same_weight(tokenizer: TextTokenizer, runner: BatchRunner, parts: int) -> None:
    """The sum over an epoch's batches is that of all rows' losses, times the number of batches per row."""
    rows = Rows("0: teacher", SourceSettings(kind="teacher"), (TEXTS,))
    examples = make_examples(rows, vectors, tokenizer, TokenizationSettings(), held_out=0, seed=0)
    learner = TextLearner(examples, 0, 6, TrainSettings(max_tokens=30), runner)
    with torch.no_grad():
        batches = [next_loss(learner, runner, parts) for _ in range(learner.sampler.batches)]
        every = cosine_loss(runner.group(examples.sides[0], np.arange(60)), torch.from_numpy(vectors(np.arange(60))))
    assert len(set(map(len, map(str.split, TEXTS)))) > 3
    assert np.mean(batches) == pytest.approx(float(every), abs=1e-5)


@pytest.mark.parametrize(("of_source", "limit"), [(None, 30), (90, 90), (10, 10)])
def test_a_source_may_have_batches_of_another_size(
    tokenizer: TextTokenizer, runner: BatchRunner, of_source: int | None, limit: int
) -> None:
    rows = Rows("0: teacher", SourceSettings(kind="teacher", max_tokens=of_source), (TEXTS,))
    examples = make_examples(rows, vectors, tokenizer, TokenizationSettings(), held_out=0, seed=0)
    learner = TextLearner(examples, 0, 6, TrainSettings(max_tokens=30), runner)
    batches = [learner.next_parts(1)[0] for _ in range(learner.sampler.batches)]
    lengths = examples.sides[0].lengths
    cells = [len(batch) * int(lengths[batch].max()) for batch in batches]
    assert limit / 2 < max(cells) <= limit
    assert sorted(np.concatenate(batches).tolist()) == list(range(60))


def test_validation_is_the_mean_over_the_held_out_rows(tokenizer: TextTokenizer, runner: BatchRunner) -> None:
    rows = Rows("0: teacher", SourceSettings(kind="teacher"), (TEXTS,))
    examples = make_examples(rows, vectors, tokenizer, TokenizationSettings(), held_out=6, seed=0)
    learner = TextLearner(examples, 0, 6, TrainSettings(max_tokens=30), runner)
    with torch.no_grad():
        found = runner.group(examples.sides[0], examples.held_out)
        expected = cosine_loss(found, torch.from_numpy(vectors(examples.held_out)))
        assert learner.validation_loss(runner) == pytest.approx(float(expected), abs=1e-6)


def test_text_that_is_a_partner_of_its_anchor_is_no_negative(tokenizer: TextTokenizer, runner: BatchRunner) -> None:
    """Every pair is the same pair, so that nothing is left to tell apart."""
    learner = pairs(tokenizer, ["the cat"] * 4, ["the dog"] * 4)
    with torch.no_grad():
        assert next_loss(learner, runner) == pytest.approx(0, abs=1e-6)


def test_hard_negatives_count_where_there_are_any(tokenizer: TextTokenizer, runner: BatchRunner) -> None:
    anchors, positives = TEXTS[:4], TEXTS[4:8]
    with torch.no_grad():
        plain = next_loss(pairs(tokenizer, anchors, positives), runner)
        without = next_loss(pairs(tokenizer, anchors, positives, [""] * 4), runner)
        some = next_loss(pairs(tokenizer, anchors, positives, ["moon", "", "", "sea"]), runner)
    assert without == pytest.approx(plain, abs=1e-6)
    assert some > plain


def test_pairs_can_be_compared_with_their_own_negatives_alone(tokenizer: TextTokenizer, runner: BatchRunner) -> None:
    sides = TEXTS[:4], TEXTS[4:8], ["moon", "", "a cat", "sea"]
    with torch.no_grad():
        found = next_loss(pairs(tokenizer, *sides, in_batch_negatives=False), runner)
        triplets = next_loss(pairs(tokenizer, *sides, in_batch_negatives=False, loss="triplet", margin=0.5), runner)
        anchors, positives, negatives = (
            runner.group(
                tokenize_texts([side[row] for row in (0, 2, 3)], tokenizer, TokenizationSettings()), np.arange(3)
            )
            for side in sides
        )
    gaps = functional.cosine_similarity(anchors, negatives) - functional.cosine_similarity(anchors, positives)
    assert found == pytest.approx(float(functional.softplus(gaps / 0.05).sum()) / 4, abs=1e-5)
    assert triplets == pytest.approx(float(functional.relu(gaps + 0.5).sum()) / 4, abs=1e-5)


def test_each_distinct_text_is_run_once(tokenizer: TextTokenizer, runner: BatchRunner) -> None:
    learner = pairs(tokenizer, ["the cat", "moon", "the cat", "moon"], ["moon", "the cat", "rain fell", "a dog"])
    with torch.no_grad():
        next_loss(learner, runner)
    assert runner.tokens == 2 + 1 + 2 + 2


def test_held_out_pairs_are_measured_in_the_same_groups(tokenizer: TextTokenizer, runner: BatchRunner) -> None:
    learner = pairs(tokenizer, TEXTS, TEXTS[::-1], held_out=6)
    with torch.no_grad():
        first = learner.validation_loss(runner)
        next_loss(learner, runner)
        assert first == learner.validation_loss(runner)
    assert first is not None
    assert first > 0


def test_single_pair_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ConfigError, match=r"train\.sources\.0: pairs has 1 pairs; a contrastive loss compares two"):
        pairs(tokenizer, ["the cat"], ["the dog"])
