"""Writes tests/golden/{cache,text}_from_python.safetensors, the same with provenance as *_recorded_from_python.safetensors, and
prompts_from_python.safetensors of prompts.toml, with the exporter's own functions, so that the Rust readers are tested on what Python
writes; and the CTs of the recorded files' rows, tests/ct_files.
Needs numpy, nibabel, safetensors, blake3; run from the repository root: python3 tools/make_cache_case.py"""

import gzip
from pathlib import Path

import nibabel
import numpy as np
from ct_clip_prompts import ensemble, read_prompts
from export_ct_clip import ct_digest
from x2ct_files import of_reports, write_cache, write_prompts, write_text_features

IDS = ["valid_1_a_1", "valid_1_a_2", 'odd "é\\ name']

REPORTS = ["Emphysema.", "No emphysema.", "Größe normal."]

rng = np.random.default_rng(8)


def rows(count):
    values = rng.normal(size=(count, 4))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


cache = dict(ct=rows(3), report=rows(3), prompts_positive=rows(18), prompts_negative=rows(18))
text = dict(features=rng.normal(size=(3, 5)), prompts_positive=rng.normal(size=(18, 5)), prompts_negative=rng.normal(size=(18, 5)))
reports = of_reports(IDS, REPORTS)



def ct(name, voxels, affine, slope=1.0, intercept=0.0, qform=None):
    """Writes a CT and reads it again."""
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine if qform is None else qform, 1)
    image.header.set_slope_inter(slope, intercept)
    image.header.set_xyzt_units("mm")
    path = Path("tests/ct_files") / f"{name}.nii.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), mtime=0))
    return nibabel.load(path)


turn, edges = np.radians(20), np.array([0.7, 0.8, 1.5])
oblique = np.eye(4)
oblique[:3, :3] = np.array([[-np.cos(turn), np.sin(turn), 0], [-np.sin(turn), -np.cos(turn), 0], [0, 0, 1]]) * edges
oblique[:3, 3] = [120.5, -80.25, -300.1]
hu = rng.integers(-1000, 1500, (5, 4, 3))
row = {"RescaleSlope": "0.5", "RescaleIntercept": "-1024", "XYSpacing": "[0.712345, 0.712345]", "ZSpacing": "1.25"}
cts = [
    ct_digest(ct("int16", hu.astype(np.int16), oblique), row, "fixed"),
    ct_digest(ct("float64", hu + 0.125, np.diag([2, 3, 4, 1]), 0.1, -1024.5), row, "fixed"),
    ct_digest(ct("uint16_table", (2 * (hu + 1024)).astype(np.uint16), np.eye(4)), row, "csv"),
]
assert len(set(cts)) == 3 and all(cts)
# Where x2ct applies a rule of its own, nothing is claimed.
assert ct_digest(ct("int16_disputed", hu.astype(np.int16), oblique, qform=np.diag([1, 1, 1, 1])), row, "fixed") == ""

for name, of_cache, of_text in (
    ("from_python", {}, {}),
    (
        "recorded_from_python",
        {"settings": {"pad": -1}, "reports": reports, "cts": cts},
        {"made": {"text_model": "x"}, "reports": reports},
    ),
):
    write_cache(
        f"tests/golden/cache_{name}.safetensors", IDS, **cache, teacher="CT-CLIP", checkpoint_digest="c" * 64,
        preprocessing_digest="d" * 64, preprocessing='{"pad": -1}', **of_cache,
    )
    write_text_features(
        f"tests/golden/text_{name}.safetensors", IDS, **text, encoder="CXR-BERT", settings_digest="e" * 64,
        settings='{"text_model": "x"}', **of_text,
    )

names, sentences = read_prompts("tests/golden/prompts.toml")
positive, negative = (np.stack([ensemble(rows(len(pair[kind]))) for pair in sentences]) for kind in (0, 1))
write_prompts(
    "tests/golden/prompts_from_python.safetensors", names, sentences, positive, negative, "CT-CLIP", "c" * 64,
    {"text_model": "x"},
)
