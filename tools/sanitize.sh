#!/usr/bin/env bash
# Runs tests with the host kernels built under AddressSanitizer and UndefinedBehaviorSanitizer (GCC).
#   tools/sanitize.sh [TEST_FILTER...]      default: the operators and the planted defects (ops:: shim::)
# Any finding stops the test that caused it. Leaks are not looked for: the worker threads' fiber stacks live to the end.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- ops:: shim::

compiler=${CXX:-c++}
libraries=
for name in libasan.so libubsan.so; do
    path=$("$compiler" -print-file-name=$name)
    [ -e "$path" ] || { echo "sanitize: $compiler has no $name; install GCC with its sanitizers, or set CXX" >&2; exit 1; }
    libraries+=${libraries:+:}$path
done
# rustc links with -nodefaultlibs and puts the runtime too late, so the test process loads it first.
triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${triple}_RUNNER=env LD_PRELOAD=$libraries ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1"
X2CT_SANITIZE=address,undefined exec cargo test --release --test x2ct -- "$@"
