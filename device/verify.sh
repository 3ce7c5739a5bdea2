#!/bin/sh
# Everything that only a GPU can prove, in one go, on this device: build, gate, timing, graph replay, 10,000 inferences.
#   device/verify.sh [MODEL]     writes benchmarks/results/<device>.json; exit 1 if anything failed or there is no GPU
# PYTHON names the interpreter of the environment that edge-runtime is installed in (default: python3).
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" benchmarks/device_verify.py "$@"
