#!/usr/bin/env python3
"""Writes benches/COUNTERS.md from what `x2ct bench --count --json` and tools/peers/count_peers.py --json printed.

    tools/counters_report.py --commit COMMIT OURS.json... [--peers PEERS.json...]

A file that an interruption cut is read as far as it goes. Of a case that several files hold, the last one counts.
"""

import argparse
import json
import pathlib
import re

OUT = pathlib.Path(__file__).resolve().parent.parent / "benches" / "COUNTERS.md"

HEAD = """# Counters

What the kernels' PTX asks of a chip, counted by the virtual GPU (`tools/virtual_gpu`): nothing here is a time. Commit {commit};

    VIRTUAL_GPU_SAMPLE=8 VIRTUAL_GPU_MEMORY=14336 tools/virtual_gpu.sh --arch 90a x2ct bench FAMILY --count --json --device cuda:0
    python tools/peers/count_peers.py --library target/virtual_gpu/release/virtual_gpu_libraries/libcuda.so.1 --json
    tools/counters_report.py --commit COMMIT OURS.json... --peers PEERS.json...

* *Sampled* is the share of a launch's blocks that were run, neighbours in four places; the others are taken to be like them. What
  the first place reads and the others share is counted once, and where all that a sample touches fits in L2, nothing is taken to be
  read twice. Fewer blocks than a chip holds share L1 and L2 than on a chip.
* Sizes are those that `x2ct bench` times on a GPU, and beside them `--small` ones of decomp_dense, of whose large ones only the first
  are here, and of vector_quantize; losses of 1,024 pairs are counted whole (`--variant 1024x512`), of 32,768 pairs there is the
  tri-modal one in f32. Small sizes of every family, which `tools/check_counters.py` recounts, are in `counters.csv`.
* *Sectors* are 32-byte sectors a request of a warp to global memory, *of* those of the best layout: a unit stride, or, where the
  lanes lie to each other differently from request to request, the sectors that were not in L1.
* *Wavefronts* are those of a request to shared memory, *of* those without bank conflicts; of asynchronous copies what they write there;
  what warpgroup products read there is not among them.
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


# DRAM bytes a second; clocks of all multiprocessors a second; f32 instructions a clock and multiprocessor; tensor cores' rate.
RATES = {"H200": (4.3e12, 132 * 1.98e9, 4, 790e12), "A100": (2.04e12, 108 * 1.41e9, 2, 312e12)}


def over_work(row):
    """Issue slots over the time that the row's own DRAM bytes, f32 instructions and tensor-core products take."""
    dram, clocks, f32, mma = RATES[row["chip"]]
    classes = row["instructions"]
    work = [row["dram_bytes"] / dram, row["mma_flops"] / mma]
    work.append((classes.get("fma", 0) + classes.get("other_f32", 0)) / (f32 * clocks))
    return row["warp_instructions"] / (4 * clocks) / max(*work, 1e-12)


def cases(rows):
    """Sums over the kernels of each case, by family and case."""
    sums = {}
    for row in rows:
        one = sums.setdefault((row["family"], row["case"]), dict.fromkeys(SUMS, 0.0) | {"chip": row["chip"], "by": {}, "share": 1.0})
        one["least"] = row.get("case_bytes", 0)
        for key in SUMS:
            one[key] += row[key]
        one["fma"] = one.get("fma", 0) + row["instructions"].get("fma", 0)
        one["sectors"] = one.get("sectors", 0) + row["global_requests"] * row["sectors_per_request"]
        one["ideal"] = one.get("ideal", 0) + row["global_requests"] * row["sectors_ideal"]
        one["mma"] = one.get("mma", 0) + row["instructions"].get("mma", 0)
        one["by"][row["bound_by"]] = one["by"].get(row["bound_by"], 0) + row["bound_us"]
        one["share"] = min(one["share"], row["sampled_share"])
    return sums


SUMS = ("launches", "warp_instructions", "dram_bytes", "bound_us", "bound_blocks_us", "mma_flops", "wavefronts", "global_requests", "bytes_asked")


def case_line(one):
    requests = max(one["global_requests"], 1)
    return [
        int(one["launches"]), f"{one['warp_instructions'] / 1e6:.1f}", f"{one['fma'] / 1e6:.1f}",
        f"{100 * one['mma'] / max(one['warp_instructions'], 1):.1f}", f"{one['mma_flops'] / 1e9:.1f}",
        f"{one['sectors'] / requests:.2f} of {one['ideal'] / requests:.2f}", f"{one['bytes_asked'] / 1e6:.0f}",
        f"{one['dram_bytes'] / 1e6:.1f}", f"{one['wavefronts'] / 1e6:.2f}",
        f"{one['bound_us']:.1f} {max(one['by'], key=one['by'].get)}", f"{one['bound_blocks_us']:.1f}", f"{one['share']:.2g}",
    ]


