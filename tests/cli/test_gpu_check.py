"""`gpu_check`: its record and page, that no check passes without a GPU, and a rehearsal of the checks on the CPU."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from helpers.paths import ROOT
from helpers.texts import TEXTS
from lengthwise.cli import gpu_check
from lengthwise.cli.gpu import conformance, lstm_probes, rates
from lengthwise.cli.gpu.context import Check, Context, NotRun, Outcome, Section
from lengthwise.cli.gpu.rates import covered_time
from lengthwise.cli.gpu.record import (
    BEGIN,
    END,
    NOT_RUN,
    Row,
    RunInfo,
    SectionRecord,
    count_statuses,
    load_record,
    merge_records,
    read_page_part,
    record_to_markdown,
    replace_section,
    save_record,
    update_page,
)
from lengthwise.cli.gpu.sections import MODULES, empty_record, load_sections, run_sections
from lengthwise.cli.gpu.suite import read_junit_report
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.errors import LengthwiseError
from lengthwise.export.validation.lstm_probe import LstmProbe, ProbeResult

RUN_INFO = RunInfo("NVIDIA H200", {"torch": "2.11.0"}, "2026-01-01", "python scripts/gpu_check.py")


def section(name: str, *rows: Row, run_info: RunInfo | None = None) -> SectionRecord:
    return SectionRecord(name, name.title(), rows, run_info)


@pytest.fixture
def invoke(tmp_path: Path) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        files = ["--results", str(tmp_path / "gpu.json"), "--page", str(tmp_path / "page.md")]
        return CliRunner().invoke(gpu_check.main, [*files, *arguments])

    return run


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


# ---------------------------------------------------------------------------------------------------------- the record


def test_merge_records_keeps_the_results_of_the_last_gpu() -> None:
    unrun = Row("rate", "10")
    before = (section("rates", Row("rate", "10", "12", "passed"), run_info=RUN_INFO), section("probes", unrun))
    record = merge_records(before, (section("rates", unrun), section("probes", unrun)))
    assert record == before
    again = section(
        "rates", Row("rate", "10", "9", "missed"), run_info=dataclasses.replace(RUN_INFO, date="2026-02-02")
    )
    assert replace_section(record, again) == (again, before[1])
    assert merge_records((), before[1:]) == before[1:]


def test_merge_records_marks_an_added_check_as_not_run() -> None:
    before = (section("rates", Row("rate", "10", "12", "passed"), Row("gone", "", "1", "measured"), run_info=RUN_INFO),)
    (found,) = merge_records(before, (section("rates", Row("new", "5"), Row("rate", "10")),))
    assert found.rows == (Row("new", "5"), Row("rate", "10", "12", "passed"))
    assert found.run_info == RUN_INFO
    assert not found.passed


@pytest.mark.parametrize(
    ("statuses", "passed"),
    [
        (["passed", "measured"], True),
        (["passed", "not run"], False),
        (["passed", "missed"], False),
        (["failed"], False),
        (["not run"], False),
        (["rehearsed", "not run"], True),
        (["rehearsed", "failed"], False),
    ],
)
def test_a_section_passes_only_if_every_check_ran_and_reached_its_target(statuses: list[Any], passed: bool) -> None:
    assert section("rates", *(Row(status, "", "", status) for status in statuses)).passed == passed


def test_a_saved_record_is_loaded_unchanged(tmp_path: Path) -> None:
    record = (
        section("rates", Row("rate", "10", "µ | 12", "passed"), run_info=RUN_INFO),
        section("probes", Row("probe", "none")),
    )
    save_record(tmp_path / "gpu.json", record)
    assert load_record(tmp_path / "gpu.json") == record
    assert load_record(tmp_path / "none.json") == ()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"sections": [{"name": "rates"}]}', b'{"sections": 3}', b"\xff"])
def test_loading_another_file_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gpu.json").write_bytes(content)
    with pytest.raises(LengthwiseError, match=r"gpu\.json: is not the record of a GPU check .*; name another file"):
        load_record(tmp_path / "gpu.json")


def test_missed_and_failed_checks_are_bold_in_the_table() -> None:
    statuses: list[Any] = ["passed", "missed", "failed", "measured", "not run"]
    rows = [Row(status, "a", "b | c\nd", status) for status in statuses]
    lines = record_to_markdown((section("rates", *rows, run_info=RUN_INFO),)).splitlines()
    assert lines[0] == "### Rates"
    assert lines[2] == "`python scripts/gpu_check.py` on NVIDIA H200, 2026-01-01: torch 2.11.0."
    assert [line.split(" | ")[-1].rstrip(" |") for line in lines[6:]] == ["passed", "**missed**", "**failed**", "", ""]
    assert "b \\| c d" in lines[6]
    assert count_statuses(rows) == "1 passed, 1 measured, 1 missed, 1 failed, 1 not run"
    assert "**Not run on a GPU**" in record_to_markdown((section("rates", Row("rate", "10")),))


def test_update_page_replaces_the_text_between_its_markers(tmp_path: Path) -> None:
    page, record = tmp_path / "page.md", (section("rates", Row("rate", "10")),)
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    update_page(page, record)
    cached = page.read_text()
    assert cached.startswith("# Before\n")
    assert cached.endswith("\nafter\n")
    assert "old" not in cached
    assert read_page_part(page) == record_to_markdown(record)
    update_page(page, record)
    assert page.read_text() == cached


@pytest.mark.parametrize("text", ["# Nothing\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}{END}\n{BEGIN}{END}\n"])
def test_update_page_refuses_a_page_without_one_pair_of_markers(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(LengthwiseError, match=r"page\.md: has no place for the results; write <!-- gpu: begin -->"):
        update_page(page, empty_record())
    assert page.read_text() == text


# ------------------------------------------------------------------------------------------------------ without a GPU


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_every_check_reads_not_run(invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke()
    assert result.exit_code == 1
    assert "PyTorch finds no NVIDIA GPU here" in result.output
    record = load_record(tmp_path / "gpu.json")
    assert [one.name for one in record] == list(gpu_check.SECTIONS) == list(MODULES)
    rows = [row for one in record for row in one.rows]
    assert len(rows) > 25
    assert {(row.result, row.status) for row in rows} == {(NOT_RUN, "not run")}
    assert all(one.run_info is None and not one.passed for one in record)
    assert read_page_part(tmp_path / "page.md") == record_to_markdown(record)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_earlier_results_are_kept(invoke: Callable[..., Result], tmp_path: Path) -> None:
    first = empty_record()
    found = dataclasses.replace(
        first[0],
        rows=tuple(dataclasses.replace(row, result="9", status="passed") for row in first[0].rows),
        run_info=RUN_INFO,
    )
    save_record(tmp_path / "gpu.json", (found, *first[1:]))
    before = (tmp_path / "gpu.json").read_bytes()
    assert invoke("--section", "environment").exit_code == 1
    assert (tmp_path / "gpu.json").read_bytes() == before


def test_a_rehearsal_refuses_the_files_of_the_project() -> None:
    for option, path in (("--results", gpu_check.RESULTS), ("--page", gpu_check.PAGE)):
        other = {"--results": "--page", "--page": "--results"}[option]
        result = CliRunner().invoke(gpu_check.main, ["--rehearse", other, "elsewhere", option, str(path)])
        assert result.exit_code == 2
        assert "the results of a rehearsal prove nothing" in result.output


def test_the_page_of_the_project_equals_its_record() -> None:
    record = load_record(ROOT / "docs" / "gpu.json")
    assert read_page_part(ROOT / "docs" / "benchmarks.md") == record_to_markdown(record)
    described = [(one.name, one.title, [(row.name, row.target) for row in one.rows]) for one in record]
    assert described == [(one.name, one.title, [(row.name, row.target) for row in one.rows]) for one in empty_record()]
    for one in record:
        assert one.run_info is None or "NVIDIA" in one.run_info.device
        assert (one.run_info is not None) or {row.status for row in one.rows} == {"not run"}


def test_names_of_checks_are_unique_in_a_section() -> None:
    for one in load_sections():
        assert len({check.name for check in one.checks}) == len(one.checks)


# ------------------------------------------------------------------------------------------------ how checks are run


def test_checks_run_after_one_has_failed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(context: Context) -> Outcome:
        raise ZeroDivisionError("once")

    def skip(context: Context) -> Outcome:
        raise NotRun("no such library")

    checks = (
        Check("fails", "x", fail),
        Check("skips", "x", skip),
        Check("passes", "x", lambda context: Outcome("good", ok=True)),
        Check("misses", "x", lambda context: Outcome("worse", ok=False)),
        Check("measures", "", lambda context: Outcome("7")),
    )
    monkeypatch.setattr("lengthwise.cli.gpu.sections.load_sections", lambda: [Section("rates", "Rates", checks)])
    monkeypatch.setattr("lengthwise.cli.gpu.sections._run_info", lambda context: RUN_INFO)
    with Context("cuda", "glosses", None, 1, 1) as context:
        (found,) = run_sections(context, ("rates",))
        assert list(run_sections(context, ())) == []
    assert [(row.status, row.result) for row in found.rows] == [
        ("failed", "ZeroDivisionError: once"),
        ("not run", f"{NOT_RUN}: no such library"),
        ("passed", "good"),
        ("missed", "worse"),
        ("measured", "7"),
    ]
    assert not found.passed
    assert found.run_info == RUN_INFO
    assert "1 passed, 1 measured, 1 missed, 1 failed, 1 not run in" in capsys.readouterr().out


def test_shared_values_are_computed_once() -> None:
    calls = []

    def work(context: Context) -> int:
        calls.append(1)
        return 7

    def fail(context: Context) -> int:
        calls.append(2)
        raise ZeroDivisionError

    with Context("cpu", "glosses", None, 1, 1) as context:
        assert [context.cached(work), context.cached(work)] == [7, 7]
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                context.cached(fail)
        scratch = context.scratch
        assert scratch.is_dir()
    assert calls == [1, 2]
    assert not scratch.exists()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=12))
def test_covered_time_counts_overlaps_once(spans: list[tuple[int, int]]) -> None:
    inside = {second for start, length in spans for second in range(start, start + length)}
    assert covered_time([(float(start), float(start + length)) for start, length in spans]) == len(inside)


def junit(tmp_path: Path, cases: str) -> Path:
    path = tmp_path / "tests.xml"
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return path


def test_read_junit_report_counts_outcomes(tmp_path: Path) -> None:
    good, skipped = '<testcase name="a"/>', '<testcase name="s"><skipped message="no cuDNN"/></testcase>'
    bad = '<testcase name="b"><failure message="off"/></testcase><testcase name="c"><error message="x"/></testcase>'
    assert read_junit_report(junit(tmp_path, good + skipped)) == Outcome("1 passed, 1 skipped: no cuDNN", ok=False)
    assert read_junit_report(junit(tmp_path, good)) == Outcome("1 passed", ok=True)
    assert read_junit_report(junit(tmp_path, good + bad)) == Outcome("1 passed, 2 failed: b, c", ok=False)
    for cases, reason in ((skipped, "1 skipped: no cuDNN"), ("", "no test was selected")):
        with pytest.raises(NotRun, match=reason):
            read_junit_report(junit(tmp_path, cases))


def test_nan_misses_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EncoderConfig(vocab_size=9, embedding_dim=3, hidden_size=4)

    class Broken:
        def __init__(self, *_: Any) -> None:
            return

        def encode_batch(self, input_ids: Any, lengths: Any) -> Any:
            return np.full((len(lengths), config.dim), np.nan, np.float32)

    monkeypatch.setattr(conformance, "TorchEngine", Broken)
    monkeypatch.setattr(conformance, "_encoders", lambda context: [config])
    with Context("cuda", "glosses", None, 1, 1) as context:
        found = conformance._reduced_precision("fp16", context)
    assert (found.text, found.status) == ("off by nan; cosine at least nan", "missed")


def test_longest_text_ends_at_a_refusal_and_raises_other_errors() -> None:
    exact = StepwiseEncoder(seeded_encoder(EncoderConfig(vocab_size=9, embedding_dim=3, hidden_size=4), 0))

    def limited(error: Exception) -> Callable[..., Any]:
        def encode(input_ids: Any, lengths: Any) -> Any:
            if input_ids.shape[1] > 2_048:
                raise error
            return exact(input_ids, lengths)

        return encode

    with Context("cpu", "glosses", None, 1, 1) as context:
        found = conformance._longest(context, limited(LengthwiseError("it is too long")), exact)
        assert found == Outcome("2,048 tokens: off by 0.0e+00; 4,096 are refused: it is too long", ok=True)
        with pytest.raises(RuntimeError, match="illegal memory access"):
            conformance._longest(context, limited(RuntimeError("CUDA error: illegal memory access")), exact)


def test_a_probe_that_does_not_run_does_not_count_as_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(probe: LstmProbe, provider: str, *, cudnn: bool = True) -> ProbeResult:
        return ProbeResult(probe, provider, reason=reason)

    monkeypatch.setattr(lstm_probes, "run_probe_isolated", refuse)
    monkeypatch.setattr(lstm_probes, "run_probe", refuse)
    with Context("cuda", "glosses", None, 1, 1) as context:
        for reason, raised in (("NotRunnable: there is no CUDA", NotRun), ("Fail: CUDA error 700", RuntimeError)):
            with pytest.raises(raised, match=reason):
                lstm_probes._without_cudnn_in_onnxruntime(context)
            with pytest.raises(raised, match=reason):
                lstm_probes._probe(LstmProbe(), context)


def test_best_batch_size_skips_sizes_that_do_not_run() -> None:
    def fail() -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")

    with Context("cpu", "glosses", None, 1, 1) as context:
        assert (
            rates._best_batch_size(context, {1: lambda: time.sleep(0.01), 2: lambda: None, 4: fail, 8: lambda: None})
            == 2
        )
        with pytest.raises(RuntimeError, match="NOT_SUPPORTED"):
            rates._best_batch_size(context, {4: fail, 8: lambda: None})


@pytest.mark.heavy
def test_a_rehearsal_runs_every_check_on_the_cpu(invoke: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(f"{text} {number}" for number in range(10) for text in TEXTS) + "\n")
    run = {"dataset": {"path": str(tmp_path / "texts.txt")}, "model": {"path": "none"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    sizes = ["--corpus", str(tmp_path / "run.yaml"), "--rows", "70", "--many", "140", "--runs", "1"]
    names = [argument for name in MODULES if name != "tests" for argument in ("--section", name)]
    result = invoke("--rehearse", *sizes, *names)
    assert result.exit_code == 0, (result.output, result.exception)
    record = {one.name: one for one in load_record(tmp_path / "gpu.json")}
    for name in MODULES:
        if name == "tests":
            assert record[name].run_info is None
            continue
        statuses = {row.status for row in record[name].rows}
        assert "rehearsed" in statuses
        assert statuses <= {"rehearsed", "not run"}, result.output  # none failed, and none is reported as passed
        assert record[name].run_info is not None
        assert "no GPU" in record[name].run_info.device
    assert json.loads((tmp_path / "gpu.json").read_bytes())["sections"]
