"""Where units look: which part of an image is shown to them, and which patches of it they see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from wna_ray.geometry import Box, Patches

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Field:
    """Where units look.

    Attributes
    ----------
    units
        Channels or neurons.
    pooling
        ``single``: one position. ``mean``: over all positions. ``pooled``: all positions of
        `patches`.
    at
        The position, or the first of those pooled, in the layer's map of what is shown.
    shown
        The part of the image that is shown.
    patches
        Where, in what is shown, the receptive fields are.
    """

    units: tuple[int, ...]
    pooling: Literal["single", "mean", "pooled"]
    at: tuple[int, int]
    shown: Box
    patches: Patches

    def identity(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain: dict[str, Any] = asdict(self)
        plain["patches"]["step"] = list(self.patches.step)
        return plain | {"units": list(self.units), "at": list(self.at)}

    @classmethod
    def parse(cls, identity: Mapping[str, Any]) -> Field:
        """Back from `identity`."""
        p = identity["patches"]
        return cls(
            tuple(identity["units"]),
            identity["pooling"],
            tuple(identity["at"]),
            Box(**identity["shown"]),
            Patches(Box(**p["first"]), p["rows"], p["columns"], tuple(p["step"])),
        )

    def responses(self, maps: torch.Tensor) -> torch.Tensor:
        """Activations ``(n, patches * k)`` of maps ``(n, C', H', W')``: position by position,
        and all units at each.
        """
        chosen = maps[:, list(self.units)]
        if self.pooling == "mean":
            return chosen.float().mean(dim=(2, 3))
        (row, column), p = self.at, self.patches
        return (
            chosen[:, :, row : row + p.rows, column : column + p.columns]
            .permute(0, 2, 3, 1)
            .flatten(1)
        )

    def middle(self, maps: torch.Tensor) -> torch.Tensor:
        """Activations ``(n, k)`` at the position, or the middle one of those pooled."""
        if self.pooling == "mean":
            return self.responses(maps)
        (row, column), p = self.at, self.patches
        return maps[:, list(self.units), row + p.rows // 2, column + p.columns // 2]

    def only(self, some: Sequence[int]) -> Field:
        """The same place, some of the units (by their number in `units`)."""
        return replace(self, units=tuple(self.units[i] for i in some))
