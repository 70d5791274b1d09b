"""PyTorch weights with a mapping: equal to the net that saved them, and everything that does not fit is named."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from lengthwise import Encoder
from lengthwise.errors import LengthwiseError
from lengthwise.formats.importing import ImportedModel, import_model
from lengthwise.formats.inspection import inspect_source
from lengthwise.formats.mapping import Mapping
from lengthwise.formats.tensors import read_tensors
from lengthwise.util.settings import parse_settings

WORDS = ["<pad>", "<unk>", "the", "cat", "sat", "on", "mat"]
TEXTS = ["the cat sat", "mat", "a cat on the mat sat on a cat", "THE end"]
MAPPING: dict[str, Any] = {
    "embedding": "emb",
    "rnn": "rnn",
    "pooling": "last",
    "tokens": {"tokens": WORDS, "clean": ["lowercase"], "unknown": "<unk>", "padding": "<pad>"},
}


class Net(nn.Module):
    """A net as people write them."""

    def __init__(self, layers: int = 1, both: bool = False, outputs: int = 0, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.emb = nn.Embedding(len(WORDS), 5)
        self.rnn = nn.LSTM(5, 4, layers, batch_first=True, bidirectional=both, **options)
        if outputs:
            self.fc = nn.Linear(8 if both else 4, outputs)

    def states(self, text: str) -> tuple[Tensor, Tensor]:
        ids = [WORDS.index(word) if word in WORDS else 1 for word in text.lower().split()]
        states, (hidden, _) = self.rnn(self.emb(torch.tensor([ids])))
        return states[0], hidden[:, 0]


def imported(path: Path, **changes: Any) -> ImportedModel:
    return import_model(path, parse_settings(Mapping, {**MAPPING, **changes}, "mapping"), folder=path.parent)


def vectors(model: ImportedModel) -> np.ndarray:
    return Encoder(model.encoder, model.tokenizer, device="cpu").encode(TEXTS)


def expected(net: Net, function: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
    with torch.no_grad():
        return torch.stack([function(*net.states(text)) for text in TEXTS]).numpy()


def refusal(path: Path, **changes: Any) -> str:
    with pytest.raises(LengthwiseError) as raised:
        imported(path, **changes)
    return str(raised.value)


def test_every_kind_of_file_gives_the_nets_vectors(tmp_path: Path) -> None:
    net = Net()
    state = net.state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.save(
        {"epoch": 3, "model_state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        tmp_path / "b.pth",
    )
    save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / "c.safetensors")
    np.savez(tmp_path / "d.npz", **{name: value.numpy() for name, value in state.items()})
    torch.save(nn.DataParallel(net).state_dict(), tmp_path / "e.bin")
    wanted = expected(net, lambda _, hidden: hidden[-1])
    assert np.ptp(wanted, axis=0).min() > 0.01
    for name in ("a.pt", "b.pth", "c.safetensors", "d.npz", "e.bin"):
        np.testing.assert_allclose(vectors(imported(tmp_path / name)), wanted, atol=1e-6, rtol=0, err_msg=name)
    found = imported(tmp_path / "a.pt", embedding=None, rnn=None)
    np.testing.assert_allclose(vectors(found), wanted, atol=1e-6, rtol=0)
    assert found.notes == (
        "rnn: 'rnn', the only recurrent layers in the file",
        "embedding: emb.weight, the only tensor that fits",
    )


def test_layers_directions_and_gates_are_those_of_the_shapes(tmp_path: Path) -> None:
    net = Net(layers=2, both=True)
    state = net.state_dict()
    torch.save(state, tmp_path / "w.pt")
    wanted = expected(net, lambda states, _: states.max(dim=0).values)
    np.testing.assert_allclose(vectors(imported(tmp_path / "w.pt", pooling="max")), wanted, atol=1e-6, rtol=0)
    swapped = {
        name: torch.cat([value.chunk(4)[at] for at in (0, 3, 1, 2)]) if name.startswith("rnn") else value
        for name, value in state.items()
    }
    torch.save(swapped, tmp_path / "onnx.pt")
    model = imported(tmp_path / "onnx.pt", pooling="max", gates="iofc")
    np.testing.assert_allclose(vectors(model), wanted, atol=1e-6, rtol=0)


def test_one_bias_or_none(tmp_path: Path) -> None:
    net = Net(bias=False)
    torch.save(net.state_dict(), tmp_path / "none.pt")
    wanted = expected(net, lambda _, hidden: hidden[-1])
    np.testing.assert_allclose(vectors(imported(tmp_path / "none.pt")), wanted, atol=1e-6, rtol=0)
    net = Net()
    state = {name: value for name, value in net.state_dict().items() if name != "rnn.bias_hh_l0"}
    torch.save(state, tmp_path / "one.pt")
    nn.init.zeros_(net.rnn.bias_hh_l0)
    wanted = expected(net, lambda _, hidden: hidden[-1])
    np.testing.assert_allclose(vectors(imported(tmp_path / "one.pt")), wanted, atol=1e-6, rtol=0)


def test_unknown_words_without_an_id_are_left_out(tmp_path: Path) -> None:
    net = Net()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    tokens = {**MAPPING["tokens"], "unknown": None}
    ids = [encoding.ids for encoding in imported(tmp_path / "w.pt", tokens=tokens).tokenizer.encode_batch(TEXTS)]
    assert ids == [[2, 3, 4], [6], [3, 5, 2, 6, 4, 5, 3], [2]]
    (tmp_path / "words.txt").write_text("\n".join([*WORDS[:-1], "a"]) + "\n")  # a word of one letter
    tokens = {"vocabulary": "words.txt", "unknown": None, "end": "<unk>"}
    model = imported(tmp_path / "w.pt", tokens=tokens)
    assert [encoding.ids for encoding in model.tokenizer.encode_batch(["a cab the a", "bab", "x"])] == [
        [6, 2, 6],
        [],
        [],
    ]
    assert model.tokenizer.suffix == (1,)


def test_characters_have_ids_of_their_own(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "w.pt")
    characters = {"tokens": ["PAD", "a", "b", " ", "\n", "ß"], "unit": "characters", "unknown": 6, "padding": "PAD"}
    model = imported(tmp_path / "w.pt", tokens=characters)
    assert model.tokenizer.encode_batch(["ab \nßPAD"])[0].ids == [1, 2, 3, 4, 5, 6, 6, 6]
    assert model.encoder.config.unk_token_id == 6


class Dangerous:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_pickles_run_nothing(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pt"
    torch.save({"weight": Dangerous(tmp_path / "ran")}, bomb)
    message = refusal(bomb)
    assert "system" in message
    assert "torch.save(model.state_dict()" in message
    (tmp_path / "words.pkl").write_bytes(pickle.dumps({"words": Dangerous(tmp_path / "ran")}))
    torch.save(Net().state_dict(), tmp_path / "w.pt")
    assert "not a vocabulary" in refusal(tmp_path / "w.pt", tokens={"vocabulary": "words.pkl"})
    assert not (tmp_path / "ran").exists()


def test_a_pickled_net_is_refused_and_read_where_it_is_trusted(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(len(WORDS), 5), nn.LSTM(5, 4, batch_first=True))
    torch.save(net, tmp_path / "net.pt")
    changes = {"embedding": "0", "rnn": "1"}
    assert "a pickle of torch.nn" in refusal(tmp_path / "net.pt", **changes)
    mapping = parse_settings(Mapping, {**MAPPING, **changes}, "mapping")
    model = import_model(tmp_path / "net.pt", mapping, trust_pickle=True)
    assert torch.equal(model.encoder.state_dict()["lstm.weight_ih_l0"], net[1].weight_ih_l0)
    assert torch.equal(model.encoder.embedding.weight, net[0].weight)


@pytest.mark.filterwarnings("ignore:.*")  # torch.ao.quantization is deprecated
def test_quantized_weights_are_not_taken_for_a_whole_model(tmp_path: Path) -> None:
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(4, 4)), {nn.LSTM}, torch.qint8)
    torch.save(quantized.state_dict(), tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "the weights of a quantized model, which only PyTorch reads; give the weights before they were" in message
    assert "state_dict" not in message


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    net = Net()
    state = net.state_dict()
    path = tmp_path / "w.pt"
    torch.save(state, path)
    assert "there is no tensor 'embed.weight'; there are emb.weight [7, 5]" in refusal(path, embedding="embed")
    assert "precedes no weight_ih_l0; set rnn to 'rnn'" in refusal(path, rnn="lstm")
    assert "the mapping says no pooling" in refusal(path, pooling=None)
    assert "gates = 'ifg'" in refusal(path, gates="ifg")
    tokens = MAPPING["tokens"]
    larger = refusal(path, tokens={**tokens, "tokens": [*WORDS, "dog"]})
    assert "the vocabulary has the id 7, but the embedding has 7 rows" in larger
    smaller = refusal(path, tokens={**tokens, "tokens": WORDS[:-1]})
    assert "the vocabulary names 6 of the 7 rows of the embedding; 6 is one" in smaller
    assert "'<none>', which the vocabulary does not have" in refusal(path, tokens={**tokens, "unknown": "<none>"})
    assert "there is no such vocabulary" in refusal(path, tokens={"vocabulary": "missing.json"})
    torch.save({**state, "norm.weight": torch.ones(4)}, path)
    assert "the mapping has no place for norm.weight [4]" in refusal(path)
    assert imported(path, ignore=["norm.*"]).encoder.config.hidden_size == 4
    torch.save({**state, "emb.weight": torch.ones(7, 6)}, path)
    assert "has the shape [16, 5], but [16, 6] is needed" in refusal(path)
    torch.save({**state, "rnn.bias_ih_l0": torch.ones(15)}, path)
    assert "has the shape [15], not [16]" in refusal(path)
    torch.save({**state, "emb.weight": state["emb.weight"].clone().index_fill_(0, torch.tensor(2), torch.nan)}, path)
    assert "5 values of embedding.weight are NaN or infinite" in refusal(path)
    rnn = nn.RNN(5, 4)
    torch.save({"emb.weight": state["emb.weight"], **{f"rnn.{k}": v for k, v in rnn.state_dict().items()}}, path)
    assert "a plain RNN without gates" in refusal(path)
    assert "there is no such file or folder" in refusal(tmp_path / "missing.pt")
    path.write_bytes(b"")
    assert "cannot be read" in refusal(path)


def test_labels_are_what_was_written() -> None:
    labels = ["de", "en", "no"]
    mapping = parse_settings(Mapping, {"classifier": {"labels": [*labels, 3]}}, "mapping")
    assert mapping.classifier is not None
    assert mapping.classifier.labels == (*labels, "3")
    for value in (False, None, 1.0):
        with pytest.raises(LengthwiseError, match=r"label 1 is .* quote it"):
            parse_settings(Mapping, {"classifier": {"labels": ["de", value]}}, "mapping")


def test_tensors_beside_a_state_dict_are_not_forgotten(tmp_path: Path) -> None:
    net, head = Net(), nn.Linear(4, 2)
    path = tmp_path / "w.pt"
    torch.save({"model": net.state_dict(), "fc": head.state_dict(), "optimizer": {"best": torch.ones(2)}}, path)
    assert "the mapping has no place for fc.weight [2, 4], fc.bias [2];" in refusal(path)
    model = imported(path, classifier={"layer": "fc", "labels": ["a", "b"]})
    assert torch.equal(model.encoder.state_dict()["classifier.output.weight"], head.weight)
    torch.save({"model": {**net.state_dict(), "fc.weight": head.weight}, "fc": head.state_dict()}, path)
    assert "two tensors are called fc.weight" in refusal(path)


def test_weights_that_are_no_floats_are_refused(tmp_path: Path) -> None:
    state = Net().state_dict()
    path = tmp_path / "w.pt"
    torch.save({**state, "emb.weight": (state["emb.weight"] * 40).to(torch.int8)}, path)
    assert "emb.weight holds int8, not floats" in refusal(path)
    torch.save({**state, "emb.weight": torch.quantize_per_tensor(state["emb.weight"], 0.1, 0, torch.qint8)}, path)
    assert "emb.weight holds qint8, not floats" in refusal(path)
    torch.save({**state, "emb.weight": torch.ones(1).half().expand(2**25, 5)}, path)
    assert "repeats its values" in refusal(path)
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    assert "a TorchScript program" in refusal(path)


def test_half_precision_and_views_are_read_as_they_are(tmp_path: Path) -> None:
    net = Net()
    state = net.state_dict()
    for kind in (torch.float16, torch.bfloat16):
        rounded = {name: value.to(kind) for name, value in state.items()}
        torch.save(rounded, tmp_path / "w.pt")
        encoder = imported(tmp_path / "w.pt").encoder
        assert torch.equal(encoder.embedding.weight, rounded["emb.weight"].float())
    torch.save({**state, "emb.weight": state["emb.weight"].T.contiguous().T}, tmp_path / "w.pt")
    assert torch.equal(imported(tmp_path / "w.pt").encoder.embedding.weight, state["emb.weight"])


def test_texts_in_an_npz_can_be_the_vocabulary(tmp_path: Path) -> None:
    arrays = {name: value.numpy() for name, value in Net().state_dict().items()}
    np.savez(tmp_path / "w.npz", words=np.array(WORDS), **arrays)
    model = imported(tmp_path / "w.npz", tokens={"key": "words", "unknown": 1})
    assert model.tokenizer.encode_batch(["the cat"])[0].ids == [2, 3]


def test_a_trusted_pickle_may_hold_lists_of_tensors(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(len(WORDS), 5), nn.LSTM(5, 4, batch_first=True))
    content = {"net": net, "history": [torch.ones(2), 3], "epoch": np.int64(4)}
    torch.save(content, tmp_path / "net.pt")
    file = read_tensors(tmp_path / "net.pt", trust_pickle=True)
    assert torch.equal(file.tensors["history.0"], torch.ones(2))
    assert torch.equal(file.tensors["0.weight"], net[0].weight)
    assert file.other["epoch"] == 4


def test_a_classifiers_softmax_of_one_logit_is_refused(tmp_path: Path) -> None:
    torch.save(Net(outputs=1).state_dict(), tmp_path / "w.pt")
    head = {"layer": "fc", "labels": ["yes"]}
    assert "set classifier.activation to sigmoid" in refusal(tmp_path / "w.pt", classifier=head)
    assert imported(tmp_path / "w.pt", classifier={**head, "activation": "sigmoid"}).encoder.classifier is not None
    _, text = inspect_source(tmp_path / "w.pt")
    assert yaml.safe_load(text)["classifier"]["activation"] == "sigmoid"


def test_a_bias_per_token_gives_the_nets_logits(tmp_path: Path) -> None:
    net = Net(layers=2, both=True, outputs=3)
    path = tmp_path / "w.pt"
    torch.save(net.state_dict(), path)
    changes = {"pooling": "sum", "classifier": {"layer": "fc", "labels": ["a", "b", "c"], "per_token": True}}
    model = imported(path, **changes)
    wanted = expected(net, lambda states, _: net.fc(states).sum(dim=0))
    found = Encoder(model.encoder, model.tokenizer, device="cpu").logits(TEXTS)
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)
    notes = "\n".join(model.notes)
    assert "a value of the vectors is the number of tokens" in notes
    assert "vectors have 10 values, not the model's own 8" in notes
    assert "without dense and normalize" in refusal(path, normalize=True, **changes)
    torch.save({name: value for name, value in net.state_dict().items() if name != "fc.bias"}, path)
    assert imported(path, **changes).encoder.config.hidden_size == 4  # nothing is added where there is no bias


def test_a_batch_normalization_is_a_layer(tmp_path: Path) -> None:
    net = Net(outputs=3)
    norm = nn.BatchNorm1d(4).eval()
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            values.uniform_(0.2, 2)
    state = {**net.state_dict(), **{f"bn.{name}": value for name, value in norm.state_dict().items()}}
    torch.save(state, tmp_path / "w.pt")
    classifier = {"layer": "fc", "labels": ["a", "b", "c"]}
    model = imported(tmp_path / "w.pt", dense=[{"layer": "bn"}], classifier=classifier)
    found = Encoder(model.encoder, model.tokenizer, device="cpu").logits(TEXTS)
    wanted = expected(net, lambda _, last: net.fc(norm(last)).squeeze(0))
    np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=0)
    assert "bn.num_batches_tracked" in refusal(tmp_path / "w.pt", classifier=classifier)


def test_shared_values_of_a_pickle_are_read_once(tmp_path: Path) -> None:
    bomb: dict[str, Any] = {"word": "value"}
    for _ in range(40):  # 2 ** 40 paths through it
        bomb = {"a": bomb, "b": bomb}
    torch.save({**Net().state_dict(), "bomb": bomb}, tmp_path / "w.pt")
    (tmp_path / "words.pkl").write_bytes(pickle.dumps(bomb))
    report, _ = inspect_source(tmp_path / "w.pt")
    assert "bomb: dict of 2" in report
    assert "not a vocabulary" in refusal(tmp_path / "w.pt", tokens={"vocabulary": "words.pkl"})


def test_an_inspected_mapping_quotes_names(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(len(WORDS), 5), nn.LSTM(5, 4), nn.Linear(4, 3))
    torch.save(net.state_dict(), tmp_path / "w.pt")
    _, text = inspect_source(tmp_path / "w.pt")
    found = yaml.safe_load(text)
    assert (found["rnn"], found["embedding"], found["classifier"]["layer"]) == ("1", "0.weight", "2")
    mapping = parse_settings(Mapping, {**found, "tokens": MAPPING["tokens"], "pooling": "last"}, "mapping")
    assert import_model(tmp_path / "w.pt", mapping).encoder.config.hidden_size == 4


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    state = Net().state_dict()
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    elif suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    else:
        save_file(state, path)
    data = path.read_bytes()
    for part in (len(data) // 2, len(data) - 20, 10):
        path.write_bytes(data[:part])
        assert "read" in refusal(path)


def test_an_inspected_mapping_imports_after_its_gaps_are_filled(tmp_path: Path) -> None:
    net = Net(both=True, outputs=3)
    path = tmp_path / "w.pt"
    torch.save(
        {
            "net": net.state_dict(),
            "words": {word: number for number, word in enumerate(WORDS)},
            "classes": ["a", "b", "c"],
        },
        path,
    )
    report, text = inspect_source(path)
    assert "rnn.weight_ih_l0_reverse  16 x 5" in report
    mapping = yaml.safe_load(text)
    assert mapping["rnn"] == "rnn"
    assert mapping["embedding"] == "emb.weight"
    assert mapping["classifier"] == {"layer": "fc", "labels_key": "classes"}
    assert mapping["tokens"]["key"] == "words"
    assert mapping["pooling"] is None
