"""The benchmarks on texts of a run: the tables that they print and save, and that both sides are the same model."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.texts import TEXTS
from lengthwise.encoder.kernel import has_kernel
from lengthwise.errors import DatasetError
from lengthwise.export.graphs.variants import VARIANTS
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from lengthwise.export.runtimes.tract import Tract


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Runs a benchmark on 70 texts, with its results in tmp_path."""
    texts = [f"{text} {number}" for number in range(10) for text in TEXTS]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({"dataset": {"path": str(tmp_path / "texts.txt")}, "model": {"path": "none"}})
    )

    def run(name: str, *arguments: str) -> Result:
        main = importlib.import_module("lengthwise.cli.benchmark").main
        corpus = [] if name in ("graphs", "runtimes") else ["--corpus", str(tmp_path / "run.yaml")]
        given = ["--folder", str(tmp_path), name, *corpus, *arguments]
        monkeypatch.setattr("sys.argv", ["scripts/benchmark.py", *given])
        result = CliRunner().invoke(main, given)
        assert result.exit_code == 0, (result.output, result.exception)
        return result

    return run


def table(folder: Path, file: str, number: int = 0) -> dict[str, list[Any]]:
    saved = json.loads((folder / file).read_bytes())
    assert saved["command"].startswith("python scripts/")
    assert saved["machine"]
    assert any(version.startswith("torch ") for version in saved["versions"])
    return {row[0]: row[1:] for row in saved["tables"][number]["rows"]}


