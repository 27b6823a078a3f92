"""Writes tests/golden/{cache,text}_from_python.safetensors with the exporter's own functions, so that the Rust readers are tested on
what Python writes. Needs numpy, safetensors, blake3; run from the repository root: python3 tools/make_cache_case.py"""

import numpy as np
from export_ct_clip import write_cache, write_text_features

IDS = ["valid_1_a_1", "valid_1_a_2", 'odd "é\\ name']

rng = np.random.default_rng(8)


def rows(count):
    values = rng.normal(size=(count, 4))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


write_cache(
    "tests/golden/cache_from_python.safetensors",
    IDS,
    rows(3), rows(3), rows(18), rows(18),
    teacher="CT-CLIP",
    checkpoint_digest="c" * 64,
    preprocessing_digest="d" * 64,
    preprocessing='{"pad": -1}',
)

write_text_features(
    "tests/golden/text_from_python.safetensors",
    IDS,
    rng.normal(size=(3, 5)), rng.normal(size=(18, 5)), rng.normal(size=(18, 5)),
    encoder="CXR-BERT",
    settings_digest="e" * 64,
    settings='{"text_model": "x"}',
)
