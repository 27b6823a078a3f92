"""What the built kernels need of a GPU, for tools/resource_report.sh and tools/sass_report.sh."""

import argparse
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Per multiprocessor: warps, blocks, shared memory in bytes (CUDA programming guide, compute capabilities). All have
# 65,536 registers, given out in 256s a warp and four warps at a time, and reserve 1 KiB of shared memory a block.
LIMITS = {
    "sm_80": (64, 32, 164 << 10),
    "sm_86": (48, 16, 100 << 10),
    "sm_89": (48, 24, 100 << 10),
    "sm_90a": (64, 32, 228 << 10),
}


def fail(text):
    sys.exit(f"kernel_report: {text}")


def build():
    """Builds the library; returns the folder its build script wrote to and the nvcc it used."""
    command = ["cargo", "check", "--release", "--lib", "--quiet", "--message-format=json"]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if output.returncode:
        fail("the crate does not build; the lines above say why")
    for line in output.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "build-script-executed" and message["package_id"].startswith(f"path+file://{ROOT}#"):
            # Fatbins of an earlier build may lie there; this one used nvcc only if it says so.
            nvcc = dict(message["env"]).get("X2CT_NVCC")
            if not nvcc:
                fail("the build found no nvcc; run tools/install_nvcc.sh, or set NVCC")
            return Path(message["out_dir"]), nvcc
    fail("cargo reported no build script; is this the repository of x2ct?")


def families(folder, wanted):
    names = sorted(path.stem for path in (ROOT / "kernels").glob("*/*.cu"))
    for name in wanted:
        if name not in names:
            fail(f"no kernels/{name}/{name}.cu; there are {', '.join(names)}")
    return [(name, folder / f"{name}.fatbin", folder / f"{name}.log") for name in wanted or names]


def tool(nvcc, name):
    beside = Path(nvcc).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    return found or fail(f"{name} is neither beside {nvcc} nor on PATH; tools/install_nvcc.sh installs it")


def symbols(elf):
    """{name: bytes} of the initialised global data in a 64-bit ELF file."""
    section_offset, = struct.unpack_from("<Q", elf, 0x28)
    entry, count = struct.unpack_from("<HH", elf, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, section_offset + i * entry) for i in range(count)]
    found = {}
    for _, kind, _, _, offset, size, link, _, _, _ in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        strings = sections[link][4]
        for at in range(offset, offset + size, 24):
            name, _, _, index, value, length = struct.unpack_from("<IBBHQQ", elf, at)
            if length and index < count and sections[index][1] == 1:  # SHT_PROGBITS
                begin = strings + name
                key = elf[begin:elf.index(b"\0", begin)].decode()
                start = sections[index][4] + value
                found[key] = elf[start:start + length]
    return found


