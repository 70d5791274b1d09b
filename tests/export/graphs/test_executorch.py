"""The ExecuTorch program: encoders equal PyTorch in ExecuTorch's own runtime, and no sabotaged one does."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.graphs import executorch, portable_lstm
from lengthwise.export.graphs.executorch import PYTHON_VARIABLE, save_executorch
from lengthwise.export.graphs.variants import DEVICE_VARIANTS, EXECUTORCH
from lengthwise.export.runtimes.devices import ExecuTorch
from lengthwise.export.validation.cases import grid_cases
from lengthwise.export.validation.validate import judge, make_checks
from lengthwise.export.validation.verdict import Verdict
from lengthwise.tokens.tokenizer import TextTokenizer

ENCODERS: dict[str, dict[str, Any]] = {
    "stacked": {"num_layers": 2, "bidirectional": True, "pooling": "mean_last", "static_residual": True},
    "gru": {"cell": "gru", "gate_activation": "hard_sigmoid_keras3", "pooling": "attention_max"},
    "labels": {"padding": {"to": 9}, "classifier": {"labels": ["a", "b"], "dense": [{"dim": 4, "activation": "gelu"}]}},
}


def convert(encoder: PackedEncoder, folder: Path) -> Path:
    """The program; skips, with the reason, where executorch is not installed."""
    file = folder / DEVICE_VARIANTS[EXECUTORCH].file
    file.parent.mkdir()
    try:
        save_executorch(encoder, file)
    except ArtifactError as error:
        if "does not have" in str(error):
            pytest.skip(f"ExecuTorch was not run: {error}")
        raise
    return file


def judge_executorch(encoder: PackedEncoder, right: PackedEncoder, folder: Path) -> Verdict:
    convert(encoder, folder)
    checks = make_checks(right, list(grid_cases(right.config.vocab_size)))
    return judge(ExecuTorch(), DEVICE_VARIANTS[EXECUTORCH], folder, checks)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_passes(name: str, tmp_path: Path, encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(**ENCODERS[name]), 0)
    verdict = judge_executorch(encoder, encoder, tmp_path)
    assert (verdict.status, verdict.reason) == ("passed", "")
    assert verdict.environment["executorch"]


@pytest.mark.slow
def test_program_with_a_stale_weight_fails(tmp_path: Path, encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(bidirectional=True), 0)
    stale = copy.deepcopy(encoder)
    with torch.no_grad():
        stale.lstm.weight_hh_l0_reverse[0, 0] += 1e-2
    verdict = judge_executorch(stale, encoder, tmp_path)
    assert (verdict.status, verdict.known) == ("failed", False)
    assert " after " not in verdict.reason  # it ran, and was wrong


@pytest.mark.heavy
def test_program_that_reads_backwards_over_the_padding_fails(
    tmp_path: Path, encoder_config: Callable[..., EncoderConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole(self: portable_lstm.PortableRnn, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return forward(self, x, torch.zeros_like(lengths) + x.shape[0])

    forward = portable_lstm.PortableRnn.forward
    monkeypatch.setattr(portable_lstm.PortableRnn, "forward", whole)
    encoder = seeded_encoder(encoder_config(bidirectional=True), 0)
    verdict = judge_executorch(encoder, encoder, tmp_path)
    assert (verdict.status, verdict.known) == ("failed", False)
    assert " after " not in verdict.reason


def test_missing_package_has_a_remedy(
    tmp_path: Path, encoder_config: Callable[..., EncoderConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = seeded_encoder(encoder_config(), 0)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'executorch'\" >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv(PYTHON_VARIABLE, str(python))
    with pytest.raises(ArtifactError, match=rf"which {python} does not have; install lengthwise\[executorch\], name"):
        save_executorch(encoder, tmp_path / "model.pte")
    python.write_text("#!/bin/sh\necho 'SpecViolationError: no such operator' >&2\nexit 1\n")
    with pytest.raises(ArtifactError, match=r"refuses the encoder \(SpecViolationError: no such operator\)"):
        save_executorch(encoder, tmp_path / "model.pte")
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ArtifactError, match=r"cannot be made with .*none"):
        save_executorch(encoder, tmp_path / "model.pte")


def test_converter_reads_packages_and_not_the_modules_beside_it(tmp_path: Path) -> None:
    """`graphs/executorch.py` would be taken for the package executorch if its folder were searched."""
    converter = str(Path(executorch.__file__).with_name("executorch_converter.py"))
    done = subprocess.run(
        [os.environ.get(PYTHON_VARIABLE) or sys.executable, "-I", converter, str(tmp_path / "none.pt2"), "out"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "No module named 'lengthwise'" not in done.stderr
    assert "none.pt2" in done.stderr or "No module named 'executorch'" in done.stderr


@pytest.mark.heavy
def test_code_of_the_card_gives_the_right_vectors(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = seeded_encoder(encoder_config(bidirectional=True), 0)
    convert(encoder, tmp_path)  # skips where executorch is not installed
    artifact = build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=[EXECUTORCH])
    section = (artifact.folder / "README.md").read_text().split("### ExecuTorch\n")[1]
    code = section.split("```python\n")[1].split("```")[0] + "print(vectors.tolist())\n"
    python = os.environ.get(PYTHON_VARIABLE) or sys.executable
    done = subprocess.run([python, "-I", "-c", code], cwd=artifact.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        right = encoder(torch.tensor([[5, 6, 7], [5, 6, 0]]), torch.tensor([3, 2]))
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(found, right, atol=1e-6, rtol=0)
