#!/usr/bin/env bash
# On a machine with a CUDA device: every CuPy test, none skipped, then the benchmark. Nothing is downloaded.
#   bash ci/gpu.sh [FOLDER]     FOLDER: where gpu.json, gpu.md and tests.txt go (default: gpu-record)
# PYTHON names an interpreter that has CuPy and the test extra (default: python3); BENCH holds options of the benchmark.
set -euo pipefail
folder=$(realpath -m "${1:-gpu-record}")
cd "$(dirname "$0")/.."
mkdir -p "$folder"
python=${PYTHON:-python3}
export NNBACKEND_TEST_GPU=1 # a CuPy case that cannot run is then a failure and not a skip
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

NNBACKEND=cupy "$python" -m nnbackend doctor
# the plugin registers CuPy's kernels before the tests are collected, which look for what is registered
status=0
"$python" -m pytest -p nnbackend.kernels.cupy -k cupy -ra 2>&1 | tee "$folder/tests.txt" || status=$?
# shellcheck disable=SC2086
"$python" ci/bench/gpu.py "$folder" ${BENCH:-}
exit "$status"
