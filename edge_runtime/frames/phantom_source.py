"""`phantom:` as a source, frame by frame. What is drawn is the room `phantom`'s to say."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.clock import monotonic_ns
from edge_runtime.codes import SourceKind, SpacingSource
from edge_runtime.errors import ConfigError
from edge_runtime.frames.phantom import ANATOMICAL, PhantomSpec, parse_spec, render
from edge_runtime.frames.source import Closeable, SourceOptions, frame_id, steady_s
from edge_runtime.frames.spacing import Resolved, with_operator
from edge_runtime.types import BadFrame, Frame, Origin, Spacing


def open_phantom(text: str, options: SourceOptions) -> PhantomSource:
    """The phantom that `text` describes, for example `fetal_head?hc_mm=250`. Raises ConfigError."""
    if options.region is not None:
        raise ConfigError("--region: a phantom has no regions; leave it out")
    return PhantomSource(parse_spec(text), options)


class PhantomSource(Closeable):
    """Frames of one `PhantomSpec`."""

    kind = SourceKind.PHANTOM
    live = False

    def __init__(self, spec: PhantomSpec, options: SourceOptions) -> None:
        self.spec = spec
        self.length = options.count(spec.frames)
        known = Spacing(spec.pixel_mm, spec.pixel_mm, SpacingSource.PHANTOM)
        drawn = Resolved(known if spec.pattern in ANATOMICAL else None)
        self._spacing = with_operator(
            drawn, options.spacing, options.force_spacing, f"phantom:{spec.pattern}"
        )
        self._fps = options.fps
        self._origin = Origin(
            SourceKind.PHANTOM, f"phantom:{spec.pattern}", spec.modality, frame_time_ms=1000.0 / spec.fps
        )

    def frames(self) -> Iterator[Frame | BadFrame]:
        for index in range(self.length):
            if self._closed:
                return
            pixels, _ = render(self.spec, index)
            yield Frame(
                pixels,
                index,
                monotonic_ns(),
                self._origin,
                frame_id(index, pixels),
                spacing=self._spacing.spacing,
                spacing_reason=self._spacing.reason,
            )

    def due_s(self, index: int) -> float:
        return steady_s(index, self._fps, self._origin.frame_time_ms)
