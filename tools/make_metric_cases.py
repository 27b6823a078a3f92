"""Writes tests/golden/metrics.json: small multi-label and two-score cases with the values that scikit-learn, SciPy and an
O(m n) DeLong give for them. Needs numpy, scipy and scikit-learn; run from the repository root: python3 tools/make_metric_cases.py"""

import json
import warnings
from pathlib import Path

import numpy as np
import sklearn
from scipy.stats import norm
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_score, recall_score, roc_auc_score, roc_curve

OUT = Path("tests/golden/metrics.json")


def short(scores):
    """Four decimals: a short file, and the same ties in f32, which is what the implementation takes."""
    return np.round(np.asarray(scores, dtype=np.float64), 4)


def per_label(metric, y, p):
    """One value per label, None where a label has one class; scikit-learn warns or returns a placeholder there."""
    return [metric(y[:, c], p[:, c]) if 0 < y[:, c].sum() < len(y) else None for c in range(y.shape[1])]


def rates(y, hard):
    """Metrics of one label's hard predictions, None where the denominator is empty."""
    return {
        "accuracy": accuracy_score(y, hard),
        "f1": f1_score(y, hard, zero_division=0) if (y | hard).any() else None,
        "precision": precision_score(y, hard, zero_division=0) if hard.any() else None,
        "recall": recall_score(y, hard, zero_division=0) if y.any() else None,
        "specificity": recall_score(1 - y, 1 - hard, zero_division=0) if not y.all() else None,
    }


def youden(y, p):
    """The first point of roc_curve with the largest TPR - FPR; rounded, as equal differences of quotients differ in the last bit."""
    if not 0 < y.sum() < len(y):
        return None
    fpr, tpr, thresholds = roc_curve(y, p)
    threshold = thresholds[np.argmax(np.round(tpr - fpr, 12))]
    return {"threshold": threshold if np.isfinite(threshold) else None, **rates(y, (p >= threshold).astype(int))}


def multi_label(name, y, p):
    averaged = {}
    for key, metric in (("auc", roc_auc_score), ("ap", average_precision_score)):
        labels = per_label(metric, y, p)
        defined = [v for v in labels if v is not None]
        averaged[key] = {
            "per_label": labels,
            "micro": metric(y.ravel(), p.ravel()) if 0 < y.sum() < y.size else None,
            "macro": float(np.mean(defined)) if defined else None,
            "defined": len(defined),
        }
    hard = np.rint(p).astype(int)
    return {
        "name": name,
        "classes": y.shape[1],
        "labels": y.ravel().tolist(),
        "scores": [float(v) for v in p.ravel()],
        **averaged,
        "f1_weighted": f1_score(y, hard, average="weighted", zero_division=0) if y.sum() else None,
        "accuracy": accuracy_score(y.ravel(), hard.ravel()),
        "precision_micro": precision_score(y, hard, average="micro", zero_division=0) if hard.sum() else None,
        "recall_micro": recall_score(y, hard, average="micro", zero_division=0) if y.sum() else None,
        "per_label": [rates(y[:, c], hard[:, c]) for c in range(y.shape[1])],
        "youden": [youden(y[:, c], p[:, c]) for c in range(y.shape[1])],
    }


def multi_label_cases(rng):
    y = rng.integers(0, 2, (23, 4))
    yield multi_label("distinct", y, short(rng.random((23, 4))))
    yield multi_label("heavy ties", y, short(rng.integers(0, 4, (23, 4)) / 4))
    yield multi_label("all scores equal", y, short(np.full((23, 4), 0.5)))
    one_class = y.copy()
    one_class[:, 1], one_class[:, 3] = 0, 1
    yield multi_label("two labels of one class", one_class, short(rng.integers(0, 8, (23, 4)) / 8))
    yield multi_label("nothing positive", np.zeros((5, 2), int), short(rng.random((5, 2)) / 3))
    yield multi_label("everything positive", np.ones((5, 2), int), short(rng.random((5, 2))))
    yield multi_label("one sample", np.array([[1, 0, 1]]), short([[0.9, 0.5, 0.1]]))
    rare = (rng.random((61, 3)) < [0.03, 0.5, 0.9]).astype(int)
    rare[0] = [1, 0, 0]
    yield multi_label("worse than chance", rare, short(np.clip(0.6 - rare * 0.5 + rng.random((61, 3)) * 0.1, 0, 1)))
    yield multi_label("rare and common", rare, short(np.clip(rare * 0.2 + rng.random((61, 3)) * 0.8, 0, 1)))


def delong(name, y, a, b):
    """DeLong, DeLong and Clarke-Pearson (1988) from the pairwise comparisons themselves."""
    kernel = lambda s: (s[y == 1][:, None] > s[y == 0]) + 0.5 * (s[y == 1][:, None] == s[y == 0])
    psi = [kernel(a), kernel(b)]
    auc = [k.mean() for k in psi]
    s10 = np.cov([k.mean(1) for k in psi])
    s01 = np.cov([k.mean(0) for k in psi])
    covariance = s10 / (y == 1).sum() + s01 / (y == 0).sum()
    z = abs(auc[0] - auc[1]) / np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    return {
        "name": name,
        "labels": y.tolist(),
        "first": [float(v) for v in a],
        "second": [float(v) for v in b],
        "auc": auc,
        "covariance": covariance.tolist(),
        "z": z,
        "ln_p": float(np.log(2) + norm.logsf(z)),
    }


def delong_cases(rng):
    y = rng.integers(0, 2, 40)
    yield delong("distinct", y, short(y + rng.normal(0, 1, 40)), short(y + rng.normal(0, 2, 40)))
    yield delong("ties", y, short(rng.integers(0, 5, 40) + y), short(rng.integers(0, 3, 40)))
    y = np.repeat([1, 0], [2, 30])
    yield delong("two positives", y, short(rng.random(32)), short(rng.random(32)))
    # Large enough that p underflows no f64 but 1 - Phi(z) would be 0.
    y = np.repeat([1, 0], [300, 300])
    yield delong("tiny p", y, short((2 * y + rng.normal(0, 1, 600)).round(1)), short(rng.normal(0, 1, 600).round(1)))


def ridge_cases(rng):
    for name, samples, features, outputs, alpha in (("primal", 9, 4, 2, 0.7), ("dual", 5, 11, 3, 1.5)):
        x = rng.normal(2, 1, (samples, features)).astype(np.float32)
        y = rng.normal(-1, 1, (samples, outputs)).astype(np.float32)
        fitted = Ridge(alpha=alpha, solver="cholesky").fit(x.astype(np.float64), y.astype(np.float64))
        yield {
            "name": name,
            "samples": samples,
            "lambda": alpha,
            "x": x.ravel().astype(np.float64).tolist(),
            "y": y.ravel().astype(np.float64).tolist(),
            "weights": fitted.coef_.ravel().tolist(),
            "intercept": fitted.intercept_.tolist(),
        }


def main():
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(20)
    cases = {
        "source": f"tools/make_metric_cases.py, scikit-learn {sklearn.__version__}",
        "multi_label": list(multi_label_cases(rng)),
        "delong": list(delong_cases(rng)),
        "ridge": list(ridge_cases(rng)),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    # One case a line: small, and a changed case is a changed line.
    parts = [f' "source": {json.dumps(cases.pop("source"))}']
    parts += [f' "{key}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for key, rows in cases.items()]
    OUT.write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    main()
