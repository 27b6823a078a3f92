#!/usr/bin/env bash
# Verifies and times x2ct on this machine's GPU. Needs the NVIDIA driver; uses compute-sanitizer and Python with PyTorch
# where they are found, and says so where they are not.
#
#   ./run.sh [STEP ...]        steps: check test smoke bench peers sanitize (default: all, in this order)
#
# A step consists of units (a golden run, a module of tests, a kernel family), each a process of its own under a time
# limit; what a unit found is kept in ./results before the next begins. Without arguments, run.sh goes on: units that have
# a result are not run again. A step that is named is run anew. A failed module of tests is run again test by test, each in
# a process of its own, so that one that faults or hangs is named and harms no other.
#
# Variables: OUT (receives RESULTS.md and results.tar.gz after each unit; default ./out), BUDGET (seconds for the whole
# call: no unit begins or runs beyond them), LIMIT (seconds a unit, instead of its own), FILTER (a word in the names of
# tests and families), SANITIZER_FILTER (tests under compute-sanitizer; default ops::), PYTHON, PEER_FLAGS (such as
# --compile), BENCH_SECONDS (a case), DEVICE; an empty PYTHON is none. To go on elsewhere, put results.tar.gz beside run.sh.
#
# Ends with 0 if everything passed, 1 if anything failed, 2 for a wrong step, 3 if nothing failed but the budget ran out.
set -uo pipefail
cd "$(dirname "$0")"
begun=$SECONDS
# What a step sets for its processes ends with them, and nothing set before reaches them.
unset "${!X2CT_@}"
PYTHON=${PYTHON-$(command -v python3 || command -v python || true)}
# Python where tar finds no xz.
[ -x x2ct ] && [ -x x2ct_tests ] && [ -d tests ] || tar -xJf programs.tar.xz 2>/dev/null ||
    "${PYTHON:-python3}" -c 'import tarfile; tarfile.open("programs.tar.xz").extractall()' || exit 1
device=${DEVICE:-cuda:0}
OUT=${OUT:-out}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 1

[ -d results ] || [ ! -f results.tar.gz ] || tar -xzf results.tar.gz
# Results of another build stay apart.
if [ -d results ] && ! cmp -s INFO results/INFO; then
    rm -rf results.of_another_build
    mv results results.of_another_build
fi
mkdir -p results/logs results/bench results/peers
cp INFO results/INFO
status=results/status.tsv # unit, result, seconds, remark
touch $status

