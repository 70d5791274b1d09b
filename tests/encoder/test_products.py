"""Products of float32: PyTorch's and oneDNN's are the same to rounding, and the faster one is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from lengthwise.config import EncoderConfig
from lengthwise.encoder import products, stepwise
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.products import is_onednn_faster, make_product
from lengthwise.encoder.torch_engine import TorchEngine


@pytest.fixture(autouse=True)
def _measure_again() -> Iterator[None]:
    is_onednn_faster.cache_clear()
    yield
    is_onednn_faster.cache_clear()


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 7, 300])
def test_product_is_added(onednn: bool, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, operands = torch.rand(24, 13, generator=generator), torch.rand(rows, 13, generator=generator)
    sums = torch.rand(rows, 24, generator=generator)
    expected = sums.double() + operands.double() @ weight.double().t()
    make_product(weight, onednn=onednn)(sums, operands)
    torch.testing.assert_close(sums.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("milliseconds", "faster"), [((1.0, 1.0), False), ((1.3, 1.0), False), ((1.4, 1.0), True), ((1.0, 2.0), False)]
)
def test_onednn_is_taken_where_it_is_faster_by_a_margin(
    monkeypatch: pytest.MonkeyPatch, milliseconds: tuple[float, float], faster: bool
) -> None:
    calls = iter([*milliseconds] * 100)
    monkeypatch.setattr(products, "_seconds", lambda *_: next(calls) / 1000)
    threads = torch.get_num_threads()
    assert is_onednn_faster(16, 64) == faster
    assert torch.get_num_threads() == threads


def test_it_is_measured_once_per_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    right: Callable[..., float] = products._seconds

    def seconds(product: products.AddProduct, sums: torch.Tensor, rows: torch.Tensor) -> float:
        shapes.append((rows.shape[1], sums.shape[1]))
        return right(product, sums, rows)

    monkeypatch.setattr(products, "_seconds", seconds)
    for inputs in (8, 16, 8, 16):
        is_onednn_faster(inputs, 32)
    assert set(shapes) == {(8, 32), (16, 32)}
    assert len(shapes) == 2 * 2 * products._REPEATS


@pytest.mark.parametrize("onednn", [False, True])
def test_engine_says_which_product_it_takes(monkeypatch: pytest.MonkeyPatch, onednn: bool) -> None:
    monkeypatch.setattr(stepwise, "is_onednn_faster", lambda *_: onednn)
    config = EncoderConfig(vocab_size=9, embedding_dim=5, hidden_size=6, cell="gru", num_layers=2, bidirectional=True)
    encoder = seeded_encoder(config, 0)
    engine = TorchEngine(encoder)
    assert engine.name == "torch cpu unfused" + (" onednn" if onednn else "")
    ids, lengths = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2])
    with torch.inference_mode():
        expected = encoder(ids, lengths).numpy()
    np.testing.assert_allclose(engine.encode_batch(ids.numpy(), lengths.numpy()), expected, atol=1e-6, rtol=0)
