"""Progress bars of the parts of a run that take minutes on a large corpus."""

from __future__ import annotations

from dataclasses import dataclass

from tqdm import tqdm


@dataclass(frozen=True)
class Bars:
    """Makes progress bars.

    Attributes:
        are_shown: whether they are.
    """

    are_shown: bool = False

    def open(self, name: str, total: int | None, unit: str) -> tqdm:
        """A bar, to be used in a `with` block."""
        return tqdm(
            total=total, desc=name, unit=f" {unit}", unit_scale=True, disable=not self.are_shown, dynamic_ncols=True
        )
