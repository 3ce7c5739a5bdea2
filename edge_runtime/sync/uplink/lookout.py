"""What a person should mend on this device, looked at now and then, and told to its other processes in `link.json`.

Refusals of a whole kind, and that nobody listens, are told where they come in. Knows nothing about connections.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from edge_runtime import clock
from edge_runtime.codes import Clock
from edge_runtime.config import JournalLimits
from edge_runtime.sync.link.certificates import Certificates
from edge_runtime.sync.link.link_file import LinkFile, LinkNow
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.reserve import Reserve
from edge_runtime.sync.state import free_bytes
from edge_runtime.sync.uplink.ledger import Ledger

_MB = 1 << 20
LOW_BYTES = 16 * _MB  # a day of findings, and their log
LOSS_STANDS = timedelta(days=1)  # after the last one: what is gone cannot be mended, only what it went for


class Lookout:
    """Of one uplink; `look` brings the alerts up to date."""

    def __init__(
        self,
        state_dir: Path,
        limits: JournalLimits,
        certificates: Certificates,
        ledger: Ledger,
        link_file: LinkFile,
    ) -> None:
        self._state_dir, self._certificates, self._ledger = state_dir, certificates, ledger
        self._link_file = link_file
        self._reserve = Reserve(state_dir, int(limits.reserve_mb * _MB))
        self._warned = ""
        self._waited_to: int | None = None  # the last number that waited when this uplink began

    def look(self, outbox: Outbox | None = None) -> None:
        """Without an outbox, what was lost or put aside stays as it was known."""
        alerts, link = self._ledger.alerts, self._ledger.link
        warning = self._certificates.warning()
        alerts.keep("certificate_ends", warning)
        if warning and link.state.connected and warning != self._warned:
            self._warned = warning
            self._ledger.notice(warning)
        unsynced = clock.clock_quality() is Clock.UNSYNCED
        never_set = "wall time is nobody's: this device's clock was never set by a service"
        alerts.keep("clock_unsynced", never_set if unsynced else None)
        twins = "another device connects under this device's id; give one of them a new one"
        alerts.keep("taken_over", twins if link.two_of_one_id(clock.monotonic_ns()) else None)
        alerts.keep("disk_full", self._disk())
        if outbox is not None:
            alerts.keep("records_lost", _loss(*outbox.loss()))
            self._look_at_dead_letters(outbox)
        self.show()

    def show(self) -> None:
        """Tells the link's state."""
        link, alerts = self._ledger.link, self._ledger.alerts
        self._link_file.show(
            LinkNow(link.state, link.why, alerts.standing, alerts.remembered, link.next_try_ns)
        )

    def _look_at_dead_letters(self, outbox: Outbox) -> None:
        """What an earlier uplink held is pending again and may be held again: its alert is not over before these rows are."""
        alerts, count, span = self._ledger.alerts, outbox.dead_count(), outbox.span()
        if self._waited_to is None:
            self._waited_to = span[1] if span else 0
        still_waits = span is not None and span[0] <= self._waited_to
        if count == 0 and still_waits and any(one.code == "dead_letters" for one in alerts.remembered):
            return
        alerts.keep("dead_letters", _dead_letters(count))

    def _disk(self) -> str | None:
        """What to say of a disk that has no room for the journal's reserve, or soon for nothing."""
        try:
            free, reserved = free_bytes(self._state_dir), self._reserve.possible()
        except OSError:  # removed or out of reach: the journal's and the outbox's to say
            return None
        if not reserved:
            return f"this disk has no room for the journal's reserve of {self._reserve.size_bytes >> 20} MB; free some space"
        return (
            f"this disk has less than {LOW_BYTES >> 20} MB left; free some space"
            if free < LOW_BYTES
            else None
        )


def _dead_letters(count: int) -> str | None:
    if count == 0:
        return None
    told = "1 record is" if count == 1 else f"{count} records are"
    return (
        f"{told} put aside, refused by the cloud or the broker; see `edge-runtime outbox list --which dead`"
    )


def _loss(count: int, last: datetime | None) -> str | None:
    """What to say of records that were removed unsent."""
    if last is None or abs(clock.utc() - last) > LOSS_STANDS:
        return None
    what = f"{count} masks or telemetry records were removed before the cloud said that it has them, the last at {last:%Y-%m-%d %H:%M} UTC"
    return f"{what}; mend the line, or raise the quota"
