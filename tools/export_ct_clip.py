#!/usr/bin/env python3
"""Embeds CT-RATE volumes and reports with the public CT-CLIP and writes an x2ct embedding cache.

    python3 tools/export_ct_clip.py --ct-rate ROOT --split valid --hu-source fixed --checkpoint CT-CLIP_v2.pt --out valid.safetensors

ROOT is the folder that holds `dataset/`. Needs torch, nibabel, safetensors, blake3, transformers 4.x, and the packages
transformer_maskgit and ct_clip of the CT-CLIP repository. Finished volumes are kept in OUT.parts/, so a run that was stopped
continues where it was; delete that folder once the cache is written. A volume that cannot be read is named and left out, and the
exit status is then 1. The file format is described in src/data/cache.rs. Each volume's CT is recorded by its digest, unless its header
contradicts itself or its voxels are of an unusual type: radiographs of other CTs are then refused by `x2ct train`.

With --prompts FILE.toml only the prompts of that file are embedded, and --out is an x2ct-prompts-1 file for `x2ct eval zero-shot` (both
forms: src/data/prompts.rs; Python 3.11 or the package tomli reads TOML):

    python3 tools/export_ct_clip.py --prompts my.toml --checkpoint CT-CLIP_v2.pt --out my.prompts.safetensors

With --text-features FILE the text encoder's own features of the reports, before CT-CLIP's projection, are written as well, for
training a DCFormer on them (format: src/data/text.rs).
"""

import argparse
import csv
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from ct_clip_prompts import WORDINGS, ensemble, read_prompts
from x2ct_files import (
    LABELS, Refused, blake3_of, blake3_of_file, content_digest, of_reports, write_atomic, write_cache, write_prompts, write_text_features,
)

TEXT_MODEL = "microsoft/BiomedVLP-CXR-BERT-specialized"
SPACING = (1.5, 0.75, 0.75)  # z, x, y in mm
SIZE = (480, 480, 240)  # x, y, z voxels


# ---- prompts --------------------------------------------------------------------------------------------------------------------


def export_prompts(args, teacher, checkpoint_digest):
    names, sentences = read_prompts(args.prompts)
    positive, negative = (np.stack([ensemble(teacher.texts(pair[kind])) for pair in sentences]) for kind in (0, 1))
    made = {"text_model": TEXT_MODEL}
    write_prompts(args.out, names, sentences, positive, negative, "CT-CLIP", checkpoint_digest, made)
    print(f"wrote {args.out}: {len(names)} labels by {sum(len(p) + len(n) for p, n in sentences)} sentences")


# ---- CT-RATE --------------------------------------------------------------------------------------------------------------------


def table(root, names, columns):
    """Rows of a CSV table by volume name, from the first of the places it may have."""
    places = [Path(root) / base / name for base in ("dataset", "") for name in names]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        raise Refused(f"{places[0]}: no such table; --ct-rate must be the folder that holds dataset/")
    csv.field_size_limit(1 << 24)
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [c for c in columns if c not in (reader.fieldnames or [])]
        if missing:
            raise Refused(f"{path}: missing columns: {', '.join(missing)}")
        return {row["VolumeName"]: row for row in reader}


def report_text(row):
    """Findings and impressions, "Not given." left out, the characters "'() deleted; an empty cell is empty."""
    parts = ((row[c] or "") for c in ("Findings_EN", "Impressions_EN"))
    text = "".join(part for part in parts if part != "Not given.")
    return text.translate(str.maketrans("", "", "\"'()"))


def volume_path(root, split, hu_source, name):
    fields = name.removesuffix(".nii.gz").split("_")
    folder = split + ("_fixed" if hu_source == "fixed" else "")
    return Path(root) / "dataset" / folder / "_".join(fields[:2]) / "_".join(fields[:3]) / name


