"""`edge-runtime demo`: the main job on this machine, with nothing but what was installed.

`story.py` is the file to read first: what happens, in order. Every part is a process started as a user would start
it, so that it can be killed; nothing in here measures, stores or delivers by itself.
"""

from __future__ import annotations

from edge_runtime.commands.demo.report import DemoReport, lines
from edge_runtime.commands.demo.story import demo

__all__ = ["DemoReport", "demo", "lines"]
