"""Units that are added to layers: nets of other shapes, a bias per token, attention that leaves out padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lengthwise.errors import LengthwiseError
from lengthwise.formats.importing import ImportedModel, import_model
from lengthwise.formats.mapping import Mapping
from lengthwise.util.settings import parse_settings

WORDS = ["<pad>", *"abcdefgh"]
TOKENS = {"tokens": WORDS, "unit": "characters", "unknown": None, "padding": "<pad>"}
ROWS = [[1], [3, 2], [5, 8, 1, 1, 7, 2, 4]]


def imported(parts: dict[str, nn.Module], path: Path, **mapping: Any) -> ImportedModel:
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    torch.save(state, path)
    return import_model(path, parse_settings(Mapping, {"tokens": TOKENS, **mapping}, "mapping"))


def ours(model: ImportedModel, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        vector = model.encoder(torch.tensor([ids]), torch.tensor([len(ids)]))
        return (vector if model.encoder.classifier is None else model.encoder.classifier(vector))[0].numpy()


def names(prefix: str, suffix: str) -> dict[str, str]:
    return {part: f"{prefix}.{part}_l0{suffix}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_layers_of_other_sizes_and_directions(kind: type[nn.LSTM | nn.GRU], tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = {"emb": nn.Embedding(9, 5), "a": kind(5, 3, bidirectional=True), "b": kind(6, 4), "c": kind(4, 2)}
    layers = [{"forward": names("a", ""), "reverse": names("a", "_reverse")}, {"forward": names("b", "")}]
    layers.append({"forward": names("c", "")})
    for pooling in ("max", "mean_last"):
        model = imported(parts, tmp_path / "w.pt", embedding="emb", layers=layers, pooling=pooling)
        assert model.encoder.config.hidden_size == 4
        for ids in ROWS:
            with torch.no_grad():
                states = parts["emb"](torch.tensor(ids))
                for name in "abc":
                    states = parts[name](states)[0]
                wanted = states.amax(0) if pooling == "max" else torch.cat([states.mean(0), states[-1]])
            np.testing.assert_allclose(ours(model, ids), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_bias_per_token(layers: int, both: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    lstm = nn.LSTM(5, 3, layers, bidirectional=both)
    parts: dict[str, nn.Module] = {"emb": nn.Embedding(9, 5), "lstm": lstm, "fc": nn.Linear(6 if both else 3, 2)}
    classifier = {"layer": "fc", "labels": ["x", "y"], "per_token": True}
    model = imported(parts, tmp_path / "w.pt", pooling="sum", classifier=classifier)
    for ids in [*ROWS, [1, 2, 3] * 100]:
        with torch.no_grad():
            wanted = parts["fc"](lstm(parts["emb"](torch.tensor(ids)))[0]).sum(0)
        np.testing.assert_allclose(ours(model, ids), wanted, atol=1e-6 * max(1, len(ids) / 10), rtol=0)
    with pytest.raises(LengthwiseError, match="bias per token"):
        imported(parts, tmp_path / "w.pt", pooling="max", classifier=classifier)


@pytest.mark.parametrize("layers", [1, 2])
def test_attention_leaves_out_padding_that_is_read(layers: int, tmp_path: Path) -> None:
    torch.manual_seed(2)
    lstm = nn.LSTM(5, 3, layers, bidirectional=True, batch_first=True)
    parts: dict[str, nn.Module] = {
        "emb": nn.Embedding(9, 5), "lstm": lstm, "att": nn.Linear(6, 1, bias=False), "fc": nn.Linear(6, 2)
    }  # fmt: skip
    model = imported(
        parts,
        tmp_path / "w.pt",
        pooling="attention",
        attention={"score": "att", "masked": True},
        padding={"to": 10, "side": "post", "truncate": "post"},
        classifier={"layer": "fc", "labels": ["x", "y"]},
    )
    for ids in [*ROWS, [1, 2, 3] * 4]:
        with torch.no_grad():
            row = torch.tensor([(ids + [0] * 10)[:10]])
            states = lstm(parts["emb"](row))[0]
            scores = parts["att"](states).squeeze(-1).masked_fill(row == 0, -1e9)
            wanted = parts["fc"]((states * scores.softmax(1)[:, :, None]).sum(1))[0]
        np.testing.assert_allclose(ours(model, ids), wanted, atol=1e-6, rtol=0)
