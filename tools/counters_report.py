#!/usr/bin/env python3
"""Writes benches/COUNTERS.md from what `x2ct bench --count --json` and tools/peers/count_peers.py --json printed.

    tools/counters_report.py --commit COMMIT OURS.json... [--peers PEERS.json...]
"""

import argparse
import json
import pathlib
import re

OUT = pathlib.Path(__file__).resolve().parent.parent / "benches" / "COUNTERS.md"

HEAD = """# Counters

What the kernels' PTX asks of a chip, counted by the virtual GPU (`tools/virtual_gpu`): nothing here is a time. Commit {commit};

    VIRTUAL_GPU_SAMPLE=64 VIRTUAL_GPU_MEMORY=12288 tools/virtual_gpu.sh --arch 90a x2ct bench FAMILY --count --json --device cuda:0
    VIRTUAL_GPU_SAMPLE=32 tools/virtual_gpu.sh --arch 80 x2ct bench FAMILY --count --small --json --device cuda:0
    python tools/peers/count_peers.py --library target/virtual_gpu/release/virtual_gpu_libraries/libcuda.so.1 --json
    tools/counters_report.py --commit COMMIT OURS.json... --peers PEERS.json...

* *Sampled* is the share of a launch's blocks that were run, neighbours in four places; the others are taken to be like them. What
  the first place reads and the others share is counted once. Fewer blocks than a chip holds share L1 and L2 than on a chip.
* Rows of an A100 are of the small sizes that `tools/check_counters.py` recounts; rows of an H200, where there are any, of a GPU's.
* *Sectors* are 32-byte sectors a request of a warp to global memory, *of* those of the best layout: a unit stride, or, where the
  lanes lie to each other differently from request to request, the sectors that were not in L1.
* *Wavefronts* are those of a request to shared memory, *of* those without bank conflicts.
* *DRAM* is what misses L2 (60 MB, 40 MB of an A100, empty before each case) and what must be written back.
* *Bound* is the largest of DRAM bytes / 4.3 TB/s (A100: 2.04), instructions / (132 multiprocessors x 4 issue slots x 1.98 GHz), f32, f64 and
  special functions by their rates, tensor cores at 790 TFLOP/s (TF32 395), wavefronts / (132 x 1.98 GHz), the A100's published rates for its rows: a bound, not a time.
  *By blocks* is the same launch by launch over as many multiprocessors as there are blocks, with L2 at 12 TB/s.

PTX is not what runs: ptxas merges address arithmetic and hoists, so that instructions are rather too many, and latency is not
counted at all. `tools/virtual_gpu/src/count` says what else the models leave out.
"""

ratio = lambda row, what, ideal: row[what] / row[ideal] if row[ideal] > 0 else 0.0


def pair(row, what, ideal):
    return f"{row[what]:.2f} of {row[ideal]:.2f}" if row[what] > 0 else ""


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"


def line(row):
    instructions = row["warp_instructions"]
    mma = row["instructions"].get("mma", 0) / max(instructions, 1)
    return [
        f"{instructions / 1e6:.3f}",
        f"{100 * mma:.1f}",
        f"{row['active_lanes']:.1f}",
        f"{row['dram_bytes'] / 1e6:.2f}",
        pair(row, "sectors_per_request", "sectors_ideal"),
        pair(row, "wavefronts_per_request", "wavefronts_ideal"),
        f"{row['critical_path']}",
        f"{100 * row['occupancy']:.0f}",
        f"{row['bound_us']:.2f} {row['bound_by']}",
        f"{row['bound_blocks_us']:.2f}",
        f"{row['sampled_share']:.2g}",
    ]


COLUMNS = ["M instructions", "MMA %", "lanes", "DRAM MB", "sectors", "wavefronts", "critical path", "occupancy %"]
COLUMNS += ["bound us", "by blocks us", "sampled"]


