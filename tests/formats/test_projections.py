"""LSTM layers whose states are projected: the same vectors and logits as PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lengthwise.api import Encoder
from lengthwise.errors import LengthwiseError
from lengthwise.formats.importing import ImportedModel, import_model
from lengthwise.formats.inspection import inspect_source
from lengthwise.formats.mapping import Mapping
from lengthwise.util.settings import parse_settings

WORDS = ["<pad>", "<unk>", "the", "cat", "sat", "on", "mat"]
TEXTS = ["the cat sat", "mat", "the cat on the mat sat on the cat"]
TOKENS = {"tokens": WORDS, "unknown": "<unk>", "padding": "<pad>"}


class Net(nn.Module):
    """Two projected layers, a score of each state, and a head."""

    def __init__(self, both: bool, parts: int = 1) -> None:
        super().__init__()
        torch.manual_seed(2)
        width = 3 * (2 if both else 1)
        self.emb = nn.Embedding(len(WORDS), 5)
        self.rnn = nn.LSTM(5, 7, 2, batch_first=True, bidirectional=both, proj_size=3)
        self.score = nn.Linear(width, 1)
        self.fc = nn.Linear(parts * width, 4)

    def states(self, text: str) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
        states, (hidden, _) = self.rnn(self.emb(ids))
        return states[0], hidden[-2 if self.rnn.bidirectional else -1 :, 0].flatten()


def imported(net: Net, path: Path, **changes: Any) -> ImportedModel:
    torch.save(net.state_dict(), path)
    settings = {"tokens": TOKENS, "rnn": "rnn", "embedding": "emb", **changes}
    return import_model(path, parse_settings(Mapping, settings, "mapping"))


POOLINGS: dict[str, Callable[[Net, Tensor, Tensor], Tensor]] = {
    "last": lambda _, states, last: last,
    "end": lambda _, states, last: states[-1],
    "mean": lambda _, states, last: states.mean(0),
    "sum": lambda _, states, last: states.sum(0),
    "attention": lambda net, states, last: (net.score(states).softmax(0) * states).sum(0),
    "mean_last": lambda _, states, last: torch.cat([states.mean(0), last]),
}


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_projected_states_are_pooled(pooling: str, both: bool, tmp_path: Path) -> None:
    net = Net(both, parts=len(pooling.split("_")))
    own: dict[str, Any] = {"attention": {"score": "score"}} if pooling == "attention" else {"ignore": ["score.*"]}
    labels = {"classifier": {"layer": "fc", "labels": list("abcd")}}
    model = imported(net, tmp_path / "w.pt", pooling=pooling, **own, **labels)
    encoder = Encoder(model.encoder, model.tokenizer, device="cpu")
    with torch.no_grad():
        pooled = torch.stack([POOLINGS[pooling](net, *net.states(text)) for text in TEXTS])
        logits = net.fc(pooled)
    np.testing.assert_allclose(encoder.encode(TEXTS), pooled.numpy(), atol=1e-6, rtol=0)
    np.testing.assert_allclose(encoder.logits(TEXTS), logits.numpy(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("how", ["sum", "mean"])
@pytest.mark.parametrize("projected", [0, 3])
def test_states_of_both_directions_are_merged(how: str, projected: int, tmp_path: Path) -> None:
    """As in many a classifier with attention, whose score reads the sum."""
    torch.manual_seed(4)
    width = projected or 7
    emb, rnn = nn.Embedding(len(WORDS), 5), nn.LSTM(5, 7, 2, bidirectional=True, proj_size=projected)
    score, fc = nn.Linear(width, 1), nn.Linear(width, 4)
    parts = {"emb": emb, "rnn": rnn, "score": score, "fc": fc}
    torch.save(
        {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()},
        tmp_path / "w.pt",
    )
    settings = {"merge": how, "pooling": "attention", "attention": {"score": "score"}, "tokens": TOKENS}
    labels = {"classifier": {"layer": "fc", "labels": list("abcd")}}
    mapping = parse_settings(Mapping, {**settings, **labels}, "mapping")
    model = import_model(tmp_path / "w.pt", mapping)
    encoder = Encoder(model.encoder, model.tokenizer, device="cpu")
    for text in TEXTS:
        with torch.no_grad():
            both = rnn(emb(torch.tensor([WORDS.index(word) for word in text.split()])))[0]
            states = both[:, :width] + both[:, width:]
            states = states / 2 if how == "mean" else states
            vector = (score(states).softmax(0) * states).sum(0)
        np.testing.assert_allclose(encoder.encode(text), vector.numpy(), atol=1e-6, rtol=0)
        np.testing.assert_allclose(encoder.logits(text), fc(vector).detach().numpy(), atol=1e-6, rtol=0)


def test_maximum_of_projected_states_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LengthwiseError, match="pools the maximum of states that are projected"):
        imported(Net(False), tmp_path / "w.pt", pooling="max", ignore=["score.*", "fc.*"])


def test_a_missing_projection_is_named(tmp_path: Path) -> None:
    state = Net(True).state_dict()
    del state["rnn.weight_hr_l1_reverse"]
    torch.save(state, tmp_path / "w.pt")
    mapping = {"tokens": TOKENS, "pooling": "last", "ignore": ["score.*", "fc.*"]}
    with pytest.raises(LengthwiseError, match=r"rnn\.weight_ih_l1 has directions with and without weight_hr"):
        import_model(tmp_path / "w.pt", parse_settings(Mapping, mapping, "mapping"))


def test_inspection_names_the_projection(tmp_path: Path) -> None:
    torch.save(Net(True).state_dict(), tmp_path / "w.pt")
    _, mapping = inspect_source(tmp_path / "w.pt")
    assert "# bidirectional LSTM, 2 x 7 units, projected to 3" in mapping
    assert "6 to 4, reads the pooled states" in mapping
