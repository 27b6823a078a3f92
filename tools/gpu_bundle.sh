#!/usr/bin/env bash
# Packs what a machine with a GPU needs to verify and time this library, without Rust, a compiler or the sources:
#
#   tools/gpu_bundle.sh [FOLDER]         (default target/gpu_bundle)
#
# Then copy the folder there and run its run.sh, which leaves RESULTS.md and results.tar.gz in $OUT. Needs nvcc
# (tools/install_nvcc.sh). PROFILE=dev packs the quick build, to try the bundle itself.
set -euo pipefail
cd "$(dirname "$0")/.."
bundle=${1:-target/gpu_bundle}
profile=${PROFILE:-release}
limit_mb=40
# The kernels uncompressed: those of one target are nearly those of another, which xz finds and what nvcc compresses hides.
export X2CT_COMPRESS=${X2CT_COMPRESS:-none}

# built PATTERN COMMAND...: builds, and prints the path of the one program that matches
built() {
    local pattern=$1
    shift
    "$@" >&2
    "$@" --message-format=json 2>/dev/null | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | grep "$pattern" | tail -1
}
x2ct=$(built '/x2ct$' cargo build --profile "$profile" --bin x2ct)
tests=$(built '/deps/x2ct-' cargo test --profile "$profile" --no-run --test x2ct)

# Machine code in a fatbin starts with these bytes; without nvcc there is none.
fatbin=$(printf '\x50\xed\x55\xba')
LC_ALL=C grep -qaF "$fatbin" "$tests" || {
    echo "the build holds no CUDA kernels: nvcc was not found; run tools/install_nvcc.sh and try again" >&2
    exit 1
}

rm -rf "$bundle"
mkdir -p "$bundle/tests" "$bundle/peers"
strip -o "$bundle/x2ct" "$x2ct"
strip -o "$bundle/x2ct_tests" "$tests"
cp -r tests/golden "$bundle/tests/golden"
cp tools/peers/*.py "$bundle/peers/"
cp tools/gpu_run.sh "$bundle/run.sh"
cp tools/gpu_smoke.sh "$bundle/smoke.sh"
cp tools/gpu_smoke.py "$bundle/smoke.py"
chmod +x "$bundle"/*.sh

needs=$(for file in x2ct x2ct_tests; do objdump -T "$bundle/$file"; done |
    grep -oE 'GLIBC(XX)?_[0-9.]+' | sort -Vu | awk -F_ '{ newest[$1] = $0 } END { for (kind in newest) print newest[kind] }' | sort | paste -sd' ')
commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain -uno 2>/dev/null)" ] || commit="$commit with changes"
cat >"$bundle/INFO" <<END
commit: $commit
built: $(date -u +%Y-%m-%d) with $(rustc --version | cut -d' ' -f1-2), profile $profile
system: $(uname -m), needs $needs
END

# The kernels are in both programs. A dictionary that reaches from one to the other stores them once: gzip's does not.
tar -C "$bundle" -cf - x2ct x2ct_tests tests | xz -T1 --lzma2=preset=6,dict=512MiB >"$bundle/programs.tar.xz"
rm -r "$bundle/x2ct" "$bundle/x2ct_tests" "$bundle/tests"

size_kb=$(du -sk "$bundle" | cut -f1)
cat "$bundle/INFO"
echo "$bundle: $((size_kb / 1024)) MB"
if [ "$size_kb" -gt $((limit_mb * 1024)) ]; then
    echo "that is over the limit of $limit_mb MB: narrow the targets with X2CT_CUDA_ARCHS" >&2
    exit 1
fi
