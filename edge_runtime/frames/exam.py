"""Which exam a frame belongs to. Pure: it keeps names, it records nothing.

The exam is the one the operator named, else one for each StudyInstanceUID, else one for each `subject` of a
folder, else one for the run. Study and subject may name a person, so the id is their pseudonym; the same
study gets the same id again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from edge_runtime.types import Origin


class ExamTracker:
    """The exam that is open. `enter` opens, `leave` closes; at most one is open."""

    def __init__(self, named: str | None, pseudonym: Callable[[str], str]) -> None:
        self._named = named
        self._pseudonym = pseudonym
        self._run = f"run-{secrets.token_hex(6)}"
        self._known: dict[str, str] = {}
        self._origin: Origin | None = None  # of the last frame asked about: an exam's frames mostly share it
        self.open_exam: str | None = None

    def exam_of(self, origin: Origin) -> str:
        """The id of the exam that frames of `origin` belong to."""
        if self._named is not None:
            return self._named
        if origin.study_uid is not None:
            return self._pseudonymous("study", origin.study_uid)
        if origin.subject is not None:
            return self._pseudonymous("subject", origin.subject)
        return self._run

    def would_change(self, origin: Origin) -> bool:
        """Whether a frame of `origin` belongs to another exam than the open one."""
        if origin is self._origin and self.open_exam is not None:
            return False
        return self.exam_of(origin) != self.open_exam

    def enter(self, origin: Origin) -> str:
        """Opens the exam of `origin` and returns its id."""
        self._origin = origin
        self.open_exam = self.exam_of(origin)
        return self.open_exam

    def leave(self) -> str | None:
        """Closes the open exam and returns its id; None when none was open."""
        closed, self.open_exam, self._origin = self.open_exam, None, None
        return closed

    def _pseudonymous(self, kind: str, name: str) -> str:
        key = f"{kind}:{name}"
        if key not in self._known:
            self._known[key] = f"{kind}-{self._pseudonym(key)}"
        return self._known[key]
