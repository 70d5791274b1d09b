"""The scripts as a user runs them: what they print, what they leave behind, and how they refuse."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import click
import datasets
import onnx
import pyarrow.parquet as pq
import pytest

from helpers.cli import HEAVY, Invoke, refusal, run_as_user, write_config
from helpers.files import contents
from helpers.paths import ROOT
from helpers.texts import TEXTS
from lengthwise.export.artifact.folder import describe_files, write_manifest

SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("[a-z]*.py") if path.stem not in ("common", "main"))


# Help


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


# The chain


def test_from_texts_to_vectors(tmp_path: Path, texts_file: Path) -> None:
    config = write_config(tmp_path)
    trained = run_as_user("train_tokenizer", config)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.startswith(f"tokenizer   {tmp_path / 'tokenizer.json'}: ")
    assert (tmp_path / "tokenizer.run.yaml").is_file()

    made = run_as_user("init_model", config)
    assert made.returncode == 0, made.stderr
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

    encoded = run_as_user("encode_dataset", config, "--set", "dataset.keep_columns=[text]")
    assert encoded.returncode == 0, encoded.stderr
    assert f"vectors/data: {len(TEXTS)} rows, {tokens} tokens (0 empty, 0 null, 0 truncated)" in encoded.stdout
    assert "tokens/s with torch cpu" in encoded.stdout
    assert "never trained (seed 0)" in encoded.stderr
    assert pq.read_table(tmp_path / "vectors/data")["text"].to_pylist() == list(TEXTS)
    assert encoded.stdout.splitlines()[-1] == f"report      {tmp_path / 'vectors/report.md'}"
    assert f"{len(TEXTS)} rows of {tokens} tokens were encoded" in (tmp_path / "vectors/report.md").read_text()
    assert (tmp_path / "vectors/report.png").read_bytes().startswith(b"\x89PNG")
    opened = datasets.load_dataset(str(tmp_path / "vectors"), split="train", cache_dir=str(tmp_path / "cache"))
    assert opened["num_tokens"][:] == [len(text.split()) for text in TEXTS]


def test_the_second_run_says_that_there_was_nothing_to_do(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    first = invoke("encode_dataset", trained)
    before = contents(tmp_path / "vectors")
    second = invoke("encode_dataset", trained)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert second.stdout.splitlines()[0] == first.stdout.splitlines()[0]
    assert "nothing to encode: all shards were there" in second.stdout
    assert "nothing to encode" not in first.stdout
    assert second.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]  # the report
    assert contents(tmp_path / "vectors") == before


def test_texts_of_white_space_alone(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "blank.txt").write_text(" \n\t\n\n")
    result = invoke("encode_dataset", trained, "--set", f"dataset.path={tmp_path / 'blank.txt'}")
    assert result.exit_code == 0, result.stderr
    assert "3 rows, 0 tokens (3 empty, 0 null, 0 truncated)" in result.stdout
    assert "all shards were there" not in result.stdout
    result = invoke("inspect_dataset", trained, "--set", f"dataset.path={tmp_path / 'blank.txt'}")
    assert result.exit_code == 0, result.stderr
    assert "3 empty" in result.stdout


def table_of(output: str) -> dict[str, list[str]]:
    """The lines of inspect_dataset's table, by their names."""
    lines = output.partition("\n\n")[2].partition("\n\n")[0].splitlines()
    return {line[:24].strip(): line[24:].split() for line in lines}


