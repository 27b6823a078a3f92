#!/usr/bin/env python3
"""Recounts small cases of kernel families on the virtual GPU and compares with benches/counters.csv.

    tools/virtual_gpu.sh tools/check_counters.py [--write] [FAMILY ...]

Fails where a kernel's warp instructions, sectors a request, wavefronts a request or DRAM bytes grew by more than 5 %, or where
kernels and cases are others than in the table; says where they fell. --write keeps the new figures. Counts are the same on
every machine: of a launch, the blocks that VIRTUAL_GPU_SAMPLE (32 here) takes are run and stand for all.
"""

import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys

TABLE = pathlib.Path(__file__).resolve().parent.parent / "benches" / "counters.csv"
KEYS = ("family", "case", "kernel")
FIGURES = ("warp_instructions", "sectors_per_request", "wavefronts_per_request", "dram_bytes")
ALLOWED = 0.05


def count(families):
    """Rows of all cases by family, case and kernel."""
    environment = os.environ | {"VIRTUAL_GPU_SAMPLE": "32"}
    rows = {}
    for family in families:
        command = ["x2ct", "bench", family, "--count", "--small", "--json", "--device", "cuda:0"]
        printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
        if printed.returncode != 0:
            sys.exit(f"check_counters: {' '.join(command)} fails; run it as tools/virtual_gpu.sh tools/check_counters.py")
        for row in json.loads(printed.stdout)["rows"]:
            rows[tuple(row[key] for key in KEYS)] = {figure: float(row[figure]) for figure in FIGURES}
    return rows


def read():
    with TABLE.open(newline="") as file:
        return {tuple(row[key] for key in KEYS): {f: float(row[f]) for f in FIGURES} for row in csv.DictReader(file)}


def write(rows):
    with TABLE.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(KEYS + FIGURES)
        for key, figures in sorted(rows.items()):
            table.writerow([*key, *(f"{figures[figure]:.6g}" for figure in FIGURES)])


def differences(before, now):
    """What grew, and what fell, as sentences."""
    worse, better = [], []
    for key, figures in now.items():
        for figure in FIGURES:
            old, new = before[key][figure], figures[figure]
            sentence = f"{key[2]} in {key[0]}, {key[1]}: {figure} {old:g} -> {new:g}"
            if new > old * (1 + ALLOWED) and new - old > 1e-3:
                worse.append(sentence)
            elif new < old * (1 - ALLOWED):
                better.append(sentence)
    return worse, better


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the new figures")
    parser.add_argument("family", nargs="*", help="families to recount; those of the table when absent")
    args = parser.parse_args()
    kept = read() if TABLE.exists() else {}
    families = args.family or sorted({family for family, _, _ in kept})
    mine = {key: row for key, row in kept.items() if key[0] in families}
    now = count(families)
    if args.write:
        write({key: row for key, row in kept.items() if key not in mine} | now)
        print(f"{len(now)} rows written to {TABLE}")
        return 0
    others = [f"{'; '.join(key)} is {'new' if key in now else 'gone'}" for key in sorted(now.keys() ^ mine.keys())]
    worse, better = differences(mine, {key: row for key, row in now.items() if key in mine})
    for title, lines in (("GREW", worse), ("OTHER CASES", others), ("fell, which --write keeps", better)):
        if lines:
            print(f"{title}:", *lines, sep="\n  ")
    print(f"{len(now)} rows: {len(worse)} grew, {len(better)} fell by more than {ALLOWED:.0%}, {len(others)} are others")
    return 1 if worse or others else 0


if __name__ == "__main__":
    sys.exit(main())
