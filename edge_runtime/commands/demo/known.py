"""Values of a phantom beside what is known of it: what was wanted, what came, and whether that will do.

What will do is the selftest's tolerance, and the value's own interval where it has one. Knows no anatomy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from edge_runtime.commands.selftest.frames import tolerances as tolerances_of
from edge_runtime.infer.model import load_model
from edge_runtime.types import Finding


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """One value and the true one."""

    name: str
    unit: str
    true: float
    value: float | None  # None: it was withheld
    interval: tuple[float, float] | None
    within: float  # of the true value, as a share

    @property
    def inside(self) -> bool:
        """Whether the interval, where there is one, holds the true value."""
        return self.interval is None or self.interval[0] <= self.true <= self.interval[1]

    @property
    def right(self) -> bool:
        return self.value is not None and abs(self.value / self.true - 1) <= self.within and self.inside


def held_against(finding: Finding, true: Mapping[str, float], tolerance: Mapping[str, float]) -> list[Known]:
    """Every value of `finding` that has both a truth and a tolerance, in the order of the tolerances."""
    came = {one.name.value: one for one in finding.measurements}
    return [
        Known(
            name=name,
            unit=came[name].unit,
            true=true[name],
            value=came[name].value,
            interval=came[name].interval,
            within=within,
        )
        for name, within in tolerance.items()
        if name in true and name in came
    ]


def tolerances(model: str) -> dict[str, float]:
    """Those of the selftest for a model by its name, as a share of the truth. Raises ConfigError."""
    return tolerances_of(load_model(model).manifest)


def complaints(what: str, values: Sequence[Known]) -> list[str]:
    """A line for each value that is not right: what was wanted and what came."""
    return [f"{what}: wanted {_wanted(one)}, came {_came(one)}" for one in values if not one.right]


def _wanted(one: Known) -> str:
    name = one.name.replace("_", " ")
    return f"{name} {one.true:.1f} {one.unit} within {100 * one.within:g} % and inside the interval"


def _came(one: Known) -> str:
    if one.value is None:
        return "no number"
    between = "" if one.interval is None else f" ({one.interval[0]:.1f} to {one.interval[1]:.1f})"
    return f"{one.value:.1f}{between}"