CASE_COLUMNS = ["launches", "M instructions", "M FMA", "MMA %", "MMA GFLOP", "sectors", "MB asked", "DRAM MB", "M wavefronts"]
CASE_COLUMNS += ["bound us", "by blocks us", "sampled"]

# Cases that do the same: words that a peer's case has and, behind them, those of ours, each a regular expression of the whole name.
SAME = [
    ("AP radiograph 224x224, 500 samples, of 480x480x240", "nanodrr",
     [r"(Trilinear Slab step 0.72|Joseph Slab|Siddon Slab) cone 224x224 of 480x480x240 int16, 1 view AP"]),
    ("Softmax loss both ways, 1024x512, forward and backward", "Inf-CL", [r"info_nce .* 1024x512 .*"]),
    ("Sigmoid loss, 1024x512, forward and backward", "siglip-kernel", [r"siglip .* 1024x512 .*"]),
    ("Layer norm 8192x768 bf16, forward and backward", "layer norm", [r"layer_norm forward and backward \[8192, 768\] bf16"]),
    ("Decomposed convolution, stage 4, batch 8, bf16, forward and backward", "decomposed convolution",
     [r"stage 4 forward and backward .* bf16"]),
    ("Attention 8x12x256x64 bf16, forward", "attention", [r"forward Tiled \[8, 12, 256, 64\] bf16"]),
]

# PERFORMANCE's rows: what, the family, the names of its variants' cases, microseconds that are the target.
ROWS = [
    *[(f"decomposed convolution, stage {n}, forward and backward, batch 8, bf16", "decomp_conv", rf"stage {n} forward and backward .* bf16",
       "360" if n == 1 else "") for n in (1, 2, 3, 4)],
    ("stem 0, training, batch 8, bf16", "decomp_dense", r"stem 0 forward and backward .* \[512, 512, 256\] .* bf16", ""),
    ("stem 1-3, one layer, training, batch 8, bf16", "decomp_dense", r"stem 1-3 forward and backward .* \[128, 128, 64\] .* bf16", ""),
    ("tri-modal loss, N = 360", "contrastive", r"tri_modal .* 360x512 .*", "10"),
    ("tri-modal loss, N = 4096", "contrastive", r"tri_modal .* 4096x512 .*", ""),
    ("tri-modal loss, N = 32768", "contrastive", r"tri_modal .* 32768x512 .*", ""),
    ("symmetric loss, N = 32768", "contrastive", r"info_nce .* 32768x512 .*", "7500"),
    ("radiograph 224x224, one view", "drr", r"(Joseph|Siddon) .* cone 224x224 .*, 1 view AP", "40"),
    ("radiographs 224x224, 16 views", "drr", r"(Joseph|Siddon) .* cone 224x224 .*, 16 views", "160"),
    ("radiograph 1024x1024, one view", "drr", r"(Joseph|Siddon) .* cone 1024x1024 .*, 1 view AP", "400"),
    ("AdamW with clipping, ResNet-50", "optim", r"adamw with clipping 25557032", "211"),
    ("resampling to CT-CLIP's input, bf16", "resample", r".* int16 to bf16", "90"),
]


def beside(ours, peers):
    """Tables of the peers' cases and ours that do the same."""
    ours, peers = cases(ours), cases(peers)
    for title, word, patterns in SAME:
        theirs = [[f"**{case}**", *case_line(one)] for (_, case), one in peers.items() if word.lower() in case.lower()]
        same = [(case, one) for (_, case), one in ours.items() if any(re.fullmatch(p, case) for p in patterns) and "Naive" not in case]
        if theirs and same:
            yield f"### {title}\n\n" + table(["case", *CASE_COLUMNS], theirs + [[case, *case_line(one)] for case, one in same])


def predicted(rows):
    """Of each row of PERFORMANCE the variant with the least bound by blocks."""
    for what, family, pattern, target in ROWS:
        known = [(one["bound_blocks_us"], case, one) for (f, case), one in cases(rows).items() if f == family and re.fullmatch(pattern, case)]
        if known:
            _, case, one = min(known, key=lambda k: k[0])
            floor = one["least"] / RATES[one["chip"]][0] * 1e6
            yield [what, case, f"{one['bound_us']:.1f} {max(one['by'], key=one['by'].get)}", f"{one['bound_blocks_us']:.1f}", f"{floor:.1f}", target]


def read(path):
    text = pathlib.Path(path).read_text()
    try:
        return json.loads(text)["rows"]
    except ValueError:  # cut: whole lines alone
        lines = (line.strip().lstrip(",") for line in text.splitlines())
        return [json.loads(line) for line in lines if line.startswith('{"family"') and line.endswith("}")]


