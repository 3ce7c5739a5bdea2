"""What a person who watches the demo is told: lines that stay, and one of progress that replaces itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Teller:
    """Where the lines go; `progress` is None where nobody watches."""

    tell: Say
    progress: Say | None

    def say(self, text: str) -> None:
        """A line that stays."""
        self.pass_by("")
        self.tell(text)

    def pass_by(self, text: str) -> None:
        """A line that the next one replaces; an empty one takes it away."""
        if self.progress is not None:
            self.progress(text)
