#!/usr/bin/env bash
# Run the tests of the loops in C under AddressSanitizer and UBSan, and a program of their threads under ThreadSanitizer.
# The package is built with the first two into a temporary folder. Any report fails the script. If the compiler has no
# sanitizers, the script says so and passes.
# PYTHON names an interpreter in which the tests can run (default: python3).
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

"$CC" -O1 -g -fsanitize=thread -pthread ci/threads.c -o "$folder/threads"
TSAN_OPTIONS=halt_on_error=1 timeout 300 "$folder/threads"

CFLAGS=$flags LDFLAGS=$flags "$python" -m pip install --quiet --no-deps --target "$folder/built" .

# The runtime must be loaded before Python. Leaks are not checked, because Python and NumPy keep memory until they exit. A
# report ends the process with an error. With -s it is shown, which pytest would otherwise capture and lose.
export LD_PRELOAD=$runtime PYTHONPATH=$folder/built PYTHONSAFEPATH=1 PYTHONMALLOC=malloc
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
"$python" - "$folder" <<'PYTHON'
import sys
from nnbackend.backends.numpy import _native
assert _native.__file__.startswith(sys.argv[1]), _native.__file__
PYTHON
"$python" -m pytest -p no:cacheprovider -q -s tests/backends/numpy
