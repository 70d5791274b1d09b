"""`lengthwise evaluate`: its tables, JSON, files and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.cli import Invoke, refusal
from helpers.texts import TEXTS


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    rows = [f"{text}\t{' '.join(reversed(text.split()))}" for text in TEXTS]
    (tmp_path / "pairs.tsv").write_text("\n".join(["text\tbackwards", *rows]) + "\n")
    path = tmp_path / "tasks.yaml"
    section = f"{{kind: retrieval, pairs: {tmp_path / 'pairs.tsv'}, query: text, document: backwards}}"
    path.write_text(f"tasks:\n  find: {section}\n")
    return path


def test_tables_and_files(trained: Path, tasks: Path, tmp_path: Path, invoke: Invoke) -> None:
    model, output = tmp_path / "model", tmp_path / "found"
    arguments = [f"ours={model}", "bm25", "--data", tasks, "--no-costs", "--output", output, "--resamples", "100"]
    result = invoke("evaluate_encoder", *arguments)
    assert result.exit_code == 0, result.stderr
    assert "| model | dim | find (MRR) |" in result.stdout
    assert "| bm25 | – | 1.000" in result.stdout
    assert f"written     {output / 'evaluation.json'}" in result.stderr
    assert json.loads((output / "evaluation.json").read_text())["baseline"] == "ours"


def test_json(trained: Path, tasks: Path, tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("evaluate_encoder", tmp_path / "model", "--data", tasks, "--no-costs", "--json", "--task", "find")
    assert result.exit_code == 0, result.stderr
    (model,) = json.loads(result.stdout)["models"]
    assert 0 <= model["tasks"]["find"]["metrics"]["MRR"]["value"] <= 1


def test_mistakes_are_one_paragraph(tasks: Path, tmp_path: Path, invoke: Invoke) -> None:
    assert "there is no such folder" in refusal(invoke("evaluate_encoder", tmp_path / "no", "--data", tasks))
    assert "cannot be read" in refusal(invoke("evaluate_encoder", "bm25", "--data", tmp_path / "no.yaml"))
    message = refusal(invoke("evaluate_encoder", "bm25", "--data", tasks, "--task", "lost"))
    assert "has no task 'lost'; its tasks are find" in message
