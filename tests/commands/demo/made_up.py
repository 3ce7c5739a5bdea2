"""A demo's report with every part, made up: what the words, the page and the pictures are tried on."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_runtime.codes import Clock, Status
from edge_runtime.commands.demo.chests import ChestPart
from edge_runtime.commands.demo.findings import Delivery, Measured
from edge_runtime.commands.demo.harm import GatePart
from edge_runtime.commands.demo.known import Known
from edge_runtime.commands.demo.parts import ArteryPart, EchoPart, HeadsPart, LivePart
from edge_runtime.commands.demo.report import DemoReport, Files
from edge_runtime.commands.words import in_words
from edge_runtime.sync.journal import Stamp

STAMP = Stamp("dev-1", "e1", "boot", 7, "2026-01-01T00:00:00.000Z", Clock.NTP, 1)


def lung(name: str, value: float, true: float, unit: str = "cm2") -> Known:
    """A value two units about the true one, within a tenth of it."""
    return Known(name=name, unit=unit, true=true, value=value, interval=(value - 2, value + 2), within=0.1)


def clipped(how: str) -> ChestPart:
    """A picture that was refused for its left edge, as it should be."""
    reasons = ["clipped_left_edge"]
    said = in_words(reasons[0])
    return ChestPart(how=how, wanted=reasons, came=reasons, said=said, number=False, values=[])


def made_up(**changed: Any) -> DemoReport:
    """A demo in which all went well, or what `changed` says."""
    head = Measured(
        true_mm=250.0,
        value_mm=251.2,
        interval_mm=(246.4, 256.0),
        status=Status.CAUTION,
        reasons=["plane_unconfirmed", "interval_uncalibrated"],
        values=43,
        inside=41,
    )
    whole = DemoReport(
        ok=True,
        seconds=24.3,
        model="fetal_head 1.0.0 453abe3cd645",
        precision="fp32",
        backend="onnxruntime",
        others=["lungs 1.0.0 364f46b5be5c, bf16 on openvino"],
        live=LivePart(
            offered=216,
            processed=214,
            dropped=2,
            fps=29.9,
            age_ms_p50=4.2,
            age_ms_p99=9.9,
            captures=43,
            captures_before_kill=19,
            head=head,
        ),
        phantom=msgspec.structs.replace(head, true_mm=180.0, value_mm=180.4, interval_mm=(176.8, 184.0)),
        echo=EchoPart(
            frames=30,
            withheld=28,
            in_pixels=2,
            in_millimetres=0,
            reasons={"shape_not_elliptic": 20, "low_confidence": 11},
            spacing_reason="spacing_region_outside_image",
        ),
        heads=HeadsPart(
            images=12,
            measured=11,
            withheld=1,
            mean_error_mm=1.8,
            inside=10,
            reasons={"cut_by_border": 1},
            held_out=True,
        ),
        chests=[
            ChestPart(
                how="upright",
                wanted=[],
                came=[],
                said="both lungs are in the picture and none is clipped",
                number=True,
                values=[
                    lung("lung_area_right", 181.0, 180.1),
                    lung("lung_area_left", 179.8, 179.0),
                    lung("lung_width", 289.9, 290.0, "mm"),
                ],
            ),
            *(clipped(how) for how in ("turned", "inverted", "clipped")),
        ],
        artery=ArteryPart(
            frames=25, measured=25, inside=24, values=[lung("lumen_area", 33.0, 33.8, "mm2")], reasons={}
        ),
        gate=GatePart(
            frames=48,
            sound_accepted=True,
            sound_mean_mm=0.03,
            sound_largest_mm=0.12,
            layer="middle",
            spoilt_refused=True,
            why="head circumference: the p99 difference is 3.1 mm, limit 0.5 mm",
        ),
        killed=["the run", "the uplink", "the broker"],
        delivery=Delivery(
            broker="mqtt://127.0.0.1:1883", reported=145, stored=145, missing=0, twice=0, untold=1, repeated=3
        ),
        files=Files(
            folder="/tmp/edge-runtime-demo",
            summary="/tmp/edge-runtime-demo/summary.html",
            findings="/tmp/edge-runtime-demo/findings.jsonl",
        ),
        problems=[],
        notes=[],
    )
    return msgspec.structs.replace(whole, **changed)


OFFLINE = Delivery(broker=None, reported=145, stored=0, missing=0, twice=0, waiting=151)
