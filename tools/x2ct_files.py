"""Writes files as x2ct reads them: embedding caches, text features and prompts, with their checksums and provenance.

The formats are described in src/data/cache.rs, text.rs, prompts.rs and provenance.rs. Needs numpy, safetensors and blake3.
"""

import json
import os
import tempfile
from pathlib import Path

import numpy as np

LABELS = [
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema", "Atelectasis", "Lung nodule",
    "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion", "Mosaic attenuation pattern",
    "Peribronchial thickening", "Consolidation", "Bronchiectasis", "Interlobular septal thickening",
]
PROVENANCE = 1  # version of the entry `provenance`


class Refused(Exception):
    """A one-line error for the user."""


def blake3_of(chunks):
    try:
        from blake3 import blake3
    except ImportError:
        raise Refused("the Python package blake3 is missing: pip install blake3") from None
    hasher = blake3()
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.hexdigest()


def blake3_of_file(path):
    def chunks():
        with open(path, "rb") as file:
            while chunk := file.read(1 << 24):
                yield chunk

    return blake3_of(chunks())


def checksum(metadata, tensors):
    """As src/data/cache.rs defines it: `key 00 value 00` in order of keys, then `name 00 ROWSxCOLUMNS 00 data` in order of names."""

    def chunks():
        for key in sorted(metadata):
            yield f"{key}\0{metadata[key]}\0".encode()
        for name in sorted(tensors):
            rows, columns = tensors[name].shape
            yield f"{name}\0{rows}x{columns}\0".encode()
            yield tensors[name].tobytes()

    return blake3_of(chunks())


def finite_rows(name, rows, count):
    rows = np.ascontiguousarray(rows, dtype="<f4")
    if rows.ndim != 2 or len(rows) != count:
        raise Refused(f"{name} has shape {rows.shape}, not ({count}, d)")
    if not np.isfinite(rows).all():
        raise Refused(f"{name}, row {int(np.argwhere(~np.isfinite(rows))[0][0])} is not finite")
    return rows


def unit_rows(name, rows, count):
    rows = finite_rows(name, rows, count)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    if np.abs(lengths - 1).max() > 1e-3:
        raise Refused(f"{name}, row {int(np.abs(lengths - 1).argmax())} is not L2-normalised")
    return rows


def write_atomic(path, data):
    """Temporary file beside the target, synced, renamed."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def content_digest(kind, pieces):
    """As `Content` of src/data/provenance.rs: every piece behind its length."""

    def chunks():
        for piece in (kind, *pieces):
            data = piece.encode() if isinstance(piece, str) else piece.tobytes() if isinstance(piece, np.ndarray) else piece
            yield len(data).to_bytes(8, "little")
            yield data

    return blake3_of(chunks())


def provenance(digest, rows, settings, **made_of):
    """The entry of src/data/provenance.rs: what a file holds, how it was made and of what."""
    return {"version": PROVENANCE, "digest": digest, "rows": rows, "settings": settings, "from": made_of, "known": True}


def of_reports(ids, texts):
    """Of reports by their texts."""
    return provenance(content_digest("reports", (piece for pair in zip(ids, texts) for piece in pair)), len(ids), {})


def of_cts(ids, cts):
    """Of volumes by the digests of their CTs, all of which are known."""
    return provenance(content_digest("CTs", (piece for pair in zip(ids, cts) for piece in pair)), len(ids), {})


def write_cache(path, ids, ct, report, prompts_positive, prompts_negative, teacher, checkpoint_digest, preprocessing_digest,
                settings=None, reports=None, cts=None, **more):
    """Writes an x2ct-cache-1 file; `more` becomes further metadata (strings). With `settings`, how volumes and texts were prepared,
    and `reports`, their `of_reports`, the file records its provenance; with `cts`, one `ct_digest` a row, also the CTs."""
    tensors = {
        "ct": unit_rows("ct", ct, len(ids)),
        "report": unit_rows("report", report, len(ids)),
        "prompts_positive": unit_rows("prompts_positive", prompts_positive, len(LABELS)),
        "prompts_negative": unit_rows("prompts_negative", prompts_negative, len(LABELS)),
    }
    metadata = {
        "teacher": teacher,
        "checkpoint_digest": checkpoint_digest,
        "preprocessing_digest": preprocessing_digest,
        **more,
    }
    if settings is not None:
        pairs = (piece for row in zip(ids, tensors["ct"], tensors["report"]) for piece in row)
        prompts = (tensors["prompts_positive"], tensors["prompts_negative"])
        digest = content_digest("embedding cache", (str(tensors["ct"].shape[1]), *pairs, *prompts))
        made = {"teacher": teacher, "checkpoint": checkpoint_digest, "preprocessing_digest": preprocessing_digest, **settings}
        made_of = {"reports": reports, **({"ct": of_cts(ids, cts)} if cts and all(cts) else {})}
        metadata["provenance"] = json.dumps(provenance(digest, len(ids), made, **made_of))
    if cts and any(cts):
        metadata["ct_digests"] = json.dumps(list(cts))
    write_archive(path, "x2ct-cache-1", ids, metadata, tensors)


def write_text_features(path, ids, features, prompts_positive, prompts_negative, encoder, settings_digest, made=None,
                        reports=None, **more):
    """Writes an x2ct-text-1 file; `more` becomes further metadata (strings). With `made`, how the texts were encoded, and `reports`,
    their `of_reports`, the file records its provenance."""
    tensors = {
        "features": finite_rows("features", features, len(ids)),
        "prompts_positive": finite_rows("prompts_positive", prompts_positive, len(LABELS)),
        "prompts_negative": finite_rows("prompts_negative", prompts_negative, len(LABELS)),
    }
    metadata = {"encoder": encoder, "settings_digest": settings_digest, **more}
    if made is not None:
        rows = (piece for row in zip(ids, tensors["features"]) for piece in row)
        prompts = (tensors["prompts_positive"], tensors["prompts_negative"])
        digest = content_digest("text features", (str(tensors["features"].shape[1]), *rows, *prompts))
        made = {"encoder": encoder, "settings_digest": settings_digest, **made}
        metadata["provenance"] = json.dumps(provenance(digest, len(ids), made, reports=reports))
    write_archive(path, "x2ct-text-1", ids, metadata, tensors)


def write_prompts(path, names, sentences, positive, negative, teacher, checkpoint_digest, made=None):
    """Writes an x2ct-prompts-1 file: of each label its name, its sentences and one row of each kind. With `made`, how the texts were
    encoded, the file records its provenance."""
    tensors = {"negative": unit_rows("negative", negative, len(names)), "positive": unit_rows("positive", positive, len(names))}
    pairs = json.dumps([{"positive": p, "negative": n} for p, n in sentences])
    metadata = {"sentences": pairs, "teacher": teacher, "checkpoint_digest": checkpoint_digest}
    if made is not None:
        digest = content_digest("prompts", (str(tensors["positive"].shape[1]), *names, tensors["positive"], tensors["negative"]))
        made = {"teacher": teacher, "checkpoint": checkpoint_digest, **made}
        metadata["provenance"] = json.dumps(provenance(digest, len(names), made))
    write_archive(path, "x2ct-prompts-1", names, metadata, tensors, "names")


def write_archive(path, form, ids, metadata, tensors, key="ids"):
    from safetensors.numpy import save

    if len(set(ids)) != len(ids) or not ids:
        raise Refused(f"{key} must be distinct and at least one")
    metadata = {"format": form, key: json.dumps(list(ids)), **metadata}
    metadata["checksum"] = checksum(metadata, tensors)
    write_atomic(path, save(tensors, metadata=metadata))
