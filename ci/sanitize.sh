#!/usr/bin/env bash
# The loops in C under AddressSanitizer and UBSan: the package is built with both into a temporary folder, and the tests
# of the loops run on that copy. Any report fails the script. A machine without such a compiler is told so, and passes.
# PYTHON names an interpreter that has what the tests need (default: python3).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export CC=${CC:-gcc}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
runtime=$("$CC" -print-file-name=libasan.so 2>/dev/null || true)
# shellcheck disable=SC2086
if ! echo 'int main(void) { return 0; }' | "$CC" $flags -xc - -o "$folder/probe" 2>"$folder/why" || [ ! -f "$runtime" ]; then
    echo "skipped: $CC has no sanitizers: $(head -n 1 "$folder/why")"
    exit 0
fi

CFLAGS=$flags LDFLAGS=$flags "$python" -m pip install --quiet --no-deps --target "$folder/built" .

# the runtime must be there before Python is; Python and NumPy free at exit less than they allocate. Reports go to files,
# since pytest keeps what a process that dies has printed.
export LD_PRELOAD=$runtime PYTHONPATH=$folder/built PYTHONSAFEPATH=1 PYTHONMALLOC=malloc
export ASAN_OPTIONS=detect_leaks=0:log_path=$folder/report UBSAN_OPTIONS=print_stacktrace=1:log_path=$folder/report
status=0
"$python" -c 'import sys, nnbackend.backends.numpy._native as loops; assert loops.__file__.startswith(sys.argv[1]), loops' "$folder" || status=1
"$python" -m pytest -p no:cacheprovider -q tests/backends/numpy/test_native.py || status=1
if compgen -G "$folder/report*" >/dev/null; then
    cat "$folder"/report*
    status=1
fi
exit "$status"
