"""Find out whether anybody's embedding model depends on the batch."""

from __future__ import annotations

from pathlib import Path

import click

from lengthwise.cli.common import Command

_NEVER = "never"


@click.command(cls=Command)
@click.argument("model")
@click.option("--output", metavar="NAME", help="Output of a graph that holds vectors or token states.")
@click.option("--pooling", metavar="MODE", help="Pooling of token states: cls, mean, max, lasttoken, ...")
@click.option("--engine", type=click.Choice(["onnx", "torch"]), help="For a folder that has both.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "bfloat16", "int8"]),
    help="In which the model computes, where that cannot be told, such as of a server.",
)
@click.option("--reference", metavar="MODEL", help="Also compare with another model, in float32.")
@click.option("--quick", is_flag=True, help="Ask fewer batches: a few seconds.")
@click.option("--question", "questions", multiple=True, metavar="NAME", help="Only this question; repeatable.")
@click.option(
    "--fix", type=click.Path(path_type=Path), metavar="OUT", help="Write a graph that passes, if there is one."
)
@click.option("--report", type=click.Path(path_type=Path), metavar="FOLDER", help="Write Markdown, JSON and a picture.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "json"]),
    default="text",
    show_default=True,
    help="What is printed.",
)
@click.option(
    "--fail-on",
    multiple=True,
    metavar="WHAT",
    default=("fail",),
    help="Exit with 1 on this verdict (fail, limit, not asked), or unless this question passes; never for 0."
    " Repeatable.  [default: fail]",
)
@click.option("--served-model", metavar="NAME", help="The model's name on a server.")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True, help="Per request."
)
def main(
    model: str,
    output: str | None,
    pooling: str | None,
    engine: str | None,
    precision: str | None,
    reference: str | None,
    quick: bool,
    questions: tuple[str, ...],
    fix: Path | None,
    report: Path | None,
    form: str,
    fail_on: tuple[str, ...],
    served_model: str | None,
    timeout: float,
) -> None:
    """Find out whether MODEL keeps the promise that a text's vector depends on the text alone.

    MODEL is an ONNX file, a folder (an export, an artifact, or one of sentence-transformers), or the URL of a server
    with the interface of OpenAI or of Text Embeddings Inference. Exits with 0 if no question fails, with 1 if one does,
    and with 2 if the model cannot be audited.
    """
    from lengthwise.errors import ConfigError
    from lengthwise.export.audit.answers import VERDICTS
    from lengthwise.export.audit.questions.registry import QUESTIONS
    from lengthwise.export.audit.report import audit_to_json, audit_to_markdown, audit_to_text, write_report
    from lengthwise.functions import audit

    for name in fail_on:
        if name not in (*VERDICTS, *QUESTIONS, _NEVER):
            choices = ", ".join((*VERDICTS, _NEVER, *QUESTIONS))
            raise ConfigError(f"--fail-on {name!r}: neither a verdict nor a question; choose from {choices}")
    found = audit(
        model,
        output=output,
        pooling=pooling,
        reference=reference,
        quick=quick,
        questions=questions or None,
        fix=fix,
        show_progress=True,
        engine=engine,
        precision=precision,
        served_model=served_model,
        timeout=timeout,
    )
    write = {"text": audit_to_text, "markdown": audit_to_markdown, "json": audit_to_json}[form]
    click.echo(write(found).rstrip())
    for path in write_report(found, report) if report is not None else ():
        click.echo(f"written     {path}", err=True)
    if _NEVER not in fail_on and (found.violations(fail_on) or not found.by_verdict("pass")):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