def worst(rows, title, value, shown, threshold):
    """The ten kernels with the largest value, each in its worst case."""
    best = {}
    for row in rows:
        if value(row) > threshold and (row["kernel"] not in best or value(row) > value(best[row["kernel"]])):
            best[row["kernel"]] = row
    chosen = sorted(best.values(), key=value, reverse=True)[:10]
    place = lambda row: next((f"{w['place']} ({w['what']}, {w['each']:.1f} of {w['ideal']:.1f})" for w in row["worst"]), "")
    cells = [[row["kernel"], row["case"], *shown(row), place(row)] for row in chosen]
    return f"### {title}\n\n" + table(["kernel", "case", "counted", "over ideal", "the line that loses most"], cells)


def lost(row, requests, what, ideal):
    return row[requests] * (row[what] - row[ideal])


def cases(rows):
    """Sums over the kernels of each case."""
    sums = {}
    for row in rows:
        one = sums.setdefault((row["family"], row["case"]), [0, 0.0, 0.0, 0.0, row["case_bytes"], row["chip"]])
        one[0] += row["launches"]
        one[1] += row["dram_bytes"]
        one[2] += row["bound_us"]
        one[3] += row["bound_blocks_us"]
    for (family, case), (launches, dram, bound, blocks, least, chip) in sums.items():
        floor = least / {"H200": 4.3e6, "A100": 2.04e6}[chip]
        yield [family, case, launches, f"{dram / 1e6:.1f}", f"{dram / least:.2f}" if least else "", f"{floor:.1f}", f"{bound:.1f}", f"{blocks:.1f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commit", required=True)
    parser.add_argument("ours", nargs="+")
    parser.add_argument("--peers", nargs="*", default=[])
    args = parser.parse_args()
    read = lambda paths: [row for path in paths for row in json.loads(pathlib.Path(path).read_text())["rows"]]
    ours, peers = read(args.ours), read(args.peers)
    for row in ours:
        row["family"] += f" ({row['chip']})"
    sectors = lambda row: ratio(row, "sectors_per_request", "sectors_ideal")
    waves = lambda row: ratio(row, "wavefronts_per_request", "wavefronts_ideal")
    parts = [HEAD.format(commit=args.commit)]
    parts.append("## Bounds of the cases\n\n*Floor* is the case's own least bytes at the chip's bandwidth.\n\n" + table(
        ["family", "case", "launches", "DRAM MB", "over least", "floor us", "bound us", "by blocks us"], list(cases(ours))))
    parts.append("## The worst ten by each counter\n")
    parts.append(worst(ours, "Sectors a request over the ideal", sectors,
        lambda row: [pair(row, "sectors_per_request", "sectors_ideal"), f"{sectors(row):.2f}"], 1.1))
    parts.append(worst(ours, "Wavefronts a request over the ideal", waves,
        lambda row: [pair(row, "wavefronts_per_request", "wavefronts_ideal"), f"{waves(row):.2f}"], 1.1))
    blocks = lambda row: row["bound_blocks_us"] / max(row["bound_us"], 1e-9) if row["bound_us"] > 1 else 0
    parts.append(worst(ours, "Bound by blocks over the bound: too few blocks (cases above 1 us)", blocks,
        lambda row: [f"{row['bound_blocks_us']:.1f} of {row['bound_us']:.1f} us", f"{blocks(row):.2f}"], 1.1))
    idle = lambda row: 32 / max(row["active_lanes"], 1e-9)
    parts.append(worst(ours, "Idle lanes", idle, lambda row: [f"{row['active_lanes']:.1f} of 32", f"{idle(row):.2f}"], 1.05))
    if peers:
        parts.append("## Peers\n\nThe peers' own Triton kernels, as their own host code launches them; *error* is relative to f64.\n\n" + table(
            ["case", "kernel", *COLUMNS, "MMA GFLOP", "error"],
            [[r["case"], r["kernel"], *line(r), f"{r['mma_flops'] / 1e9:.2f}", f"{max(r['relative_errors'].values()):.0e}"] for r in peers]))
    parts.append("## Every kernel\n")
    for family in dict.fromkeys(row["family"] for row in ours):
        rows = [[row["kernel"], row["case"], *line(row)] for row in ours if row["family"] == family]
        parts.append(f"### {family}\n\n" + table(["kernel", "case", *COLUMNS], rows))
    OUT.write_text(re.sub(r"\n{3,}", "\n\n", "\n".join(parts)))


if __name__ == "__main__":
    main()
