//! Opening devices: what is there opens, what is not says why.

use std::collections::HashSet;

use x2ct::Device;
use x2ct::device::ThreadOrder;
use x2ct::kernels::{FAMILIES, Grid, pointwise, probe};
use x2ct::tensor::{DType, Tensor};

use crate::support::{devices, host, normal};

fn refusal(text: &str) -> String {
    Device::parse(text).expect_err("not a device here").to_string()
}

#[test]
fn names_that_are_no_device_are_refused() {
    for text in ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "cuda:1.0", "Host", "cuda:99999999999999999999999"] {
        let message = refusal(text);
        assert!(message.contains("no such device; use host, cuda:N (cuda:0 is the first) or auto"), "{message}");
    }
}

#[test]
fn a_cuda_device_opens_or_says_why_not() {
    for (text, ordinal) in [("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:99", "cuda:99")] {
        match Device::parse(text) {
            Ok(device) => assert_eq!(device.name(), ordinal),
            Err(why) => {
                let message = why.to_string();
                let reasons = [
                    "the NVIDIA driver (libcuda.so.1) was not found; install driver 580 or newer, or use the device host",
                    "this build needs CUDA 13.0; update the driver to 580 or newer",
                    "the CUDA driver does not start",
                    "no such device: ",
                    "holds no CUDA kernels, because nvcc was not found when it was built; `x2ct doctor` prints the command",
                    "this build holds kernels for",
                    "this build has no CUDA support; build with the feature `cuda`",
                ];
                assert!(message.starts_with(&format!("{ordinal}: ")), "{message}");
                assert!(reasons.iter().any(|reason| message.contains(reason)), "{message}");
            }
        }
    }
}

#[test]
fn counting_devices_agrees_with_opening_one() {
    match Device::cuda_count() {
        Ok(count) => {
            assert!(count > 0);
            assert!(refusal(&format!("cuda:{count}")).contains("no such device: "));
        }
        Err(why) => {
            println!("no CUDA device: {why}");
            assert!(Device::parse("cuda:0").is_err());
        }
    }
    assert!(!Device::auto().expect("the host is always there").description().is_empty());
}

#[test]
fn a_grid_no_gpu_takes_is_refused_everywhere() {
    for (name, device) in devices() {
        let x = Tensor::from_slice(&device, [64], DType::F32, &normal(1, 64)).unwrap();
        let params =
            pointwise::PointwiseParams { a: x.ptr(), b: x.ptr(), out: x.ptr(), n: 0, factor: 0.0, accumulate: 0 };
        for grid in [[0, 1, 1], [1, 65536, 1], [1, 1, 65536], [u32::MAX, 1, 1]] {
            // Safety: refused before anything runs; with n = 0 nothing would be touched either.
            let error = unsafe { pointwise::SCALE.launch(device.launcher(), DType::F32, Grid(grid), &params) };
            let message = error.expect_err("refused").to_string();
            assert!(
                message.contains("scale_f32") && message.contains("blocks cannot be launched"),
                "{name}: {message}"
            );
        }
    }
}

#[test]
fn what_cannot_be_recorded_is_an_error_and_the_device_goes_on() {
    for (name, device) in devices() {
        let x = Tensor::from_slice(&device, [64], DType::F32, &normal(2, 64)).unwrap();
        let refused = |work: &dyn Fn() -> x2ct::Result<()>| {
            let error = device.capture(work).err().expect("refused").to_string();
            assert!(error.contains("cannot be recorded"), "{name}: {error}");
        };
        refused(&|| device.alloc(16, "buffer").map(|_| ()));
        refused(&|| x.to_vec().map(|_| ()));
        refused(&|| device.synchronize());
        refused(&|| device.record().map(|_| ()));
        device.synchronize().unwrap();
        assert_eq!(x.to_vec().unwrap(), normal(2, 64), "{name}");
    }
}

