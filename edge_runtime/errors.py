"""Every error this package raises on purpose, and how a library's own message becomes part of one.

* EdgeError
  x ConfigError      a flag, a file or a model is wrong         -> fix it, start again        (exit 2)
  x FrameError       one frame is unusable                      -> it is reported as withheld, the run goes on
  x SourceLostError  the stream ended early, broke or stalled   -> what was read is kept      (exit 1)
  x BackendError     the model cannot be loaded or cannot run   -> see the message            (exit 1)
  x CalibrationError the frames cannot calibrate a model        -> no quantized model is made (exit 1)
  x GateError        a quantized or compiled model strays too far from fp32 -> it is not used (exit 1)
  x EngineError      no TensorRT engine that fits this device   -> rebuild it here            (exit 1)
  x SelftestError    what is installed here does not measure right -> the run does not start (exit 1)
  x JournalError     the state directory cannot record          -> NOT RECORDING              (exit 1)
  x OutputError      a file that was asked for cannot be written -> the findings are in the journal (exit 1)
  x UplinkError      the broker or the cloud refuses            -> the rows stay in the outbox (exit 1)

A message says where, what was wanted, what came and what to do, in one line: it is shown to a user as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_runtime.codes import Reason

MOST_SIGNS = 200  # of a library's message inside of ours


class EdgeError(Exception):
    """Base class; anything else that escapes is a bug."""

    exit_code = 1


class ConfigError(EdgeError):
    """A flag, a configuration file or a model directory is wrong: nothing was started."""

    exit_code = 2


class FrameError(EdgeError):
    """One frame cannot be used; `reason` is the code its withheld finding carries."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class SourceLostError(EdgeError):
    """The source ended before its time, broke or stalled."""


class BackendError(EdgeError):
    """No backend that fits, a model it cannot load, or an inference that failed."""


class CalibrationError(EdgeError):
    """The frames are too few, unreadable or of the wrong kind: there is no default set, so nothing is made."""


class GateError(EdgeError):
    """A candidate is not close enough to the fp32 model, or that could not be shown."""


class EngineError(BackendError):
    """TensorRT cannot build or run an engine for this model on this device."""


class SelftestError(EdgeError):
    """The installed model, backend or state directory failed `edge-runtime selftest`: nothing was started."""


class JournalError(EdgeError):
    """The findings journal cannot be opened or written: nothing more is reported."""


class OutputError(EdgeError):
    """`--out`, a mask or a picture cannot be written; what was reported is in the journal all the same."""


class UplinkError(EdgeError):
    """The broker or the consumer refuses; nothing was removed from the outbox."""


def first_line(exc: BaseException) -> str:
    """The first line with words of a library's message, cut to a line's length; the error's type where it says
    nothing.
    """
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    text = lines[0] if lines else type(exc).__name__
    return text if len(text) <= MOST_SIGNS else f"{text[:MOST_SIGNS]}..."
