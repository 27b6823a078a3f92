#!/usr/bin/env bash
# Tests the run.sh of the GPU bundle where there is no GPU: stand-ins for its programs hang, fault, fail and pass as told, and
# what run.sh says of them is compared with what they did. Seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
at=$(mktemp -d)
trap 'rm -rf "$at"' EXIT
export ENVIRONMENT="$at/environment"

bundle() { # FOLDER: a bundle of stand-ins
    mkdir -p "$1/tests/golden" "$1/peers" "$1/bin"
    cp tools/gpu_run.sh "$1/run.sh"
    cp tools/peers/*.py "$1/peers/"
    printf 'commit: stand-in\nbuilt: today\nsystem: any\n' >"$1/INFO"
    for file in good bad; do echo x2ct-golden-1 >"$1/tests/golden/$file.safetensors"; done
    cat >"$1/x2ct" <<'STUB'
#!/usr/bin/env bash
echo "x2ct $1 ${2:-}:" $(env | grep ^X2CT_ | sort) >>"$ENVIRONMENT"
case "$1 $2" in
    "check --device") [[ "$*" != *bad* ]] ;;
    "bench slow") echo $$ >slow.pid && sleep 60 ;;
    "bench --list") printf '%s\n' quick broken stuck late ;;
    "bench broken") echo "x2ct: planted" && exit 1 ;;
    bench\ *)
        row='{"family": "'$2'", "case": "a", "median_us": 2.0, "spread_us": 0.1, "runs": 3, "bytes": 8, "flops": 0}'
        while [ $# -gt 0 ]; do [ "$1" != --out ] || out=$2; shift; done
        echo '{"device": "stand-in", "rows": ['"$row"']}' >"$out"
        [[ "$out" != *stuck* ]] || sleep 60
        ;;
esac
STUB
    cat >"$1/x2ct_tests" <<'STUB'
#!/usr/bin/env bash
all=(shim::bulk_copies_arrive_in_any_order ops::good::hopper::multiplies device::opens ops::good::adds ops::hangs::waits ops::hangs::after ops::faults::before ops::faults::breaks ops::faults::victim shim::planted_on_cuda)
echo "x2ct_tests $*:" $(env | grep ^X2CT_ | sort) >>"$ENVIRONMENT"
wanted=() exact=false list=false
while [ $# -gt 0 ]; do
    case $1 in
        --list) list=true ;;
        --exact) exact=true ;;
        --test-threads) shift ;;
        --*) ;;
        *) wanted+=("$1") ;;
    esac
    shift
done
code=0 broken=false
for name in "${all[@]}"; do
    for word in "${wanted[@]}" $($list && echo ${wanted[0]:+-} ''); do
        if $exact; then [ "$name" = "$word" ] || continue; else [[ $name == *"$word"* ]] || continue; fi
        if $list; then echo "$name: test" && break; fi
        [ "$name" != shim::planted_on_cuda ] || { echo "test $name ... ignored, planted" && continue; }
        printf 'test %s ... ' "$name"
        [ "$name" != ops::hangs::waits ] || sleep 60
        [ "$name" != ops::faults::breaks ] || broken=true
        if $broken; then
            printf 'FAILED\nthread panicked at tests/x.rs:1:\ncuda:0: kernel planted failed\n' && code=101
        else
            echo ok
        fi
    done
done
exit $code
STUB
    cat >"$1/smoke.sh" <<'STUB'
#!/usr/bin/env bash
echo "smoke $*:" $(env | grep ^X2CT_ | sort) >>"$ENVIRONMENT"
STUB
    # Sees the planted defects of two of its tools, and runs everything else as it is.
    cat >"$1/bin/compute-sanitizer" <<'STUB'
#!/usr/bin/env bash
tool=$2
while [ "${1#./}" = "$1" ]; do shift; done
if [[ "$*" == *planted* ]]; then
    [ $tool = racecheck ] || exit 99
    exit 0
fi
[[ $tool != racecheck || "$*" != *bulk* && "$*" != *hopper* ]] || exit 99
exec "$@"
STUB
    printf '#!/bin/sh\necho "Stand-in GPU"\n' >"$1/bin/nvidia-smi"
    chmod +x "$1"/x2ct "$1"/x2ct_tests "$1"/*.sh "$1"/bin/*
}

fail() { echo "FAILED: $*" && cat "$at/said" && exit 1; }
result() { awk -F'\t' -v unit="$1" '$1 == unit { print $2 ": " $4 }' "$at/b/results/status.tsv"; }
expect() { [[ "$(result "$1")" == $2 ]] || fail "$1: $(result "$1"), expected $2"; }
run() { # EXIT_CODE [VARIABLE...] [STEP...]
    local want=$1 got=0
    shift
    rm -rf "$at/out"
    env PATH="$at/b/bin:$PATH" OUT="$at/out" LIMIT=4 "$@" >"$at/said" 2>&1 || got=$?
    [ "$got" = "$want" ] || fail "$*: exit code $got, expected $want"
    [ "$(find "$at/out" -type f | wc -l)" -le 6 ] || fail "$*: more than six files: $(ls "$at/out")"
}

bundle "$at/b"
# What is set outside reaches no step.
X2CT_SYNC=1 X2CT_PLAIN_ALLOC=1 run 1 SANITIZER_FILTER=ops::good "$at/b/run.sh" sanitize test check smoke bench peers

expect "golden cases" "failed: 1 of 2 files fail alone: bad.safetensors"
expect "tests device" "passed:*"
expect "tests ops::good" "passed:*"
# The hanging test is ended and named; the one after it was not reached, and passes alone.
expect "tests ops::hangs" "timed out: ops::hangs::waits: hangs; pass alone: ops::hangs::after"
# The faulting one is named with its message; what failed after it in the same process passes alone.
expect "tests ops::faults" "failed: ops::faults::breaks: cuda:0: kernel planted failed; pass alone: ops::faults::victim"
expect "tests, one launch at a time, ops::faults" "failed: ops::faults::breaks:*"
expect "sanitizer memcheck catches a planted defect" "passed:*"
expect "sanitizer racecheck catches a planted defect" "failed:*"
expect "sanitizer initcheck ops::good" "passed:*"
expect "smoke" "passed:*"
expect "bench quick" "passed:*"
expect "bench broken" "failed: exit status 1; x2ct: planted*"
expect "bench stuck" "timed out:*"
expect "bench late" "passed:*"
# A tool that does not pass right kernels is not asked about those of their kind.
expect "sanitizer racecheck on bulk copies" "skipped: it does not pass kernels that are right*"
grep -qE 'hopper.*X2CT_PLAIN_ALLOC' "$ENVIRONMENT" || fail "hopper tests run under no sanitizer"
awk -F'\t' '$1 == "sanitizer racecheck ops::good"' "$at/b/results/status.tsv" | grep -q passed || fail "racecheck: $(result "sanitizer racecheck ops::good")"
[[ "$(result peers)" == skipped:* || "$(result "peers copy")" != "" ]] || fail "peers: neither skipped nor run"

# Each step had its own variables and no other's.
grep -q '^x2ct bench quick:$' "$ENVIRONMENT" || fail "bench: $(grep '^x2ct bench quick' "$ENVIRONMENT")"
grep -q '^smoke cuda:0 host results/smoke:$' "$ENVIRONMENT" || fail "smoke: $(grep ^smoke "$ENVIRONMENT")"
grep -q '^x2ct check --device: X2CT_SYNC=1$' "$ENVIRONMENT" || fail "check: $(grep 'x2ct check' "$ENVIRONMENT")"
grep -q 'ops::good::adds --test-threads 1: X2CT_POISON=1 X2CT_REQUIRE_CUDA=only$' "$ENVIRONMENT" || fail "the variables of tests"
grep -q 'ops::good::adds --test-threads 1: X2CT_PLAIN_ALLOC=1 X2CT_REQUIRE_CUDA=only$' "$ENVIRONMENT" || fail "those of sanitize"
grep -q -- '--exact ops::faults::breaks --test-threads 1: X2CT_POISON=1 X2CT_REQUIRE_CUDA=only X2CT_SYNC=1$' "$ENVIRONMENT" ||
    fail "a test tried alone waits after every launch"

# What came back holds the table, with the figures of every family, that of the stuck one too.
for row in '| quick | a | 2 us |' '| stuck | a | 2 us |' '| late | a | 2 us |' 'kernel planted failed' 'Stand-in GPU'; do
    grep -qF "$row" "$at/out/RESULTS.md" || fail "RESULTS.md has no $row"
done
tar -tzf "$at/out/results.tar.gz" results/bench/quick.json >/dev/null || fail "results.tar.gz has no figures"

# A step run again replaces its own results only.
sed -i 's/"bench broken") .*/"bench broken") ;;/' "$at/b/x2ct"
run 1 FILTER=broken "$at/b/run.sh" bench
expect "bench broken" "passed:*"
expect "bench stuck" "timed out:*"
expect "tests ops::good" "passed:*"

