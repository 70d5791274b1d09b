"""Benchmarks: encoding, LSTM, graphs, runtimes, tokenizer, host, memory, Ray, server. Each prints and saves tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lengthwise.cli.common import CommandGroup

FOLDER = Path("runs/benchmark")


def _options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of these names, which several benchmarks share."""
    known = {
        "shape": click.option(
            "--shape",
            type=click.Choice(["large", "small"]),
            default="large",
            show_default=True,
            help="large: E300 H512 bidirectional; small: E128 H256.",
        ),
        "corpus": click.option(
            "--corpus",
            default="glosses",
            show_default=True,
            help="glosses (of WordNet), fortunes, titles (of Debian's packages), or a run's YAML file.",
        ),
        "rows": click.option(
            "--rows", type=click.IntRange(1), default=20_000, show_default=True, help="Texts in a random sample."
        ),
        "shard_rows": click.option(
            "--shard-rows", type=click.IntRange(1), default=65_536, show_default=True, help="Rows per shard."
        ),
        "runs": click.option(
            "--runs", type=click.IntRange(1), default=5, show_default=True, help="Measured runs of each side."
        ),
    }

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            function = known[name](function)
        return function

    return add


@click.group(cls=CommandGroup)
@click.option(
    "--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Folder of the results."
)
@click.pass_context
def main(context: click.Context, folder: Path) -> None:
    """Benchmarks. Both sides of a ratio run alternately in one process; run nothing else on the machine."""
    context.obj = folder


@main.command()
@_options("shape", "corpus", "rows", "runs")
@click.pass_obj
def encode(folder: Path, shape: str, corpus: str, rows: int, runs: int) -> None:
    """Encoding of texts, against sentence-transformers and a plain loop."""
    from lengthwise.cli.benchmarks.encode import measure

    measure(shape, corpus, rows, runs).save(folder / f"encode-{shape}.json")


@main.command()
@_options("shape", "rows", "runs")
@click.option("--corpus", "corpora", multiple=True, default=("glosses", "fortunes"), show_default=True)
@click.pass_obj
def kernel(folder: Path, shape: str, corpora: tuple[str, ...], rows: int, runs: int) -> None:
    """The LSTM alone, against a dense nn.LSTM on equal lengths; and the cost of a time step."""
    from lengthwise.cli.benchmarks.kernel import measure

    measure(shape, corpora, rows, runs).save(folder / f"kernel-{shape}.json")


@main.command()
@_options("shape", "runs")
@click.option("--corpus", "corpora", multiple=True, default=("glosses", "fortunes"), show_default=True)
@click.option("--draws", type=click.IntRange(1), default=2, show_default=True, help="Batches of each side in each run.")
@click.option(
    "--seeds", type=click.IntRange(0), default=0, show_default=True, help="Of what is learned, e.g. 5; 0: left out."
)
@click.pass_obj
def batches(folder: Path, shape: str, corpora: tuple[str, ...], draws: int, runs: int, seeds: int) -> None:
    """Training on batches of equal lengths, against random ones and other samplers; and what is learned from them."""
    from lengthwise.cli.benchmarks.batches import measure

    measure(shape, corpora, draws, runs, seeds).save(folder / f"batches-{shape}.json")


@main.command()
@_options("shape")
@click.option("--runs", type=click.IntRange(1), default=30, show_default=True, help="Measured runs of each graph.")
@click.pass_obj
def graphs(folder: Path, shape: str, runs: int) -> None:
    """Each ONNX graph against the native one."""
    from lengthwise.cli.benchmarks.graphs import measure

    measure(shape, runs).save(folder / f"graphs-{shape}.json")


@main.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Processes of each runtime.")
@click.option("--bad-input", is_flag=True, help="What each engine does with batches that no text gives, instead.")
@click.pass_obj
def runtimes(folder: Path, artifact: Path, runs: int, bad_input: bool) -> None:
    """Every runtime on an artifact: size, seconds to the first vector, exactness, tokens per second."""
    from lengthwise.cli.benchmarks.runtimes import ask_bad_input, measure

    if bad_input:
        ask_bad_input(artifact).save(folder / "runtimes-bad-input.json")
    else:
        measure(artifact, runs).save(folder / "runtimes.json")