def volumes(args):
    """(file name, report text, metadata row) of every volume that has a report, in the order of the metadata table."""
    long_name = {"train": "train", "valid": "validation"}[args.split]
    reports = table(
        args.ct_rate,
        [f"radiology_text_reports/{long_name}_reports.csv"],
        ["VolumeName", "Findings_EN", "Impressions_EN"],
    )
    metadata = table(
        args.ct_rate,
        [f"metadata/{long_name}_metadata.csv"],
        ["VolumeName", "RescaleSlope", "RescaleIntercept", "XYSpacing", "ZSpacing"],
    )
    found = [(name, report_text(reports[name]), row) for name, row in metadata.items() if name in reports]
    if not found:
        raise Refused("no volume of the metadata table has a report")
    return found[: args.limit] if args.limit else found


def spacing(row):
    """Millimetres in plane and between slices by the metadata table."""
    xy = float(row["XYSpacing"].strip().strip("[]()").split(",")[0])
    z = float(row["ZSpacing"] or "nan")
    return xy, z if z > 0 else xy


def voxels_of(image):
    """Stored voxels as x2ct keeps them: int16 where all values are such integers, else float32; None for other types."""
    stored = np.asanyarray(image.dataobj.get_unscaled())
    if stored.ndim != 3 or stored.dtype.kind not in "iuf" or stored.dtype.itemsize > (8 if stored.dtype.kind == "f" else 4):
        return None
    if stored.dtype.kind == "f":
        return stored.astype("<f4") if np.isfinite(stored).all() else None
    fits = stored.min() >= -32768 and stored.max() <= 32767
    return stored.astype("<i2" if fits else "<f4")


def header_affine(image):
    """The affine of a NIfTI-1 header whose forms agree, as they do in files of one writer; None where x2ct has a rule to apply."""
    header = image.header
    sform, codes = np.array([header["srow_x"], header["srow_y"], header["srow_z"]], np.float64), (header["sform_code"], header["qform_code"])
    sizes, edges = np.linalg.norm(sform[:, :3], axis=0), np.array(header["pixdim"][1:4], np.float64)
    if header["sizeof_hdr"] != 348 or int(header["xyzt_units"]) & 7 not in (0, 2) or not 1 <= codes[0] <= 5 or not 0 <= codes[1] <= 5:
        return None
    if not (edges > 0).all() or not (np.abs(sizes / edges - 1) < 0.009).all():
        return None
    if codes[1]:
        try:
            qform = header.get_qform()[:3, :3]
        except Exception:  # nibabel has several for a quaternion that is none.
            return None
        cosines = (sform[:, :3] / sizes * qform / np.linalg.norm(qform, axis=0)).sum(axis=0)
        if not (cosines > np.cos(np.radians(0.3))).all():
            return None
    return sform


def table_affine(shape, row):
    """The affine of a volume of the original release: the table's spacing, axes to the left, to the back and to the head."""
    xy, z = spacing(row)
    affine = np.zeros((3, 4))
    for axis, (direction, edge) in enumerate(((-1.0, xy), (-1.0, xy), (1.0, z))):
        affine[axis, axis] = direction * edge
        affine[axis, 3] = -direction * edge * (shape[axis] - 1.0) / 2.0
    return affine


def ct_digest(image, row, hu_source):
    """The digest of a CT's content as `of_ct` of src/data/provenance.rs; empty where this script is not sure of what x2ct reads."""
    voxels = voxels_of(image)
    affine = table_affine(image.shape, row) if hu_source == "csv" else header_affine(image)
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    if hu_source == "csv":
        slope, intercept = float(row["RescaleSlope"]), float(row["RescaleIntercept"])
    scaling = [np.float32(slope), np.float32(intercept)]
    # Others are written with an exponent in Rust.
    plain = all(v == 0 or 1e-4 <= abs(v) < 1e16 for v in scaling)
    if voxels is None or affine is None or not plain:
        return ""
    numbers = " ".join(np.format_float_positional(v, unique=True, trim="0") for v in scaling)
    return content_digest("CT", (voxels.tobytes(order="F"), f"{list(image.shape)} {numbers}", affine.astype("<f8").tobytes()))


