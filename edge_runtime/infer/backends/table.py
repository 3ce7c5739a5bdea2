"""Which backends there are, and which one `auto` means here. Nothing is imported before it is chosen."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from edge_runtime.errors import BackendError, ConfigError, first_line
from edge_runtime.infer.backends.contract import Backend
from edge_runtime.infer.model import Model, Precision

# name -> (module:function, the library it needs, how to get it)
BACKENDS = {
    "openvino": (
        "edge_runtime.infer.backends.openvino:load",
        "openvino",
        "pip install 'edge-runtime[openvino]'",
    ),
    "onnxruntime": ("edge_runtime.infer.backends.onnxruntime:load", "onnxruntime", "pip install onnxruntime"),
    "null": ("edge_runtime.infer.backends.null:load", "numpy", ""),
    "tensorrt": (
        "edge_runtime.infer.backends.tensorrt:load",
        "tensorrt",
        "it comes with JetPack; edge-runtime doctor says how to get it",
    ),
}
PREFERRED = ("openvino", "onnxruntime")  # of `auto`; openvino is 2 to 7 times faster on x86


def choose_backend(name: str, model: Model | None = None, precision: str = "auto") -> str:
    """The backend that `name` means on this machine. Raises ConfigError for an unknown or a missing one.

    `auto` is tensorrt where there is a GPU, the library and an engine of `model` that was gated on this device.
    """
    if name == "auto":
        if model is not None and model.manifest.tensorrt and find_spec("tensorrt"):
            from edge_runtime.infer.backends.tensorrt import has_engine

            if has_engine(model, precision):
                return "tensorrt"
        return next(known for known in PREFERRED if find_spec(BACKENDS[known][1]))
    if name not in BACKENDS:
        raise ConfigError(f"backend {name!r}: unknown, choose one of {', '.join(['auto', *BACKENDS])}")
    _, library, install = BACKENDS[name]
    if find_spec(library) is None:
        raise ConfigError(f"backend {name}: {library} is not installed; {install}")
    return name


def open_backend(model: Model, name: str = "auto", precision: str = "auto", threads: int = 1) -> Backend:
    """The model, loaded and ready. Raises ConfigError or BackendError in one line.

    `auto` precision is the fastest that this processor has and that the manifest lists as accepted.
    """
    if threads < 1:
        raise ConfigError(f"--threads {threads}: want 1 or more")
    chosen = choose_backend(name, model, precision)
    load: Callable[[Model, str, int], Backend] = getattr(
        _module(chosen), BACKENDS[chosen][0].partition(":")[2]
    )
    return load(model, precision, threads)


def offered_precisions(model: Model, name: str) -> tuple[Precision, ...]:
    """What the CPU backend `name`, which is not `auto`, can run `model` in on this processor."""
    offers: Callable[[Model], tuple[Precision, ...]] = _module(name).offers
    return offers(model)


def _module(name: str) -> ModuleType:
    """The backend's module. Raises BackendError where its library is there and does not load: it may want one of the
    system's own."""
    place, library, _ = BACKENDS[name]
    try:
        return import_module(place.partition(":")[0])
    except (ImportError, OSError) as exc:
        raise BackendError(
            f"backend {name}: {library} is installed and cannot be loaded ({first_line(exc)}); install it again, or "
            "choose another --backend"
        ) from exc


def accepted_precision(model: Model, asked: str, offers: tuple[Precision, ...], backend: str) -> Precision:
    """`asked` if this backend offers it here; for `auto` the first offer that the manifest accepts. ConfigError."""
    accepted = model.manifest.precision.accepted
    for offer in offers:
        if offer == asked or (asked == "auto" and offer in accepted):
            return offer
    raise ConfigError(
        f"--precision {asked}: backend {backend} runs {model.manifest.name} as {' or '.join(offers)} on this machine"
    )
