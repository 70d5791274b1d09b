"""The README's commands and code, run as they stand, in their order, on a user's own data."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.paths import ROOT
from helpers.texts import TEXTS

BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
MAKE_TARGETS = {"make quickstart", "make test", "make runtimes", "make gpu"}


def commands() -> list[str]:
    text = "".join(body for kind, body in BLOCKS if kind == "bash").replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in text.splitlines() if line.strip()]


def ask_server(command: str, folder: Path, environment: dict[str, str]) -> None:
    """Start it, wait until it is ready, ask, and tell it to end."""
    with subprocess.Popen(
        command, shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = next(line.split()[1] for line in server.stdout if line.startswith("listening"))
        assert any(line.startswith("ready") for line in server.stdout)
        body = json.dumps({"inputs": list(TEXTS)}).encode()
        request = urllib.request.Request(f"{url}/embed", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            vectors = np.array(json.load(answer))
        written = datasets.Dataset.from_parquet(f"{folder}/vectors/data/*.parquet", cache_dir=str(folder / "hf"))
        np.testing.assert_allclose(vectors, np.array(written["embedding"])[: len(TEXTS)], atol=1e-6, rtol=0)
        server.terminate()
        server.stdout.read()
        assert server.wait(60) == 0


@pytest.mark.slow
@pytest.mark.longest
def test_the_verbs_work_on_a_users_own_files(tmp_path: Path) -> None:
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    rows = list(TEXTS) * 5
    lines = [f'{index},"{text}"' for index, text in enumerate(rows)]
    (tmp_path / "reviews.csv").write_text("\n".join(["id,body", *lines]) + "\n")
    (tmp_path / "notes.txt").write_text("\n".join(rows) + "\n")
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table({"id": range(len(rows)), "body": rows}), tmp_path / "corpus" / "part.parquet")
    (tmp_path / "run.yaml").write_text(next(body for kind, body in BLOCKS if kind == "yaml"))

    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "hf"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    verbs = [command for command in commands() if command not in MAKE_TARGETS]
    assert len(verbs) == 19
    for command in verbs:
        if "serve_model" in command:
            ask_server(f"exec {command} --port 0", tmp_path, environment)
            continue
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"

    snippets = [body for kind, body in BLOCKS if kind == "python"]
    assert len(snippets) == 4
    for snippet in snippets:
        done = subprocess.run(
            [sys.executable, "-c", snippet], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{snippet}\n{done.stderr}"

    folders = [
        datasets.Dataset.from_parquet(f"{tmp_path / name}/data/*.parquet", cache_dir=str(tmp_path / "hf"))
        for name in ("vectors", "v2", "v3", "v4", "v5", "v6")
    ]
    first = np.array(folders[0]["embedding"])
    assert first.shape == (len(rows), 512)
    for other in (*folders[1:3], *folders[4:]):
        np.testing.assert_array_equal(np.array(other["embedding"]), first)
    np.testing.assert_allclose(np.array(folders[3]["embedding"]), first, atol=1e-6, rtol=0)


def test_the_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert set(commands()) >= MAKE_TARGETS
    for target in MAKE_TARGETS:
        assert re.search(rf"^{target.split()[1]}:", makefile, re.MULTILINE)
        assert target in (ROOT / ".ci" / "run").read_text()


def test_every_file_it_names_is_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
