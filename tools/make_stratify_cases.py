"""Writes tests/golden/stratify.json: how far the label proportions of two public implementations of iterative stratification
(iterative-stratification, order 1; scikit-multilearn, order 2) are from what was asked for, on 50 multi-label sets that are made
of 64-bit integers by the same few lines here and in tests/eval/stratify.rs. Run from the repository root:
python3 tools/make_stratify_cases.py"""

import json
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
from skmultilearn.model_selection import iterative_train_test_split

from sequence import Numbers

OUT = Path("tests/golden/stratify.json")
SETS = 50
SHARES = [0.05, 0.1, 0.2, 0.5]


def labels(at):
    """Labels of 200 to 1,199 samples and 5 to 18 classes, which come together and are 1 to 40 % frequent."""
    numbers = Numbers(at + 1000)
    samples, classes = 200 + numbers.below(1000), 5 + numbers.below(14)
    frequency = [2 + numbers.below(78) for _ in range(classes)]
    y = np.zeros((samples, classes), int)
    for sample in range(samples):
        ill = numbers.below(100)
        for label in range(classes):
            y[sample, label] = numbers.below(10_000) < ill * frequency[label]
    return y


def deviations(y, first, share):
    """Mean and worst distance of a label's share of positives in the first part from what was asked for, in per cent."""
    totals = y.sum(0)
    distance = 100 * np.abs(y[first].sum(0)[totals > 0] / totals[totals > 0] - share)
    return [float(distance.mean()), float(distance.max())]


def order_1(y, share, seed):
    split = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    return next(split.split(np.zeros(len(y)), y))[1]


def order_2(y, share, seed):
    np.random.seed(seed)
    places = np.arange(len(y))[:, None]
    return iterative_train_test_split(places, y, test_size=share)[2].ravel()


def main():
    warnings.simplefilter("ignore")
    sets = []
    for at in range(SETS):
        y, share = labels(at), SHARES[at % 4]
        sets.append({"order_1": deviations(y, order_1(y, share, at), share), "order_2": deviations(y, order_2(y, share, at), share)})
    source = " ".join(["tools/make_stratify_cases.py,", *(f"{name} {version(name)}" for name in ("iterative-stratification", "scikit-multilearn"))])
    rows = ",\n  ".join(map(json.dumps, sets))
    OUT.write_text(f'{{\n "source": {json.dumps(source)},\n "sets": [\n  {rows}\n ]\n}}\n')
    for order in ("order_1", "order_2"):
        print(order, np.mean([s[order] for s in sets], axis=0))


if __name__ == "__main__":
    main()