@pytest.mark.heavy  # the README's command runs always
def test_encode_compares_equal_models(invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke("encode", "--shape", "small", "--runs", "1")
    rows = table(tmp_path, "encode-small.json")
    assert {name.split(",")[0] for name in rows} >= {"ours fp32", "sentence-transformers", "datasets.map", "ours"}
    for name, (rate, _, difference, cosine) in rows.items():
        if rate.startswith("not run"):
            continue
        assert int(rate.replace(",", "")) > 0
        if "int8" in name:
            assert 1e-6 < float(difference) < 0.1
            assert 0.99 < float(cosine) < 1
        elif "bf16" not in name:
            assert float(difference) <= 1e-6, name
            assert float(cosine) == 1.0, name
    shares = [float(share.rstrip("%")) for _, share in table(tmp_path, "encode-small.json", 1).values()]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert "| ours fp32 |" in result.output


@pytest.mark.heavy
def test_kernel_reports_rates_and_time_per_step(invoke: Callable[..., Result], tmp_path: Path) -> None:
    invoke("kernel", "--shape", "small", "--runs", "1")
    rows = json.loads((tmp_path / "kernel-small.json").read_bytes())["tables"][0]["rows"]
    ((_, *cells),) = [row for row in rows if row[1] == "fp32"]  # there is one in bf16 too, where the processor has it
    assert re.fullmatch(r"[\d,]+ \(batch \d+\)", cells[3])
    assert cells[6] == "0.00%"
    steps = table(tmp_path, "kernel-small.json", 2)
    assert set(steps) == {"step-wise", "step-wise, int8", "onnxruntime"}
    assert int(steps["step-wise"][9]) > int(steps["step-wise"][0]) > 0  # 512 rows and one


def test_graphs_are_compared_with_the_native_graph(invoke: Callable[..., Result], tmp_path: Path) -> None:
    invoke("graphs", "--shape", "small", "--runs", "1")
    for number in (0, 1):
        rows = table(tmp_path, "graphs-small.json", number)
        assert set(rows) == set(VARIANTS)
        assert rows["native"][1:] == ["1.00 (1.00 to 1.00)", "0.0e+00"]
        assert float(rows["portable"][2]) <= 1e-6 < float(rows["int8"][2]) < 0.1


def test_tokenize_reports_ratios(invoke: Callable[..., Result], tmp_path: Path) -> None:
    invoke("tokenize", "--runs", "1")
    rows = table(tmp_path, "tokenize.json")
    assert [name.split(",")[0] for name in rows] == ["tokenize_texts"] * 3 + ["encode_batch_fast"] * 2
    assert all(re.fullmatch(r"\d+\.\d\d \(.*\)", ratio) for _, ratio in rows.values())


def test_host_reports_functions_and_steps(invoke: Callable[..., Result], tmp_path: Path) -> None:
    invoke("host", "--shape", "small", "--runs", "1")
    rates = table(tmp_path, "host-small.json")
    assert {"`encode_tokens`", "`encode_planned` alone", "`encode_dataset`, 4 shards"} == set(rates)
    steps = table(tmp_path, "host-small.json", 1)
    assert {"find the distinct rows", "gather batches", "check vectors", "write"} < set(steps)
    assert all(int(rate.replace(",", "")) > 0 for *_, rate in [*rates.values(), *steps.values()])


@pytest.mark.heavy
def test_memory_reports_peaks_of_processes(invoke: Callable[..., Result], tmp_path: Path) -> None:
    invoke("memory", "--shape", "small", "--rows", "70", "--times", "10", "--shard-rows", "70")
    rows = table(tmp_path, "memory-small.json")
    sources = {"memory-mapped", "streamed"}
    assert set(rows) == sources | {f"{source}, without pages of files" for source in sources}
    assert all(float(ratio) > 0.5 for _, _, ratio in rows.values())


@pytest.mark.skipif(not has_kernel(), reason="no fused kernel here")
def test_reuse_compares_with_a_full_run(invoke: Callable[..., Result], tmp_path: Path) -> None:
    invoke("reuse", "--shape", "small", "--rows", "200", "--runs", "1", "--hashes", "1000")
    rows = table(tmp_path, "reuse-small.json")
    reused = {label: int(cells[0]) for label, cells in rows.items()}
    assert reused == {
        "full run": 0,
        "nothing changed": 200,
        "1% of the rows changed": 198,
        "10% of the rows changed": 180,
        "50% of the rows changed": 100,
        "1% of the rows appended": 200,
    }
    assert len(table(tmp_path, "reuse-small.json", 1)) == 3


@pytest.mark.heavy
def test_cluster_compares_ray_with_one_process(invoke: Callable[..., Result], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install lengthwise[ray]")
    invoke("cluster", "--shape", "small", "--rows", "200", "--shard-rows", "70", "--runs", "1")
    assert [name.split(",")[0] for name in table(tmp_path, "cluster-small.json")] == ["one process", "Ray"]
    sizes = table(tmp_path, "cluster-small.json", 1)
    assert 256 * 4 * 0.8 < int(sizes["per row"][0].replace(",", "")) < 256 * 4 * 1.5


@pytest.mark.heavy
def test_batches_compares_ways_to_batch(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("lengthwise.cli.benchmarks.batches")
    monkeypatch.setattr(module, "PLANNED_ROWS", (1_000, 2_000))
    invoke("batches", "--shape", "small", "--draws", "3", "--runs", "2", "--seeds", "0")
    ways = table(tmp_path, "batches-small.json")
    assert len(ways) == 5
    measured = {name: cells for name, cells in ways.items() if not cells[0].startswith("not run")}
    assert {"random batches", "LengthBatchSampler", "iter_batches"} <= measured.keys()
    for _, padding, equal, sample, rate, ratio in measured.values():
        assert sample.startswith("6 batches, ")
        assert 0 <= float(padding.rstrip("%")) < 100
        assert 0 <= float(equal.rstrip("%")) <= 100
        assert int(rate.replace(",", "")) > 0
        assert re.fullmatch(r"\d+\.\d\d \(.*\)", ratio)
    planning = json.loads((tmp_path / "batches-small.json").read_bytes())["tables"][1]["rows"]
    assert [row[:2] for row in planning] == [["1,000", 1], ["1,000", 8], ["2,000", 1], ["2,000", 8]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 50)), min_size=1), st.integers(1, 5), st.integers(1, 4))
