#!/usr/bin/env bash
# Run all CuPy tests, without skips, and the benchmark, on a machine with a CUDA device. Nothing is downloaded or
# installed. The clone need not be installed either.
#   bash ci/gpu.sh                      all parts, one after the other
#   bash ci/gpu.sh doctor               check this machine
#   bash ci/gpu.sh tests                run the tests, which takes minutes
#   bash ci/gpu.sh bench PRECISION...   run the benchmark at float32, tf32, bfloat16, which takes minutes for each
# If a part fails, the next still runs, and the exit status is 1. Results are written as they come, to doctor.txt,
# tests.txt, gpu.json and gpu.md in FOLDER (default: gpu-record). Each call adds to the last two.
# PYTHON names an interpreter that has CuPy, array-api-compat and pytest (default: python3); BENCH holds options of
# the benchmark, WORKERS the number of test processes, COMMIT the commit if the clone has no .git.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
folder=$(realpath -m "${FOLDER:-gpu-record}")
python=${PYTHON:-python3}
export NNBACKEND_TEST_GPU=1 # a CuPy test that cannot run then fails, and is not skipped
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
mkdir -p "$folder" || exit
status=0

doctor() {
    NNBACKEND=cupy "$python" -m nnbackend doctor 2>&1 | tee "$folder/doctor.txt" || status=1
}

tests() {
    # the plugin registers CuPy's kernels before pytest collects the tests, which look them up
    "$python" -m pytest -p nnbackend.backends.cupy.kernels -n "${WORKERS:-4}" -k cupy -ra 2>&1 | tee "$folder/tests.txt" || status=1
    "$python" -m nnbackend conformance cupy --markdown "$folder/conformance.md" || status=1
    "$python" ci/bench/gpu.py "$folder" --precisions || status=1 # write the heading of the record, and this result
}

bench() {
    for precision in "$@"; do
        # shellcheck disable=SC2086
        "$python" ci/bench/gpu.py "$folder" --precisions "$precision" ${BENCH:-} || status=1
    done
}

case ${1:-all} in
all)
    doctor
    tests
    bench float32 tf32 bfloat16
    ;;
doctor | tests) "$1" ;;
bench)
    shift
    bench "${@:-float32}"
    ;;
*)
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    status=2
    ;;
esac
exit "$status"
