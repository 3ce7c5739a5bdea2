"""What a backend promises, and the ledger that holds every one to it.

A backend is a loaded model on one device with two or more slots. A slot is one set of buffers, made once,
owned by the backend and lent to one caller at a time: acquire, write `input`, submit, wait, read `outputs`,
release. While one slot runs the next can be written. Nothing read from a slot may be kept past `release`:
copy it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BackendError
from edge_runtime.infer.model import InputSpec, Precision

State = Literal["free", "lent", "running", "done"]

SIDES = (8, 8192)  # cells: outside of these a grid is a mistake


@dataclass(slots=True, eq=False)
class Slot:
    """Buffers for one inference."""

    index: int
    input: NDArray[Any]  # (1, 1 or 3, h, w) uint8 or float32: write here between acquire and submit
    outputs: Mapping[str, NDArray[Any]]  # by the graph's output names: read here between wait and release
    state: State = "free"
    infer_ms: float = (
        0.0  # of the last inference alone, without its wait for the ones before it; set by `wait`
    )


class Backend(Protocol):
    """A loaded model on one device. One thread calls it; `close` may be called twice."""

    name: str
    precision: Precision  # the one that really runs, asked of the library where it can say
    threads: int
    device: str  # the processor, in words

    @property
    def slots(self) -> Sequence[Slot]: ...

    def acquire(self) -> Slot:
        """A free slot. Raises BackendError when all are lent: release one first."""

    def submit(self, slot: Slot, /) -> None:
        """Starts the inference and returns at once."""

    def wait(self, slot: Slot, /) -> None:
        """Returns when `slot.outputs` are there. Raises BackendError if the inference failed."""

    def release(self, slot: Slot, /) -> None:
        """Gives the slot back; its outputs are the backend's again."""

    def close(self) -> None:
        """Frees everything; slots are void afterwards."""


@dataclass(slots=True)
class Ledger:
    """Who has which slot. Every misuse is a BackendError that names the slot, what it is and what was
    wanted.
    """

    slots: Sequence[Slot]
    closed: bool = False
    _free: list[Slot] = field(init=False)

    def __post_init__(self) -> None:
        self._free = list(reversed(self.slots))

    def acquire(self) -> Slot:
        if self.closed:
            raise BackendError("backend: closed; open it again")
        if not self._free:
            raise BackendError(f"backend: all {len(self.slots)} slots are lent; release one first")
        slot = self._free.pop()
        slot.state = "lent"
        return slot

    def move(self, slot: Slot, wanted: State, to: State) -> None:
        if self.closed:
            raise BackendError("backend: closed; open it again")
        if slot.state != wanted:
            raise BackendError(f"slot {slot.index}: is {slot.state}, must be {wanted} here")
        slot.state = to

    def release(self, slot: Slot) -> None:
        if slot.state not in ("lent", "done"):
            raise BackendError(f"slot {slot.index}: is {slot.state}, cannot be released")
        slot.state = "free"
        self._free.append(slot)


def make_slots(
    count: int, shape: tuple[int, ...], dtype: np.dtype[Any], outputs: Mapping[str, tuple[int, ...]]
) -> list[Slot]:
    """Zeroed slots; outputs are float32."""
    return [
        Slot(i, np.zeros(shape, dtype), {name: np.zeros(size, np.float32) for name, size in outputs.items()})
        for i in range(count)
    ]


def infer_once(backend: Backend, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Outputs of one inference, copied. Raises BackendError for a tensor of another shape or dtype than the
    model's.
    """
    slot = backend.acquire()
    try:
        if tensor.shape != slot.input.shape or tensor.dtype != slot.input.dtype:
            raise BackendError(
                f"model input: want {slot.input.shape} {slot.input.dtype}, got {tensor.shape} {tensor.dtype}"
            )
        np.copyto(slot.input, tensor)
        backend.submit(slot)
        backend.wait(slot)
        return {name: output.copy() for name, output in slot.outputs.items()}
    finally:
        backend.release(slot)


def check_input(spec: InputSpec, name: str, dtype: np.dtype[Any], where: str) -> None:
    """Raises BackendError where the manifest says another input than the graph has."""
    if spec.name not in (None, name):
        raise BackendError(f"{where}: model.toml says input {spec.name!r}, the graph's is {name!r}")
    if spec.dtype not in (None, str(dtype)):
        raise BackendError(f"{where}: model.toml says {spec.dtype} input, the graph's is {dtype}")


def fix_shape(
    shape: Sequence[int | str | None],
    grid_hw: tuple[int, int] | None,
    where: str,
    channels: int | None = None,
) -> tuple[int, int, int, int]:
    """The static (1, 1 or 3, h, w) of a graph's input; free axes come from `channels` (1) and `grid_hw`.

    Raises BackendError.
    """
    sizes = [has if isinstance(has, int) and has > 0 else None for has in shape]
    if len(sizes) != 4:
        raise BackendError(
            f"{where}: the model's input is {list(shape)}, want one picture as [1, 1 or 3, height, width]"
        )
    if sizes[3] in (1, 3) and sizes[1] not in (1, 3):
        raise BackendError(
            f"{where}: the model's input is {list(shape)}, channels last; export it with channels first "
            "(tf2onnx --inputs-as-nchw INPUT:0 --outputs-as-nchw OUTPUT:0; PyTorch does so by itself)"
        )
    if sizes[1] not in (None, 1, 3):
        raise BackendError(f"{where}: the model's input has {sizes[1]} channels, want 1 (grey) or 3")
    wanted = (1, channels or sizes[1] or 1, *(grid_hw or (None, None)))
    fixed = []
    for axis, (size, want) in enumerate(zip(sizes, wanted, strict=True)):
        if size is None and want is None:
            raise BackendError(
                f"{where}: height and width of the input are free; set [input] grid_hw in model.toml (inspect: --grid H,W)"
            )
        if size is not None and want is not None and size != want:
            what = "channels" if axis == 1 else "batch" if axis == 0 else "grid"
            raise BackendError(
                f"{where}: the model's input is {list(shape)}, want [1, 1 or 3, height, width] with {what} {want}"
            )
        fixed.append(size or want or 1)
    if not all(SIDES[0] <= side <= SIDES[1] for side in fixed[2:]):
        raise BackendError(
            f"{where}: the model's grid is {fixed[2]} x {fixed[3]}, want sides of {SIDES[0]} to {SIDES[1]}"
        )
    return fixed[0], fixed[1], fixed[2], fixed[3]
