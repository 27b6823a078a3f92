#!/usr/bin/env bash
# Verifies and times x2ct on this machine's GPU. Needs the NVIDIA driver; uses compute-sanitizer and Python with PyTorch
# where they are found, and says so where they are not.
#
#   ./run.sh [STEP ...]        steps: check test sanitize bench peers (default: all, in this order)
#
# Variables: OUT (results; default ./results), FILTER (a kernel family: tests whose name contains it, its benches), PYTHON,
# SANITIZER_FILTER (tests run under compute-sanitizer; default ops::), PEER_FLAGS (such as --compile), BENCH_SECONDS (a case).
# Ends with status 1 if any step failed. Steps run again replace their own results only.
set -uo pipefail
cd "$(dirname "$0")"
# Python where tar finds no xz.
[ -x x2ct ] && [ -x x2ct_tests ] || tar -xJf programs.tar.xz 2>/dev/null ||
    "${PYTHON:-python3}" -c 'import tarfile; tarfile.open("programs.tar.xz").extractall()' || exit 1
OUT=${OUT:-results}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
device=cuda:0
failed=()

# CUDA libraries (cuBLASLt) of this machine's Python packages, so that matrix products find theirs.
PYTHON=${PYTHON:-$(command -v python3 || command -v python || true)}
if [ -n "$PYTHON" ]; then
    folders=$("$PYTHON" -c '
import glob, os, sysconfig
roots = {sysconfig.get_paths()[key] for key in ("purelib", "platlib")}
print(":".join(sorted(folder for root in roots for folder in glob.glob(os.path.join(root, "nvidia", "*", "lib")))))' || true)
    export LD_LIBRARY_PATH="${folders:+$folders:}${LD_LIBRARY_PATH:-}"
fi

say() { printf '\n== %s\n' "$*"; }
# step NAME LOG COMMAND...: runs, keeps the log, remembers a failure
step() {
    local name=$1 log="$OUT/$2" start=$SECONDS status
    shift 2
    "$@" >"$log" 2>&1
    status=$?
    if [ $status -eq 0 ]; then
        echo "passed   $name ($((SECONDS - start)) s)"
    else
        echo "FAILED   $name (status $status, $((SECONDS - start)) s); the end of $log:"
        tail -n 15 "$log" | sed 's/^/    /'
        failed+=("$name")
    fi
    printf '%s\t%s\n' "$name" "$([ $status -eq 0 ] && echo passed || echo failed)" >>"$OUT/status.tsv"
    return $status
}
skip() {
    echo "SKIPPED  $1: $2"
    printf '%s\tskipped: %s\n' "$1" "$2" >>"$OUT/status.tsv"
}
# What an earlier run noted about a step goes when the step is run again.
forget() { [ ! -f "$OUT/status.tsv" ] || { grep -v "^$1" "$OUT/status.tsv" >"$OUT/status.new"; mv "$OUT/status.new" "$OUT/status.tsv"; }; }

check() {
    forget golden
    step "golden cases" check.log golden
}
golden() { # one by one: a case that cannot be read does not hide the others
    local file bad=0
    for file in $(grep -laF x2ct-golden-1 tests/golden/*.safetensors); do # other formats lie there too
        ./x2ct check --device $device "$file" || bad=$((bad + 1))
    done
    echo "$bad file(s) failed"
    [ $bad -eq 0 ]
}

tests() {
    forget tests
    # A GPU is required, new memory is NaN, and the host runs beside it: the two are compared with the same references.
    step "tests" tests.log env X2CT_REQUIRE_CUDA=1 X2CT_POISON=1 ./x2ct_tests device:: layout:: shim:: "ops::${FILTER:-}"
    # Again without the memory pool, each launch waited for: another allocator, another order of events.
    step "tests, one launch at a time" tests_sync.log \
        env X2CT_REQUIRE_CUDA=only X2CT_SYNC=1 X2CT_PLAIN_ALLOC=1 ./x2ct_tests device:: shim:: "ops::${FILTER:-}"
}

sanitize() {
    forget sanitizer
    local sanitizer folder
    sanitizer=$(command -v compute-sanitizer || true)
    for folder in "${CUDA_HOME:-}" /usr/local/cuda /usr/local/cuda-13* /opt/cuda; do
        [ -n "$sanitizer" ] || [ ! -x "$folder/bin/compute-sanitizer" ] || sanitizer="$folder/bin/compute-sanitizer"
    done
    if [ -z "$sanitizer" ]; then
        skip sanitizer "compute-sanitizer was not found on PATH or under CUDA_HOME; it comes with the CUDA toolkit"
        return
    fi
    export X2CT_REQUIRE_CUDA=only X2CT_PLAIN_ALLOC=1
    local tool flags
    for tool in memcheck racecheck synccheck initcheck; do
        flags=(--tool "$tool" --error-exitcode 99)
        [ $tool != memcheck ] || flags+=(--padding 256) # so that a small overrun hits nobody's memory
        # The tool must see a defect before its silence means anything.
        step "sanitizer $tool catches a planted defect" "sanitizer_${tool}_planted.log" \
            caught "$sanitizer" "${flags[@]}" ./x2ct_tests --exact shim::planted_on_cuda --ignored --nocapture --test-threads 1
        step "sanitizer $tool on the operators" "sanitizer_$tool.log" \
            "$sanitizer" "${flags[@]}" ./x2ct_tests "${SANITIZER_FILTER:-ops::}" --test-threads 1
    done
}
caught() {
    X2CT_PLANT=$tool "$@"
    local status=$?
    echo "exit status $status; 99 says that the defect was seen"
    [ $status -eq 99 ]
}

bench() {
    forget bench
    # The programs' text goes to the log; the figures to a file that is complete or absent.
    step "bench" bench.log figures ${FILTER:+"$FILTER"}
}
figures() {
    rm -f "$OUT/bench.json"
    ./x2ct bench "$@" --device $device --seconds "${BENCH_SECONDS:-0.5}" --json >"$OUT/bench.part" && mv "$OUT/bench.part" "$OUT/bench.json"
}

peers() {
    forget peers
    if [ -z "$PYTHON" ] || ! "$PYTHON" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
        skip peers "no Python with PyTorch that sees the GPU (PYTHON=... names another)"
        return
    fi
    # shellcheck disable=SC2086 # flags, to be split
    step "peers" peers.log "$PYTHON" peers/bench_peers.py --out "$OUT/peers.json" ${PEER_FLAGS:-}
}

# The figures as a Markdown table: ours, the peers', the ratio.
table() {
    if [ -z "$PYTHON" ]; then
        echo "no Python: the figures are in bench.json, not in a table"
        return
    fi
    {
        echo "gpu: $(nvidia-smi --query-gpu=name --format=csv,noheader -i 0)"
        echo "driver: $(nvidia-smi --query-gpu=driver_version --format=csv,noheader -i 0)"
        echo "date: $(date -u +%Y-%m-%d)"
        cat INFO
    } >"$OUT/machine.txt"
    "$PYTHON" peers/table.py "$OUT" >"$OUT/RESULTS.md" && echo "the table: $OUT/RESULTS.md"
}

if ! ./x2ct_tests --list >/dev/null 2>"$OUT/start.log"; then
    echo "the programs do not start here:"
    cat "$OUT/start.log"
    sed -n 's/^system: /they were built for /p' INFO
    exit 1
fi
say "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | head -1)"
sed 's/^/   /' INFO
[ $# -gt 0 ] || set -- check test sanitize bench peers
for name in "$@"; do
    say "$name"
    case $name in
        check | sanitize | bench | peers) "$name" ;;
        test) tests ;;
        *) echo "no step $name: check, test, sanitize, bench or peers" && exit 2 ;;
    esac
done
say "results"
table
if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
