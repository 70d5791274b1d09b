"""Encode a run's dataset into a folder of parquet shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from _common import Verb, load_run, run_options

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.encode import Engine
    from pipeline.run import EncodeReport
    from pipeline.tokenizer import TextTokenizer


def encode(run: RunConfig) -> EncodeReport:
    """Encode what is not encoded yet, and write a report of it beside the vectors."""
    from pipeline.dataset import open_dataset
    from pipeline.run import encode_dataset
    from pipeline.run_report import write_report

    source = open_dataset(run.dataset)
    engine, tokenizer, weights = open_onnx(run) if run.encode.engine == "onnx" else open_torch(run)
    if not engine.config.trained:
        click.echo(f"note: the encoder was never trained (seed {engine.config.seed})", err=True)
    report = encode_dataset(run, source, tokenizer, engine, weights)
    write_report(run.encode.output, run, report)
    return report


def open_torch(run: RunConfig) -> tuple[Engine, TextTokenizer, str]:
    """The checkpoint at model.path: its engine, tokenizer and weights' fingerprint."""
    from pipeline.checkpoint import load_run_model, weights_fingerprint
    from pipeline.torch_engine import TorchEngine

    encoder, tokenizer = load_run_model(run)
    return TorchEngine(encoder, run.encode.device, run.encode.precision), tokenizer, weights_fingerprint(encoder)


def open_onnx(run: RunConfig) -> tuple[Engine, TextTokenizer, str]:
    """The same of the artifact at export.output; PyTorch is not imported."""
    from export.artifact import Artifact
    from export.engine import OnnxEngine
    from pipeline.tokenizer import load_run_tokenizer

    artifact = Artifact.open(run.export.output)
    engine = OnnxEngine(artifact, run.encode.device, variant=run.encode.variant)
    return engine, load_run_tokenizer(run, artifact.folder, engine.config), engine.weights


def summary(run: RunConfig, report: EncodeReport) -> str:
    """What is in the folder, and what this run measured."""
    from pipeline.run_report import REPORT, precision_sentence

    flags = f"{report.empty:,} empty, {report.null:,} null, {report.truncated:,} truncated"
    lines = [f"vectors     {run.encode.output}/data: {report.rows:,} rows, {report.tokens:,} tokens ({flags})"]
    if not report.encoded_shards:
        lines.append("speed       nothing to encode: all shards were there, and their sha256 is right")
    if report.encoded_tokens:
        plan = report.plan
        lines += [
            f"speed       {report.tokens_per_second:,.0f} tokens/s with {report.engine}"
            f" ({report.encoded_tokens:,} tokens in {report.seconds:.1f} s, reading and writing included)",
            f"padding     {plan.padding:.2%} of {plan.cells:,} computed cells, in {plan.batches:,} batches;"
            f" in dataset order it would be {report.unplanned.padding:.1%}",
        ]
    if report.repeated_rows:
        lines.append(f"repeats     {report.repeated_rows:,} rows had the ids of another row, and its vector")
    if precision := precision_sentence(run, report):
        lines.append(f"precision   {precision}")
    if (path := Path(run.encode.output) / REPORT).exists():
        lines.append(f"report      {path}")
    return "\n".join(lines)


@click.command(cls=Verb)
@run_options
def main(config: Path, overrides: tuple[str, ...]) -> None:
    """Encode the dataset of the run CONFIG (a YAML file) into parquet shards below encode.output."""
    run = load_run(config, overrides)
    click.echo(summary(run, encode(run)))


if __name__ == "__main__":
    main()