def configs(cuobjdump, fatbin):
    """{(kernel, target): (threads, min_blocks, shared bytes)}, from the constant that every kernel leaves beside its code."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([cuobjdump, "-xelf", "all", str(fatbin)], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for cubin in Path(folder).iterdir():
            target = re.search(r"\.(sm_\w+)\.", cubin.name)[1]
            for key, value in symbols(cubin.read_bytes()).items():
                if key.endswith("_config"):
                    found[key.removesuffix("_config"), target] = struct.unpack_from("<III", value)
    return found


def usage(log):
    """{(kernel, target): numbers} as ptxas -v prints them, and the device functions that were not inlined."""
    found, current = defaultdict(lambda: defaultdict(int)), None
    for line in log.read_text().splitlines():
        if match := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            current = found[match[1], match[2]]
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if current is not None:
                for key, value in zip(("stack", "stores", "loads"), match.groups()):
                    current[key] += int(value)
        elif (match := re.search(r"Used (\d+) registers", line)) and current is not None:
            current["registers"] = int(match[1])
            static = re.search(r"(\d+) bytes smem", line)
            current["static"] = int(static[1]) if static else 0
    return found


def occupancy(target, registers, threads, shared):
    """Resident blocks of a multiprocessor."""
    warps, blocks, memory = LIMITS[target]
    per_block = -(-threads // 32)
    registers = -(-registers * 32 // 256) * 256
    by_registers = 65536 // registers // 4 * 4 // per_block
    by_memory = memory // (-(-(shared + 1024) // 128) * 128)
    return min(blocks, warps // per_block, by_registers, by_memory)


TABLE = "| kernel | threads | shared, bytes | registers | blocks per SM | occupancy, % | spill, stack |"


def resources(args):
    folder, nvcc = build()
    nvcc = args.nvcc or nvcc
    cuobjdump = tool(nvcc, "cuobjdump")
    version = re.search(r"V([\d.]+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)[1]
    lines, bad, kernels = [], [], 0
    for name, fatbin, log in families(folder, []):
        config, found = configs(cuobjdump, fatbin), usage(log)
        targets = [target for target in LIMITS if any(key[1] == target for key in found)]
        lines += ["", f"## {name}", "", TABLE, re.sub(r"[^|]+", "---", TABLE)]
        for kernel in sorted({key[0] for key in found}):
            kernels += 1
            columns = defaultdict(list)
            for target in targets:
                if (kernel, target) not in config:
                    fail(f"{name}.cu: {kernel} has no {kernel}_config; declare it with X2CT_KERNEL")
                threads, _, dynamic = config[kernel, target]
                row = found[kernel, target]
                static = row["static"]
                blocks = occupancy(target, row["registers"], threads, dynamic + static)
                if blocks == 0:
                    bad.append(f"{name}.cu: {kernel} does not fit {target}: {dynamic + static} bytes of shared memory")
                columns["shared"].append(dynamic + static)
                columns["registers"].append(row["registers"])
                columns["blocks"].append(blocks)
                columns["occupancy"].append(round(100 * blocks * -(-threads // 32) / LIMITS[target][0]))
                spill = row["stores"] + row["loads"]
                columns["spill"].append(f"{spill}, {row['stack']}")
                if spill or row["stack"]:
                    bad.append(f"{name}.cu: {kernel} for {target}: {row['stack']} bytes of stack, "
                               f"{row['stores']} spilled, {row['loads']} loaded back")
            cells = [columns[key] for key in ("shared", "registers", "blocks", "occupancy", "spill")]
            # One value where all targets agree.
            cells = [str(cell[0]) if len(set(cell)) == 1 else " / ".join(map(str, cell)) for cell in cells]
            lines.append(f"| {kernel} | {threads} | {' | '.join(cells)} |")
    head = [
        "# Resources of every kernel",
        "",
        f"Written by `tools/resource_report.sh` from what ptxas {version} says of each kernel; it fails where a kernel",
        "spills or has a stack frame. Four values in a cell are those of sm_80 / sm_86 / sm_89 / sm_90a, one is that of all.",
        "Shared memory is what a block asks for; blocks per multiprocessor and occupancy (resident warps over the most there",
        "can be) follow from registers, threads and shared memory alone. No figure here was measured on a GPU.",
    ]
    if not args.dry_run:
        (ROOT / "benches" / "RESOURCES.md").write_text("\n".join(head + lines) + "\n")
    print(f"{kernels} kernels, {len(bad)} with a spill, a stack frame or too much shared memory")
    if bad:
        sys.exit("\n".join(bad))


COUNTED = {
    "HMMA": r"\bHMMA\b",
    "HGMMA": r"\bHGMMA\b",
    "LDSM": r"\bLDSM\b",
    "LDG.128": r"\bLDG\.(\S*\.)?128\b",
    "LDGSTS.128": r"\bLDGSTS\.(\S*\.)?128\b",
    "TMA": r"\b(UTMA\w+|UBLKCP)\b",
    "STG.128": r"\bSTG\.(\S*\.)?128\b",
    "LDL": r"\bLDL\b",
    "STL": r"\bSTL\b",
}


def sass(args):
    folder, nvcc = build()
    cuobjdump = tool(args.nvcc or nvcc, "cuobjdump")
    patterns = {key: re.compile(pattern) for key, pattern in COUNTED.items()}
    environment = os.environ | {"PATH": f"{Path(cuobjdump).parent}:{os.environ['PATH']}"}
    print("| kernel | target | instructions | " + " | ".join(COUNTED) + " |\n|---|---|---|" + "---|" * len(COUNTED))
    missing = []
    for _, fatbin, _ in families(folder, args.family):
        command = [cuobjdump, "--dump-sass", str(fatbin)]
        text = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        target = kernel = None
        counts = {}
        for line in text.splitlines():
            if match := re.search(r"code for (sm_\w+)", line):
                target = match[1]
            elif match := re.search(r"Function : (\S+)", line):
                kernel = counts[match[1], target] = dict.fromkeys(["all", *COUNTED], 0)
            elif kernel is not None and re.match(r"\s+/\*[0-9a-f]{4,}\*/", line):
                kernel["all"] += 1
                for key, pattern in patterns.items():
                    kernel[key] += bool(pattern.search(line))
        for (name, target), count in sorted(counts.items()):
            if args.target and target not in args.target:
                continue
            print(f"| {name} | {target} | " + " | ".join(map(str, count.values())) + " |")
            if args.require and re.search(args.require, name):
                if not count["HMMA"] + count["HGMMA"]:
                    missing.append(f"{name} for {target} uses no tensor core")
                if not count["LDG.128"] + count["LDGSTS.128"] + count["TMA"]:
                    missing.append(f"{name} for {target} has no 16-byte load")
            for column, pattern in args.count or []:
                if re.search(pattern, name) and not count[column]:
                    missing.append(f"{name} for {target} has no {column}")
            if count["LDL"] + count["STL"]:
                missing.append(f"{name} for {target} uses local memory")
    if missing:
        sys.exit("\n".join(missing))


def main():
    parser = argparse.ArgumentParser(prog="kernel_report", description=__doc__)
    parser.add_argument("--nvcc", default=os.environ.get("NVCC"), help="whose cuobjdump to use (default: the build's)")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("resources", help="write benches/RESOURCES.md; fail on a spill or stack frame")
    command.add_argument("--dry-run", action="store_true", help="only check")
    command.set_defaults(run=resources)
    command = commands.add_parser("sass", help="count instructions per kernel; fail on local memory")
    command.add_argument("family", nargs="*", help="kernels/FAMILY (default: all)")
    command.add_argument("--target", action="append", help="such as sm_90a (default: all)")
    command.add_argument("--require", help="kernels whose name matches must use tensor cores and 16-byte loads")
    command.add_argument("--count", nargs=2, action="append", metavar=("COLUMN", "REGEX"),
                         help="kernels whose name matches must have an instruction of that column")
    command.set_defaults(run=sass)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
