"""Commands and code of the README and the pages in docs/, and a user's folder to run them in."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner
from numpy.typing import NDArray

from helpers.paths import ROOT
from helpers.texts import TEXTS
from lengthwise.cli.main import main

ROWS = list(TEXTS) * 5
MAKE_TARGETS = {"make quickstart", "make test", "make runtimes", "make gpu"}  # each is a step of CI


def read_page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def commands_of(page: str) -> list[str]:
    """Every command of a page once, in order: the lines of its bash blocks, then the examples in its tables."""
    lines = "".join(code_blocks(page, "bash")).replace("\\\n", " ").splitlines()
    commands = [line.split(" #")[0].strip() for line in lines if line.strip()]
    examples = re.findall(r"\| `((?:lengthwise|make) [^`]+)` \|$", page, re.MULTILINE)
    return list(dict.fromkeys([*commands, *examples]))


def runnable_commands(page: str) -> list[str]:
    """The commands of a page that a test can run: those of `lengthwise`."""
    return [command for command in commands_of(page) if command.startswith("lengthwise ")]


def write_user_folder(folder: Path) -> None:
    """The files that the pages name: the README's run.yaml, and the same texts in three formats."""
    (folder / "run.yaml").write_text(code_blocks(read_page("README.md"), "yaml")[0])
    lines = [f'{index},"{text}"' for index, text in enumerate(ROWS)]
    (folder / "reviews.csv").write_text("\n".join(["id,body", *lines]) + "\n")
    (folder / "notes.txt").write_text("\n".join(ROWS) + "\n")
    (folder / "corpus").mkdir()
    pq.write_table(pa.table({"id": range(len(ROWS)), "body": ROWS}), folder / "corpus" / "part.parquet")
    _write_tasks(folder)


def _write_tasks(folder: Path) -> None:
    """What docs/evaluation.md evaluates."""
    (folder / "tasks.yaml").write_text(code_blocks(read_page("docs/evaluation.md"), "yaml")[0])
    backwards = [(text, " ".join(reversed(text.split()))) for text in TEXTS]
    pairs = ["question,answer", *(f"{text},{other}" for text, other in backwards)]
    (folder / "answers.csv").write_text("\n".join(pairs) + "\n")
    triples = ["text\tsame\tother", *(f"{text}\t{other}\t{TEXTS[0]}" for text, other in backwards)]
    (folder / "triples.tsv").write_text("\n".join(triples) + "\n")
    topics = [json.dumps({"text": text, "label": "rain" if "rain" in text else "dry"}) for text in TEXTS]
    for name in ("train", "test"):
        (folder / f"topics-{name}.jsonl").write_text("\n".join(topics) + "\n")


class UserFolder:
    """Runs commands and Python code as a user does, with the folder as the current one.

    Commands run in this process, which has imported their packages already; what the installed command does in a
    process of its own is tested with the wheel.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        executables = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": executables}

    def run(self, command: str) -> str:
        """The standard output of a `lengthwise` command that has to succeed."""
        program, *arguments = shlex.split(command)
        assert program == "lengthwise"
        with contextlib.chdir(self.folder):
            result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{command}\n{result.stderr}\n{result.exception!r}"
        return result.stdout

    def run_python(self, code: str) -> str:
        """The standard output of a program that has to succeed; it runs in this process, as commands do."""
        printed = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            exec(code, {"__name__": "__main__"})
        return printed.getvalue()

    def embed_with_server(self, command: str) -> NDArray[np.float32]:
        """float32[len(TEXTS), dim] from the server that a command starts; it has to exit with 0 on SIGTERM."""
        options = {"cwd": self.folder, "env": self._environment, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(f"exec {command} --port 0", shell=True, **options) as server:  # type: ignore[call-overload]
            try:
                url = next(line.split()[1] for line in server.stdout if line.startswith("listening"))
                assert any(line.startswith("ready") for line in server.stdout)
                body = json.dumps({"inputs": list(TEXTS)}).encode()
                request = urllib.request.Request(f"{url}/embed", body, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=30) as response:
                    vectors = np.array(json.load(response), np.float32)
                server.terminate()
                server.stdout.read()
                assert server.wait(60) == 0
            finally:
                server.kill()
        return vectors

    def vectors(self, name: str) -> NDArray[np.float32]:
        """The vectors that a run wrote into a folder: float32[rows, dim]."""
        pattern = f"{self.folder / name}/data/*.parquet"
        dataset = datasets.Dataset.from_parquet(pattern, cache_dir=str(self.folder / "cache"))
        return np.array(dataset["embedding"], np.float32)
