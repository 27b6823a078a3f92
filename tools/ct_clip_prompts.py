"""Reads prompts as TOML (src/data/prompts.rs has the form), and makes one embedding of several sentences.

Python 3.11 or the package tomli reads TOML.
"""

from pathlib import Path

import numpy as np

from x2ct_files import LABELS, Refused

WORDINGS = {
    "there-is": ("There is {}.", "There is no {}."),
    "is-present": ("{} is present.", "{} is not present."),
    "vocab-fine": ("{} is present. ", "{} is not present. "),
}


def read_prompts(path):
    """Names of the labels of a TOML file, and of each the positive and the negative sentences: as src/data/prompts.rs describes."""
    try:
        import tomllib
    except ImportError:
        try:
            import tomli as tomllib
        except ImportError:
            raise Refused("no reader of TOML: use Python 3.11 or install the package tomli") from None
    try:
        form = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise Refused(f"{path}: cannot be read as TOML: {e}") from None
    refuse = lambda problem: Refused(f"{path}: {problem}; see the form in src/data/prompts.rs")
    if unknown := set(form) - {"wording", "template", "label"}:
        raise refuse(f"unknown field {sorted(unknown)[0]}")
    templates = [(t.get("positive"), t.get("negative")) for t in form.get("template", [])]
    if "wording" in form:
        if form["wording"] not in WORDINGS:
            raise refuse(f"unknown wording {form['wording']!r}")
        templates.insert(0, WORDINGS[form["wording"]])
    if not templates:
        raise refuse("has neither a wording nor a [[template]]")
    for pair in templates:
        if pair[0] == pair[1] or any(not isinstance(s, str) or s.count("{}") != 1 for s in pair):
            raise refuse(f"the template {pair} is not of two different sentences with one {{}} each")
    labels = form.get("label") or [{"name": name} for name in LABELS]
    names, sentences = [], []
    for label in labels:
        name = label.get("name")
        texts = label.get("text", [name])
        words = isinstance(texts, list) and texts and all(isinstance(t, str) and t.strip() for t in [name, *texts])
        if not words or name in names or len(set(texts)) != len(texts) or set(label) - {"name", "text"}:
            raise refuse(f"the label {name!r} stands twice, or is not a name with texts that have words and differ")
        names.append(name)
        sentences.append(tuple([t[kind].replace("{}", text) for t in templates for text in texts] for kind in (0, 1)))
    return names, sentences


def ensemble(rows):
    """The mean of L2-normalised rows, normalised again; of one row that row."""
    if len(rows) == 1:
        return rows[0]
    mean = rows.astype(np.float64).mean(axis=0)
    return mean / np.linalg.norm(mean)
