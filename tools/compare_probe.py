#!/usr/bin/env python3
"""A linear probe of 18 labels on 47,149 features of 512 values: X2CT-CLIP's form in PyTorch, scikit-learn, and x2ct.

    venv/bin/python tools/compare_probe.py --x2ct target/release/x2ct [--samples 47149] [--runs 3] [--torch-epochs 200]

The features are L2-normalised and made from a seed, the labels drawn by the sigmoid of a plane of theirs; the test set is a further
tenth. Two problems:

* Recipe c (200 epochs at most, rate 5e-3, batch 512, patience 20, a fifth as validation) by x2ct and PyTorch: in the authors' form, a
  DataLoader over a TensorDataset, AdamW, the best weights kept; and once more with batches indexed from tensors, which is what PyTorch
  can do. With fewer epochs of PyTorch's its times are compared by the epoch.
* The optimum of logistic regression of each label, C 1, on all samples: x2ct's recipe logistic, and scikit-learn's OneVsRestClassifier of
  LogisticRegression; how far the weights are apart is printed.

Seconds are of the training alone, in one process; x2ct's also as a whole command, files and metrics included. Processor seconds, which
a busy machine disturbs least, are of that whole command. The load of the machine is printed beside them.
Needs numpy, torch, scikit-learn, safetensors, blake3 (tools/requirements.txt).
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from x2ct_files import LABELS, write_archive

EPOCHS, RATE, BATCH, PATIENCE, SEED = 200, 5e-3, 512, 20, 1024


def make(samples, dim, rng, planes):
    features = rng.normal(size=(samples, dim)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    # Prevalences from 3 to 45 per cent, areas of some 0.8.
    logits = 1.6 * np.sqrt(dim) * features @ planes.T - np.linspace(0.2, 4.5, len(planes))
    labels = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    return features, labels


def write(folder, name, features, labels):
    ids = [f"{name}_{i + 1}_a_1" for i in range(len(features))]
    path = folder / f"{name}.safetensors"
    write_archive(path, "x2ct-features-1", ids, {"encoder": "made from a seed"}, {"features": features})
    table = [f"VolumeName,{','.join(LABELS)}"]
    table += [f"{id},{','.join('1' if cell else '0' for cell in row)}" for id, row in zip(ids, labels)]
    (folder / f"{name}.csv").write_text("\n".join(table) + "\n")


def auc(labels, scores):
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(labels, scores, average="macro")


def ours(program, folder, recipe):
    arguments = [program, "eval", "probe", "--recipe", recipe, "--bootstrap", "0", "--json", "--device", "host"]
    arguments += ["--probe", f"{folder}/{recipe}.safetensors"]
    for option, name in (("features", "train"), ("test-features", "test")):
        arguments += [f"--{option}", f"{folder}/{name}.safetensors", f"--{option.replace('features', 'labels')}", f"{folder}/{name}.csv"]
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)["rows"][0]
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return row, time.perf_counter() - start, used


def torch_probe(train, validation, loaders, epochs=EPOCHS):
    """Seconds, processor seconds, epochs, and the best weights."""
    import copy

    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(SEED)
    tensors = [[torch.from_numpy(a.astype(np.float32)) for a in part] for part in (train, validation)]

    def batches(part, shuffle):
        if loaders:
            return DataLoader(TensorDataset(*part), batch_size=BATCH, shuffle=shuffle)
        order = torch.randperm(len(part[0])) if shuffle else torch.arange(len(part[0]))
        return ([a[rows] for a in part] for rows in order.split(BATCH))

    start, used = time.perf_counter(), time.process_time()
    layer, criterion = nn.Linear(train[0].shape[1], train[1].shape[1]), nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=RATE)
    best, best_epoch, kept = float("inf"), 0, None
    for epoch in range(epochs):
        for x, y in batches(tensors[0], True):
            optimizer.zero_grad()
            criterion(layer(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            losses = [(criterion(layer(x), y).item(), len(x)) for x, y in batches(tensors[1], False)]
        loss = sum(value * count for value, count in losses) / len(tensors[1][0])
        if loss < best:
            best, best_epoch, kept = loss, epoch, copy.deepcopy(layer.state_dict())
        elif epoch - best_epoch >= PATIENCE:
            break
    seconds, used = time.perf_counter() - start, time.process_time() - used
    return seconds, used, epoch + 1, kept["weight"].numpy(), kept["bias"].numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--x2ct", default="target/release/x2ct", help="the program")
    parser.add_argument("--samples", type=int, default=47149)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3, help="of x2ct; the median counts")
    parser.add_argument("--torch-epochs", type=int, default=EPOCHS, help="of PyTorch, at most")
    args = parser.parse_args()
    rng = np.random.default_rng(SEED)
    planes = rng.normal(size=(len(LABELS), args.dim)) / np.sqrt(args.dim)
    train, test = make(args.samples, args.dim, rng, planes), make(args.samples // 10, args.dim, rng, planes)
    order = rng.permutation(args.samples)
    cut = args.samples // 5
    part = lambda rows: (train[0][rows], train[1][rows])
    inner, validation = part(order[cut:]), part(order[:cut])
    print(f"{args.samples} x {args.dim}, {len(LABELS)} labels; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before\n")
    print("| what | seconds | processor s | epochs | ms an epoch | macro AUC | load |\n|---|---|---|---|---|---|---|")

    def row(what, seconds, used, epochs, area):
        each = f"{1000 * seconds / epochs:.1f}" if epochs else ""
        print(f"| {what} | {seconds:.2f} | {used} | {epochs or ''} | {each} | {area:.4f} | {os.getloadavg()[0]:.1f} |", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write(folder, "train", *train)
        write(folder, "test", *test)
        best = {}
        for recipe in ("c", "logistic"):
            runs = sorted((ours(args.x2ct, folder, recipe) for _ in range(args.runs)), key=lambda run: run[0]["seconds"])
            best[recipe], whole, used = runs[len(runs) // 2]
            seconds, epochs, area = (best[recipe][key] for key in ("seconds", "epochs", "auc_macro"))
            row(f"x2ct, {recipe}", seconds, "", epochs, area)
            row(f"x2ct, {recipe}, the whole command", whole, f"{used:.1f}", epochs, area)
        probe = load_file(next(folder.glob("logistic*.safetensors")))
    mine = best["c"]
    for what, loaders in (("PyTorch, the authors' form", True), ("PyTorch, batches indexed", False)):
        seconds, used, epochs, weight, bias = torch_probe(inner, validation, loaders, args.torch_epochs)
        row(what, seconds, f"{used:.1f}", epochs, auc(test[1], test[0] @ weight.T + bias))
        each = seconds / epochs / (mine["seconds"] / mine["epochs"])
        print(f"|   times x2ct | | | | {each:.1f} | | |", flush=True)
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    start, used = time.perf_counter(), time.process_time()
    fitted = OneVsRestClassifier(LogisticRegression(max_iter=1000)).fit(train[0], train[1].astype(int))
    seconds, used = time.perf_counter() - start, time.process_time() - used
    row("scikit-learn, OneVsRest LogisticRegression", seconds, f"{used:.1f}", 0, auc(test[1], fitted.predict_proba(test[0])))
    print(f"|   times x2ct, logistic | {seconds / best['logistic']['seconds']:.1f} | | | | | |")
    weights = np.array([estimator.coef_[0] for estimator in fitted.estimators_])
    apart = np.abs(weights - probe["weight"]).max() / np.abs(weights).max()
    print(f"\nweights of the two are {apart:.1e} of the largest apart")


if __name__ == "__main__":
    main()
