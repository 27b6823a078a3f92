#!/usr/bin/env python3
"""Writes the reference cases that `x2ct check` runs (format and operations: tests/golden/README.md).

    python -m venv venv && venv/bin/pip install -r tools/requirements.txt
    venv/bin/python tools/make_golden.py [--out tests/golden] [--only NAME_PREFIX] [--large]

Every case is computed in f64 on the CPU and run once more in PyTorch's own f32: `margin` is that run's largest error in
units of the case's tolerance. A case above 0.5 is refused, since it would ask more than f32 can give.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from golden import ct, losses, models, operators, projectors, trajectory  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests" / "golden")
    parser.add_argument("--only", default="", help="write only the cases whose name starts so")
    parser.add_argument("--large", action="store_true", help="instead write the cases too large for the repository")
    args = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)

    total, unfair = 0, []
    for module in [trajectory] if args.large else [operators, losses, models, ct, projectors, trajectory]:
        for case in module.large() if args.large else module.cases():
            if not case.name.startswith(args.only):
                continue
            size = case.save(args.out).stat().st_size
            total += size
            if case.margin > 0.5:
                unfair.append(case.name)
            print(f"{case.name:44} {size:>9} B  margin {case.margin:.1e}  {case.worst}", flush=True)
    print(f"{total / 1e6:.1f} MB in {args.out}, torch {torch.__version__}")
    if unfair:
        sys.exit(f"PyTorch's f32 misses more than half of the tolerance of: {', '.join(unfair)}")


if __name__ == "__main__":
    main()
