"""The report beside a run's vectors: its figures are the run's, and it names no local path."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from matplotlib.image import imread

from helpers.engines import LookupEngine
from helpers.figures import bars
from helpers.files import UMASKS, contents, other_modes, umask
from helpers.runs import encode, run_config, source_of
from helpers.texts import TEXTS
from lengthwise.batching.plan import PlanReport
from lengthwise.config import RunConfig
from lengthwise.errors import StoreError
from lengthwise.run import report as reports
from lengthwise.run.plots import TOKENS, run_figure
from lengthwise.run.report import report_to_markdown, write_report
from lengthwise.run.stats import EncodeReport, ShardStats, StageSeconds
from lengthwise.store.records import Totals
from lengthwise.tokens.tokenizer import TextTokenizer


def config_with(**sections: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate({"dataset": {"path": "in.txt"}, "model": {"path": "model"}, **sections})


CONFIG = config_with()
ENCODED = ShardStats(
    shards=2,
    rows=200,
    tokens=2_000,
    repeated=40,
    steps=3_200,
    saved_steps=400,
    lengths=np.array([3, 0, 0, 0, 0, 100, 0, 0, 0, 0, 87, 0, 0, 0, 0, 10]),
    plan=PlanReport(157, 1_600, 3, 1_600, 2_000.0),
    unplanned=PlanReport(197, 2_000, 4, 2_500, 5_000.0),
    stages=StageSeconds(1.5, 3.25, 0.5),
)
REPORT = EncodeReport(
    totals=Totals(rows=300, tokens=3_600, empty=2, null=1, bad=3, truncated=4),
    encoded=ENCODED,
    is_complete=True,
    engine="torch cpu bf16",
    seconds=4.0,
)
NOTHING_ENCODED = replace(REPORT, encoded=ShardStats())


@pytest.fixture(autouse=True)
def _picture_of_few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "PICTURE_ROWS", 1)


def cells(text: str) -> dict[str, list[str]]:
    """The rows of the report's tables, by their first cell."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {name: rest for name, *rest in rows}


def test_report_has_the_figures_of_the_run() -> None:
    text = report_to_markdown(CONFIG, REPORT)
    found = cells(text)
    assert "`in.txt`, split `train`, column `text`: 200 rows of 2,000 tokens were encoded in 4.0 s." in text
    assert "The folder's other 100 rows were encoded before." in text
    assert found["rows per second, reading and writing included"] == ["50"]
    assert found["tokens per second, reading and writing included"] == ["500"]
    assert found["rows that repeat the ids of another, computed once"] == ["40"]
    assert [values for name, values in found.items() if "begin or end with in common" in name] == [["12.5%"]]
    assert found["texts of no tokens, in the whole folder"] == ["2"]
    assert found["rows without a text, in the whole folder"] == ["1"]
    assert found["truncated texts, in the whole folder"] == ["4"]
    assert [found[name] for name in ("read and tokenize", "encode", "write")] == [["1.50"], ["3.25"], ["0.50"]]
    assert found["the whole run, in which the stages overlap"] == ["4.00"]
    assert "Half of the rows have at most 5 tokens, 95% at most 10, the longest 15." in text
    assert found["dataset order, padded"] == ["197", "4", "20.0%", "2.5"]
    assert found["planned"] == ["157", "3", "0.0%", "1.0"]


def test_report_of_a_full_encode_mentions_no_older_rows() -> None:
    complete = replace(REPORT, totals=replace(REPORT.totals, rows=200))
    assert "were encoded before" not in report_to_markdown(CONFIG, complete)


def test_report_has_a_precision_section_below_float32() -> None:
    assert "Precision" not in report_to_markdown(CONFIG, REPORT)
    lower = replace(REPORT, encoded=replace(ENCODED, max_deviation=0.00321, min_cosine=0.99987))
    text = report_to_markdown(config_with(encode={"precision": "bf16"}), lower)
    assert "bf16: at most 3.2e-03 from float32 on sampled rows, cosine at least 0.999870." in text


def test_report_without_tokens_has_no_batches_section() -> None:
    blank = ShardStats(shards=2, rows=200, lengths=np.array([200]), stages=ENCODED.stages)
    text = report_to_markdown(CONFIG, replace(REPORT, encoded=blank))
    assert "batches" not in text
    assert cells(text)["tokens per second, reading and writing included"] == ["0"]


