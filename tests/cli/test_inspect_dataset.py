"""inspect_dataset.py: lengths, plans and the picture."""

from __future__ import annotations

from pathlib import Path

from helpers.cli import Invoke, refusal
from helpers.files import contents
from helpers.texts import TEXTS


def table_of(output: str) -> dict[str, list[str]]:
    """The lines of inspect_dataset's table, by their names."""
    lines = output.partition("\n\n")[2].partition("\n\n")[0].splitlines()
    return {line[:24].strip(): line[24:].split() for line in lines}


def test_inspect_shows_lengths_and_batches_of_the_settings(trained: Path, invoke: Invoke) -> None:
    settings = ("dataset.shard_rows=100", "tokenizer.max_length=6", "batching.max_rows=1")
    changes = [part for setting in settings for part in ("--set", setting)]
    result = invoke("inspect_dataset", trained, *changes)
    assert result.exit_code == 0, result.stderr
    assert "too long    2 have more than tokenizer.max_length = 6, and would stop the run" in result.stdout
    assert f"tokens      {sum(len(text.split()) for text in TEXTS)} in it; 1 / 6 / 14 / 14 per row" in result.stdout
    table = table_of(result.stdout)
    rows, most = str(len(TEXTS)), 6 * len(TEXTS)
    tokens = sum(min(6, len(text.split())) for text in TEXTS)
    assert table["batches"] == ["rows", "batches", "padding", "cost"]
    assert table["dataset order, padded"][:3] == [rows, "1", f"{1 - tokens / most:.1%}"]
    assert table["dataset order, packed"][:3] == [rows, "1", "0.0%"]
    assert table["planned"] == [rows, rows, "0.0%", "1.0"]
    cut = invoke("inspect_dataset", trained, *changes, "--set", "tokenizer.truncate=true")
    assert "too long    2 have more than tokenizer.max_length = 6, and would be cut" in cut.stdout
    stream = invoke("inspect_dataset", trained, "--set", "dataset.streaming=true")
    assert "rows        unknown (a stream); the first shard has 3" in stream.stdout


def test_inspect_shows_the_plan_of_the_report(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "in.txt").write_text("\n".join([*TEXTS, "", *TEXTS[:3]]) + "\n")
    changes = ("--set", f"dataset.path={tmp_path / 'in.txt'}", "--set", "dataset.shard_rows=100")
    inspected = invoke("inspect_dataset", trained, *changes)
    assert "flags       1 empty, 0 null or not Unicode, 3 repeat another row" in inspected.stdout
    assert invoke("encode_dataset", trained, *changes).exit_code == 0
    lines = (tmp_path / "vectors/report.md").read_text().splitlines()
    table = table_of(inspected.stdout)
    for name in ("dataset order, padded", "planned"):
        assert f"| {name} | {' | '.join(table[name])} |" in lines


def test_picture_is_drawn_on_request(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    before = contents(tmp_path)
    plain = invoke("inspect_dataset", trained)
    assert contents(tmp_path) == before
    drawn = invoke("inspect_dataset", trained, "--picture", tmp_path / "plan.png")
    assert drawn.exit_code == 0, drawn.stderr
    assert drawn.stdout == f"{plain.stdout}\npicture     {tmp_path / 'plan.png'}\n"
    assert contents(tmp_path).keys() - before.keys() == {"plan.png"}
    message = refusal(invoke("inspect_dataset", trained, "--picture", tmp_path / "none/plan.png"))
    assert message == (
        f"{tmp_path / 'none/plan.png'}: there is no folder {tmp_path / 'none'}; make it, or choose another place"
    )
    assert not (tmp_path / "none").exists()


def test_inspect_plans_the_padding_that_a_model_reads(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    model = ("--set", f"model.path={tmp_path / 'padded'}")
    padding = ("--set", "model.init.padding={to: 5, side: pre, truncate: pre}")
    assert invoke("init_model", trained, *model, *padding).exit_code == 0
    result = invoke("inspect_dataset", trained, *model, "--set", "dataset.shard_rows=100")
    assert result.exit_code == 0, result.stderr
    longer = sum(len(text.split()) > 5 for text in TEXTS)
    rows = len(TEXTS)
    assert (
        f"padding     {5 * rows} tokens are read, with the padding of the model; {longer} texts are cut to it"
        in result.stdout
    )
    table = table_of(result.stdout)
    assert table["planned"][:3] == [str(rows), "1", "0.0%"]
    assert table["dataset order, padded"][2] == "0.0%"


def test_inspect_uses_the_tokenizer_of_the_checkpoint_by_default(trained: Path, invoke: Invoke) -> None:
    own = invoke("inspect_dataset", trained, "--set", "tokenizer.path=null")
    assert own.exit_code == 0, own.stderr
    assert own.stdout == invoke("inspect_dataset", trained).stdout
