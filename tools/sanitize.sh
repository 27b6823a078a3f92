#!/usr/bin/env bash
# Builds the kernels for the host under AddressSanitizer and UndefinedBehaviorSanitizer and runs the tests that run
# kernels: any finding fails the test it occurs in, and two planted overruns (tests/shim.rs) must be caught.
#
#   tools/sanitize.sh [TEST NAME FILTER ...]      by default ops:: and shim::
#
# Needs g++ (its libasan and libubsan; Debian and Ubuntu install them with g++). CXX chooses another g++.
set -euo pipefail
cd "$(dirname "$0")/.."

export CXX="${CXX:-g++}"
runtimes=()
for name in libasan.so libubsan.so; do
    path=$("$CXX" -print-file-name="$name")
    [ -e "$path" ] || { echo "$CXX has no $name: install its sanitizer runtimes, or set CXX to a g++ that has them" >&2; exit 1; }
    runtimes+=("$(readlink -f "$path")")
done

# The C++ runtime is preloaded too: ASan looks for its exception functions before the test binary has loaded it.
runtimes+=("$(readlink -f "$("$CXX" -print-file-name=libstdc++.so.6)")")

export X2CT_SANITIZE=address,undefined
# The kernels are C++ and optimised all the same; optimising the dependencies would cost more than it saves here.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=line-tables-only
build=(cargo test --config 'profile.dev.package."*".opt-level=0' --target-dir target/sanitize --no-default-features --features host,cli --test x2ct)
"${build[@]}" --no-run
binary=$("${build[@]}" --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | grep '/x2ct-' | tail -1)

# Leaks are Rust's business; what is looked for is in the kernels and the shim around them.
export ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:${UBSAN_OPTIONS:-}"
[ $# -gt 0 ] || set -- ops:: shim::
preload=$(IFS=:; echo "${runtimes[*]}")
time LD_PRELOAD="$preload" "$binary" "$@"
