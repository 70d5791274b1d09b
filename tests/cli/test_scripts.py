"""All scripts: their help, the chain from texts to vectors, and the files that they keep."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click
import datasets
import pyarrow.parquet as pq
import pytest

from helpers.cli import HEAVY, Invoke, refusal, run_as_user, write_config
from helpers.files import contents
from helpers.paths import ROOT
from helpers.texts import TEXTS
from lengthwise.errors import DatasetError

SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("[a-z]*.py") if path.stem not in ("common", "main"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script: str) -> None:
    done = run_as_user(script, "--help", python=("-X", "importtime"))
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: {script}.py [OPTIONS]")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & HEAVY


def test_scripts_do_not_shadow_a_package() -> None:
    """Python puts a script's folder first on the path."""
    taken = sys.stdlib_module_names | HEAVY | {"lengthwise", "click", "yaml", "pytest"}
    assert not taken & {path.stem for path in (ROOT / "scripts").glob("*.py")}


def test_scripts_run_from_texts_to_vectors(
    tmp_path: Path, texts_file: Path, invoke: Invoke, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_config(tmp_path)
    trained = invoke("train_tokenizer", config)
    assert trained.exit_code == 0, trained.stderr
    assert trained.stdout.startswith(f"tokenizer   {tmp_path / 'tokenizer.json'}: ")
    assert (tmp_path / "tokenizer.run.yaml").is_file()

    made = invoke("init_model", config)
    assert made.exit_code == 0, made.stderr
    assert made.stdout == f"checkpoint  {tmp_path / 'model'}: 6 dimensions; never trained, weights from seed 0\n"
    assert {"config.json", "model.safetensors", "tokenizer.json", "run.yaml"} == set(contents(tmp_path / "model"))

    inspected = run_as_user("inspect_dataset", config, python=("-X", "importtime"))
    assert inspected.returncode == 0, inspected.stderr
    tokens = sum(len(text.split()) for text in TEXTS)
    first_words = [line.split()[0] for line in inspected.stdout.splitlines() if line]
    assert first_words == ["rows", "flags", "tokens", "batches", "dataset", "dataset", "planned"]
    assert f"rows        {len(TEXTS)}; the first shard has 3" in inspected.stdout
    imported = {line.rpartition("|")[2].strip() for line in inspected.stderr.splitlines()}
    assert "lengthwise.batching.inspection" in imported
    assert not imported & {"torch", "matplotlib"}

    encoded = invoke("encode_dataset", config, "--set", "dataset.keep_columns=[text]")
    assert encoded.exit_code == 0, encoded.stderr
    assert f"vectors/data: {len(TEXTS)} rows, {tokens} tokens (0 empty, 0 null, 0 truncated)" in encoded.stdout
    assert "tokens/s with torch cpu" in encoded.stdout
    assert "never trained (seed 0)" in caplog.text
    assert pq.read_table(tmp_path / "vectors/data")["text"].to_pylist() == list(TEXTS)
    assert encoded.stdout.splitlines()[-1] == f"report      {tmp_path / 'vectors/report.md'}"
    assert f"{len(TEXTS)} rows of {tokens} tokens were encoded" in (tmp_path / "vectors/report.md").read_text()
    opened = datasets.load_dataset(str(tmp_path / "vectors"), split="train", cache_dir=str(tmp_path / "cache"))
    assert opened["num_tokens"][:] == [len(text.split()) for text in TEXTS]


def test_encoding_few_texts_imports_what_it_needs(trained: Path) -> None:
    """Most of the time of such a run is that of imports."""
    encoded = run_as_user("encode_dataset", trained, python=("-X", "importtime"))
    assert encoded.returncode == 0, encoded.stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in encoded.stderr.splitlines()}
    assert {"torch", "datasets"} <= imported
    unused = {"matplotlib", "onnx", "onnxruntime", "onnxscript", "sentence_transformers", "sklearn", "transformers"}
    assert not imported & unused


@pytest.mark.parametrize(("script", "output"), [("train_tokenizer", "tokenizer.json"), ("init_model", "model")])
def test_existing_files_are_kept_without_overwrite(
    trained: Path, tmp_path: Path, invoke: Invoke, script: str, output: str
) -> None:
    before = contents(tmp_path)
    message = refusal(invoke(script, trained))
    assert message.startswith(f"{tmp_path / output}: already exists")
    assert "give --overwrite to replace it" in message
    assert contents(tmp_path) == before
    changes = ("--set", "tokenizer.training.vocab_size=9", "--set", "model.seed=1", "--overwrite")
    assert invoke(script, trained, *changes).exit_code == 0
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    assert after != before


def test_init_model_refuses_to_replace_other_folders(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/thesis.txt").write_text("precious")
    message = refusal(invoke("init_model", trained, "--overwrite", "--set", f"model.path={tmp_path / 'papers'}"))
    assert message.endswith("papers: not empty, and not a checkpoint; choose another folder")
    assert contents(tmp_path / "papers") == {"thesis.txt": b"precious"}


def test_fetch_copies_from_a_package_and_keeps_what_is_there(tmp_path: Path) -> None:
    quickstart = importlib.import_module("lengthwise.cli.quickstart")
    (tmp_path / "mine.txt").write_text("precious")
    quickstart.fetch(quickstart.CORPUS, tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "precious"
    quickstart.fetch(("click", "click/__init__.py"), tmp_path / "new/facts.txt")
    assert (tmp_path / "new/facts.txt").read_bytes() == Path(str(click.__file__)).read_bytes()
    quickstart.fetch(("click", "click"), tmp_path / "folder")
    assert (tmp_path / "folder/__init__.py").read_bytes() == Path(str(click.__file__)).read_bytes()
    with pytest.raises(DatasetError, match="the package nowhere, which contains corpus"):
        quickstart.fetch(("nowhere", "corpus.txt"), tmp_path / "none.txt")
