//! From a CT file's bytes to voxels, to CT-CLIP's input tensor and to the AP radiograph, all in memory; and how close the NIfTI
//! reader comes to libdeflate alone.
//!
//!     cargo run --release --example ingest -- chest_ct.nii.gz [RUNS]
//!
//! In turn, RUNS times: libdeflate into memory already in use (its best), libdeflate into new memory (what any reader needs at
//! least), the reader from the same bytes (header, checksums, voxels in place), and the reader with what follows it.

use std::time::Instant;

use libdeflater::Decompressor;
use x2ct::Device;
use x2ct::ct::{HuSource, Preset, RadiographOptions, ReadOptions, radiograph, read_bytes};
use x2ct::tensor::DType;

fn main() -> x2ct::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("usage: ingest FILE.nii.gz [RUNS]");
    let runs: usize = arguments.next().map_or(15, |text| text.parse().expect("RUNS is a number"));
    let bytes = std::fs::read(&path).map_err(|e| x2ct::Error::io(&path, "read", &e))?;
    let volume = read_bytes(&bytes, &path, &ReadOptions::default())?;
    let voxel = if matches!(volume.voxels, x2ct::ct::Voxels::I16(_)) { 2 } else { 4 };
    // The header and whatever extension it has come before the voxels.
    let length = volume.voxels.len() * voxel + 1024;
    drop(volume);

    let bare = |output: &mut [u8]| {
        Decompressor::new().gzip_decompress(&bytes, output).expect("one sound gzip member");
    };
    let mut warm = vec![1u8; length];
    let (device, preset) = (Device::host(), Preset::ct_clip_v2());
    let read = || read_bytes(&bytes, &path, &ReadOptions::default()).expect("read before");
    let tensor = || preset.apply(&device, &read(), HuSource::AlreadyHu, DType::F32).expect("a chest CT");
    let image = || radiograph(&device, &read(), &RadiographOptions::default()).expect("a chest CT");
    let mut times = [(); 5].map(|()| f64::INFINITY);
    for _ in 0..runs {
        let mut clock = |at: usize, work: &mut dyn FnMut()| {
            let begin = Instant::now();
            work();
            times[at] = times[at].min(begin.elapsed().as_secs_f64());
        };
        clock(0, &mut || bare(&mut warm));
        clock(1, &mut || bare(&mut vec![0u8; length]));
        clock(2, &mut || drop(read()));
        clock(3, &mut || drop(tensor()));
        clock(4, &mut || drop(image()));
    }
    let names = [
        "libdeflate, memory in use",
        "libdeflate, new memory",
        "x2ct::ct::read_bytes",
        "and CT-CLIP's tensor",
        "and the AP radiograph",
    ];
    for (name, time) in names.iter().zip(times) {
        println!("{name:28} {:7.1} ms  {:+5.1} %", time * 1e3, (time / times[0] - 1.0) * 100.0);
    }
    Ok(())
}