def preprocess(image, row, hu_source):
    """A volume as CT-CLIP's inference code prepares it: [1, 240, 480, 480], HU / 1000 in [-1, 1], padded with -1.

    The resize runs in double precision, the new size is truncated after dividing the spacings, and the window is cut before it."""
    import torch

    stored = image.get_fdata()
    if stored.ndim != 3 or not np.isfinite(stored).all():
        raise ValueError(f"has shape {stored.shape} or values that are not finite")
    if hu_source == "csv":
        stored = float(row["RescaleSlope"]) * stored + float(row["RescaleIntercept"])
    xy, z = spacing(row)
    volume = torch.from_numpy(np.clip(stored, -1000, 1000).transpose(2, 0, 1).copy())
    size = [int(n * (now / wanted)) for n, now, wanted in zip(volume.shape, (z, xy, xy), SPACING)]
    if min(size) < 1:
        raise ValueError(f"shrinks to nothing: {tuple(volume.shape)} at {(z, xy, xy)} mm")
    volume = torch.nn.functional.interpolate(volume[None, None], size=size, mode="trilinear", align_corners=False)[0, 0]
    volume = (volume.permute(1, 2, 0) / 1000).float()
    margins = []
    for axis, wanted in enumerate(SIZE):
        start = max((volume.shape[axis] - wanted) // 2, 0)
        volume = volume.narrow(axis, start, min(wanted, volume.shape[axis]))
        before = (wanted - volume.shape[axis]) // 2
        margins = [before, wanted - volume.shape[axis] - before] + margins
    volume = torch.nn.functional.pad(volume, margins, value=-1.0)
    return volume.permute(2, 0, 1)[None].contiguous()


def description(args):
    """What was done to volumes and texts, as the text whose BLAKE3 is the preprocessing digest."""
    settings = {
        "pipeline": "ct-clip-v2-inference",
        "hu_source": args.hu_source,
        "window_hu": [-1000, 1000],
        "window_cut": "before resize",
        "spacing_zxy_mm": SPACING,
        "size_xyz": SIZE,
        "pad": -1,
        "text": "findings+impressions, Not given. dropped, quotes and parentheses deleted",
        "text_model": TEXT_MODEL,
        "prompts": WORDINGS[args.wording],
    }
    return json.dumps(settings, sort_keys=True)


# ---- the teacher ----------------------------------------------------------------------------------------------------------------


class CtClip:
    """The public model, its two towers called separately so that a report or prompt is encoded once."""

    def __init__(self, checkpoint, device):
        import torch

        try:
            from ct_clip import CTCLIP
            from transformer_maskgit import CTViT
            from transformers import BertModel, BertTokenizer
        except ImportError as e:
            raise Refused(f"{e.name} is missing: install transformers and both packages of the CT-CLIP repository") from None
        self.torch, self.device = torch, device
        self.tokenizer = BertTokenizer.from_pretrained(TEXT_MODEL, do_lower_case=True)
        text_encoder = BertModel.from_pretrained(TEXT_MODEL)
        text_encoder.resize_token_embeddings(len(self.tokenizer))
        image_encoder = CTViT(
            dim=512, codebook_size=8192, image_size=480, patch_size=20, temporal_patch_size=10,
            spatial_depth=4, temporal_depth=4, dim_head=32, heads=8,
        )
        self.model = CTCLIP(
            image_encoder=image_encoder, text_encoder=text_encoder, dim_image=294912, dim_text=768, dim_latent=512,
            extra_latent_projection=False, use_mlm=False, downsample_image_embeds=False, use_all_token_embeds=False,
        )
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        # A buffer of older transformers versions; newer ones compute it.
        position_ids = "text_transformer.embeddings.position_ids"
        if position_ids not in self.model.state_dict():
            state.pop(position_ids, None)
        try:
            self.model.load_state_dict(state)
        except RuntimeError as e:
            raise Refused(f"{checkpoint}: not a CT-CLIP checkpoint for the installed packages: {str(e)[:300]}") from None
        self.model.eval().to(device)

    def unit(self, rows):
        return self.torch.nn.functional.normalize(rows.double(), dim=-1).float().cpu().numpy()

    def hidden(self, texts):
        """The last hidden state at [CLS]: [texts, 768]."""
        tokens = self.tokenizer(list(texts), return_tensors="pt", padding="max_length", truncation=True, max_length=512)
        tokens = tokens.to(self.device)
        with self.torch.inference_mode():
            return self.model.text_transformer(tokens.input_ids, attention_mask=tokens.attention_mask)[0][:, 0]

    def features(self, texts):
        return self.hidden(texts).float().cpu().numpy()

    def texts(self, texts):
        with self.torch.inference_mode():
            return self.unit(self.model.to_text_latent(self.hidden(texts)))

    def volume(self, volume):
        with self.torch.inference_mode():
            tokens = self.model.visual_transformer(volume[None].to(self.device), return_encoded_tokens=True)
            return self.unit(self.model.to_visual_latent(tokens.mean(dim=1).flatten(1)))[0]


# ---- the run --------------------------------------------------------------------------------------------------------------------


class Prepared:
    """A torch dataset: (position, volume or the error that stopped it, digest of the CT)."""

    def __init__(self, args, todo):
        self.args, self.todo = args, todo

    def __len__(self):
        return len(self.todo)

    def __getitem__(self, i):
        import nibabel

        name, _, row = self.todo[i]
        hu_source = self.args.hu_source
        try:
            image = nibabel.load(str(volume_path(self.args.ct_rate, self.args.split, hu_source, name)))
            return i, preprocess(image, row, hu_source), ct_digest(image, row, hu_source)
        except Exception as e:  # One bad volume must not end a run of days; it is named and counted.
            return i, f"{type(e).__name__}: {e}", ""


def read_parts(folder, settings):
    """Embeddings of earlier runs by file name, after making sure that they were made with the same settings."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "settings.json"
    if not note.exists():
        write_atomic(note, json.dumps(settings, indent=1).encode())
    elif (before := json.loads(note.read_text())) != settings:
        changed = ", ".join(k for k in settings if before.get(k) != settings[k])
        raise Refused(f"{folder} was made with another {changed}; delete it or choose another --out")
    done = {}
    for part in sorted(folder.glob("*.npz")):
        with np.load(part) as stored:
            names = stored["names"].tolist()
            # Parts of earlier versions are without.
            cts = stored["cts"].tolist() if "cts" in stored else [""] * len(names)
            done.update((name, (stored["ct"][i], stored["report"][i], cts[i])) for i, name in enumerate(names))
    return done


def run(args, teacher, checkpoint_digest):
    """Embeds what is missing, writes the cache, returns the number of volumes left out."""
    from torch.utils.data import DataLoader

    wanted = volumes(args)
    text = description(args)
    digest = blake3_of([text.encode()])
    parts = Path(f"{args.out}.parts")
    done = read_parts(parts, {"split": args.split, "checkpoint_digest": checkpoint_digest, "preprocessing_digest": digest})
    todo = [v for v in wanted if v[0] not in done]
    print(f"{len(wanted)} volumes, {len(wanted) - len(todo)} already embedded")
    failed, fresh = [], {}

    def save_part():
        if fresh:
            # Named by content: a run that covers the same volumes again replaces its part.
            names = list(fresh)
            name = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
            with tempfile.TemporaryFile() as file:
                ct, report = (np.stack([fresh[n][part] for n in names]) for part in (0, 1))
                np.savez(file, names=names, ct=ct, report=report, cts=[fresh[n][2] for n in names])
                file.seek(0)
                write_atomic(parts / f"{name}.npz", file.read())
            done.update(fresh)
            fresh.clear()

    loader = DataLoader(Prepared(args, todo), batch_size=None, num_workers=args.workers)
    for i, volume, ct in loader:
        name, report, _ = todo[i]
        if isinstance(volume, str):
            failed.append(name)
            print(f"left out {name}: {volume}", file=sys.stderr)
            continue
        fresh[name] = (teacher.volume(volume), teacher.texts([report])[0], ct)
        if len(fresh) == args.part_size:
            save_part()
            print(f"{len(wanted) - len(todo) + i + 1} of {len(wanted)}", flush=True)
    save_part()

    names = [v[0] for v in wanted if v[0] in done]
    if not names:
        raise Refused("no volume could be embedded")
    positive, negative = (teacher.texts([wording.format(p) for p in LABELS]) for wording in WORDINGS[args.wording])
    ids, texts = [n.removesuffix(".nii.gz") for n in names], {v[0]: v[1] for v in wanted}
    write_cache(
        args.out,
        ids,
        np.stack([done[n][0] for n in names]),
        np.stack([done[n][1] for n in names]),
        positive,
        negative,
        teacher="CT-CLIP",
        checkpoint_digest=checkpoint_digest,
        preprocessing_digest=digest,
        preprocessing=text,
        settings=json.loads(text),
        reports=of_reports(ids, [texts[n] for n in names]),
        cts=[done[n][2] for n in names],
    )
    print(f"wrote {args.out}: {len(names)} volumes, {len(failed)} left out")
    if args.text_features:
        export_text_features(args, teacher, checkpoint_digest, [v for v in wanted if v[0] in done])
    return len(failed)


def export_text_features(args, teacher, checkpoint_digest, wanted, batch=16):
    """What DCFormer's text side starts from, with its prompts; minutes where the volumes take days, so nothing is kept between."""
    made = {
        "text": "findings+impressions, Not given. dropped, quotes and parentheses deleted",
        "text_model": TEXT_MODEL,
        "checkpoint_digest": checkpoint_digest,
        "prompts": WORDINGS["is-present"],
    }
    settings = json.dumps(made, sort_keys=True)
    ids = [v[0].removesuffix(".nii.gz") for v in wanted]
    features = [teacher.features([v[1] for v in wanted[i : i + batch]]) for i in range(0, len(wanted), batch)]
    positive, negative = (teacher.features([wording.format(p) for p in LABELS]) for wording in WORDINGS["is-present"])
    write_text_features(
        args.text_features,
        ids,
        np.concatenate(features),
        positive,
        negative,
        encoder="CXR-BERT as trained by CT-CLIP, [CLS]",
        settings_digest=blake3_of([settings.encode()]),
        settings=settings,
        made=made,
        reports=of_reports(ids, [v[1] for v in wanted]),
    )
    print(f"wrote {args.text_features}: {len(wanted)} reports")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct-rate", type=Path, help="folder that holds dataset/")
    parser.add_argument("--split", choices=["train", "valid"])
    parser.add_argument("--hu-source", choices=["csv", "fixed"],
                        help="csv: original volumes, rescaled by the metadata table; fixed: train_fixed/valid_fixed, already HU")
    parser.add_argument("--checkpoint", required=True, type=Path, help="CT-CLIP_v2.pt")
    parser.add_argument("--out", required=True, type=Path, help="the cache or prompts to write (.safetensors)")
    parser.add_argument("--prompts", type=Path, metavar="FILE.toml", help="embed these prompts, and nothing of --ct-rate")
    parser.add_argument("--text-features", type=Path, metavar="FILE", help="also write the text encoder's features of the reports")
    parser.add_argument("--wording", choices=sorted(WORDINGS), default="there-is", help="prompt wording (default: %(default)s)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=4, help="processes that read volumes (default: %(default)s)")
    parser.add_argument("--part-size", type=int, default=64, help="volumes between two saves (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=0, help="only the first volumes, to try it out")
    args = parser.parse_args()
    of_data = {"--ct-rate": args.ct_rate, "--split": args.split, "--hu-source": args.hu_source, "--text-features": args.text_features}
    given = [option for option, value in of_data.items() if value is not None]
    if args.prompts and given:
        parser.error(f"--prompts embeds no data set: leave out {', '.join(given)}")
    if missing := [o for o in ("--ct-rate", "--split", "--hu-source") if o not in given and not args.prompts]:
        parser.error(f"give {', '.join(missing)}, or --prompts")
    try:
        for out in filter(None, (args.out, args.text_features)):
            if not out.absolute().parent.is_dir():
                raise Refused(f"{out.absolute().parent}: no such folder")
        if not args.checkpoint.is_file():
            raise Refused(f"{args.checkpoint}: no such checkpoint")
        # A wrong file or folder should not cost the minutes that loading the model takes.
        read_prompts(args.prompts) if args.prompts else volumes(args)
        digest = blake3_of_file(args.checkpoint)
        if args.prompts:
            export_prompts(args, CtClip(args.checkpoint, args.device), digest)
            return 0
        return 1 if run(args, CtClip(args.checkpoint, args.device), digest) else 0
    except Refused as e:
        print(f"export_ct_clip.py: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
