"""The checkout that is tested, and its three folders linked into one package."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def link_package(folder: Path) -> None:
    """Link the package into `folder/lengthwise`, for a process without the installed one."""
    package = folder / "lengthwise"
    package.mkdir()
    for entry in (ROOT / "pipeline").iterdir():
        (package / entry.name).symlink_to(entry)
    (package / "export").symlink_to(ROOT / "export")
    (package / "cli").symlink_to(ROOT / "scripts")
