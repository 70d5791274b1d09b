"""Published models from the package index: equal to their own code, one text at a time. Skipped without a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.paths import ROOT
from lengthwise.api import Encoder
from lengthwise.cli.import_models import original_outputs, outputs_of, second_opinion
from lengthwise.cli.published.models import LANGUAGES, MODELS, Published, fetch
from lengthwise.errors import CheckpointError
from lengthwise.formats.importing import import_model
from lengthwise.formats.mapping import load_mapping

# Their own code runs in float64, ours in float32; the states of this GRU amplify what is rounded on the way.
ROUNDING = {"g2p-en": 4e-6}
RUNS = ROOT / "runs" / "import-models"


def package_of(model: Published) -> Path:
    try:
        return fetch(model, RUNS / "packages")
    except CheckpointError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(each, id=each.name, marks=pytest.mark.slow if each.sha256 is None else pytest.mark.heavy)
        for each in MODELS
    ],
)
def test_outputs_are_those_of_the_packages_own_code(model: Published, tmp_path: Path) -> None:
    if model.name == "chars2vec":
        pytest.importorskip("h5py", reason="h5py is not installed")
    package = package_of(model)
    imported = import_model(package, load_mapping(ROOT / model.config))
    encoder = Encoder(imported.encoder, imported.tokenizer, device="cpu")
    expected = original_outputs(model, package, tmp_path)
    found = np.concatenate([outputs_of(encoder, [text]) for text in model.texts])
    rounding = ROUNDING.get(model.name, 1e-6)
    np.testing.assert_allclose(found, expected, atol=rounding * max(1.0, float(np.abs(expected).max())), rtol=0)
    assert np.ptp(expected, axis=0).min() > 1e-4
    if model.name == "language-identifier":
        assert sum(a == b for a, b in zip(encoder.predict(list(LANGUAGES.values())), LANGUAGES, strict=True)) >= 17


@pytest.mark.heavy
def test_another_packages_graph_is_a_second_opinion() -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    package_of(next(model for model in MODELS if model.name == "chars2vec"))
    assert float(second_opinion(RUNS)) <= 1e-6
