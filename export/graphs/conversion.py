"""Conversions by packages that are best kept in an environment of their own: a script, run by the Python of that one.

The scripts get a file of PyTorch's own operators, so they need nothing of this package. They are run in isolated mode:
otherwise the modules beside them, which are named as packages are, would be found first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lengthwise.errors import ArtifactError

_SECONDS = 1_800


def convert(variant: str, package: str, variable: str, source: Path, target: Path) -> None:
    """Run `<variant>_converter.py SOURCE TARGET`.

    Args:
        variant: the graph that is made, also the name of the extra.
        package: what the script imports.
        variable: the environment variable that may name another Python.
        source: what is converted.
        target: what is written.

    Raises:
        ArtifactError: the package is not installed, or it refuses the encoder.
    """
    python = os.environ.get(variable) or sys.executable
    script = Path(__file__).with_name(f"{variant}_converter.py")
    try:
        done = subprocess.run(
            [python, "-I", str(script), str(source), str(target)], capture_output=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArtifactError(f"the graph {variant} cannot be made with {python} ({error})") from error
    if not done.returncode:
        return
    reason = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
    if f"No module named '{package}'" in reason:
        raise ArtifactError(
            f"the graph {variant} is made by the package {package}, which {python} does not have; install"
            f" lengthwise[{variant}], name the Python of an environment that has it in {variable}, or leave the graph"
            " out of export.variants"
        )
    raise ArtifactError(f"{package} refuses the encoder ({reason[:300]}); leave {variant} out of export.variants")