@main.command()
@_options("corpus", "runs")
@click.option("--rows", type=click.IntRange(1), default=65_536, show_default=True, help="Texts in a random sample.")
@click.pass_obj
def tokenize(folder: Path, corpus: str, rows: int, runs: int) -> None:
    """Tokenization, against the tokenizers library alone."""
    from lengthwise.cli.benchmarks.tokenizing import measure

    measure(corpus, rows, runs).save(folder / "tokenize.json")


@main.command()
@_options("shape", "corpus", "runs")
@click.option("--rows", type=click.IntRange(1), default=65_536, show_default=True, help="Texts per shard.")
@click.pass_obj
def host(folder: Path, shape: str, corpus: str, rows: int, runs: int) -> None:
    """Everything but the engine: the rate with an engine that does nothing, and the cost of each step."""
    from lengthwise.cli.benchmarks.host import measure

    measure(shape, corpus, rows, runs).save(folder / f"host-{shape}.json")


@main.command()
@_options("shape", "corpus")
@click.option("--rows", type=click.IntRange(1), default=200_000, show_default=True, help="Rows of the shorter run.")
@click.option(
    "--times",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    help="The longer run, as a multiple.",
)
@_options("shard_rows")
@click.pass_obj
def memory(folder: Path, shape: str, corpus: str, rows: int, times: int, shard_rows: int) -> None:
    """Peak memory of a run, and of one on several times the rows."""
    from lengthwise.cli.benchmarks.memory import measure

    measure(shape, corpus, rows, times, shard_rows).save(folder / f"memory-{shape}.json")


@main.command()
@_options("shape", "corpus")
@click.option("--rows", type=click.IntRange(100), default=500_000, show_default=True, help="Rows.")
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Measured runs of each side.")
@click.option(
    "--hashes", type=click.IntRange(1), default=10_000_000, show_default=True, help="Texts in an index of hashes."
)
@click.pass_obj
def reuse(folder: Path, shape: str, corpus: str, rows: int, runs: int, hashes: int) -> None:
    """Runs that reuse the vectors of unchanged texts, against a full run; and the index of hashes."""
    from lengthwise.cli.benchmarks.reuse import measure

    measure(shape, corpus, rows, runs, hashes).save(folder / f"reuse-{shape}.json")


@main.command()
@_options("shape", "corpus", "shard_rows")
@click.option("--rows", type=click.IntRange(1), default=1_000_000, show_default=True, help="Rows.")
@click.option("--runs", type=click.IntRange(1), default=2, show_default=True, help="Measured runs of each side.")
@click.pass_obj
def cluster(folder: Path, shape: str, corpus: str, shard_rows: int, rows: int, runs: int) -> None:
    """Ray on this machine, against one process with as many threads; and the bytes written."""
    from lengthwise.cli.benchmarks.cluster import measure

    measure(shape, corpus, rows, shard_rows, runs).save(folder / f"cluster-{shape}.json")


@main.command()
@_options("shape", "corpus")
@click.option("--seconds", type=click.FloatRange(0.1), default=8, show_default=True, help="Seconds per measurement.")
@click.option("--overload", type=click.FloatRange(0.1), default=60, show_default=True, help="Seconds of overload.")
@click.option("--soak", type=click.FloatRange(0), default=0, show_default=True, help="Seconds of a soak, if any.")
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Runs of each server.")
@click.option("--states", is_flag=True, help="Only the server that keeps states, against one that keeps none.")
@click.pass_obj
def serve(
    folder: Path, shape: str, corpus: str, seconds: float, overload: float, soak: float, runs: int, states: bool
) -> None:
    """The server against batch encoding and other servers; latency, long texts among short ones, overload."""
    if states:
        from lengthwise.cli.benchmarks import states as kept

        kept.measure(shape, corpus, seconds, runs).save(folder / f"states-{shape}.json")
        return
    from lengthwise.cli.benchmarks.serve import measure

    measure(shape, corpus, seconds, overload, soak, runs).save(folder / f"serve-{shape}.json")


if __name__ == "__main__":
    main()
