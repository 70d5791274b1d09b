"""Fuzzing of every input file: it is read, or refused with a LengthwiseError; no process dies or hangs.

Each case runs in a subprocess, which may die without ending the tests.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from faults.form import cases
from faults.fuzzing import (
    DAMAGE,
    FORMATS,
    READ,
    REFUSED,
    ROWS,
    Child,
    Damage,
    apply_damage,
    load_model,
    load_settings,
    make_file,
    read_file,
    use_tokenizer,
)
from helpers.paths import ROOT
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig, TokenizerTraining
from lengthwise.encoder.checkpoint import save_checkpoint
from lengthwise.encoder.model import seeded_encoder
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer

OUTCOMES: Counter[tuple[str, str]] = Counter()
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.dates()
    | st.binary(max_size=4)
    | st.sampled_from(["text", "torch", "int8", 2**70, -1, 0, "s3://a", "../a", "\0"])
)
SECTIONS = ["dataset", "tokenizer", "model", "batching", "encode", "export", "cluster"]
KEYS = st.sampled_from([*SECTIONS, "path", "text_column", "keep_columns", "shard_rows", "training", "init", "workers"])
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4)
)


def limits(short: int, whole: int) -> Any:
    """Hypothesis settings with the number of examples of the current form."""
    return settings(max_examples=cases(short, whole), deadline=None, suppress_health_check=CHECKS)


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()
    counts = ", ".join(f"{family} {count} {outcome}" for (family, outcome), count in sorted(OUTCOMES.items()))
    sys.stdout.write(f"\nfuzzed: {sum(OUTCOMES.values())} cases ({counts})\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def check_outcome(family: str, outcome: str) -> None:
    """Count a case; two outcomes are correct."""
    OUTCOMES[family, outcome] += 1
    assert outcome in (READ, REFUSED), outcome


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@limits(short=10, whole=450)
@given(rows=ROWS, damage=DAMAGE, streaming=st.booleans(), shard_rows=st.sampled_from([1, 7, 1_000]), keep=st.booleans())
def test_damaged_data_files(
    child: Child,
    folder: Path,
    kind: str,
    rows: list[str | None],
    damage: Damage,
    streaming: bool,
    shard_rows: int,
    keep: bool,
) -> None:
    rows = [row if row is None else row.encode("utf-8", "replace").decode() for row in rows]
    data = apply_damage(make_file(kind, rows), damage)
    check_outcome(kind, child.run(read_file, str(folder / f"rows.{kind}"), data, streaming, shard_rows, keep))


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)
HOSTILE_YAML = [
    LAUGHS.encode(),
    b"dataset: &a {path: *a}\n",
    b"&a [*a]",
    b"dataset: &a\n  <<: *a\n",
    b"[" * 5_000,
    b"{a: " * 3_000 + b"1" + b"}" * 3_000,
    b"? [a, b]\n: 1\n",
    b"!!python/object/apply:os.system [echo]",
    b"\xef\xbb\xbfdataset: {path: a}\nmodel: {path: b}\n",
    b"\x00",
    b"dataset: {path: 2024-13-45}\n",
    b"a: 1_000:61:61.5\n",
    b"a: !!timestamp nonsense\n",
    b"a: !!float x\n",
    b"a: !!int 0b2\n",
    b"a: !!binary '*'\n",
    b"a: " + b"9" * 10_000,
    b"%YAML 9.9\n---\na: 1\n",
    b"a: 0x" + b"f" * 10_000,
    MERGES.encode(),
    b'a: "\\ud800"\n',
    b'dataset: {path: "a\\0b"}\nmodel: {path: "\\udfff"}\n',
    b"dataset: {path: a, shard_rows: 0xffffffffffffffffffff}\nmodel: {path: b}\n",
]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(HOSTILE_YAML)))
def test_hostile_yaml(child: Child, folder: Path, number: int) -> None:
    check_outcome("yaml", child.run(load_settings, str(folder / "run.yaml"), HOSTILE_YAML[number], []))
    text = HOSTILE_YAML[number].decode("latin-1")
    good = b"dataset: {path: a}\nmodel: {path: b}\n"
    check_outcome("yaml", child.run(load_settings, str(folder / "run.yaml"), good, [f"dataset.path={text}"]))


@pytest.mark.slow
@limits(short=40, whole=1_500)
@given(damage=DAMAGE, overrides=st.lists(st.text(max_size=20), max_size=2))
def test_damaged_yaml(child: Child, folder: Path, damage: Damage, overrides: list[str]) -> None:
    data = apply_damage((ROOT / "configs/quickstart.yaml").read_bytes(), damage)
    check_outcome("yaml", child.run(load_settings, str(folder / "run.yaml"), data, overrides))


@pytest.mark.slow
@limits(short=40, whole=1_500)
@given(
    sections=st.dictionaries(KEYS, DOCUMENTS, max_size=5) | DOCUMENTS,
    path=st.lists(KEYS, min_size=1, max_size=3),
    value=DOCUMENTS,
)
def test_arbitrary_yaml(child: Child, folder: Path, sections: Any, path: list[str], value: Any) -> None:
    data = yaml.safe_dump(sections, allow_unicode=False).encode()
    override = f"{'.'.join(path)}={yaml.safe_dump(value, default_flow_style=True)}"
    check_outcome("yaml", child.run(load_settings, str(folder / "run.yaml"), data, [override]))


MODELS = ("wordpiece", "bpe", "byte_bpe", "unigram", "wordlevel", "char")


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    """The JSON tree of a small tokenizer.json per model, each with special tokens around a text."""
    found = {}
    for model in MODELS:
        training = TokenizerTraining(model=model, vocab_size=300, min_frequency=1, bos_token="[B]", eos_token="[E]")  # type: ignore[arg-type]
        found[model] = json.loads(train_tokenizer(TEXTS, training).to_json())
    return found


def mutate(tree: Any, chance: Any) -> Any:
    """Replace, drop, duplicate, copy or change one node of the tree."""
    nodes: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            nodes.append((node, key))
            walk(node[key])

    walk(tree)
    parent, key = chance.choice(nodes)
    action = chance.choice(["replace", "drop", "duplicate", "copy", "change"])
    if action == "drop":
        del parent[key]
    elif action == "duplicate" and isinstance(parent, list):
        parent.insert(key, parent[key])
    elif action == "copy":
        source, name = chance.choice(nodes)
        parent[key] = json.loads(json.dumps(source[name])) if len(json.dumps(source[name])) < 2_000 else None
    elif action == "change" and type(parent[key]) is int:
        parent[key] += chance.choice([-1, 1, -(10**6), 2**31, 2**32, 2**64])
    else:
        parent[key] = chance.choice(
            [None, True, -1, 2**31, 1e308, "", "[UNK]", "(", "\ud800", [], {}, [[]], "x" * 1_000]
        )
    return tree


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@limits(short=10, whole=300)
@given(chance=st.randoms(use_true_random=False), times=st.integers(1, 3), damage=DAMAGE)
def test_damaged_tokenizers(
    child: Child, folder: Path, tokenizers: dict[str, Any], model: str, chance: Any, times: int, damage: Damage
) -> None:
    tree = json.loads(json.dumps(tokenizers[model]))
    for _ in range(times):
        tree = mutate(tree, chance)
    data = apply_damage(json.dumps(tree).encode(), damage[: chance.choice([0, 0, 0, 4])])
    texts = [*TEXTS, "", "😀 unknown word", "x" * 300]
    check_outcome("tokenizer", child.run(use_tokenizer, str(folder / "tokenizer.json"), data, texts))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@limits(short=10, whole=250)
@given(damage=DAMAGE)
@example(damage=[("cut", 0.0, 1, 0)])
def test_damaged_checkpoints(child: Child, folder: Path, tokenizer: TextTokenizer, file: str, damage: Damage) -> None:
    shutil.rmtree(folder / "model", ignore_errors=True)
    config = EncoderConfig(vocab_size=tokenizer.vocab_size, embedding_dim=4, hidden_size=3)
    save_checkpoint(folder / "model", seeded_encoder(config, 0), tokenizer)
    data = apply_damage((folder / "model" / file).read_bytes(), damage)
    check_outcome("checkpoint", child.run(load_model, str(folder / "model"), file, data))