# Called without a step, it runs nothing that has a verdict.
: >"$ENVIRONMENT"
run 1 SANITIZER_FILTER=ops::good "$at/b/run.sh"
grep -E '^x2ct bench (quick|broken|stuck)|--exact' "$ENVIRONMENT" && fail "what had a verdict was run again"

# Killed, and called again without a step, it goes on: finished families stay, and are not measured again.
cp "$at/out/results.tar.gz" "$at/kept.tar.gz"
rm -rf "$at/b" && bundle "$at/b"
sed -i 's/"bench broken") .*/"bench broken") sleep 60 ;;/; s/|| sleep 60/|| :/' "$at/b/x2ct"
sed -i 's/sleep 60/:/; s/ broken=true$/ :/' "$at/b/x2ct_tests"
: >"$at/b/tests/golden/bad.safetensors"
env PATH="$at/b/bin:$PATH" OUT="$at/out" setsid "$at/b/run.sh" test bench >"$at/said" 2>&1 &
pid=$!
for _ in $(seq 100); do [ -e "$at/b/results/bench/quick.json" ] && [ -n "$(result "bench quick")" ] && break; sleep 0.1; done
kill -KILL -- -$pid
wait $pid 2>/dev/null || true
expect "bench quick" "passed:*"
[ -z "$(result "bench broken")" ] || fail "a family that was killed has a result"
: >"$ENVIRONMENT"
sed -i 's/"bench broken") .*/"bench broken") ;;/' "$at/b/x2ct"
sed -i 's/\[ $tool = racecheck \] || exit 99/exit 99/' "$at/b/bin/compute-sanitizer"
run 0 PYTHON= "$at/b/run.sh"
grep -q '^x2ct bench quick' "$ENVIRONMENT" && fail "a finished family was measured again"
grep -q '^x2ct bench broken' "$ENVIRONMENT" || fail "the family that was killed was not measured again"
expect "bench late" "passed:*"
grep -qF '| tests ops::good | passed |' "$at/out/RESULTS.md" || fail "without Python there is no table"

