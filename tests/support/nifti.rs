//! NIfTI files built byte by byte.

use libdeflater::{CompressionLvl, Compressor};
use x2ct::ct::{CtVolume, Voxels, nifti};

/// A header with the fields the reader looks at; everything else is zero.
#[derive(Clone)]
pub struct File {
    pub version: u8,
    pub big: bool,
    pub dim: Vec<i64>,
    pub datatype: i16,
    pub bitpix: i16,
    pub pixdim: [f64; 4],
    pub slope: f64,
    pub intercept: f64,
    pub units: u8,
    pub qform_code: i16,
    pub sform_code: i16,
    pub quaternion: [f64; 3],
    pub qoffset: [f64; 3],
    pub srow: [[f64; 4]; 3],
    /// Voxels, in the file's byte order.
    pub data: Vec<u8>,
}

pub const ROWS: [[f64; 4]; 3] = [[-0.5, 0.0, 0.0, 10.0], [0.0, -0.5, 0.0, 20.0], [0.0, 0.0, 2.0, -30.0]];

impl File {
    /// 3 x 2 x 2 int16 voxels -1000, -999, ... in LPS.
    pub fn sample(version: u8, big: bool) -> File {
        let values = (0..12).map(|i| i - 1000i16);
        let data = values.flat_map(|v| if big { v.to_be_bytes() } else { v.to_le_bytes() }).collect();
        File {
            version,
            big,
            dim: vec![3, 3, 2, 2],
            datatype: 4,
            bitpix: 16,
            pixdim: [1.0, 0.5, 0.5, 2.0],
            slope: 1.0,
            intercept: 0.0,
            units: 2,
            qform_code: 0,
            sform_code: 1,
            quaternion: [0.0; 3],
            qoffset: [0.0; 3],
            srow: ROWS,
            data,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let two = self.version == 2;
        let mut out = vec![0u8; if two { 544 } else { 352 }];
        let mut put = |at: usize, mut le: Vec<u8>| {
            if self.big {
                le.reverse();
            }
            out[at..at + le.len()].copy_from_slice(&le);
        };
        let int = |v: i64| if two { v.to_le_bytes().to_vec() } else { (v as i16).to_le_bytes().to_vec() };
        let code = |v: i16| if two { i32::from(v).to_le_bytes().to_vec() } else { v.to_le_bytes().to_vec() };
        let real = |v: f64| if two { v.to_le_bytes().to_vec() } else { (v as f32).to_le_bytes().to_vec() };
        // (NIfTI-1 offset, NIfTI-2 offset), element sizes (2, 8), (2, 4) and (4, 8).
        let pick = |one: usize, other: usize| if two { other } else { one };
        put(0, (if two { 540i32 } else { 348 }).to_le_bytes().to_vec());
        for (i, &d) in self.dim.iter().enumerate() {
            put(pick(40 + 2 * i, 16 + 8 * i), int(d));
        }
        put(pick(70, 12), self.datatype.to_le_bytes().to_vec());
        put(pick(72, 14), self.bitpix.to_le_bytes().to_vec());
        for (i, &p) in self.pixdim.iter().enumerate() {
            put(pick(76 + 4 * i, 104 + 8 * i), real(p));
        }
        put(pick(108, 168), if two { 544i64.to_le_bytes().to_vec() } else { 352f32.to_le_bytes().to_vec() });
        put(pick(112, 176), real(self.slope));
        put(pick(116, 184), real(self.intercept));
        put(pick(123, 500), if two { i32::from(self.units).to_le_bytes().to_vec() } else { vec![self.units] });
        put(pick(252, 344), code(self.qform_code));
        put(pick(254, 348), code(self.sform_code));
        for i in 0..3 {
            put(pick(256 + 4 * i, 352 + 8 * i), real(self.quaternion[i]));
            put(pick(268 + 4 * i, 376 + 8 * i), real(self.qoffset[i]));
            for c in 0..4 {
                put(pick(280 + 16 * i + 4 * c, 400 + 32 * i + 8 * c), real(self.srow[i][c]));
            }
        }
        let magic: &[u8] = if two { b"n+2\0\r\n\x1a\n" } else { b"n+1\0" };
        let at = pick(344, 4);
        out[at..at + magic.len()].copy_from_slice(magic);
        out.extend(&self.data);
        out
    }

    pub fn read(&self) -> x2ct::Result<CtVolume> {
        nifti::read_bytes(&self.bytes(), "case.nii")
    }
}

pub fn sample_voxels() -> Voxels {
    Voxels::I16((0..12).map(|i| i - 1000).collect())
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut out = vec![0; compressor.gzip_compress_bound(bytes.len())];
    let length = compressor.gzip_compress(bytes, &mut out).expect("the bound is large enough");
    out.truncate(length);
    out
}

/// Asserts a one-line refusal that names the file and contains `text`.
#[track_caller]
pub fn refused(result: x2ct::Result<CtVolume>, text: &str) {
    let message = result.expect_err(text).to_string();
    assert!(message.starts_with("case.nii: ") && !message.contains('\n'), "{message}");
    assert!(message.contains(text), "{message:?} does not contain {text:?}");
}
