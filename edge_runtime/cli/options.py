"""Flags that more than one command has, so that each is called and explained alike wherever it stands."""

from __future__ import annotations

from pathlib import Path

import click

POLICIES = click.Choice(["every", "newest"])
PRECISIONS = click.Choice(["auto", "fp32", "bf16", "fp16", "int8"])
BACKENDS = click.Choice(["auto", "onnxruntime", "openvino", "tensorrt", "null"])
FOLDER = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


def example(text: str) -> str:
    """An epilog that click leaves as it is."""
    return "\b\nExample:\n  " + text.replace("\n", "\n  ")


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
model_option = click.option(
    "--model", required=True, metavar="NAME|DIR", help="A shipped model or a directory with a model.toml."
)
backend_option = click.option("--backend", type=BACKENDS, default="auto", show_default=True)
precision_option = click.option("--precision", type=PRECISIONS, default="auto", show_default=True)
threads_option = click.option(
    "--threads", type=int, default=1, show_default=True, help="Threads of the backend."
)
profile_option = click.option(
    "--profile", type=FILE, default=None, help="A site's limits and intervals (edge-runtime calibrate)."
)
state_option = click.option(
    "--state", type=FOLDER, default=None, help="State directory (default: this user's)."
)
which_option = click.option(
    "--which",
    type=click.Choice(["pending", "delivered", "dead", "held", "all"]),
    default="all",
    show_default=True,
)
config_option = click.option(
    "--config", type=FILE, default=None, help="TOML settings (default: config.toml in --state)."
)