# CUDA libraries (cuBLASLt) of this machine's Python packages, so that matrix products find theirs.
if [ -n "$PYTHON" ]; then
    folders=$("$PYTHON" -c '
import glob, os, sysconfig
roots = {sysconfig.get_paths()[key] for key in ("purelib", "platlib")}
print(":".join(sorted(folder for root in roots for folder in glob.glob(os.path.join(root, "nvidia", "*", "lib")))))' || true)
    export LD_LIBRARY_PATH="${folders:+$folders:}${LD_LIBRARY_PATH:-}"
fi

say() { printf '\n== %s\n' "$*"; }

remaining() { echo $((${BUDGET:-1000000} - (SECONDS - begun))); }

# bounded SECONDS COMMAND...: ends the command and what it started; 124 or 137 where it had to. It runs behind the shell, which
# can so be ended meanwhile, and ends it too.
running=
bounded() {
    local limit=$1 rest code
    shift
    rest=$(remaining)
    [ "$limit" -le "$rest" ] || limit=$rest
    [ "$limit" -gt 0 ] || return 124
    timeout -k 5 "$limit" "$@" &
    running=$!
    wait $running
    code=$?
    running=
    return $code
}

# record UNIT RESULT SECONDS REMARK: in the place of what was known of the unit.
record() {
    awk -F'\t' -v unit="$1" '$1 != unit' $status >$status.new
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$(tr '\t\n' '  ' <<<"$4" | cut -c1-1000 | sed 's/ *$//')" >>$status.new
    mv $status.new $status
    printf '%-12s %s (%s s)%s\n' "$2" "$1" "$3" "${4:+: $4}"
    publish
}

# The table and everything else, at most once in ten seconds unless told `now`.
published=-100
publish() {
    [ "${1:-}" = now ] || [ $((SECONDS - published)) -ge 10 ] || return 0
    published=$SECONDS
    table >"$OUT/.RESULTS.md" 2>/dev/null && mv "$OUT/.RESULTS.md" "$OUT/RESULTS.md"
    tar -czf "$OUT/.results.tar.gz" results && mv "$OUT/.results.tar.gz" "$OUT/results.tar.gz"
}

# The figures as a Markdown table: ours, the peers', the ratio. Without Python, the checks alone.
table() {
    [ -z "$PYTHON" ] || { "$PYTHON" peers/table.py results && return; }
    printf '# Results on one GPU\n\n'
    cat results/machine.txt
    printf '\n| unit | result | seconds | remark |\n| --- | --- | --- | --- |\n'
    awk -F'\t' '{ gsub(/\|/, "/"); print "| " $1 " | " $2 " | " $3 " | " $4 " |" }' $status
}

log_of() { echo "results/logs/$(tr -c 'a-zA-Z0-9_\n' _ <<<"$1").log"; }

# Whether the unit is to be run: named steps anew, others where they have no result, while the budget lasts.
wanted() {
    if [ "$(remaining)" -le 0 ]; then
        unfinished=1
        return 1
    fi
    $anew || ! awk -F'\t' -v unit="$1" '$1 == unit && ($2 == "passed" || $2 == "failed" || $2 == "timed out") { found = 1 } END { exit !found }' $status
}

# nothing STEP WHAT: a step has nothing to run; by a FILTER that is meant for another step, or it is a failure.
nothing() {
    if [ -n "${FILTER:-}" ]; then record "$1" skipped 0 "no $2 has $FILTER in its name"; else record "$1" failed 0 "the program lists no $2"; fi
}

# unit NAME LIMIT COMMAND...: runs it, keeps its log and its result. EXPLAIN, a function, may put more of a failure in `remark`.
units=0
unit() {
    local name=$1 limit=${LIMIT:-$2} log start=$SECONDS code result remark=
    shift 2
    units=$((units + 1))
    wanted "$name" || return 0
    log=$(log_of "$name")
    bounded "$limit" "$@" >"$log" 2>&1 </dev/null
    code=$?
    case $code in
        0) result=passed ;;
        124 | 137) result="timed out" ;;
        *) result=failed ;;
    esac
    if [ "$code" != 0 ]; then
        [ -z "${EXPLAIN:-}" ] || $EXPLAIN "$log"
        [ -n "$remark" ] || remark="exit status $code; $(tail -n 2 "$log" | tr '\n' ' ')"
        # Cut short by the budget of this call alone: run again by the next.
        [ "$(remaining)" -gt 0 ] || result=unfinished remark="the budget ran out" unfinished=1
    fi
    trim "$log"
    record "$name" "$result" $((SECONDS - start)) "$remark"
    [ "$result" = passed ]
}

trim() { # a log that a loop has filled
    [ "$(wc -c <"$1")" -le 400000 ] || { { head -c 100000 "$1" && printf '\n[...]\n' && tail -c 200000 "$1"; } >"$1.short" && mv "$1.short" "$1"; }
}

