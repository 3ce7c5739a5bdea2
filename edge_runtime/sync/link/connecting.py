"""From a broker's address to a connection that is open and subscribed. Knows nothing about what is sent on it."""

from __future__ import annotations

import threading
from typing import Any

from edge_runtime.clock import monotonic_ns
from edge_runtime.sync.link.client import subscriptions
from edge_runtime.sync.link.failures import connect_error
from edge_runtime.sync.link.line import Line
from edge_runtime.sync.link.reason_codes import LinkError, trouble_of


class Opening:
    """The steps of one try, each until `deadline_ns`; False where `stop` was set meanwhile."""

    def __init__(self, line: Line, stop: threading.Event, deadline_ns: int) -> None:
        self._line, self._stop, self._deadline_ns = line, stop, deadline_ns
        self._where = f"broker {line.settings.broker}"

    def connect(self) -> bool:
        """TCP and TLS in a thread of their own: a look-up or handshake that hangs must not hold up a stop."""
        failure: list[BaseException] = []
        done = threading.Event()

        def connect() -> None:
            try:
                self._line.connect()
            except BaseException as exc:  # noqa: BLE001 - handed to the caller below, not swallowed
                failure.append(exc)
            finally:
                done.set()

        threading.Thread(target=connect, daemon=True, name="mqtt-connect").start()
        while not done.wait(0.05):
            if self._stop.is_set():
                return False
            if monotonic_ns() > self._deadline_ns:
                raise LinkError(f"{self._where}: no answer; check host and port")
        if failure:
            raise connect_error(self._line.settings, failure[0])
        return True

    def subscribe(self) -> bool:
        """To all filters at once."""
        if not self._line.settings.filters:
            return True
        self._line.client.subscribe(subscriptions(self._line.settings.filters))
        return self.await_answer("suback", self._line.settings.needed)

    def await_answer(self, name: str, needed: int = 1) -> bool:
        """LinkError when it does not come, or one of its first `needed` reasons is a refusal."""
        while self._line.answer(name) is None:
            if self._stop.is_set():
                self._line.drop()
                return False
            if monotonic_ns() > self._deadline_ns:
                self._line.drop()
                raise LinkError(f"{self._where}: connected, but sends no {name.upper()}; is it MQTT v5?")
            rc = self._line.turn(0.05)
            if self._line.answer(name) is None:
                self._line.check_alive(rc)
        if refused := next((reason for reason in self.reasons(name)[:needed] if reason.is_failure), None):
            self._line.drop()
            raise LinkError(
                f"{self._where}: refused ({refused}); check user, certificate and access list",
                trouble_of(refused.value),
                refused.value,
            )
        return True

    def reasons(self, name: str) -> list[Any]:
        """Of an answer that has come; none otherwise."""
        answer = self._line.answer(name)
        return [] if answer is None else answer[1]

    def allowed(self, name: str, otherwise: int | None) -> Any:
        """A property of the broker's CONNACK."""
        answer = self._line.answer("connack")
        return otherwise if answer is None else getattr(answer[2], name, otherwise)

    def not_subscribed(self) -> tuple[str, ...]:
        """The filters that the broker refused and that are not needed."""
        answered = zip(self._line.settings.filters, self.reasons("suback"), strict=False)
        return tuple(topic for topic, reason in answered if reason.is_failure)
