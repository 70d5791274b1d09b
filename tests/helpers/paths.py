"""The checkout that is tested, and its three folders as the one package that they are when installed."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def link_package(folder: Path) -> None:
    """Make `folder/lengthwise` of links, for a process that does not see what is installed."""
    package = folder / "lengthwise"
    package.mkdir()
    for entry in (ROOT / "pipeline").iterdir():
        (package / entry.name).symlink_to(entry)
    (package / "export").symlink_to(ROOT / "export")
    (package / "cli").symlink_to(ROOT / "scripts")