check() {
    local file files=()
    for file in $(grep -laF x2ct-golden-1 tests/golden/*.safetensors); do files+=("$file"); done # other formats lie there too
    wanted "golden cases" || return 0
    EXPLAIN=golden_alone unit "golden cases" 300 env X2CT_SYNC=1 ./x2ct check --device "$device" "${files[@]}"
}
# Each file in a process of its own: which fail.
golden_alone() {
    local file bad=()
    for file in "${files[@]}"; do
        bounded "${LIMIT:-60}" env X2CT_SYNC=1 ./x2ct check --device "$device" "$file" >"$1.alone" 2>&1 </dev/null ||
            { bad+=("$(basename "$file")") && { echo "== $file alone" && cat "$1.alone"; } >>"$1"; }
    done
    rm -f "$1.alone"
    remark="${#bad[@]} of ${#files[@]} files fail alone: ${bad[*]}"
}

list_tests() { # FILTER...
    timeout 60 ./x2ct_tests --list "$@" 2>/dev/null | sed -n 's/: test$//p'
}
# ops::gemm, device, ...: what is run together. One that holds modules of its own is not taken apart.
modules() { awk -F'::' '{ print ($1 == "ops" && NF > 2) ? $1 "::" $2 : $1 }' | sort -u; }

# modules_of LABEL LIMIT FILTERS... -- ENVIRONMENT... [PROGRAM...]: a unit a module.
modules_of() {
    local label=$1 limit=$2 filters=() module names
    shift 2
    while [ "$1" != -- ]; do filters+=("$1") && shift; done
    shift
    names=$(list_tests "${filters[@]}" | grep -F -- "${FILTER:-}" | grep -vE -- "${leave_out:-^$}")
    [ -n "$names" ] || nothing "$label" test
    for module in $(modules <<<"$names"); do
        # Exactly these: a word may stand in the name of another module too.
        mapfile -t tests < <(grep "^${module}::" <<<"$names")
        command=("$@")
        EXPLAIN=tests_alone unit "$label $module" "$limit" env "$@" ./x2ct_tests --exact "${tests[@]}" --test-threads 1
    done
}
# Which tests of the unit did not pass, each tried again in a process of its own that waits after every launch.
tests_alone() {
    local log=$1 name alone=$1.alone bad=() victims=() code hint
    local passed
    passed=$(sed -nE 's/^test (.*) \.\.\. (ok|ignored.*)$/\1/p' "$log" | sed 's/ - should panic$//')
    for name in "${tests[@]}"; do
        grep -qxF -- "$name" <<<"$passed" && continue
        bounded "${LIMIT:-${alone_limit:-60}}" env "${command[@]:0:1}" X2CT_SYNC=1 "${command[@]:1}" ./x2ct_tests --exact "$name" --test-threads 1 \
            >"$alone" 2>&1 </dev/null
        code=$?
        if [ $code -eq 0 ]; then
            victims+=("$name")
            continue
        fi
        { echo "== $name alone, exit status $code" && cat "$alone"; } >>"$log"
        case $code in
            124 | 137) hint="hangs" ;;
            *) hint=$(grep -A1 'panicked at' "$alone" | sed -n '2p' | cut -c1-160) ;;
        esac
        bad+=("$name: ${hint:-exit status $code}")
    done
    rm -f "$alone"
    [ ${#bad[@]} -eq 0 ] || remark=$(printf '%s; ' "${bad[@]}")
    [ ${#victims[@]} -eq 0 ] || remark+="pass alone: ${victims[*]}"
}

# Tests that meet a GPU: `devices()` in their source.
on_devices=(device:: layout:: shim:: ops:: recompute:: preprocess::padding)

tests() {
    # A GPU is required, and new memory is NaN. The host, which any machine tests, stays out.
    modules_of "tests" 200 "${on_devices[@]}" -- X2CT_REQUIRE_CUDA=only X2CT_POISON=1
    # Again without the memory pool, each launch waited for: another allocator, another order of events.
    modules_of "tests, one launch at a time," 200 "${on_devices[@]}" -- X2CT_REQUIRE_CUDA=only X2CT_SYNC=1 X2CT_PLAIN_ALLOC=1
}

sanitize() {
    local sanitizer folder tool flags alone_limit=300 leave_out= right=(shim::bulk_copies_arrive_in_any_order shim::warpgroups_multiply_tiles_as_rows_and_as_columns)
    sanitizer=$(command -v compute-sanitizer || true)
    for folder in "${CUDA_HOME:-}" /usr/local/cuda /usr/local/cuda-13* /opt/cuda; do
        [ -n "$sanitizer" ] || [ ! -x "$folder/bin/compute-sanitizer" ] || sanitizer="$folder/bin/compute-sanitizer"
    done
    if [ -z "$sanitizer" ]; then
        record sanitizer skipped 0 "compute-sanitizer was not found on PATH or under CUDA_HOME; it comes with the CUDA toolkit"
        return
    fi
    for tool in memcheck racecheck synccheck initcheck; do
        flags=(--tool "$tool" --error-exitcode 99)
        [ $tool != memcheck ] || flags+=(--padding 256) # so that a small overrun hits nobody's memory
        # The tool must see a defect before its silence means anything.
        unit "sanitizer $tool catches a planted defect" 120 env X2CT_REQUIRE_CUDA=only X2CT_PLAIN_ALLOC=1 X2CT_PLANT=$tool \
            bash -c '"$@"; code=$?; echo "exit status $code; 99 says that the defect was seen"; [ $code -eq 99 ]' sanitizer \
            "$sanitizer" "${flags[@]}" ./x2ct_tests --exact shim::planted_on_cuda --ignored --nocapture --test-threads 1
    done
    for tool in memcheck synccheck initcheck racecheck; do
        flags=(--tool "$tool" --error-exitcode 99)
        [ $tool != memcheck ] || flags+=(--padding 256)
        # Bulk copies and barriers in memory are ordered by rules of their own, which the tool may not know.
        if [ $tool = racecheck ] && ! bounded 120 env X2CT_REQUIRE_CUDA=only X2CT_PLAIN_ALLOC=1 "$sanitizer" "${flags[@]}" \
            ./x2ct_tests --exact "${right[@]}" --test-threads 1 >results/logs/racecheck_of_right_kernels.log 2>&1 </dev/null; then
            record "sanitizer racecheck on bulk copies" skipped 0 \
                "it does not pass kernels that are right (racecheck_of_right_kernels.log): hopper tests are left out"
            leave_out='::hopper::'
        fi
        modules_of "sanitizer $tool" 300 "${SANITIZER_FILTER:-ops::}" -- X2CT_REQUIRE_CUDA=only X2CT_PLAIN_ALLOC=1 \
            "$sanitizer" "${flags[@]}"
    done
}

# Whole commands on the GPU and on the host, their results compared.
smoke() {
    if [ -z "$PYTHON" ]; then
        record smoke skipped 0 "no Python to compare the results with"
        return
    fi
    unit smoke 400 env PYTHON="$PYTHON" ./smoke.sh "$device" host results/smoke
    rm -rf results/smoke
}

bench() {
    local family families
    families=$(timeout 60 ./x2ct bench --list | grep -F -- "${FILTER:-}")
    [ -n "$families" ] || nothing bench family
    for family in $families; do
        # The figures' file is complete after each case.
        unit "bench $family" 150 ./x2ct bench "$family" --device "$device" --seconds "${BENCH_SECONDS:-0.3}" \
            --out "results/bench/$family.json"
    done
}

peers() {
    local family
    if [ -z "$PYTHON" ] || ! bounded 120 "$PYTHON" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
        record peers skipped 0 "no Python with PyTorch that sees the GPU (PYTHON=... names another)"
        return
    fi
    for family in $("$PYTHON" peers/bench_peers.py --list); do
        # shellcheck disable=SC2086 # flags, to be split
        unit "peers $family" 240 "$PYTHON" peers/bench_peers.py --family "$family" --out "results/peers/$family.json" ${PEER_FLAGS:-}
    done
}

if ! timeout 60 ./x2ct_tests --list >/dev/null 2>results/logs/start.log; then
    echo "the programs do not start here:"
    cat results/logs/start.log
    sed -n 's/^system: /they were built for /p' INFO
    exit 1
fi
gpu() { timeout 60 nvidia-smi --query-gpu="$1" --format=csv,noheader -i 0 2>/dev/null || echo unknown; }
{
    echo "gpu: $(gpu name), $(gpu memory.total)"
    echo "driver: $(gpu driver_version)"
    echo "date: $(date -u +%Y-%m-%d)"
    cat INFO
} >results/machine.txt
sed 's/^/   /' results/machine.txt

anew=true
[ $# -gt 0 ] || { anew=false && set -- check test smoke bench peers sanitize; }
for name in "$@"; do
    case $name in
        check | test | smoke | bench | peers | sanitize) ;;
        *) echo "no step $name: check, test, smoke, bench, peers or sanitize" && exit 2 ;;
    esac
done
unfinished=0
trap '[ -z "$running" ] || kill $running; publish now; exit 143' TERM INT
for name in "$@"; do
    say "$name"
    [ "$name" != test ] || name=tests
    "$name"
done
say "results"
publish now
echo "$OUT/RESULTS.md, and everything in $OUT/results.tar.gz"
[ $units -gt 0 ] || [ -z "${FILTER:-}" ] || { echo "nothing was run: no test and no family has $FILTER in its name" && exit 1; }
if awk -F'\t' '$2 == "failed" || $2 == "timed out" { bad = 1; print $2 ": " $1 } END { exit !bad }' $status; then exit 1; fi
[ $unfinished -eq 0 ] || { echo "the budget ran out: call run.sh again to go on" && exit 3; }