def test_batches_are_drawn_in_proportion_to_their_tokens(batches: list[tuple[int, int]], draws: int, runs: int) -> None:
    module = importlib.import_module("lengthwise.cli.benchmarks.batches")
    tokens, longest = np.array(batches).T
    drawn = module.draw_batches(tokens, longest, draws, runs)
    assert [len(run) for run in drawn] == [draws] * runs
    found = np.bincount(np.concatenate(drawn), minlength=len(tokens))
    np.testing.assert_array_less(np.abs(found - tokens / tokens.sum() * draws * runs), 1 + 1e-6)


def test_draws_estimate_the_epoch_from_a_first_batch_that_is_much_slower() -> None:
    module = importlib.import_module("lengthwise.cli.benchmarks.batches")
    tokens, longest = np.array([900, *[100] * 40]), np.array([300, *[10] * 40])
    seconds = tokens * longest
    rates = [
        np.mean([seconds[batch] / tokens[batch] for batch in module.draw_batches(tokens, longest, 4, 1, seed)[0]])
        for seed in range(2_000)
    ]
    assert np.mean(rates) == pytest.approx(seconds.sum() / tokens.sum(), rel=0.05)


def test_learning_trains_on_labelled_glosses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    corpora = importlib.import_module("lengthwise.cli.benchmarks.corpora")
    learning = importlib.import_module("lengthwise.cli.benchmarks.learning")
    for file, number in (("noun", "05"), ("verb", "31"), ("adj", "00"), ("adv", "02")):
        lines = [f"0000{row:04d} {number} n 01 word 0 000 | {TEXTS[row % 7]} {row}  " for row in range(20)]
        (tmp_path / f"data.{file}").write_text("\n".join(["  1 This licence", *lines]) + "\n")
    monkeypatch.setattr(corpora, "WORDNET", tmp_path)
    texts, labels = corpora.load_labelled_glosses()
    assert (texts[0], labels[::20]) == (f"{TEXTS[0]} 0", [5, 31, 0, 2])
    monkeypatch.setattr(learning, "TRAINING_ROWS", 60)
    monkeypatch.setattr(learning, "TEST_ROWS", 20)
    task = learning.load_task()
    for strategy in learning.STRATEGIES.values():
        losses, accuracy = learning.train(task, strategy, seed=0)
        assert len(losses) == learning.EPOCHS
        assert all(0 < loss < 10 for loss in losses)
        assert 0 <= accuracy <= 1


def test_ratios_compare_rounds_pairwise(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = importlib.import_module("lengthwise.cli.benchmarks.harness")
    assert harness.ratios([1.0, 2.0, 4.0], [2.0, 6.0, 4.0]) == "2.00 (1.00 to 3.00)"
    order: list[str] = []
    seconds = harness.alternate({name: lambda name=name: order.append(name) for name in "ab"}, 2, "test")
    assert order == list("ababab")
    assert {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("scripts/benchmark.py", "python scripts/benchmark.py encode"),
        ("/usr/bin/lengthwise", "lengthwise encode"),
        ("site-packages/lengthwise/__main__.py", "lengthwise encode"),
    ],
)
def test_command_is_the_one_that_was_typed(monkeypatch: pytest.MonkeyPatch, script: str, expected: str) -> None:
    harness = importlib.import_module("lengthwise.cli.benchmarks.harness")
    monkeypatch.setattr("sys.argv", [script, "encode"])
    assert harness.command() == expected


def test_titles_are_those_of_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    corpora = importlib.import_module("lengthwise.cli.benchmarks.corpora")
    listing = [
        "Package: cat\nVersion: 1\nDescription: a cat: old\n on a mat\nHomepage: none",
        "Package: dog\nDescription-en: a dog\n.\n Description: no field",
        "Package: cat\nVersion: 2\nDescription-en: a cat: new",
        "Package: nothing\nVersion: 1",
        "",
    ]
    assert corpora.parse_titles("\n\n".join(listing)) == ["a cat: new", "a dog"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DatasetError, match="titles of Debian's packages cannot be listed"):
        corpora.load_corpus("titles")


