#!/usr/bin/env bash
# Counts tensor-core instructions, 16-byte loads and stores, and local-memory accesses in the machine code of every kernel.
#   tools/sass_report.sh [FAMILY...] [--target sm_90a] [--require REGEX] [--count COLUMN REGEX]
# --require: kernels whose name matches must use tensor cores and 16-byte loads; --count: an instruction of that column. Needs nvcc (tools/install_nvcc.sh).
exec python3 "$(dirname "$0")/kernel_report.py" sass "$@"