#[test]
fn copies_of_any_length_arrive() {
    // Around the size of the staging buffers of a CUDA device, and far from it.
    for (name, device) in devices() {
        for bytes in [1usize, 3, 4 << 20, (4 << 20) + 1, (9 << 20) + 7] {
            let data: Vec<u8> = (0..bytes).map(|i| (i * 31 + i / 251) as u8).collect();
            let a = device.alloc(bytes, "a").unwrap();
            let b = device.alloc(bytes, "b").unwrap();
            a.upload(0, &data).unwrap();
            b.copy_from(0, &a, 0, bytes).unwrap();
            a.fill(0, bytes, 0).unwrap();
            let mut back = vec![1; bytes];
            b.download(0, &mut back).unwrap();
            assert!(back == data, "{name}: {bytes} bytes");
            a.download(0, &mut back).unwrap();
            assert!(back.iter().all(|&byte| byte == 0), "{name}: {bytes} bytes");
        }
    }
}

#[test]
fn overlapping_copies_are_refused() {
    let buffer = host(ThreadOrder::Forward).alloc(16, "buffer").unwrap();
    assert!(buffer.copy_from(4, &buffer, 0, 8).unwrap_err().to_string().contains("overlap"));
    buffer.copy_from(8, &buffer, 0, 8).unwrap();
}

#[test]
fn queues_of_one_device_wait_for_each_other() {
    for (name, device) in devices() {
        let other = device.new_stream().unwrap();
        assert!(device.same_memory(&other));
        let x = Tensor::from_slice(&device, [64], DType::F32, &normal(3, 64)).unwrap();
        let out = Tensor::zeros(&device, [64], DType::F32, "out").unwrap();
        other.wait_for(&device.record().unwrap()).unwrap();
        let params = probe::ProbeParams { input: x.ptr(), out: out.ptr(), n: 64, key0: 0, key1: 0 };
        // Safety: both tensors are live until the first queue has waited for the second.
        unsafe { probe::launch(other.launcher(), &probe::REVERSE, 1, &params).unwrap() };
        let done = other.record().unwrap();
        device.wait_for(&done).unwrap();
        let reversed: Vec<f32> = normal(3, 64).into_iter().rev().collect();
        assert_eq!(out.to_vec().unwrap(), reversed, "{name}");
        assert!(device.record().unwrap().seconds_since(&done).unwrap() >= 0.0);
    }
}

/// Every kernel and its table of constants is in every target of its fatbin.
#[test]
fn every_fatbin_holds_every_kernel() {
    for family in FAMILIES {
        let Some(fatbin) = family.fatbin else {
            println!("SKIPPED: built without nvcc");
            return;
        };
        let targets = elf_images(fatbin);
        assert!(!targets.is_empty(), "{}.fatbin has no machine code", family.name);
        for elf in targets {
            let symbols: HashSet<&[u8]> = elf.split(|&byte| byte == 0).collect();
            for entry in family.entries {
                for name in [entry.name.to_string(), format!("{}_config", entry.name)] {
                    assert!(symbols.contains(name.as_bytes()), "a target of {}.fatbin has no {name}", family.name);
                }
            }
        }
    }
}

/// The machine code in a fatbin, one image a target. A header of 16 bytes, then parts: kind (2 is ELF), the length of
/// the part's own header, and that of its content.
fn elf_images(fatbin: &[u8]) -> Vec<&[u8]> {
    let number = |at: usize, bytes: usize| {
        fatbin[at..at + bytes].iter().rev().fold(0usize, |value, &byte| value << 8 | byte as usize)
    };
    assert_eq!(number(0, 4), 0xba55_ed50, "not a fatbin");
    let mut images = Vec::new();
    let mut at = 16;
    while at < fatbin.len() {
        let (kind, header, content) = (number(at, 2), number(at + 4, 4), number(at + 8, 8));
        let image = &fatbin[at + header..at + header + content];
        if kind == 2 {
            assert!(image.starts_with(b"\x7fELF"), "machine code is stored compressed: names cannot be looked for");
            images.push(image);
        }
        at += header + content;
    }
    images
}
