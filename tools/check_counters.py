#!/usr/bin/env python3
"""Recounts small cases of every kernel family on the virtual GPU and compares with benches/counters.csv.

    tools/virtual_gpu.sh tools/check_counters.py [--write] [FAMILY ...]

Fails where a kernel's warp instructions, sectors a request, wavefronts a request or DRAM bytes grew by more than 5 %, or where
kernels and cases are others than in the table; says where they fell. --write keeps the new figures. Counts are the same on
every machine: of a launch, the blocks that VIRTUAL_GPU_SAMPLE (32 here) takes are run and stand for all. Every family is counted
as 8.0, and the variants that 9.0 alone has as 9.0, so many at a time as there are processors.
"""

import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

TABLE = pathlib.Path(__file__).resolve().parent.parent / "benches" / "counters.csv"
KEYS = ("chip", "family", "case", "kernel")
FIGURES = ("warp_instructions", "sectors_per_request", "wavefronts_per_request", "dram_bytes")
ALLOWED = 0.05
# The variant of a family that compute capability 9.0 alone has.
OF_90 = {"contrastive": "hopper"}


def printed(command, **settings):
    """What x2ct prints, with settings of the virtual GPU."""
    environment = os.environ | {f"VIRTUAL_GPU_{name}": value for name, value in settings.items()}
    done = subprocess.run(["x2ct", *command], env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"check_counters: x2ct {' '.join(command)} fails; run it as tools/virtual_gpu.sh tools/check_counters.py")
    return done.stdout


def count(families):
    """Rows of all cases by chip, family, case and kernel."""
    runs = [("80", [family]) for family in families]
    runs += [("90a", [family, "--variant", variant]) for family, variant in OF_90.items() if family in families]

    def rows(run):
        arch, case = run
        command = ["bench", *case, "--count", "--small", "--json", "--device", "cuda:0"]
        return json.loads(printed(command, ARCH=arch, SAMPLE="32"))["rows"]

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        counted = [row for some in threads.map(rows, runs) for row in some]
    return {tuple(row[key] for key in KEYS): {figure: float(row[figure]) for figure in FIGURES} for row in counted}


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
            chip, family, case, kernel = key
            sentence = f"{kernel} in {family}, {case} ({chip}): {figure} {old:g} -> {new:g}"
            if new > old * (1 + ALLOWED) and new - old > 1e-3:
                worse.append(sentence)
            elif new < old * (1 - ALLOWED):
                better.append(sentence)
    return worse, better


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the new figures")
    parser.add_argument("family", nargs="*", help="families to recount; all when absent")
    args = parser.parse_args()
    kept = read() if TABLE.exists() else {}
    families = args.family or json.loads(printed(["bench", "--list", "--json"]))["rows"]
    mine = {key: row for key, row in kept.items() if key[1] in families or not args.family}
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
