"""Writes tests/dicom_files: small DICOM files in every transfer syntax, and what pydicom reads in them.

    pip install numpy pydicom pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg pyjpegls imagecodecs
    python tools/make_dicom_cases.py

Each file is one CT slice of 24 rows and 20 columns, the same in all lossless syntaxes, or two frames of an Enhanced CT.
`expected.json` has, by file, the values as pydicom decodes them with pylibjpeg (libjpeg, OpenJPEG), row by row; of radiographs
those that pydicom's rescaling and windowing make of them.
"""

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage, DeflatedExplicitVRLittleEndian, EnhancedCTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian,
    HTJ2KLossless, JPEG2000, JPEG2000Lossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1,
    JPEGLSLossless, RLELossless, DigitalXRayImageStorageForPresentation,
)

FOLDER = Path(__file__).parent.parent / "tests" / "dicom_files"
ROWS, COLUMNS = 24, 20


def slice_of(seed):
    """Stored values of 12 bits: a smooth body with noise, as CT is."""
    noise = np.random.default_rng(seed).normal(0, 12, (ROWS, COLUMNS))
    y, x = np.mgrid[:ROWS, :COLUMNS]
    body = 1024 * np.exp(-(((y - 11.5) / 9) ** 4) - ((x - 9.5) / 8) ** 4)
    return np.clip(np.rint(body + 20 + noise), 0, 4095)


def dataset(syntax, sop=CTImageStorage, modality="CT"):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = syntax, sop, "2.25.1"
    image = Dataset()
    image.file_meta, image.preamble = meta, b"\0" * 128
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = sop, "2.25.1", modality
    image.SeriesInstanceUID, image.StudyInstanceUID = "2.25.2", "2.25.3"
    image.Rows, image.Columns, image.SamplesPerPixel = ROWS, COLUMNS, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    return image


def store(image, name, data, bits=12, allocated=16, signed=False):
    """Compresses the values by the transfer syntax and writes the file."""
    image.BitsAllocated, image.BitsStored, image.HighBit = allocated, bits, bits - 1
    image.PixelRepresentation = int(signed)
    kind = {8: np.uint8, 16: np.int16 if signed else np.uint16}[allocated]
    frames = data.reshape(-1, ROWS, COLUMNS).astype(kind)
    syntax = image.file_meta.TransferSyntaxUID
    codec = {
        JPEGBaseline8Bit: lambda f: imagecodecs.jpeg8_encode(f, level=95),
        JPEGExtended12Bit: lambda f: imagecodecs.jpeg8_encode(f, level=95, bitspersample=12),
        JPEGLossless: lambda f: imagecodecs.jpeg8_encode(f, lossless=True, predictor=4, bitspersample=bits),
        JPEGLosslessSV1: lambda f: imagecodecs.jpeg8_encode(f, lossless=True, predictor=1, bitspersample=bits),
        JPEG2000Lossless: lambda f: imagecodecs.jpeg2k_encode(f, reversible=True, codecformat="j2k", bitspersample=bits),
        HTJ2KLossless: lambda f: imagecodecs.htj2k_encode(f, reversible=True),
        JPEG2000: lambda f: imagecodecs.jpeg2k_encode(f, level=50, codecformat="j2k", bitspersample=bits),
    }.get(syntax)
    if syntax in (RLELossless, JPEGLSLossless):
        image.PixelData = frames.tobytes()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.compress(syntax, generate_instance_uid=False)
    elif codec:
        image.PixelData = encapsulate([codec(frame) for frame in frames])
        image["PixelData"].VR = "OB"
    else:
        image.PixelData = (frames.byteswap() if syntax == ExplicitVRBigEndian else frames).tobytes()
        image["PixelData"].VR = "OW"
    image.save_as(FOLDER / name, enforce_file_format=True)
    return decoded(FOLDER / name)


def decoded(path):
    return pydicom.dcmread(path).pixel_array.astype(int)


def ct(syntax):
    image = dataset(syntax)
    image.ImagePositionPatient, image.ImageOrientationPatient = [10, 20, 30], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.RescaleSlope, image.RescaleIntercept = [0.5, 0.75], 1, -1024
    return image


def enhanced(syntax):
    """Two frames, the upper first; spacing and orientation shared, positions of each."""
    image = dataset(syntax, EnhancedCTImageStorage)
    image.ImageType, image.NumberOfFrames = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], 2
    measures, orientation, values = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 2.5
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024, "HU"
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.PixelValueTransformationSequence = [values]
    image.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for z in (32.5, 30):
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = [10, 20, z]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = frames
    return image


def radiograph(photometric):
    """A digital radiograph: MONOCHROME1 shows low values bright; a window that cuts both ends; a padded corner."""
    image = dataset(ExplicitVRLittleEndian, DigitalXRayImageStorageForPresentation, "DX")
    image.PhotometricInterpretation, image.ViewPosition = photometric, "PA"
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, 0, "US"
    image.WindowCenter, image.WindowWidth, image.PixelPaddingValue = [500.5, 300], [801, 900], 4095
    return image


def main():
    FOLDER.mkdir(exist_ok=True)
    values, expected = slice_of(1), {}
    lossless = {
        "deflated.dcm": DeflatedExplicitVRLittleEndian, "big_endian.dcm": ExplicitVRBigEndian, "rle.dcm": RLELossless,
        "jpeg_lossless.dcm": JPEGLossless, "jpeg_lossless_sv1.dcm": JPEGLosslessSV1,
        "jpeg_2000.dcm": JPEG2000Lossless, "jpeg_2000_ht.dcm": HTJ2KLossless, "jpeg_ls.dcm": JPEGLSLossless,
    }
    for name, syntax in lossless.items():
        found = store(ct(syntax), name, values)
        assert (found == values).all(), name
    expected["lossless"] = values.astype(int).ravel().tolist()
    found = store(ct(JPEG2000Lossless), "jpeg_2000_signed.dcm", values - 1024, 16, signed=True)
    assert (found == values - 1024).all()
    expected["jpeg_2000_signed.dcm"] = found.ravel().tolist()
    expected["jpeg_2000_lossy.dcm"] = store(ct(JPEG2000), "jpeg_2000_lossy.dcm", values).ravel().tolist()
    eight = np.clip(values / 8, 0, 255)
    expected["jpeg_baseline.dcm"] = store(ct(JPEGBaseline8Bit), "jpeg_baseline.dcm", eight, 8, 8).ravel().tolist()
    store(ct(JPEGExtended12Bit), "jpeg_extended_12_bits.dcm", values)
    both = np.stack([values, slice_of(2)])
    for name, syntax in {"enhanced_rle.dcm": RLELossless, "enhanced_jpeg_2000.dcm": JPEG2000Lossless}.items():
        found = store(enhanced(syntax), name, both)
        assert (found == both).all(), name
    expected["enhanced"] = both.astype(int).ravel().tolist()
    picture = values.copy()
    picture[:3, :3] = 4095
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        name = f"radiograph_{photometric.lower()}.dcm"
        image = radiograph(photometric)
        store(image, name, picture)
        stored = pydicom.dcmread(FOLDER / name)
        shown = pydicom.pixels.apply_voi_lut(pydicom.pixels.apply_rescale(stored.pixel_array, stored), stored, index=0)
        expected[name] = [round(float(v), 3) for v in shown.ravel()]
    (FOLDER / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
