"""Gradients of a step: those of the summed losses, however many threads compute them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.students import make_texts
from lengthwise.config import EncoderConfig, TokenizationSettings
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.train_config import SourceSettings, TrainSettings
from lengthwise.training.batches import BatchRunner
from lengthwise.training.examples import Rows, make_examples
from lengthwise.training.gradients import StepGradients, prepare_thread
from lengthwise.training.learners import Learner, PairLearner, TextLearner

TEXTS, OTHERS = make_texts(60), make_texts(60, seed=1)
SETTINGS = TrainSettings(max_tokens=30)
SCALE = 0.5


@pytest.fixture
def encoder(encoder_config: Callable[..., EncoderConfig]) -> PackedEncoder:
    return seeded_encoder(encoder_config(bidirectional=True), 0)


def make_learners(runner: BatchRunner, tokenizer: TextTokenizer) -> list[Learner]:
    vectors = np.random.default_rng(0).normal(size=(60, runner.encoder.config.dim)).astype(np.float32)
    of_texts = Rows("0: teacher", SourceSettings(kind="teacher"), (TEXTS,))
    of_pairs = Rows("1: pairs", SourceSettings(kind="pairs", group=24, weight=3.0), (TEXTS, OTHERS))
    texts, pairs = (
        make_examples(rows, targets, tokenizer, TokenizationSettings(), held_out=0, seed=0)
        for rows, targets in ((of_texts, lambda chosen: vectors[chosen]), (of_pairs, None))
    )
    return [
        PairLearner(pairs, 1, SETTINGS),
        TextLearner(texts, 0, runner.encoder.config.dim, SETTINGS, runner),
    ]


def summed(runner: BatchRunner, tokenizer: TextTokenizer, threads: int) -> tuple[list[float], dict[str, Tensor], int]:
    """The losses of two steps, their gradients, and how many tokens were run."""
    runner.encoder.zero_grad()
    learners, began, losses = make_learners(runner, tokenizer), runner.tokens, []
    with ThreadPoolExecutor(threads, initializer=prepare_thread) as pool:
        gradients = StepGradients(runner, runner.encoder.parameters(), pool, threads)
        for _ in range(2):
            losses += gradients.add(learners, SCALE)
    found = {name: weight.grad.to_dense() for name, weight in runner.encoder.named_parameters()}  # type: ignore[union-attr]
    return losses, found, runner.tokens - began


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_gradients_are_those_of_the_summed_losses(
    encoder: PackedEncoder, tokenizer: TextTokenizer, threads: int
) -> None:
    runner = BatchRunner(encoder, SETTINGS.max_tokens, "fp32")
    losses, gradients, tokens = summed(runner, tokenizer, threads)
    encoder.zero_grad()
    learners, began, expected = make_learners(runner, tokenizer), runner.tokens, []
    for _ in range(2):
        for learner in learners:
            loss = learner.loss(runner, learner.next_parts(1)[0])
            (loss * learner.weight * SCALE).backward()
            expected.append(float(loss.detach()))
    assert runner.tokens - began == tokens
    assert losses == pytest.approx(expected, abs=1e-5)
    for name, weight in encoder.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad.to_dense(), atol=1e-5, rtol=1e-4)  # type: ignore[union-attr]


def test_the_same_threads_give_the_same_bytes(encoder: PackedEncoder, tokenizer: TextTokenizer) -> None:
    runner = BatchRunner(encoder, SETTINGS.max_tokens, "fp32")
    first, *others = (summed(runner, tokenizer, 3) for _ in range(5))
    for losses, gradients, _ in others:
        assert losses == first[0]
        for name, gradient in gradients.items():
            assert torch.equal(gradient, first[1][name])
