#!/usr/bin/env python3
"""Prints the results of a GPU bundle's run.sh as Markdown: python peers/table.py RESULTS_FOLDER

A peer's row stands beside each of our cases whose name holds all the words of its task. Standard library only.
"""

import json
import re
import sys
from pathlib import Path


def ours(folder):
    """(family, case) -> median seconds, spread, bytes and operations; what `x2ct bench FAMILY --out` has kept."""
    results = [row for path in sorted((folder / "bench").glob("*.json")) for row in json.loads(path.read_text())["rows"]]
    return {(r["family"], r["case"]): r for r in results}


def peers(folder):
    found = {"rows": [], "left_out": [], "versions": {}}
    for path in sorted((folder / "peers").glob("*.json")):
        family = json.loads(path.read_text())
        found["rows"] += family["rows"]
        found["left_out"] += family["left_out"]
        found["versions"].update(family["versions"])
    return found


def words(text):
    return set(re.findall(r"[\w.]+", text))


def duration(seconds):
    for unit, size in [("s", 1.0), ("ms", 1e-3), ("us", 1e-6)]:
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def row(*cells):
    print("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")


def main(folder):
    machine = folder / "machine.txt"
    print("# Results on one GPU\n")
    for line in machine.read_text().splitlines() if machine.exists() else []:
        print(f"- {line}")
    theirs = peers(folder)
    if theirs["versions"]:
        print("- peers: " + ", ".join(f"{k} {v}" for k, v in theirs["versions"].items() if v))
    print("- protocol: random data, device events around each run, L2 displaced before each, medians; GB/s counts the bytes")
    print("  that must move\n")

    status = folder / "status.tsv"
    if status.exists():
        print("## Checks\n")
        row("unit", "result", "seconds", "remark")
        row(*["---"] * 4)
        for line in status.read_text().splitlines():
            row(*line.split("\t", 3))
        print()

    cases, matched = ours(folder), set()
    print("## Times\n")
    row("family", "case", "x2ct", "+-", "GB/s", "TFLOP/s", "peer", "peer's time", "peer / x2ct")
    row(*["---"] * 9)
    for (family, name), case in cases.items():
        seconds = case["median_us"] * 1e-6
        bytes_rate = f"{case['bytes'] / seconds / 1e9:.0f}" if case["bytes"] else ""
        flop_rate = f"{case['flops'] / seconds / 1e12:.2f}" if case["flops"] else ""
        own = (family, name, duration(seconds), duration(case["spread_us"] * 1e-6), bytes_rate, flop_rate)
        found = [
            (i, r) for i, r in enumerate(theirs["rows"]) if r["family"] == family and words(r["task"]) <= words(name)
        ]
        if not found:
            row(*own, "", "", "")
        for i, r in found:
            matched.add(i)
            row(*own, r["peer"], duration(r["seconds"]), f"{r['seconds'] / seconds:.2f}")
    rest = [r for i, r in enumerate(theirs["rows"]) if i not in matched]
    if rest:
        print("\n## Peers without a case of ours beside them\n")
        row("family", "task", "peer", "time", "items/s")
        row(*["---"] * 5)
        for r in rest:
            items = r.get("items_per_second")
            row(r["family"], r["task"], r["peer"], duration(r["seconds"]), f"{items:.4g}" if items else "")
    if theirs["left_out"]:
        print("\n## Left out\n")
        for r in theirs["left_out"]:
            print(f"- {r['family']}, {r['task']}, {r['peer']}: {r['problem']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