def test_a_missing_corpus_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    corpora = importlib.import_module("lengthwise.cli.benchmarks.corpora")
    monkeypatch.setattr(corpora, "WORDNET", tmp_path)
    monkeypatch.setattr(corpora, "FORTUNES", tmp_path)
    main = importlib.import_module("lengthwise.cli.benchmark").main
    for name, package in (("glosses", "wordnet-base"), ("fortunes", "fortunes")):
        result = CliRunner().invoke(main, ["tokenize", "--corpus", name])
        assert result.exit_code == 2
        assert f"apt-get install {package}" in result.stderr


@pytest.mark.heavy
def test_serve_compares_servers(invoke: Callable[..., Result], tmp_path: Path) -> None:
    invoke("serve", "--shape", "small", "--seconds", "0.5", "--overload", "1", "--soak", "1", "--runs", "1")
    rates = table(tmp_path, "serve-small.json")
    assert {name.partition(",")[0] for name in rates} == {"batch encoding", "ours", "fastapi", "litserve"}
    assert all(int(rate.replace(",", "")) > 0 for rate, *_ in rates.values())
    assert table(tmp_path, "serve-small.json", 4)["without a response"] == [0]
    assert table(tmp_path, "serve-small.json", 5)["responses"][0].endswith(" x 200")


@pytest.mark.heavy
@pytest.mark.skipif(not has_kernel(), reason="this CPU has no AVX2, or llvmlite is not installed")
def test_serve_compares_states_that_are_kept_with_none(invoke: Callable[..., Result], tmp_path: Path) -> None:
    invoke("serve", "--states", "--shape", "small", "--runs", "1")
    rows = table(tmp_path, "states-small.json")
    assert all(int(without) > 0 and int(kept) > 0 for _, without, kept, _ in rows.values())
    shares = [float(saved.rstrip("%")) for saved, *_ in rows.values()]
    assert len(shares) == 4
    assert shares[1] > shares[0]  # behind a preamble, more steps are saved
    assert shares[3] > shares[2]


@pytest.mark.slow
def test_runtimes_are_measured_in_their_own_processes(
    invoke: Callable[..., Result], tmp_path: Path, artifact_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = (OnnxRuntimeCpu, OnnxRuntimeCuda, Tract)
    monkeypatch.setattr("lengthwise.export.runtimes.registry.RUNTIMES", kinds)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    invoke("runtimes", str(artifact_folder), "--runs", "1")
    rows = table(tmp_path, "runtimes.json")
    assert list(rows) == [kind.name for kind in kinds]
    for version, graph, difference, size, seconds, *rates in rows.values():
        if version.startswith("not run: "):
            assert not graph
            continue
        assert graph in ("`onnx/model.onnx`", "`onnx/model_portable.onnx`")
        assert float(difference) <= 1e-6
        assert int(size.replace(",", "")) > 1
        assert 0 < float(seconds) < 120
        assert all(int(rate.replace(",", "")) > 0 for rate in rates)
    assert not rows["onnxruntime cpu"][0].startswith("not run")
    assert rows["onnxruntime cuda"][0].startswith("not run: ")


@pytest.mark.heavy
def test_runtimes_are_asked_bad_input(
    invoke: Callable[..., Result], tmp_path: Path, artifact_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthwise.export.validation.bad_inputs.RUNTIMES", (OnnxRuntimeCpu, OnnxRuntimeCuda))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    invoke("runtimes", str(artifact_folder), "--bad-input")
    rows, reasons = (table(tmp_path, "runtimes-bad-input.json", number) for number in (0, 1))
    assert rows["onnxruntime cpu"][:6] == ["error", "error", "wrong", "error", "error", "crash"]
    assert set(rows["onnxruntime cuda"]) == set(rows["onnxruntime cpu (.ort)"]) == {"not run"}
    assert reasons["onnxruntime cpu (.ort)"] == ["the artifact has no ort/model.ort; name ort in export.variants"]
