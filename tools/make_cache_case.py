"""Writes tests/golden/{cache,text}_from_python.safetensors, and the same with provenance as *_recorded_from_python.safetensors, with the exporter's own functions, so that the Rust readers are tested on
what Python writes. Needs numpy, safetensors, blake3; run from the repository root: python3 tools/make_cache_case.py"""

import numpy as np
from export_ct_clip import of_reports, write_cache, write_text_features

IDS = ["valid_1_a_1", "valid_1_a_2", 'odd "é\\ name']

REPORTS = ["Emphysema.", "No emphysema.", "Größe normal."]

rng = np.random.default_rng(8)


def rows(count):
    values = rng.normal(size=(count, 4))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


cache = dict(ct=rows(3), report=rows(3), prompts_positive=rows(18), prompts_negative=rows(18))
text = dict(features=rng.normal(size=(3, 5)), prompts_positive=rng.normal(size=(18, 5)), prompts_negative=rng.normal(size=(18, 5)))
reports = of_reports(IDS, REPORTS)

for name, of_cache, of_text in (
    ("from_python", {}, {}),
    ("recorded_from_python", {"settings": {"pad": -1}, "reports": reports}, {"made": {"text_model": "x"}, "reports": reports}),
):
    write_cache(
        f"tests/golden/cache_{name}.safetensors", IDS, **cache, teacher="CT-CLIP", checkpoint_digest="c" * 64,
        preprocessing_digest="d" * 64, preprocessing='{"pad": -1}', **of_cache,
    )
    write_text_features(
        f"tests/golden/text_{name}.safetensors", IDS, **text, encoder="CXR-BERT", settings_digest="e" * 64,
        settings='{"text_model": "x"}', **of_text,
    )