def last(rows):
    """Rows by chip, family, case and kernel: the last of each."""
    return list({(row["chip"], row["family"], row["case"], row["kernel"]): row for row in rows}.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commit", required=True)
    parser.add_argument("ours", nargs="+")
    parser.add_argument("--peers", nargs="*", default=[])
    args = parser.parse_args()
    ours, peers = (last([row for path in paths for row in read(path)]) for paths in (args.ours, args.peers))
    peers = [row | {"case": f"{row['case']} ({row['chip']})"} for row in peers]
    # The readable references are no competitors.
    fast = [row for row in ours if "Naive" not in row["case"] and "naive" not in row["kernel"]]
    sectors = lambda row: ratio(row, "sectors_per_request", "sectors_ideal")
    waves = lambda row: ratio(row, "wavefronts_per_request", "wavefronts_ideal")
    parts = [HEAD.format(commit=args.commit)]
    kernels = len({row["kernel"] for row in ours})
    parts.append(f"{kernels} kernels in {len(cases(ours))} cases are counted here.\n")
    if peers:
        parts.append("## Ours beside the peers\n\nThe peers' own Triton kernels (**bold**), as their own host code launches them, and ours at the same sizes.\n"
            "What PyTorch does between a peer's launches is not counted; ours are whole.\n")
        parts += list(beside(fast, peers))
        parts.append("### The peers' kernels\n\n*Error* is the largest, relative to f64, of what the case computes.\n\n" + table(
            ["case", "kernel", *COLUMNS, "MMA GFLOP", "error"],
            [[r["case"], r["kernel"], *line(r), f"{r['mma_flops'] / 1e9:.2f}", f"{max(r['relative_errors'].values()):.0e}"] for r in peers]))
    parts.append("## Predicted bounds of PERFORMANCE's rows\n\nOf each row the variant with the least bound by blocks. *Floor* is the case's own least bytes at the chip's bandwidth.\n\n" + table(
        ["what", "case", "bound us", "by blocks us", "floor us", "target us"], list(predicted(fast))))
    parts.append("## The worst ten by each counter\n\nWithout the naive references.\n")
    parts.append(worst(fast, "Sectors a request over the ideal", sectors,
        lambda row: [pair(row, "sectors_per_request", "sectors_ideal"), f"{sectors(row):.2f}"], 1.1))
    parts.append(worst(fast, "Wavefronts a request over the ideal", waves,
        lambda row: [pair(row, "wavefronts_per_request", "wavefronts_ideal"), f"{waves(row):.2f}"], 1.1))
    heavy = [row for row in fast if row["bound_us"] > 1]
    parts.append(worst(heavy, "Instructions over useful work: issue slots over the time of the DRAM bytes, f32 and tensor-core operations (above 1 us)", over_work,
        lambda row: [f"{row['warp_instructions'] / 1e6:.2f} M", f"{over_work(row):.2f}"], 1.1))
    moved = [(one["dram_bytes"] / one["least"], family, case, one) for (family, case), one in cases(fast).items() if one["least"]]
    moved.sort(key=lambda m: -m[0])
    parts.append("### DRAM bytes over the case's least\n\n" + table(["family", "case", "DRAM MB", "least MB", "over least", "sampled"],
        [[family, case, f"{one['dram_bytes'] / 1e6:.1f}", f"{one['least'] / 1e6:.1f}", f"{over:.2f}", f"{one['share']:.2g}"]
         for over, family, case, one in moved[:10]]))
    blocks = lambda row: row["bound_blocks_us"] / max(row["bound_us"], 1e-9) if row["bound_us"] > 1 else 0
    parts.append(worst(fast, "Bound by blocks over the bound: too few blocks (above 1 us)", blocks,
        lambda row: [f"{row['bound_blocks_us']:.1f} of {row['bound_us']:.1f} us", f"{blocks(row):.2f}"], 1.1))
    parts.append("## Bounds of the cases\n\n" + table(["family", "case", "over least", "floor us", *CASE_COLUMNS],
        [[family, case, f"{one['dram_bytes'] / one['least']:.2f}" if one["least"] else "", f"{one['least'] / RATES[one['chip']][0] * 1e6:.1f}", *case_line(one)]
         for (family, case), one in cases(ours).items()]))
    parts.append("## Every kernel\n")
    for family in dict.fromkeys(row["family"] for row in ours):
        rows = [[row["kernel"], row["case"], *line(row)] for row in ours if row["family"] == family]
        parts.append(f"### {family}\n\n" + table(["kernel", "case", *COLUMNS], rows))
    OUT.write_text(re.sub(r"\n{3,}", "\n\n", "\n".join(parts)))


if __name__ == "__main__":
    main()