def test_inspecting_shows_what_encoding_would_do(trained: Path, invoke: Invoke) -> None:
    settings = ("dataset.shard_rows=100", "tokenizer.max_length=6", "batching.max_rows=1")
    changes = [part for setting in settings for part in ("--set", setting)]
    result = invoke("inspect_dataset", trained, *changes)
    assert result.exit_code == 0, result.stderr
    assert "too long    2 have more than tokenizer.max_length = 6, and would stop the run" in result.stdout
    assert f"tokens      {sum(len(text.split()) for text in TEXTS)} in it; 1 / 6 / 14 / 14 per row" in result.stdout
    table = table_of(result.stdout)
    rows, most = str(len(TEXTS)), 6 * len(TEXTS)
    tokens = sum(min(6, len(text.split())) for text in TEXTS)
    assert table["batches"] == ["rows", "batches", "padding", "cost"]
    assert table["dataset order, padded"][:3] == [rows, "1", f"{1 - tokens / most:.1%}"]
    assert table["dataset order, packed"][:3] == [rows, "1", "0.0%"]
    assert table["planned"] == [rows, rows, "0.0%", "1.0"]
    cut = invoke("inspect_dataset", trained, *changes, "--set", "tokenizer.truncate=true")
    assert "too long    2 have more than tokenizer.max_length = 6, and would be cut" in cut.stdout
    stream = invoke("inspect_dataset", trained, "--set", "dataset.streaming=true")
    assert "rows        unknown (a stream); the first shard has 3" in stream.stdout


def test_inspecting_plans_as_encoding_does(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "in.txt").write_text("\n".join([*TEXTS, "", *TEXTS[:3]]) + "\n")
    changes = ("--set", f"dataset.path={tmp_path / 'in.txt'}", "--set", "dataset.shard_rows=100")
    inspected = invoke("inspect_dataset", trained, *changes)
    assert "flags       1 empty, 0 null or not Unicode, 3 repeat another row" in inspected.stdout
    assert invoke("encode_dataset", trained, *changes).exit_code == 0
    lines = (tmp_path / "vectors/report.md").read_text().splitlines()
    table = table_of(inspected.stdout)
    for name in ("dataset order, padded", "planned"):
        assert f"| {name} | {' | '.join(table[name])} |" in lines