# On a machine that begins with nothing, from what came back.
rm -rf "$at/b" && bundle "$at/b"
cp "$at/kept.tar.gz" "$at/b/results.tar.gz"
: >"$ENVIRONMENT"
run 1 BUDGET=0 "$at/b/run.sh"
expect "tests ops::good" "passed:*"

# What cannot be found is not passed.
run 1 FILTER=nonsense "$at/b/run.sh" test bench
grep -q "no test and no family has nonsense" "$at/said" || fail "a filter that fits nothing is not told"
sed -i 's/"bench --list") .*/"bench --list") exit 1 ;;/' "$at/b/x2ct"
run 1 "$at/b/run.sh" bench
expect bench "failed: the program lists no family"

# Ended, it ends what runs, at once; what it had is there.
rm -rf "$at/b" "$at/out" && bundle "$at/b"
sed -i "s/'%s.n' quick broken stuck late/'%s\\\\n' quick slow/" "$at/b/x2ct"
env PATH="$at/b/bin:$PATH" OUT="$at/out" "$at/b/run.sh" bench >"$at/said" 2>&1 &
pid=$!
for _ in $(seq 100); do [ -e "$at/b/slow.pid" ] && break; sleep 0.1; done
begun=$SECONDS
kill -TERM $pid
wait $pid && fail "ended with 0 by TERM"
[ $((SECONDS - begun)) -le 5 ] || fail "TERM waited $((SECONDS - begun)) s"
! kill -0 "$(cat "$at/b/slow.pid")" 2>/dev/null || fail "what ran when TERM came runs on"
grep -qF '| quick | a | 2 us |' "$at/out/RESULTS.md" || fail "what was measured before TERM is not in RESULTS.md"

# A budget ends the call in time; what was cut short has no verdict.
rm -rf "$at/b" && bundle "$at/b"
begun=$SECONDS
run 3 LIMIT=50 BUDGET=8 FILTER=stuck "$at/b/run.sh" bench
[ $((SECONDS - begun)) -le 20 ] || fail "a budget of 8 s took $((SECONDS - begun)) s"
expect "bench stuck" "unfinished: the budget ran out"
run 2 "$at/b/run.sh" nonsense
echo "run.sh of the GPU bundle: all of it works on stand-ins"
