"""What a Prometheus server reads of one receiver. Knows nothing about HTTP or MQTT.

The numbers of the database as a whole (`missing`) are the same from every receiver: take their maximum, not their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, get_args

from edge_runtime import clock
from edge_runtime.cloud.judging import Judged
from edge_runtime.cloud.rows import PutResult, StoreRow
from edge_runtime.cloud.store import Missing
from edge_runtime.errors import ConfigError
from edge_runtime.sync.wire import RejectCode

_COMMIT_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_LAG_S = (0.1, 0.3, 1.0, 3.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 86400.0, 7 * 86400.0)


class Metrics:
    """Counters of one receiver since its start. ConfigError where prometheus-client is not installed."""

    def __init__(self) -> None:
        try:
            prometheus: Any = import_module("prometheus_client")
        except ImportError as exc:
            raise ConfigError(
                f"--http: needs prometheus-client; pip install 'edge-runtime[cloud]' ({exc})"
            ) from exc
        self._text = prometheus.generate_latest
        self._registry = registry = prometheus.CollectorRegistry()

        def of(kind: Any, name: str, what: str, *labels: str, **more: Any) -> Any:
            return kind(f"edge_runtime_receive_{name}", what, labels, registry=registry, **more)

        counter, gauge, histogram = prometheus.Counter, prometheus.Gauge, prometheus.Histogram
        self._stored = of(counter, "stored", "Records that were new", "table")
        self._repeated = of(counter, "repeated", "Records that had been stored before")
        self._rejected = of(
            counter, "rejected", "Messages answered with a rejecting receipt, by its code", "code"
        )
        self._batches = of(counter, "batches", "Transactions")
        self._commit = of(
            histogram, "commit_seconds", "Time of a transaction, its sync to disk included", buckets=_COMMIT_S
        )
        self._lag = of(
            histogram,
            "lag_seconds",
            "From made to received, where the device's clock was synced",
            buckets=_LAG_S,
        )
        self._devices = of(gauge, "devices", "Devices heard since the start")
        self._missing = of(
            gauge, "missing_numbers", "Numbers below the highest that are late or lost, of all devices"
        )
        self._holes = of(gauge, "missing_streams", "Streams that such numbers are of")
        self._connects = of(counter, "connects", "Connections made to the broker")
        self._heard: set[str] = set()
        for table in ("findings", "events", "records"):
            self._stored.labels(table)
        for code in get_args(RejectCode):
            self._rejected.labels(code)

    def settled(self, batch: Sequence[Judged], result: PutResult, commit_s: float) -> None:
        """One transaction is done."""
        for table in ("findings", "events", "records"):
            self._stored.labels(table).inc(getattr(result, table))
        rows = [one.row for one in batch if one.row is not None]
        self._repeated.inc(len(rows) - result.new)
        for one in batch:
            if one.poison is not None:
                self._rejected.labels(one.poison.code).inc()
            elif one.synced and one.row is not None and (lag_s := _lag_s(one.row)) is not None:
                self._lag.observe(lag_s)
        self._heard.update(row.device_id for row in rows)
        self._devices.set(len(self._heard))
        self._batches.inc()
        self._commit.observe(commit_s)

    def missing(self, missing: Missing) -> None:
        """What the database said that it has not got."""
        self._missing.set(missing.numbers)
        self._holes.set(missing.streams)

    def connected(self) -> None:
        """A connection to the broker was made."""
        self._connects.inc()

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return bytes(self._text(self._registry))


def _lag_s(row: StoreRow) -> float | None:
    """From made to received; None where one of the two is no time."""
    try:
        lag = clock.utc_of(row.received_at) - clock.utc_of(row.created_at)
        return max(0.0, lag.total_seconds())
    except (ValueError, TypeError):  # TypeError: a time without its zone
        return None