def test_a_picture_is_drawn_where_it_is_asked_for(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    before = contents(tmp_path)
    plain = invoke("inspect_dataset", trained)
    assert contents(tmp_path) == before
    drawn = invoke("inspect_dataset", trained, "--picture", tmp_path / "plan.png")
    assert drawn.exit_code == 0, drawn.stderr
    assert drawn.stdout == f"{plain.stdout}\npicture     {tmp_path / 'plan.png'}\n"
    assert contents(tmp_path).keys() - before.keys() == {"plan.png"}
    message = refusal(invoke("inspect_dataset", trained, "--picture", tmp_path / "none/plan.png"))
    assert message == (
        f"{tmp_path / 'none/plan.png'}: there is no folder {tmp_path / 'none'}; make it, or choose another place"
    )
    assert not (tmp_path / "none").exists()


# Nothing is overwritten without being asked


@pytest.mark.parametrize(("script", "made"), [("train_tokenizer", "tokenizer.json"), ("init_model", "model")])
def test_what_is_there_stays_without_overwrite(
    trained: Path, tmp_path: Path, invoke: Invoke, script: str, made: str
) -> None:
    before = contents(tmp_path)
    message = refusal(invoke(script, trained))
    assert message.startswith(f"{tmp_path / made}: already there")
    assert "give --overwrite to replace it" in message
    assert contents(tmp_path) == before
    changes = ("--set", "tokenizer.training.vocab_size=9", "--set", "model.seed=1", "--overwrite")
    assert invoke(script, trained, *changes).exit_code == 0
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    assert after != before


def test_overwriting_replaces_a_checkpoint_only(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/thesis.txt").write_text("precious")
    message = refusal(invoke("init_model", trained, "--overwrite", "--set", f"model.path={tmp_path / 'papers'}"))
    assert message.endswith("papers: not empty, and not a checkpoint; choose another folder")
    assert contents(tmp_path / "papers") == {"thesis.txt": b"precious"}


def test_the_quickstart_leaves_a_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quickstart = importlib.import_module("lengthwise.cli.quickstart")
    (tmp_path / "mine.txt").write_text("precious")
    quickstart.fetch_corpus(tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "precious"
    monkeypatch.setattr(quickstart, "CORPUS", ("click", "click/__init__.py"))
    quickstart.fetch_corpus(tmp_path / "new/facts.txt")
    assert (tmp_path / "new/facts.txt").read_bytes() == Path(str(click.__file__)).read_bytes()


# Mistakes, in processes of their own


def test_a_missing_file_as_a_user_sees_it(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    message = refusal(run_as_user("train_tokenizer", config))
    assert message.startswith(f"{tmp_path / 'texts.txt'}: there is no such file or folder (looked in {ROOT})")
    assert sorted(contents(tmp_path)) == ["run.yaml"]


def test_a_folder_of_something_else_as_a_user_sees_it(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors/notes.txt").write_text("precious")
    message = refusal(run_as_user("encode_dataset", trained))
    assert message == f"{tmp_path / 'vectors'}: not empty, and not a folder of vectors; choose another encode.output"
    assert contents(tmp_path / "vectors") == {"notes.txt": b"precious"}


# Mistakes, in this process


@pytest.mark.parametrize("script", ["train_tokenizer", "init_model", "inspect_dataset", "encode_dataset"])
def test_a_missing_configuration(tmp_path: Path, invoke: Invoke, script: str) -> None:
    message = refusal(invoke(script, tmp_path / "none.yaml"))
    assert message.startswith(f"{tmp_path / 'none.yaml'}: the configuration cannot be read")


def test_every_mistake_of_a_configuration_is_told_at_once(tmp_path: Path, invoke: Invoke) -> None:
    dataset = {"text_colum": "text", "shard_rows": 0}
    config = write_config(tmp_path, dataset=dataset, encode={"vector_dtype": "float8"})
    message = refusal(invoke("encode_dataset", config))
    assert "3 mistakes" in message
    for told in ("'text_column'", "dataset.shard_rows = 0", "encode.vector_dtype = 'float8'"):
        assert told in message
    assert sorted(contents(tmp_path)) == ["run.yaml"]


def test_inspecting_uses_the_checkpoints_tokenizer_where_none_is_set(trained: Path, invoke: Invoke) -> None:
    own = invoke("inspect_dataset", trained, "--set", "tokenizer.path=null")
    assert own.exit_code == 0, own.stderr
    assert own.stdout == invoke("inspect_dataset", trained).stdout


def test_an_export_is_validated_and_a_broken_one_fails(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    folder = tmp_path / "an artifact"
    exported = invoke("export_model", trained, "--set", f"export.output={folder}")
    assert exported.exit_code == 0, exported.stderr
    assert f"--texts {trained} --set 'export.output={folder}'" in exported.stdout
    validated = invoke("validate_export", folder, "--texts", trained, "--rows", "4")
    assert validated.exit_code == 0, validated.stderr
    assert "passed      onnxruntime cpu: native ✓ " in validated.stdout
    assert "portable ✓ " in validated.stdout
    assert "use native" in validated.stdout
    assert (folder / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert "](validation.png)" in (folder / "validation.md").read_text()
    assert "## Speed" in (folder / "validation.md").read_text()
    assert json.loads((folder / "validation.json").read_text())["passed"] is True
    assert "| onnxruntime cpu |" in (folder / "README.md").read_text()

    model = onnx.load(folder / "onnx/model.onnx")
    next(node for node in model.graph.node if node.op_type == "LSTM").input[3] = ""
    onnx.save(model, folder / "onnx/model.onnx")
    assert "onnx/model.onnx: the file is not the one that was exported" in refusal(invoke("validate_export", folder))
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    write_manifest(folder, {**manifest, "files": describe_files(folder)})
    validated = invoke("validate_export", folder)
    assert validated.exit_code == 1
    assert "failed      onnxruntime cpu: native ✗ " in validated.stdout
    assert "use portable" in validated.stdout
    assert "failed      onnxruntime cpu, native: " in validated.stdout
    assert "passed      torchscript" in validated.stdout
    assert json.loads((folder / "validation.json").read_text())["passed"] is False


def test_only_the_runtimes_that_were_named_are_judged(artifact_folder: Path, invoke: Invoke) -> None:
    result = invoke("validate_export", artifact_folder, "--runtimes", "torchscript, onnxruntime cpu")
    assert result.exit_code == 0, result.stderr
    record = json.loads((artifact_folder / "validation.json").read_text())
    assert {verdict["runtime"] for verdict in record["verdicts"]} == {"torchscript", "onnxruntime cpu"}
    unknown = invoke("validate_export", artifact_folder, "--runtimes", "tflite")
    assert unknown.exit_code == 2
    assert "'tflite': no such runtime; choose from pytorch (packed batches), " in unknown.stderr


def test_a_setting_without_a_run_to_change_is_refused(tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("validate_export", tmp_path, "--set", "dataset.path=x.csv")
    assert result.exit_code == 2
    assert "give --texts too" in result.stderr


@pytest.mark.parametrize("script", ["train_tokenizer", "init_model"])
def test_a_tokenizer_that_is_not_set(trained: Path, invoke: Invoke, script: str) -> None:
    assert refusal(invoke(script, trained, "--set", "tokenizer.path=null")).startswith("tokenizer.path is not set")


@pytest.mark.parametrize("script", ["init_model", "inspect_dataset"])
def test_a_tokenizer_that_is_not_there(tmp_path: Path, texts_file: Path, invoke: Invoke, script: str) -> None:
    message = refusal(invoke(script, write_config(tmp_path)))
    assert message.startswith(f"{tmp_path / 'tokenizer.json'}: there is no such tokenizer; train one with")
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_that_is_not_there(tmp_path: Path, texts_file: Path, invoke: Invoke) -> None:
    message = refusal(invoke("encode_dataset", write_config(tmp_path)))
    assert message.startswith(f"{tmp_path / 'model'}: there is no such checkpoint; make one with")
    assert not (tmp_path / "vectors").exists()


BAD_INPUTS: dict[str, tuple[str, bytes, str]] = {
    "no rows": ("in.txt", b"", "in.txt: split 'train' has no rows"),
    "missing column": ("in.jsonl", b'{"body": "a"}\n', "there is no column 'text'; the columns are 'body'"),
    "not text": ("in.jsonl", b'{"text": 7}\n', "the column 'text' is Value('int64'), not text"),
    "lists": ("in.jsonl", b'{"text": ["a"]}\n', "the column 'text' is List(Value('string')), not text"),
    "broken JSON": ("in.jsonl", b'{"text": "a"}\n{"text": "b\n', "in.jsonl: split 'train' cannot be loaded (ArrowIn"),
    "lone surrogate": ("in.jsonl", b'{"text": "a\\ud800b"}\n', "The surrogate pair in string is invalid"),
    "broken parquet": ("in.parquet", b"PAR1", "in.parquet: split 'train' cannot be loaded (ArrowInvalid"),
    "unknown format": ("in.docx", b"PK", "in.docx: no file of a known format; set dataset.format"),
    "not UTF-8": ("in.txt", b"caf\xe9\n", "in.txt: split 'train' cannot be loaded (UnicodeDecodeError"),
}


@pytest.mark.parametrize("script", ["train_tokenizer", "inspect_dataset", "encode_dataset"])
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs(trained: Path, tmp_path: Path, invoke: Invoke, script: str, case: str) -> None:
    name, data, told = BAD_INPUTS[case]
    (tmp_path / name).write_bytes(data)
    before = contents(tmp_path)
    overwrite = ["--overwrite"] if script == "train_tokenizer" else []
    message = refusal(invoke(script, trained, "--set", f"dataset.path={tmp_path / name}", *overwrite))
    assert told in message
    assert contents(tmp_path) == before


NOT_TEXTS: dict[str, tuple[bytes, str]] = {
    "null": (b'{"text": "moon"}\n{"text": null}\n{"text": "rain"}\n', "(row 1: null)"),
    "bytes": (b'{"text": "moon"}\n{"text": "\xff"}\n{"text": "rain"}\n', "(row 1: not Unicode"),
}


@pytest.mark.parametrize("case", NOT_TEXTS)
def test_rows_without_a_text_stop_a_run_or_become_zeros(
    trained: Path, tmp_path: Path, invoke: Invoke, case: str
) -> None:
    data, told = NOT_TEXTS[case]
    (tmp_path / "in.jsonl").write_bytes(data)
    path = ("--set", f"dataset.path={tmp_path / 'in.jsonl'}")
    message = refusal(invoke("encode_dataset", trained, *path))
    assert told in message
    assert "or set encode.bad_rows to quarantine" in message
    assert not [name for name in contents(tmp_path / "vectors") if name.startswith("data") or name.endswith(".part")]
    result = invoke("encode_dataset", trained, *path, "--set", "encode.bad_rows=zero")
    assert result.exit_code == 0, result.stderr
    assert "3 rows, 2 tokens (0 empty, 1 null, 0 truncated)" in result.stdout
    found = pq.read_table(tmp_path / "vectors/data")["embedding"].to_pylist()
    assert [any(vector) for vector in found] == [True, False, True]
    assert "1 null or not Unicode" in invoke("inspect_dataset", trained, *path).stdout
    again = invoke("train_tokenizer", trained, *path, "--overwrite")
    assert again.exit_code == 0, again.stderr


def test_a_text_of_nul_bytes_is_a_text(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "moon\0rain"}) + "\n" + json.dumps({"text": "\0"}) + "\n")
    result = invoke("encode_dataset", trained, "--set", f"dataset.path={tmp_path / 'in.jsonl'}")
    assert result.exit_code == 0, result.stderr
    assert "2 rows, " in result.stdout


def test_a_tokenizer_that_does_not_fit(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    other = ("--set", f"tokenizer.path={tmp_path / 'other.json'}")
    (tmp_path / "more.txt").write_text("many other words that nobody has seen before\n" * 2)
    glob = ("--set", f"dataset.path={tmp_path / '*.txt'}")
    assert invoke("train_tokenizer", trained, *other, *glob).exit_code == 0
    before = contents(tmp_path)
    message = refusal(invoke("encode_dataset", trained, *other))
    assert "other.json has" in message
    assert "but the encoder's embedding table has" in message
    assert contents(tmp_path) == before


def test_a_folder_of_another_run(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    assert invoke("encode_dataset", trained).exit_code == 0
    before = contents(tmp_path)
    message = refusal(invoke("encode_dataset", trained, "--set", "tokenizer.max_length=99"))
    assert message.startswith(f"{tmp_path / 'vectors'}: holds the vectors of another run (max_length was null, is 99)")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("script", "setting"),
    [("train_tokenizer", "tokenizer.path"), ("init_model", "model.path"), ("encode_dataset", "encode.output")],
)
def test_a_place_that_cannot_be_written(
    trained: Path, tmp_path: Path, texts_file: Path, invoke: Invoke, script: str, setting: str
) -> None:
    before = contents(tmp_path)
    message = refusal(invoke(script, trained, "--set", f"{setting}={texts_file / 'below'}"))
    assert message.startswith(str(texts_file / "below"))
    assert "cannot be written" in message
    assert contents(tmp_path) == before


def test_a_tokenizer_in_the_place_of_a_folder(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    message = refusal(
        invoke("train_tokenizer", trained, "--overwrite", "--set", f"tokenizer.path={tmp_path / 'model'}")
    )
    assert message.startswith(f"{tmp_path / 'model'}: cannot be written")
    assert not list(tmp_path.rglob("*.part"))


def test_a_gpu_that_is_not_there(
    trained: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = refusal(invoke("encode_dataset", trained, "--set", "encode.device=cuda"))
    assert message.startswith("the device is cuda, but PyTorch finds no GPU here")
    assert not (tmp_path / "vectors").exists()
