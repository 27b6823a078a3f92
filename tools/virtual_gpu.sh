#!/usr/bin/env bash
# Runs a command with the virtual GPU (tools/virtual_gpu) as cuda:0: x2ct's kernels as nvcc compiled them, on a machine without a GPU.
#
#   tools/virtual_gpu.sh [--arch 80|90a] [--seed N] COMMAND...
#
#   tools/virtual_gpu.sh x2ct doctor
#   tools/virtual_gpu.sh --arch 90a x2ct check tests/golden/*.safetensors --device cuda:0
#   tools/virtual_gpu.sh cargo test ops::gather        on cuda:0 alone; X2CT_REQUIRE_CUDA=1 for the host, too
#
# Builds what is missing in target/virtual_gpu: the kernels as PTX for compute_80 and compute_90a (no machine code, so ptxas is not
# needed), the driver and the program. An `x2ct` in COMMAND is that program, and a `cargo` builds beside it, in release. A build of
# one's own serves as it is: X2CT_VIRTUAL_GPU_TARGET names its target folder, X2CT_CUDA_ARCHS its targets, PTX of both among them.
# VIRTUAL_GPU_* variables are the settings of the virtual GPU; tools/virtual_gpu/src/lib.rs lists them.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
fail() { echo "virtual_gpu: $*" >&2; exit 2; }
usage() { fail "usage: tools/virtual_gpu.sh [--arch 80|90a] [--seed N] COMMAND..."; }

while [ $# -gt 0 ]; do
    case $1 in
        --arch) [ $# -gt 1 ] || usage; export VIRTUAL_GPU_ARCH=$2; shift 2 ;;
        --seed) [ $# -gt 1 ] || usage; export VIRTUAL_GPU_SEED=$2; shift 2 ;;
        --) shift; break ;;
        -*) usage ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || usage
case ${VIRTUAL_GPU_ARCH:-80} in 80 | 90a) ;; *) fail "--arch $VIRTUAL_GPU_ARCH: choose 80 or 90a" ;; esac
[ "$(uname -s)" = Linux ] || fail "the virtual GPU runs on Linux"

# Whether nvcc is where build.rs looks for it.
has_nvcc() {
    local folder
    [ -z "${NVCC:-}" ] || { [ -e "$NVCC" ] || fail "NVCC=$NVCC does not exist; unset it or point it at nvcc"; return 0; }
    command -v nvcc >/dev/null && return 0
    for folder in ${CUDA_HOME:+"$CUDA_HOME/bin"} ${CUDA_PATH:+"$CUDA_PATH/bin"} /usr/local/cuda/bin "${X2CT_NVCC_DIR:-$root/.nvcc}/bin"; do
        [ ! -f "$folder/nvcc" ] || return 0
    done
    return 1
}
has_nvcc || fail "nvcc was not found, and it makes the PTX that the virtual GPU runs: tools/install_nvcc.sh installs it without root"

unset DOCS_RS
export CARGO_TARGET_DIR=${X2CT_VIRTUAL_GPU_TARGET:-$root/target/virtual_gpu}
if [ -z "${X2CT_CUDA_ARCHS:-}" ]; then
    export X2CT_CUDA_ARCHS=compute_80,compute_90a X2CT_COMPRESS=none
fi
build() { cargo build --quiet --release --manifest-path "$root/Cargo.toml" "$@" >&2; }
built=$CARGO_TARGET_DIR/release
[ -n "${X2CT_VIRTUAL_GPU_TARGET:-}" ] && [ -x "$built/x2ct" ] || build --bin x2ct
build --package virtual_gpu

libraries=$built/virtual_gpu_libraries
mkdir -p "$libraries"
for name in libcuda.so libcuda.so.1 libcublasLt.so libcublasLt.so.13; do ln -sfn "$built/libvirtual_gpu.so" "$libraries/$name"; done

export X2CT_REQUIRE_CUDA=${X2CT_REQUIRE_CUDA:-only}
# build.rs looks for nvcc in PATH, so cargo would build everything again under another one.
[ "$1" = cargo ] || export PATH="$built:$PATH"
if [ "$1" = cargo ] && [[ ${2:-} =~ ^(test|bench|run|build)$ ]] && [[ " $* " != *" --release "* ]]; then
    set -- "$1" "$2" --release "${@:3}"
fi
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$@"
