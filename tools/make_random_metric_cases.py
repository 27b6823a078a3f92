"""Writes tests/golden/metrics_random.json: what scikit-learn gives for every metric of 200 random multi-label problems with ties
and rare labels, what MLstatkit and a count of all pairs give for DeLong's test of pooled cells, and what scikit-learn and SciPy
give for calibration. The problems themselves are made of 64-bit integers, by the same few lines here and in
tests/eval/random_problems.rs. Run from the repository root: python3 tools/make_random_metric_cases.py"""

import json
import warnings
from pathlib import Path

import numpy as np
import sklearn
from MLstatkit import Delong_test
from scipy.optimize import minimize_scalar
from scipy.special import logit
from scipy.stats import norm
from sklearn.calibration import _sigmoid_calibration
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
)

from sequence import Numbers

OUT = Path("tests/golden/metrics_random.json")
PROBLEMS = 200


def problem(at):
    numbers = Numbers(at + 1)
    samples, classes, levels = 20 + numbers.below(180), 1 + numbers.below(8), [3, 10, 1000][at % 3]
    prevalence = [[2, 10, 30, 50][numbers.below(4)] for _ in range(classes)]
    y, first, second = (np.zeros((samples, classes), kind) for kind in (int, float, float))
    for sample in range(samples):
        for label in range(classes):
            present = numbers.below(100) < prevalence[label]
            y[sample, label] = present
            for scores, shift in ((first, levels // 3), (second, levels // 6)):
                scores[sample, label] = min(numbers.below(levels) + (shift if present else 0), levels) / levels
    return y, first, second


def labels_of(metric, y, p):
    return [float(metric(y[:, c], p[:, c])) if 0 < y[:, c].sum() < len(y) else None for c in range(y.shape[1])]


def macro(values):
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None


def delong(y, a, b):
    """Areas, their variances, z and ln p of the comparison of all pairs; z and p again from MLstatkit, which must agree."""
    if not 2 <= y.sum() <= len(y) - 2:
        return None
    kernel = lambda s: (s[y == 1][:, None] > s[y == 0]) + 0.5 * (s[y == 1][:, None] == s[y == 0])
    psi = [kernel(a), kernel(b)]
    covariance = np.cov([k.mean(1) for k in psi]) / (y == 1).sum() + np.cov([k.mean(0) for k in psi]) / (y == 0).sum()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    auc = [float(k.mean()) for k in psi]
    z = abs(auc[0] - auc[1]) / np.sqrt(variance)
    public_z, public_p = Delong_test(y, a, b, return_ci=False, return_auc=False)
    assert abs(abs(public_z) - z) < 1e-10 * max(1, z) and abs(public_p - 2 * norm.sf(z)) < 1e-10, (z, public_z)
    return {"auc": auc, "variance": [covariance[0, 0], covariance[1, 1]], "z": float(z), "ln_p": float(np.log(2) + norm.logsf(z))}


def calibration(y, p):
    """Of pooled cells: the expected calibration error in ten bins, Brier's score, and both maps fitted on logits."""
    edges = np.linspace(0, 1, 11)
    bins = np.searchsorted(edges[1:-1], p)
    ece = sum(abs(p[bins == b].sum() - y[bins == b].sum()) for b in range(10)) / len(y)
    z = logit(np.clip(p, 0.001, 0.999))
    loss = lambda slope: np.mean(np.logaddexp(0, slope * z) - y * slope * z)
    slope = minimize_scalar(loss, bracket=(0, 1), tol=1e-14).x
    a, b = _sigmoid_calibration(z, y)
    return {"ece": float(ece), "brier": float(brier_score_loss(y, p)), "temperature": [float(slope), float(loss(slope))], "platt": [-a, -b]}


def f1(y, hard, average):
    """Averaged over labels; scikit-learn takes a single column for two classes, so that is the label's own."""
    if y.shape[1] == 1:
        return float(f1_score(y.ravel(), hard.ravel(), zero_division=0))
    return float(f1_score(y, hard, average=average, zero_division=0))


def case(at):
    y, p, second = problem(at)
    hard = np.rint(p).astype(int)
    auc, ap = labels_of(roc_auc_score, y, p), labels_of(average_precision_score, y, p)
    flat, scores = y.ravel(), p.ravel()
    both = 0 < flat.sum() < flat.size
    precision, recall, _ = precision_recall_curve(flat, scores) if both else ([], [], [])
    return {
        "auc": auc,
        "auc_micro": float(roc_auc_score(flat, scores)) if both else None,
        "auc_macro": macro(auc),
        "ap": ap,
        "ap_micro": float(average_precision_score(flat, scores)) if both else None,
        "ap_macro": macro(ap),
        "f1_weighted": f1(y, hard, "weighted") if y.sum() else None,
        "f1_macro": f1(y, hard, "macro"),
        "f1_micro": float(f1_score(flat, hard.ravel(), zero_division=0)) if (y | hard).any() else None,
        "accuracy": float(accuracy_score(flat, hard.ravel())),
        "precision_micro": float(precision_score(flat, hard.ravel(), zero_division=0)) if hard.any() else None,
        "recall_micro": float(recall_score(flat, hard.ravel(), zero_division=0)) if y.any() else None,
        "curve": [float(np.sum(precision)), float(np.sum(recall)), len(precision)] if both else None,
        "delong": delong(flat, scores, second.ravel()),
        "calibration": calibration(flat, scores) if both else None,
    }


def main():
    warnings.simplefilter("ignore")
    source = f"tools/make_random_metric_cases.py, scikit-learn {sklearn.__version__}"
    cases = ",\n  ".join(json.dumps(case(at)) for at in range(PROBLEMS))
    OUT.write_text(f'{{\n "source": {json.dumps(source)},\n "problems": [\n  {cases}\n ]\n}}\n')


if __name__ == "__main__":
    main()
