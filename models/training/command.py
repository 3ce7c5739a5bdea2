"""What the commands of this package share: a recipe's name first, one line for an error, a word after Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch

from edge_runtime.errors import EdgeError

GOES_ON = "stopped; the same command goes on from the last checkpoint"


def parser_of(command: str, about: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m models.training.COMMAND`, which follows one recipe."""
    parser = argparse.ArgumentParser(prog=f"models.training.{command}", description=about)
    parser.add_argument("recipe", help="fetal_head, carotid, lungs, or a file")
    return parser


def add_training(parser: argparse.ArgumentParser) -> None:
    """The options of a command that trains."""
    parser.add_argument("--out", type=Path, help="default build/NAME")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument(
        "--workers",
        type=int,
        choices=range(17),
        default=1,
        metavar="N",
        help="processes that make examples; 0: this one does",
    )


def use_threads(count: int) -> None:
    """For torch. OpenCV gets one, before its first use: a worker is a fork, and a fork of OpenCV's threads hangs."""
    torch.set_num_threads(count)
    cv2.setNumThreads(1)


def positive(text: str) -> int:
    """A whole number above 0, as argparse wants it."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"want a whole number above 0, got {text!r}")
    return int(text)


@contextmanager
def told_in_a_line(stopped: str) -> Iterator[None]:
    """Ends the process with one line on an error, and with `stopped` on Ctrl-C."""
    try:
        yield
    except (EdgeError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(stopped)
