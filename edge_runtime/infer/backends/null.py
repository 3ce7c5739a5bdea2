"""A backend that answers at once with nothing found: for tests, and for measuring everything else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.infer.backends.contract import Ledger, Slot, make_slots
from edge_runtime.infer.model import Model, Precision

GRID_HW = (192, 288)  # when the manifest does not say


class NullBackend:
    """Outputs are zeros, save what a test writes into them."""

    name = "null"
    precision: Precision = "fp32"
    device = "none"

    def __init__(self, grid_hw: tuple[int, int], model: Model, threads: int) -> None:
        spec, output = model.manifest.input, model.manifest.output
        channels = 1 if output.labels is None or len(output.labels) == 1 else len(output.labels) + 1
        names: dict[str, tuple[int, ...]] = {output.mask or "mask": (1, channels, *grid_hw)}
        names |= {name: (1, count) for name, count in output.words.items()}
        self.threads = threads
        self._ledger = Ledger(
            make_slots(2, (1, spec.channels or 1, *grid_hw), np.dtype(spec.dtype or "uint8"), names)
        )

    @property
    def slots(self) -> Sequence[Slot]:
        return self._ledger.slots

    def acquire(self) -> Slot:
        return self._ledger.acquire()

    def submit(self, slot: Slot, /) -> None:
        self._ledger.move(slot, "lent", "running")

    def wait(self, slot: Slot, /) -> None:
        self._ledger.move(slot, "running", "done")

    def release(self, slot: Slot, /) -> None:
        self._ledger.release(slot)

    def close(self) -> None:
        self._ledger.closed = True


def load(model: Model, precision: str, threads: int) -> NullBackend:
    """A null backend of the manifest's shapes; `precision` is not looked at, none is used."""
    return NullBackend(model.manifest.input.grid_hw or GRID_HW, model, threads)
