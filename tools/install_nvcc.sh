#!/usr/bin/env bash
# Installs the CUDA 13.0 compiler into a Python virtual environment: no root, no driver, no GPU needed.
#
#   tools/install_nvcc.sh [DIR]     DIR: X2CT_NVCC_DIR, or .nvcc in the repository root, where build.rs looks
#
# Prints one line on stdout, the path of nvcc; does nothing else when it is there already. Leaves in DIR:
#   bin/nvcc, bin/ptxas, bin/cuobjdump, bin/nvdisasm    the tools, callable from anywhere
#   cuda/                                               a toolkit root to give as CUDA_HOME (bin, include, nvvm, lib)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-${X2CT_NVCC_DIR:-$root/.nvcc}}

# 13.0 is the toolkit whose minimum driver (580) the crate asks for. The disassemblers only read what 13.0 wrote and
# have no 13.0 wheel, so they come from the first release that has one.
packages=(
    'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*'
    'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-cuobjdump==13.2.*' 'nvidia-cuda-nvdisasm==13.2.*'
)
tools=(nvcc ptxas cuobjdump nvdisasm)

fail() { echo "install_nvcc: $*" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || fail "NVIDIA ships the compiler for Linux only; elsewhere build the host kernels alone (no nvcc needed)"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
stamp=$dir/installed

if [ ! -x "$dir/bin/nvcc" ] || [ "$(cat "$stamp" 2>/dev/null)" != "${packages[*]}" ]; then
    python=${PYTHON:-python3}
    command -v "$python" >/dev/null || fail "$python not found; install Python 3.9 or newer, or name one in PYTHON"
    rm -f "$stamp"
    "$python" -m venv "$dir" >&2 || fail "$python -m venv failed; on Debian and Ubuntu: apt install python3-venv"
    echo "install_nvcc: about 300 MB into $dir" >&2
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "${packages[@]}" >&2 ||
        fail "pip could not install the wheels; the lines above say which (a proxy or mirror goes into pip's own configuration)"

    nvcc=$(find "$dir/lib" -path '*/nvidia/*/bin/nvcc' -print -quit)
    [ -n "$nvcc" ] || fail "the wheels hold no bin/nvcc under $dir/lib; remove $dir and run this again"
    ln -sfn "$(realpath --relative-to="$dir" "$(dirname "$(dirname "$nvcc")")")" "$dir/cuda"

    # Scripts, not links: nvcc finds its headers relative to the name it was called by, cuobjdump finds nvdisasm on PATH.
    for tool in "${tools[@]}"; do
        [ -x "$dir/cuda/bin/$tool" ] || fail "the wheels hold no $tool under $dir/cuda/bin; remove $dir and run this again"
        cat >"$dir/bin/$tool" <<'SCRIPT'
#!/bin/sh
bin=$(dirname "$(readlink -f "$0")")/../cuda/bin
PATH=$bin:$PATH exec "$bin/$(basename "$0")" "$@"
SCRIPT
        chmod +x "$dir/bin/$tool"
    done
    "$dir/bin/nvcc" --version >/dev/null || fail "$dir/bin/nvcc does not run on this machine"
    echo "${packages[*]}" >"$stamp"
fi
echo "$dir/bin/nvcc"
