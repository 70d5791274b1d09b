"""Import an LSTM encoder of another library into a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from lengthwise.cli.common import Command


@click.command(cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--output", metavar="DIR", type=click.Path(path_type=Path), help="The checkpoint folder to write.")
@click.option(
    "--mapping", "mapping_path", metavar="FILE", type=click.Path(path_type=Path), help="How the parts are named."
)
@click.option(
    "--inspect", is_flag=True, help="List what is inside, and write a mapping to edit to --mapping or stdout."
)
@click.option("--trust-pickle", is_flag=True, help="Read a pickle of any objects, which can run any program: your own.")
@click.option(
    "--texts", metavar="FILE", type=click.Path(path_type=Path), help="Texts, one a line, to measure padding on."
)
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint that is there.")
def main(
    source: Path,
    output: Path | None,
    mapping_path: Path | None,
    inspect: bool,
    trust_pickle: bool,
    texts: Path | None,
    overwrite: bool,
) -> None:
    """Import SOURCE, an Embedding+LSTM model of another library, into a checkpoint.

    SOURCE is a folder of sentence-transformers, a file of weights (PyTorch, safetensors, NumPy), a Keras file, an ONNX
    graph, or an archive of them. All but the first need a mapping, a short YAML file: --inspect writes one to be
    edited.
    """
    from lengthwise.encoder.checkpoint import save_checkpoint
    from lengthwise.errors import CheckpointError
    from lengthwise.formats.comparison import padding_report
    from lengthwise.formats.importing import import_model
    from lengthwise.formats.mapping import load_mapping
    from lengthwise.util.files import write_atomically
    from lengthwise.util.text_files import read_text

    if inspect:
        from lengthwise.formats.inspection import inspect_source

        if mapping_path is not None and mapping_path.exists():
            raise CheckpointError(f"{mapping_path}: already exists; choose another file")
        report, mapping_text = inspect_source(source, trust_pickle=trust_pickle)
        click.echo(report)
        if mapping_path is None:
            click.echo(mapping_text)
        else:
            write_atomically(mapping_path, mapping_text.encode())
            click.echo(f"mapping     {mapping_path}: edit it, and import with --mapping {mapping_path}")
        return
    if output is None:
        raise click.UsageError("Missing option '--output'.")
    if output.exists() and not overwrite:
        raise CheckpointError(f"{output}: already exists; give --overwrite to replace it, or another folder")
    mapping = None if mapping_path is None else load_mapping(mapping_path)
    folder = None if mapping_path is None else mapping_path.parent
    model = import_model(source, mapping, folder=folder, trust_pickle=trust_pickle)
    lines = [] if texts is None else read_text(texts).splitlines()
    padding = padding_report(model.encoder, model.tokenizer, lines)
    save_checkpoint(output, model.encoder, model.tokenizer)
    config = model.encoder.config
    for note in model.notes:
        click.echo(f"note        {note}")
    click.echo(f"padding     {padding}")
    click.echo(
        f"model       {output}: from {model.kind}, {config.vocab_size:,} x {config.embedding_dim} embeddings,"
        f" {config.num_layers} x {config.hidden_size} units, pooling {config.pooling}, vectors of {config.dim}"
    )
    click.echo(f"next        lengthwise export {output} --output artifact")


if __name__ == "__main__":
    main()
