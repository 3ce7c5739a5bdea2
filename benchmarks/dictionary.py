"""Makes a preset dictionary for packed payloads: `python benchmarks/dictionary.py zd2`.

It holds what most records have in common: a finding of each shipped model with its values taken out, the other kinds
of records, the words of the enumerations and the digests of the shipped graphs. The most usual stands last, where it
costs the fewest bits to name. Once a device has packed with it, a dictionary never changes: a better one gets a new
name, and is added to KNOWN in edge_runtime/sync/packing.py.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge_runtime import codes
from edge_runtime.sync import holdings
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.wire import outgoing

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("lungs", "carotid", "fetal_head")
VALUES = (  # what differs from one record to the next
    (r'"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"', '"01a'),
    (r'"(run|dev)-[0-9a-f]+"', r'"\1-"'),
    (r'("(?:epoch|boot_id)":)"[0-9a-f]+"', r'\1""'),
    (r'("created_at":)"[^"]*"', r'\1"20'),
    (r'("frame_ids":\[)"[^"]*"', r'\1"0."'),
    (r'("(?:artifact_sha256|data)":)"[^"]*"', r'\1""'),
    (r'("(?:interval|range)":\[)[^\]]*\]', r"\1"),
    (r'("(?!revision|score|rotation_deg)[a-z0-9_]+":)-?[0-9]+(\.[0-9]+)?(?=[,}])', r"\1"),
)


def records(model: str) -> Iterator[tuple[str, str]]:
    """The kind and JSON of each record of a short phantom run, as a slow link would send them."""
    with tempfile.TemporaryDirectory() as folder:
        run = ["edge-runtime", "run", "--model", model, "--source", f"phantom:{model}?frames=2"]
        subprocess.run([*run, "--state", folder], check=True, capture_output=True)
        with Outbox(Path(folder)) as outbox:
            for row in holdings.records(outbox):
                yield row.kind, outgoing(row.kind, row.body, thin=True).decode()


def without_values(text: str) -> str:
    for pattern, instead in VALUES:
        text = re.sub(pattern, instead, text)
    return text


def dictionary() -> bytes:
    graphs = [path for model in MODELS for path in sorted((ROOT / "models" / model).glob("*.onnx"))]
    digests = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in graphs)
    words = '","'.join(
        word.value
        for words in (codes.Reason, codes.Hint, codes.SpacingSource, codes.SourceKind)
        for word in words
    )
    findings, others = "", ""
    for model in MODELS:
        found = dict(records(model))  # the last of each kind
        findings += without_values(found.pop("finding"))
        others = "".join(without_values(text) for text in found.values())
    return f'{digests}"{words}"{others}{findings}'.encode()


if __name__ == "__main__":
    target = ROOT / "edge_runtime" / "sync" / f"dictionary_{sys.argv[1]}.txt"
    target.write_bytes(dictionary())
    print(f"{target}: {target.stat().st_size} bytes")
