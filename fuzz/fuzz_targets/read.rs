//! Any bytes as a CT volume, of whatever format they look like: an error of one line, or a volume whose parts agree. The bytes
//! are also wrapped in sound gzip, since a mutation of compressed data rarely passes the checksum.
#![no_main]

use libdeflater::{CompressionLvl, Compressor};
use libfuzzer_sys::fuzz_target;
use x2ct::Error;
use x2ct::ct::radchest::Acquisition;
use x2ct::ct::{CtVolume, ReadOptions, read_bytes};

fn check(result: Result<CtVolume, Error>) {
    match result {
        Ok(volume) => {
            assert_eq!(volume.voxels.len(), volume.shape.iter().product::<usize>());
            assert!(volume.spacing().iter().all(|mm| mm.is_finite() && *mm > 0.0));
            assert!(volume.slope.is_finite() && volume.intercept.is_finite());
            assert!((0..volume.voxels.len()).all(|i| volume.voxels.get(i).is_finite()));
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let options = ReadOptions { radchest: Some(Acquisition { spacing: 0.8, slope: 1.0 }), ..ReadOptions::default() };
    check(read_bytes(bytes, "fuzz", &options));
    let mut compressor = Compressor::new(CompressionLvl::fastest());
    let mut packed = vec![0; compressor.gzip_compress_bound(bytes.len())];
    if let Ok(length) = compressor.gzip_compress(bytes, &mut packed) {
        check(read_bytes(&packed[..length], "fuzz", &options));
    }
});
