#!/usr/bin/env bash
# Writes benches/RESOURCES.md: registers, shared memory, occupancy, spills and stack of every kernel for every target.
# Fails if a kernel spills or has a stack frame. Needs nvcc (tools/install_nvcc.sh); --dry-run only checks.
exec python3 "$(dirname "$0")/kernel_report.py" resources "$@"
