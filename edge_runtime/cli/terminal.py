"""What a person or a script sees: results on stdout; progress, notices and errors on stderr. All that prints is here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import msgspec

PROBLEMS_TOLD = 3


def show(report: Any, as_json: bool, lines: list[str]) -> None:
    """The result on stdout: one JSON object, or lines for a person."""
    if as_json:
        print(msgspec.json.encode(report).decode(), flush=True)
    elif lines:
        print("\n".join(lines), flush=True)


def say(text: str) -> None:
    """A line of progress, for a person."""
    print(text, file=sys.stderr, flush=True)


def quiet(text: str) -> None:
    """Nobody watches a command that ends by itself: its exit code and the one line of an error are enough."""


def progress(text: str) -> None:
    """A line that replaces itself, on a terminal only."""
    print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)


@contextmanager
def watched() -> Iterator[Callable[[str], None] | None]:
    """The progress line where a person watches, cleared at the end; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        yield progress
    finally:
        progress("")


def notices(ends_by_itself: bool) -> Callable[[str], None]:
    """Where a command's notices go: a person who watches gets them, and so does the log of one that goes on for ever."""
    return quiet if ends_by_itself and not sys.stderr.isatty() else say


def fail(message: str, code: int) -> NoReturn:
    """Ends the program with `code` and one line on stderr."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def fail_with(problems: list[str]) -> NoReturn:
    """The first few of several problems, in one line."""
    more = len(problems) - PROBLEMS_TOLD
    fail("; ".join(problems[:PROBLEMS_TOLD]) + (f"; and {more} more" if more > 0 else ""), 1)
