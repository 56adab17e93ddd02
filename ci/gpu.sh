#!/usr/bin/env bash
# On a machine with a CUDA device: every CuPy test, none skipped.
# PYTHON names an interpreter that has CuPy and the test extra (default: python3).
set -euo pipefail
cd "$(dirname "$0")/.."
export NNBACKEND_TEST_GPU=1 # a CuPy case that cannot run is then a failure and not a skip
"${PYTHON:-python3}" -m nnbackend doctor
"${PYTHON:-python3}" -m pytest -k cupy
