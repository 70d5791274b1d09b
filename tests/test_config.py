"""A run's YAML: what is refused, with which message, and the round trip of what is accepted."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from helpers.definition import ALL_POOLINGS
from helpers.paths import ROOT
from lengthwise.config import (
    DeviceVariant,
    EncoderConfig,
    ExportSettings,
    RunConfig,
    TokenizationSettings,
    Variant,
    load_config,
)
from lengthwise.dataset_config import OUTPUT_COLUMNS
from lengthwise.errors import ConfigError
from lengthwise.export.graphs.variants import DEVICE_VARIANTS, VARIANTS
from lengthwise.util.settings import Settings, parse_settings

MINIMAL = "dataset: {path: facts.txt}\nmodel: {path: checkpoint}\n"
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
COUNTS = st.integers(1, 10**12)


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def error_of(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, text), overrides)
    return str(caught.value)


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    text = """
dataset: {path: facts.txt, txt_column: body}
model: {path: checkpoint, init: {hidden_size: wide, normalise: true}}
batching: {max_rows: 0}
"""
    message = error_of(tmp_path, text)
    first, *lines = message.splitlines()
    assert first == f"{tmp_path / 'run.yaml'}: 4 mistakes"
    by_path = {line.split()[0]: line for line in lines}
    assert set(by_path) == {
        "dataset.txt_column",
        "model.init.hidden_size",
        "model.init.normalise",
        "batching.max_rows",
    }
    assert "'body'" in by_path["dataset.txt_column"]
    assert "did you mean 'text_column'?" in by_path["dataset.txt_column"]
    assert "did you mean 'normalize'?" in by_path["model.init.normalise"]
    assert "'wide'" in by_path["model.init.hidden_size"]
    assert "integer" in by_path["model.init.hidden_size"]
    assert "= 0:" in by_path["batching.max_rows"]
    assert "greater than or equal to 1 (limit of a batch's rows" in by_path["batching.max_rows"]


class Section(Settings):
    renamed = MappingProxyType({"wait": "timeout", "width": "model.init.hidden_size"})
    timeout: int = 1


class Run(Settings):
    renamed = MappingProxyType({"old": "section"})
    section: Section = Section()


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"section": {"wait": 3}}, "section.wait = 3: was renamed; write 'timeout' instead"),
        ({"section": {"width": 3}}, "section.width = 3: was renamed; write 'model.init.hidden_size' instead"),
        ({"old": {"wait": 3}}, "old = {'wait': 3}: was renamed; write 'section' instead"),
        ({"wait": 3}, "wait = 3: there is no such setting; the settings here are section"),
    ],
)
def test_renamed_setting_is_refused_with_its_new_name(data: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(Run, data, "run.yaml")
    assert str(caught.value) == f"run.yaml: 1 mistake\n  {line}"


def test_unknown_key_lists_the_settings(tmp_path: Path) -> None:
    message = error_of(tmp_path, MINIMAL + "batching: {zzz: 1}\n")
    assert "batching.zzz = 1" in message
    assert "max_tokens, max_rows" in message


def test_missing_section_and_a_missing_setting_are_named(tmp_path: Path) -> None:
    message = error_of(tmp_path, "dataset: {split: test}\n")
    assert "dataset.path: missing; it must be given" in message
    assert "model: missing; it must be given (which checkpoint, at least model.path)" in message


@pytest.mark.parametrize("value", ["", "3", "[a]"])
def test_section_that_is_not_a_mapping(tmp_path: Path, value: str) -> None:
    assert "should be a section of settings" in error_of(tmp_path, MINIMAL + f"batching: {value}\n")


def test_duplicate_key_is_refused(tmp_path: Path) -> None:
    text = "dataset: {path: a}\nmodel:\n  path: b\n  seed: 1\n  path: c\n"
    message = error_of(tmp_path, text)
    assert "'path' is written twice" in message
    assert "line 5" in message
    assert str(tmp_path / "run.yaml") in message


def test_merged_section_may_be_overridden(tmp_path: Path) -> None:
    text = "dataset: &data {path: a, split: train}\nmodel: {path: b}\n"
    assert load_config(write(tmp_path, text)).dataset.split == "train"
    text = "model: &both {path: b}\ndataset: {<<: *both, path: a}\n"
    config = load_config(write(tmp_path, text))
    assert (config.dataset.path, config.model.path) == ("a", "b")


@pytest.mark.parametrize(
    "text",
    ["a: [1, 2", "a: b: c", "{", "\tx: 1", "? [a, b]\n: 1\n", "day: 2024-13-45", "x: 0b_", "x: !!python/name:os"],
)
def test_invalid_yaml_is_refused(tmp_path: Path, text: str) -> None:
    message = error_of(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'run.yaml'}: not valid YAML")


@pytest.mark.parametrize(("text", "shown"), [("", "None"), ("- a\n", "['a']"), ("just words\n", "'just words'")])
def test_file_that_is_not_a_mapping(tmp_path: Path, text: str, shown: str) -> None:
    message = error_of(tmp_path, text)
    assert f"holds {shown}, not sections" in message


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_config(tmp_path / "absent.yaml")
    assert str(tmp_path / "absent.yaml") in str(caught.value)
    (tmp_path / "latin.yaml").write_bytes(b"dataset: {path: caf\xe9}")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("batching", "max_rows", "true"),
        ("batching", "max_rows", "'64'"),
        ("batching", "max_rows", "64.0"),
        ("dataset", "streaming", "1"),
        ("dataset", "streaming", "'true'"),
        ("dataset", "split", "3"),
        ("dataset", "keep_columns", "id"),
        ("dataset", "keep_columns", "[1]"),
        ("encode", "device", "tpu"),
        ("model", "seed", "-1"),
        ("tokenizer", "training", "{normalizers: [nfc, upper]}"),
        ("tokenizer", "training", "{pad_token: ''}"),
        ("tokenizer", "training", "{model: char, pre_tokenizer: bert}"),
    ],
)
def test_types_are_strict(tmp_path: Path, section: str, key: str, value: str) -> None:
    assert f"1 mistake\n  {section}.{key}" in error_of(tmp_path, MINIMAL, f"{section}.{key}={value}")


def test_set_changes_one_setting_and_the_last_wins(tmp_path: Path) -> None:
    overrides = [
        "batching.max_rows=8",
        "batching.max_rows = 16",
        "dataset.keep_columns=[id, title]",
        "tokenizer.max_length=64",
        "tokenizer.max_length=null",
        "dataset.path=a=b",
        "model.init={num_layers: 2, pooling: last}",
        "model.init.static_residual=true",
        "model.init.bidirectional=true",
    ]
    config = load_config(write(tmp_path, MINIMAL), overrides)
    assert config.batching.max_rows == 16
    assert config.dataset.keep_columns == ("id", "title")
    assert config.tokenizer.max_length is None
    assert config.dataset.path == "a=b"
    init = config.model.init
    assert (init.num_layers, init.pooling, init.bidirectional, init.static_residual) == (2, "last", True, True)


def test_set_may_add_a_section(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "dataset: {path: a}\n"), ["model.path=b"]).model.path == "b"


@pytest.mark.parametrize("override", ["batching.max_rows", "=3", ".x=3", "batching..max_rows=3", "batching.=3", ""])
def test_malformed_set_is_refused(tmp_path: Path, override: str) -> None:
    message = error_of(tmp_path, MINIMAL, override)
    assert message.startswith(f"--set {override!r}: not of the form key.path=value")


def test_set_of_a_wrong_path_or_value_is_refused(tmp_path: Path) -> None:
    message = error_of(tmp_path, MINIMAL, "dataset.path.name=3")
    assert "'path' holds 'facts.txt', not a section" in message
    assert "did you mean 'max_rows'?" in error_of(tmp_path, MINIMAL, "batching.max_row=3")
    for value in ("[1", "{a: 1, a: 2}", "2024-13-45"):
        assert error_of(tmp_path, MINIMAL, f"encode.output={value}").startswith(
            f"--set 'encode.output={value}': not valid YAML"
        )


def test_settings_are_frozen(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    with pytest.raises(ValidationError, match="frozen"):
        config.batching.max_rows = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.batching = config.batching  # type: ignore[misc]


@settings(max_examples=60, deadline=None)
@given(
    name=NAMES,
    keep=st.lists(NAMES.filter(lambda name: name not in OUTPUT_COLUMNS), unique=True, max_size=3),
    length=st.none() | COUNTS,
    normalizers=st.lists(st.sampled_from(["nfc", "lowercase", "bert"])),
    streaming=st.booleans(),
)
@example(name="\x85", keep=["a\u2028b\n\r", "\ufeff", "é: #'"], length=None, normalizers=[], streaming=False)
def test_to_yaml_reads_back_as_an_equal_run(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    keep: list[str],
    length: int | None,
    normalizers: list[str],
    streaming: bool,
) -> None:
    sections = {
        "dataset": {"path": name, "keep_columns": keep, "streaming": streaming},
        "tokenizer": {
            "max_length": length,
            "truncate": length is not None,
            "training": {"normalizers": normalizers, "bos_token": name},
        },
        "model": {"path": name},
    }
    config = parse_settings(RunConfig, sections, "generated")
    assert (config.dataset.path, config.dataset.keep_columns) == (name, tuple(keep))
    assert load_config(write(tmp_path_factory.mktemp("runs"), config.to_yaml())) == config


def test_to_yaml_holds_the_defaults(tmp_path: Path) -> None:
    text = load_config(write(tmp_path, MINIMAL), ["export.output=künstlich"]).to_yaml()
    assert "output: künstlich" in text  # as a person would write it
    resolved = yaml.safe_load(text)
    assert resolved["batching"] == {"max_tokens": None, "max_rows": None}
    assert resolved["tokenizer"]["training"]["normalizers"] == ["nfkc", "lowercase"]


@pytest.mark.parametrize("column", OUTPUT_COLUMNS)
def test_kept_column_may_not_have_the_name_of_an_output_column(tmp_path: Path, column: str) -> None:
    message = error_of(tmp_path, MINIMAL, f"dataset.keep_columns=[id, {column}]")
    assert f"dataset.keep_columns holds ['{column}'], which the output itself writes; rename" in message


def test_column_kept_twice_is_refused(tmp_path: Path) -> None:
    message = error_of(tmp_path, MINIMAL, "dataset.keep_columns=[id, id]")
    assert "dataset.keep_columns is ['id', 'id'], which names a column twice" in message


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("csv.delimiter", '";;"', r"dataset\.csv\.delimiter is ';;', not one character"),
        ("csv.delimiter", "'\"'", "not one character that is neither a quote nor a line break"),
        ("csv.header", "false", r"dataset\.csv\.header is false, but the columns have no names"),
        ("csv.column_names", "[a, a]", "which names a column twice"),
        ("csv.types", "{}", "was renamed; write 'dataset.types' instead"),
        ("csv.encoding", "cp1252", "was renamed; write 'dataset.encoding' instead"),
        ("encoding", "utf9", r"dataset\.encoding is 'utf9', which is no encoding that Python knows"),
        ("types.id", "text", r"dataset\.types\.id = 'text': input should be 'string'"),
    ],
)
def test_wrong_setting_of_how_files_are_read(tmp_path: Path, key: str, value: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("dataset: {path: rows.csv}\nmodel: {path: model}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(path, [f"dataset.{key}={value}"])


def test_truncation_needs_a_length(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), ["tokenizer.truncate=true"])
    assert config.resolve_tokenization(TokenizationSettings(max_length=3)).truncate
    with pytest.raises(ConfigError, match=r"tokenizer: 1 mistake\n  truncate is true, but .* set max_length too"):
        config.resolve_tokenization(TokenizationSettings())
    message = error_of(tmp_path, MINIMAL, "tokenizer.truncate=true", "tokenizer.max_length=0")
    assert "1 mistake\n  tokenizer.max_length = 0" in message  # the one mistake, not its consequence as well


@pytest.mark.parametrize("key", ["pad_token_id", "unk_token_id"])
def test_id_beyond_the_vocabulary_is_refused(key: str) -> None:
    assert parse_settings(EncoderConfig, {"vocab_size": 10, key: 9}, "config.json").vocab_size == 10
    with pytest.raises(ConfigError) as caught:
        parse_settings(EncoderConfig, {"vocab_size": 10, key: 10}, "config.json")
    assert f"config.json: 1 mistake\n  {key} is 10, but vocab_size is 10; ids run from 0 to 9" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "widths"),
    [
        ({}, (5, 5, 5)),
        ({"bidirectional": True}, (10, 10, 10)),
        ({"bidirectional": True, "projection_dim": 3}, (10, 10, 3)),
        ({"bidirectional": True, "pooling": "mean_last", "static_residual": True}, (10, 20, 20)),
        ({"pooling": "mean_last", "projection_dim": 3}, (5, 10, 3)),
    ],
)
def test_widths_of_an_encoder(changes: dict[str, Any], widths: tuple[int, int, int]) -> None:
    config = EncoderConfig(vocab_size=10, hidden_size=5, **changes)
    assert (config.state_dim, config.pooled_dim, config.dim) == widths


@pytest.mark.parametrize("pooling", ALL_POOLINGS)
def test_lengths_matter_where_the_end_of_a_row_is_read(pooling: str) -> None:
    config = EncoderConfig(vocab_size=10, pooling=pooling, static_residual=True)
    assert config.lengths_matter == ("last" in pooling or "end" in pooling)
    assert config.model_copy(update={"bidirectional": True}).lengths_matter


def test_settings_that_came_later_are_written_only_where_they_are_set() -> None:
    config = EncoderConfig(vocab_size=10)
    later = {"cell", "gate_activation", "attention_dim", "dense", "static_residual", "classifier", "padding"}
    assert later.isdisjoint(config.model_dump(mode="json"))
    residual = EncoderConfig(vocab_size=10, static_residual=True)
    assert residual.model_dump(mode="json")["static_residual"] is True
    assert EncoderConfig.model_validate(residual.model_dump()) == residual


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 3_000, "nested too deeply"),
        ("a: !!timestamp nonsense", "not valid YAML"),
        (
            "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip(" abcdefgh", "abcdefghi", strict=True)),
            "i = .*: there is no such setting",
        ),
        (
            "a: &a {x: 1}\n"
            + "".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in itertools.pairwise("abcdefghij")),
            "more than 10,000 keys are merged",
        ),
        ("dataset: 0x" + "f" * 9_000, "a int that is too long to be shown"),
    ],
    ids=["deep", "tag", "references", "merges", "digits"],
)
def test_hostile_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text.replace("* ", "1"))
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "run.yaml")


@pytest.mark.parametrize("text", [r'"a\0b"', r'"\ud800"'])
def test_string_that_cannot_be_encoded(tmp_path: Path, text: str) -> None:
    assert "which no file can hold" in error_of(tmp_path, MINIMAL, f"dataset.split={text}")
    assert "dataset.keep_columns" in error_of(tmp_path, MINIMAL, f"dataset.keep_columns=[b, {text}]")


def test_number_out_of_range(tmp_path: Path) -> None:
    assert "less than 9223372036854775808" in error_of(tmp_path, MINIMAL, f"dataset.shard_rows={2**63}")
    assert "finite" in error_of(tmp_path, MINIMAL, "cluster.gpus_per_worker=.inf")


def test_long_value_is_not_printed(tmp_path: Path) -> None:
    message = error_of(tmp_path, MINIMAL, f"batching.max_rows={'9' * 70}x")
    assert "a str of 73 characters" in message
    assert "9" * 61 not in message


@pytest.mark.parametrize("name", ["quickstart", "distil"])
def test_configurations_of_a_clone_are_valid(name: str) -> None:
    path = ROOT / "configs" / f"{name}.yaml"
    config = load_config(path)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert config.model.path == written["model"]["path"]
    assert config.train.teacher == written["train"]["teacher"]


def test_precision_does_not_apply_to_the_onnx_engine(tmp_path: Path) -> None:
    message = error_of(tmp_path, MINIMAL + "encode: {engine: onnx, precision: bf16}\n")
    assert "encode.precision is 'bf16', but a graph has a precision of its own; set encode.variant instead" in message
    config = load_config(write(tmp_path, MINIMAL + "encode: {precision: bf16}\n"))
    assert (config.encode.engine, config.encode.precision) == ("torch", "bf16")


def test_bound_of_a_loss_applies_to_precision_auto_only(tmp_path: Path) -> None:
    message = error_of(tmp_path, MINIMAL + "encode: {precision: int8, max_cosine_loss: 1.0e-5}\n")
    assert "encode.max_cosine_loss is 1e-05, but it is for precision auto only" in message
    config = load_config(write(tmp_path, MINIMAL + "encode: {precision: auto, max_cosine_loss: 1.0e-5}\n"))
    assert (config.encode.precision, config.encode.max_cosine_loss) == ("auto", 1e-5)
    assert "max_cosine_loss" not in load_config(write(tmp_path, MINIMAL)).to_yaml()


def test_variant_applies_to_the_onnx_engine_only(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), ["encode.engine=onnx", "encode.variant=int8"])
    assert config.encode.variant == "int8"
    assert load_config(write(tmp_path, MINIMAL), ["encode.engine=onnx"]).encode.variant is None
    for overrides in (["encode.variant=int8"], ["encode.variant=int8", "encode.engine=torch"]):
        message = error_of(tmp_path, MINIMAL, *overrides)
        assert "encode.variant is 'int8', but only the engine onnx runs a graph; set encode.engine to onnx" in message
    message = error_of(tmp_path, MINIMAL, "encode.engine=onnx", "encode.variant=int4")
    assert "encode.variant = 'int4'" in message
    assert "'int8_dynamic'" in message


def test_every_variant_can_be_configured() -> None:
    assert get_args(Variant) == tuple(VARIANTS)
    assert get_args(DeviceVariant) == tuple(DEVICE_VARIANTS)
    assert ExportSettings().variants == tuple(VARIANTS)
    assert ExportSettings(variants=["native", "ort"]).variants == ("native", "ort")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_file_that_an_editor_saved_in_another_unicode_encoding_is_read(
    tmp_path: Path, encoding: str, line_end: str
) -> None:
    text = "# caf\u00e9\ndataset: {path: caf\u00e9 \u6771.txt}\nmodel: {path: checkpoint}\n".replace("\n", line_end)
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode(encoding))
    assert load_config(path).dataset.path == "caf\u00e9 \u6771.txt"


def test_file_in_a_single_byte_encoding_is_refused_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(MINIMAL.encode() + "encode: {output: caf\u00e9}\n".encode("cp1252"))
    place = (
        r"byte 0xe9 at offset \d+ \(line 3, byte 21 of it\) is not UTF-8; it is '\u00e9' in cp1252, the likely encoding"
    )
    with pytest.raises(ConfigError, match=place) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "iconv -f cp1252 -t utf-8" in str(caught.value)


def test_binary_file_is_refused_as_no_text(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_bytes(b"\x08\x08\x12\x00\xff\x00")
    with pytest.raises(ConfigError, match=r"model\.yaml: .* this is no text file.*give the path of a YAML file"):
        load_config(path)
