"""The map of the package: which folder may import which, that no import closes a circle, and that all is packaged."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from helpers.paths import ROOT

# From the bottom up: a module imports from its own layer and the ones below it. A layer is a set of packages and
# modules, named by their longest match; those of one layer do not import each other.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(f"lengthwise.{name}" for name in layer.split())
    for layer in (
        "errors",
        "util",
        "dataset_config",
        "train_config encoder_config",
        "config",
        "data tokens",
        "batching",
        "encoder",
        "formats",
        "store",
        "run",
        "export.graphs",
        "export.runtimes",
        "export.artifact",
        "export.validation",
        "export.server export.triton",
        "training",
        "export.audit",
        "steps",
        "api",
        "functions",
        "evaluation",
        "cli",
        "__main__",
    )
)
# The packages themselves, whose names are loaded on use.
FACADES = frozenset({"lengthwise", "lengthwise.export"})

Graph = Mapping[str, frozenset[str]]


def package_folders() -> dict[str, Path]:
    """The package-dir of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {name: ROOT / folder for name, folder in project["tool"]["setuptools"]["package-dir"].items()}


def read_modules(folders: Mapping[str, Path]) -> dict[str, str]:
    """The source of every module, by its full name; of a package, that of its `__init__`."""
    sources = {}
    for package, folder in folders.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            sources[".".join([package, *(part for part in parts if part != "__init__")])] = path.read_text("utf-8")
    return sources


def import_graph(sources: Mapping[str, str]) -> Graph:
    """The modules that each module imports, wherever in it: in a function or for types alone too."""
    return {name: frozenset(_imports(source, sources.keys())) - {name} for name, source in sources.items()}


def _imports(source: str, modules: Iterable[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & set(modules) or {node.module}


def layer_of(module: str) -> int | None:
    """The number of a module's layer, from below."""
    while module:
        for number, names in enumerate(LAYERS):
            if module in names:
                return number
        module = module.rpartition(".")[0]
    return None


def upward_imports(graph: Graph) -> set[tuple[str, str]]:
    """(module, imported module) where the import does not go down, or goes across a layer."""
    return {
        (module, imported)
        for module, imports in graph.items()
        for imported in imports
        if module not in FACADES and not _allowed(module, imported)
    }


def _allowed(module: str, imported: str) -> bool:
    if imported in FACADES:
        return imported == "lengthwise"  # for its version
    importer_layer, imported_layer = layer_of(module), layer_of(imported)
    if importer_layer is None or imported_layer is None:
        return False
    if importer_layer == imported_layer:
        return _unit(module) == _unit(imported)
    return imported_layer < importer_layer


def _unit(module: str) -> str:
    """The package or module of a layer that a module belongs to."""
    return max((name for names in LAYERS for name in names if f"{module}.".startswith(f"{name}.")), key=len)


def find_circle(graph: Graph) -> list[str]:
    """The modules of a circle of imports; none where there is no circle."""
    try:
        TopologicalSorter({name: imports for name, imports in graph.items() if name not in FACADES}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return read_modules(package_folders())


@pytest.fixture(scope="module")
def graph(sources: dict[str, str]) -> Graph:
    return import_graph(sources)


def planted(graph: Graph, sources: Mapping[str, str], module: str, statement: str) -> Graph:
    """The graph with one more import in a module."""
    found = frozenset(_imports(f"{sources[module]}\n{statement}\n", sources.keys()))
    return {**graph, module: found}


def test_every_module_has_a_layer(graph: Graph) -> None:
    assert len(graph) > 60
    assert sorted(name for name in graph if layer_of(name) is None) == sorted(FACADES)


def test_imports_point_downwards(graph: Graph) -> None:
    assert upward_imports(graph) == set()


def test_imports_close_no_circle(graph: Graph) -> None:
    assert find_circle(graph) == []


@pytest.mark.parametrize(
    ("module", "statement", "imported"),
    [
        ("lengthwise.tokens.ragged", "import lengthwise.encoder.model", "lengthwise.encoder.model"),
        ("lengthwise.tokens.ragged", "from lengthwise.data import dataset", "lengthwise.data.dataset"),
        ("lengthwise.store.vectors", "def f():\n from lengthwise.run.local import x", "lengthwise.run.local"),
        ("lengthwise.run.shard", "if TYPE_CHECKING:\n from lengthwise.api import Encoder", "lengthwise.api"),
        ("lengthwise.export.triton", "from lengthwise.export.server import app", "lengthwise.export.server.app"),
        ("lengthwise.errors", "import lengthwise.export", "lengthwise.export"),
    ],
)
def test_planted_upward_import_is_found(
    graph: Graph, sources: dict[str, str], module: str, statement: str, imported: str
) -> None:
    assert upward_imports(planted(graph, sources, module, statement)) == {(module, imported)}


def test_planted_circle_is_found(graph: Graph, sources: dict[str, str]) -> None:
    module = "lengthwise.encoder.model"
    changed = planted(graph, sources, module, "def f():\n    from lengthwise.encoder import checkpoint")
    assert upward_imports(changed) == set()  # both are of one layer
    assert set(find_circle(changed)) == {module, "lengthwise.encoder.checkpoint"}


def test_every_folder_of_modules_is_packaged() -> None:
    """The list in pyproject.toml, which a wheel is built from, is written by hand."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join([package, *init.parent.relative_to(folder).parts])
        for package, folder in package_folders().items()
        for init in folder.rglob("__init__.py")
    }
    with_modules = {
        ".".join([package, *path.parent.relative_to(folder).parts])
        for package, folder in package_folders().items()
        for path in folder.rglob("*.py")
    }
    assert set(listed) == found == with_modules
    assert len(listed) == len(set(listed))
