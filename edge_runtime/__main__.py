"""`python -m edge_runtime`: the command line, for a machine where the script is not on the path."""

from __future__ import annotations

from edge_runtime.cli import main

if __name__ == "__main__":
    main()