def test_report_names_engine_packages_and_processor() -> None:
    found = cells(report_to_markdown(config_with(encode={"precision": "bf16"}), REPORT))
    assert found["engine"] == ["torch cpu bf16"]
    assert found["torch"] == [version("torch")]
    assert found["tokenizers"] == [version("tokenizers")]
    assert found["processor"][0].endswith(" cores")
    assert len(found["processor"][0]) > len(", 1 cores")


def test_report_names_no_local_path(tmp_path: Path) -> None:
    settings = CONFIG.model_dump()
    settings["dataset"]["path"] = str(tmp_path / "some/where/facts.txt")
    config = RunConfig.model_validate(settings)
    path = write_report(tmp_path / "vectors", config, REPORT)
    assert path is not None
    text = Path(path).read_text()
    assert "`facts.txt`" in text
    assert str(tmp_path) not in text
    assert "where/" not in text
    assert str(tmp_path).encode() not in (tmp_path / "vectors/report.png").read_bytes()


def test_few_texts_have_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(tmp_path, CONFIG, REPORT)
    monkeypatch.setattr(reports, "PICTURE_ROWS", REPORT.encoded.rows + 1)
    monkeypatch.setattr(reports, "run_figure", None)
    write_report(tmp_path, CONFIG, REPORT)
    assert sorted(contents(tmp_path)) == ["report.md"]
    assert "picture" not in (tmp_path / "report.md").read_text()


def test_write_report_writes_text_and_figure(tmp_path: Path) -> None:
    assert write_report(tmp_path, CONFIG, REPORT) == str(tmp_path / "report.md")
    assert sorted(contents(tmp_path)) == ["report.md", "report.png"]
    assert "](report.png)" in (tmp_path / "report.md").read_text()
    assert imread(tmp_path / "report.png").shape[:2] == (500, 1400)


def test_run_figure_shows_lengths_and_stages() -> None:
    lengths, stages = run_figure(REPORT).axes
    assert sum(bar.get_height() for bar in bars(lengths, TOKENS)) == 197
    assert "3 more have no tokens" in lengths.get_title(loc="left")
    assert [bar.get_width() for bar in bars(stages, TOKENS)] == [1.5, 3.25, 0.5]
    assert list(stages.lines[0].get_xdata()) == [4.0, 4.0]


def test_write_report_keeps_an_older_report_if_nothing_was_encoded(tmp_path: Path) -> None:
    assert write_report(tmp_path, CONFIG, NOTHING_ENCODED) is None
    assert not contents(tmp_path)
    write_report(tmp_path, CONFIG, REPORT)
    before = contents(tmp_path)
    assert write_report(tmp_path, CONFIG, NOTHING_ENCODED) is None
    assert contents(tmp_path) == before


def test_write_report_skips_parts(tmp_path: Path) -> None:
    assert write_report(tmp_path, CONFIG, replace(REPORT, is_complete=False)) is None
    assert not contents(tmp_path)


def test_write_report_to_a_url(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}-report/vectors"
    assert write_report(url, CONFIG, REPORT) == f"{url}/report.md"
    assert fsspec.filesystem("memory").cat(f"/{tmp_path.name}-report/vectors/report.md").startswith(b"# Report")


def test_write_report_reports_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "vectors").write_text("a file")
    with pytest.raises(StoreError, match=r"report\.md: cannot be written .* only the report is missing"):
        write_report(tmp_path / "vectors", CONFIG, REPORT)


def test_write_report_without_matplotlib_removes_an_old_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(tmp_path, CONFIG, REPORT)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_report(tmp_path, CONFIG, REPORT)
    assert sorted(contents(tmp_path)) == ["report.md"]
    assert "install lengthwise[plot]" in (tmp_path / "report.md").read_text()
    assert "report.png" not in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("mask", UMASKS)
def test_every_file_of_a_run_has_the_permissions_of_a_new_file(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, mask: int
) -> None:
    config = run_config(tmp_path / "vectors", dataset={"shard_rows": 2})
    with umask(mask):
        report = encode(config, source_of(TEXTS, config), tokenizer, engine)
        write_report(config.encode.output, config, report)
    assert {path.suffix for path in (tmp_path / "vectors").rglob("*.*")} >= {".parquet", ".json", ".md", ".png"}
    assert other_modes(tmp_path / "vectors", mask) == {}
