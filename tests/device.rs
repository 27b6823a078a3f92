//! Opening devices: what is there opens, what is not says why.

use std::collections::HashMap;
use std::path::Path;

use x2ct::Device;
use x2ct::device::ThreadOrder;
use x2ct::kernels::{FAMILIES, Grid, Write, pointwise, probe};
use x2ct::ops::pointwise::{cast_into, copy_into, scale_into};
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

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
fn a_panic_in_what_is_recorded_ends_the_recording() {
    for (name, device) in devices() {
        let panicking = std::panic::AssertUnwindSafe(|| {
            let _ = device.capture(|| panic!("planted: the test expects it"));
        });
        std::panic::catch_unwind(panicking).expect_err("the panic passes through");
        // What would be refused while recording.
        let x = Tensor::from_slice(&device, [64], DType::F32, &normal(4, 64)).unwrap();
        device.synchronize().unwrap();
        let y = Tensor::empty(&device, [64], DType::F32, "y").unwrap();
        let graph = device.capture(|| copy_into(&x, &y, Write::Overwrite)).unwrap();
        // Safety: both tensors are live.
        unsafe { graph.replay().unwrap() };
        assert_eq!(y.to_vec().unwrap(), normal(4, 64), "{name}");
    }
}

/// The functions that write into a tensor they are given. `Device::host()` twice is two devices.
#[test]
fn destinations_that_cannot_hold_the_result_are_refused() {
    let elsewhere = Device::host();
    for (name, device) in devices() {
        let tensor = |device: &Device, n: usize, dtype| Tensor::from_slice(device, [n], dtype, &vec![1.0; n]).unwrap();
        let source = tensor(&device, 64, DType::F32);
        let refused = |destination: &Tensor, says: &str| {
            let before = destination.to_vec().unwrap();
            let scale = |s: &Tensor, d: &Tensor, write| scale_into(2.0, s, d, write);
            let all: [&dyn Fn(&Tensor, &Tensor, Write) -> x2ct::Result<()>; 3] = [&copy_into, &cast_into, &scale];
            for (i, into) in all.into_iter().enumerate() {
                for write in [Write::Overwrite, Write::Accumulate] {
                    let message = into(&source, destination, write).expect_err("refused").to_string();
                    assert!(message.contains(says), "{name}, function {i}: {message}");
                }
            }
            assert_eq!(destination.to_vec().unwrap(), before, "{name}");
        };
        refused(&tensor(&elsewhere, 64, DType::F32), "put all tensors on one device");
        refused(&tensor(&device, 63, DType::F32), "use tensors of one size");
        refused(&tensor(&device, 65, DType::F32), "use tensors of one size");
        let half = tensor(&device, 63, DType::Bf16);
        assert!(cast_into(&source, &half, Write::Overwrite).unwrap_err().to_string().contains("of one size"));
        assert!(copy_into(&source, &half, Write::Overwrite).unwrap_err().to_string().contains("of one type"));
        let half = tensor(&elsewhere, 64, DType::Bf16);
        assert!(cast_into(&source, &half, Write::Overwrite).unwrap_err().to_string().contains("on one device"));
        let (a, b) = (source.view(0, [40]).unwrap(), source.view(24, [40]).unwrap());
        assert!(copy_into(&a, &b, Write::Overwrite).unwrap_err().to_string().contains("overlaps"));
        // Onto itself, a scale in place; and another shape of one size.
        scale_into(2.0, &a, &a, Write::Overwrite).unwrap();
        copy_into(&a, &a, Write::Accumulate).unwrap();
        copy_into(&b.reshape([2, 20]).unwrap(), &source.view(0, [40]).unwrap().rows(0, 40).unwrap(), Write::Overwrite)
            .expect_err("the same elements in part");
        assert_eq!(a.to_vec().unwrap(), [4.0; 40], "{name}");
    }
}

/// What is written is queued where the destination's next reader queues: with the source's memory at rest, no wait is missing.
#[test]
fn what_is_written_is_ordered_by_the_destinations_queue() {
    for (name, device) in devices() {
        let other = device.new_stream().unwrap();
        let n = 1 << 20;
        let source = Tensor::from_slice(&device, [n], DType::F32, &normal(5, n)).unwrap();
        device.synchronize().unwrap();
        let (y, z) = (
            Tensor::zeros(&other, [n], DType::F32, "y").unwrap(),
            Tensor::zeros(&other, [n], DType::Bf16, "z").unwrap(),
        );
        for _ in 0..4 {
            copy_into(&source, &y, Write::Accumulate).unwrap();
            scale_into(4.0, &source, &y, Write::Accumulate).unwrap();
        }
        cast_into(&source, &z, Write::Overwrite).unwrap();
        let want: Vec<f64> = normal(5, n).iter().map(|&v| 20.0 * v as f64).collect();
        assert_close(&name, &y.to_vec().unwrap(), &want, 1e-6);
        let want: Vec<f64> = round_bf16(&normal(5, n)).iter().map(|&v| v as f64).collect();
        assert_close(&name, &z.to_vec().unwrap(), &want, 0.0);
    }
}

/// A stand-in for one of NVIDIA's libraries, compiled in `folder` under the only name its packages have; `None`, said, where
/// there is no compiler.
#[cfg(all(feature = "cuda", unix))]
fn stand_in(folder: &Path, library: &str, source: &str) -> Option<()> {
    std::fs::write(folder.join("stand_in.c"), source).unwrap();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let mut words = compiler.split_whitespace();
    let output = std::process::Command::new(words.next().unwrap_or("c++"))
        .args(words)
        .args(["-x", "c", "-shared", "-fPIC", "stand_in.c", "-o", library])
        .current_dir(folder)
        .output();
    match output {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            println!("SKIPPED: {compiler}: {error}");
            return None;
        }
    }
    Some(())
}

/// What a test of this binary prints in a process that looks for libraries in `folder`.
#[cfg(all(feature = "cuda", unix))]
fn printed_with_libraries(folder: &Path, test: &str) -> String {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder)
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

#[cfg(all(feature = "cuda", unix))]
#[test]
fn nccl_is_found_by_the_name_its_packages_have() {
    let folder = tempfile::tempdir().unwrap();
    let source = "int ncclGetUniqueId(char* id) { for (int i = 0; i < 128; ++i) id[i] = (char)(i + 1); return 0; }\n\
        int ncclCommInitRank(void) { return 5; }\nint ncclCommDestroy(void) { return 0; }\n\
        int ncclAllGather(void) { return 0; }\nint ncclAllReduce(void) { return 0; }\n\
        const char* ncclGetErrorString(int code) { return code == 5 ? \"planted\" : \"?\"; }\n";
    if stand_in(folder.path(), "libnccl.so.2", source).is_some() {
        let text = printed_with_libraries(folder.path(), "device::prints_an_nccl_id");
        assert!(text.contains("id: [1, 2, 3"), "{text}");
    }
}

#[cfg(all(feature = "cuda", unix))]
#[test]
#[ignore = "run by the test above, in a process of its own"]
fn prints_an_nccl_id() {
    println!("id: {:?}", x2ct::collective::Nccl::unique_id().unwrap());
}

#[cfg(all(feature = "cuda", unix))]
#[test]
fn profiler_ranges_are_found_by_the_name_of_cuda_13() {
    let folder = tempfile::tempdir().unwrap();
    let source = "#include <stdio.h>\nint nvtxRangePushA(const char* name) { return fprintf(stderr, \"range %s\\n\", name); }\n\
        int nvtxRangePop(void) { return fprintf(stderr, \"end of range\\n\"); }\n";
    if stand_in(folder.path(), "libnvtx3interop.so.1", source).is_some() {
        let text = printed_with_libraries(folder.path(), "device::adds_on_the_tape");
        assert!(text.contains("range add") && text.contains("end of range"), "{text}");
    }
}

#[cfg(all(feature = "cuda", unix))]
#[test]
#[ignore = "run by the test above, in a process of its own"]
fn adds_on_the_tape() {
    let tape = x2ct::autograd::Tape::inference();
    let x = Tensor::zeros(&host(ThreadOrder::Forward), [4], DType::F32, "x").unwrap();
    let x = tape.constant(&x);
    tape.apply(x2ct::ops::pointwise::Add, &[&x, &x]).unwrap();
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

/// Every kernel is in every target of its fatbin, and the constants that a CUDA device reads beside it are those of the
/// host build.
#[test]
fn every_target_holds_every_kernel_and_its_constants() {
    let Some(nvcc) = option_env!("X2CT_NVCC") else {
        println!("SKIPPED: built without nvcc");
        return;
    };
    let cuobjdump = Path::new(nvcc).with_file_name("cuobjdump");
    if !cuobjdump.exists() {
        println!("SKIPPED: {} does not exist", cuobjdump.display());
        return;
    }
    let targets = option_env!("X2CT_CUDA_TARGETS").unwrap_or_default();
    if targets.split(',').all(|target| target.starts_with("compute_")) {
        println!("SKIPPED: built with PTX alone, for {targets}");
        return;
    }
    let host = Device::host();
    for family in FAMILIES {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kernels.fatbin"), family.fatbin.expect("built with nvcc")).unwrap();
        let output = std::process::Command::new(&cuobjdump)
            .args(["-xelf", "all", "kernels.fatbin"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut targets = 0;
        for file in std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_none_or(|e| e != "cubin") {
                continue;
            }
            targets += 1;
            let elf = Elf(std::fs::read(&file).unwrap());
            let (symbols, alignments) = (elf.symbols(), elf.shared_alignments());
            for entry in family.entries {
                assert!(symbols.contains_key(entry.name), "{} has no {}", file.display(), entry.name);
                let table = &symbols[&format!("{}_config", entry.name)];
                let want = host.launcher().config(entry).unwrap();
                // These trap elsewhere and declare no shared memory there: it is more than other targets have.
                let absent = entry.name.starts_with("contrastive")
                    && entry.name.contains("wgmma")
                    && !file.to_string_lossy().contains("sm_90a");
                // Whole words of 16 bytes there, what is used here.
                let shared_bytes = if absent { 0 } else { want.shared_bytes.next_multiple_of(16) };
                let want = [
                    &[want.threads, want.min_blocks, shared_bytes][..],
                    &[want.params_bytes, want.cooperative],
                    &want.tile,
                ];
                let want: Vec<u8> = want.concat().iter().flat_map(|word| word.to_le_bytes()).collect();
                assert_eq!(table, &want, "{}: {}_config", file.display(), entry.name);
                // The tiles of wgmma are swizzled by their addresses.
                if entry.name.contains("wgmma") && file.to_string_lossy().contains("sm_90a") {
                    let alignment = alignments.get(entry.name);
                    assert!(alignment.is_some_and(|&bytes| bytes >= 1024), "{}: {alignment:?}", entry.name);
                }
            }
        }
        assert!(targets > 0, "{} has no machine code", family.name);
    }
}

/// A 64-bit little-endian ELF file.
struct Elf(Vec<u8>);

impl Elf {
    fn number(&self, at: usize, bytes: usize) -> usize {
        self.0[at..at + bytes].iter().rev().fold(0, |value, &byte| value << 8 | byte as usize)
    }

    /// Where the headers of its sections are.
    fn sections(&self) -> Vec<usize> {
        (0..self.number(0x3c, 2)).map(|index| self.number(0x28, 8) + index * self.number(0x3a, 2)).collect()
    }

    /// The bytes of a section, from its first.
    fn content(&self, section: usize) -> usize {
        self.number(section + 0x18, 8)
    }

    fn text(&self, at: usize) -> String {
        let text = &self.0[at..];
        String::from_utf8_lossy(&text[..text.iter().position(|&byte| byte == 0).unwrap()]).into_owned()
    }

    /// Its symbols and what they hold.
    fn symbols(&self) -> HashMap<String, Vec<u8>> {
        const SYMBOL_TABLE: usize = 2;
        const OCCUPIES_NO_SPACE: usize = 8;
        let (sections, kind) = (self.sections(), |section: usize| self.number(section + 4, 4));
        let mut symbols = HashMap::new();
        for &table in sections.iter().filter(|&&section| kind(section) == SYMBOL_TABLE) {
            let (start, size) = (self.content(table), self.number(table + 0x20, 8));
            let strings = self.content(sections[self.number(table + 0x28, 4)]);
            for symbol in (start..start + size).step_by(24) {
                let home = self.number(symbol + 6, 2);
                let (value, bytes) = (self.number(symbol + 8, 8), self.number(symbol + 16, 8));
                let held = home > 0 && home < 0xff00 && kind(sections[home]) != OCCUPIES_NO_SPACE;
                let at = if held { self.content(sections[home]) + value } else { 0 };
                let name = self.text(strings + self.number(symbol, 4));
                symbols.insert(name, if held { self.0[at..at + bytes].to_vec() } else { Vec::new() });
            }
        }
        symbols
    }

    /// The alignment of each kernel's shared memory.
    fn shared_alignments(&self) -> HashMap<String, usize> {
        let sections = self.sections();
        let names = self.content(sections[self.number(0x3e, 2)]);
        let named = sections.iter().map(|&section| (self.text(names + self.number(section, 4)), section));
        named
            .filter_map(|(name, section)| {
                Some((name.strip_prefix(".nv.shared.")?.to_string(), self.number(section + 0x30, 8)))
            })
            .collect()
    }
}

/// A family is loaded when it is first used: opening a GPU must not compile what it may never run.
#[cfg(feature = "cuda")]
#[test]
fn families_are_loaded_on_their_first_use_even_while_capturing() {
    use x2ct::device::CudaLauncher;
    use x2ct::device::cudarc::driver::{CudaContext, result, sys};
    use x2ct::kernels::Launcher;
    // Says that there is no GPU, where there is none.
    if devices().iter().all(|(_, device)| device.is_host()) {
        return;
    }
    let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
    let launcher = CudaLauncher::new(&stream, FAMILIES).unwrap();
    assert_eq!(launcher.loaded().len(), 1, "{:?}", launcher.loaded());
    let mut others = FAMILIES.iter().filter(|family| !launcher.loaded().contains(&family.name));
    let (first, second) = (others.next().unwrap(), others.next().unwrap());
    launcher.config(first.entries[0]).unwrap();
    launcher.config(first.entries[0]).unwrap();
    assert!(launcher.loaded().len() == 2 && launcher.loaded().contains(&first.name), "{:?}", launcher.loaded());
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // Safety: the stream is alive, and its graph is destroyed.
    unsafe {
        result::stream::begin_capture(stream.cu_stream(), mode).unwrap();
        launcher.config(second.entries[0]).unwrap();
        result::graph::destroy(result::stream::end_capture(stream.cu_stream()).unwrap()).unwrap();
    }
    assert!(launcher.loaded().contains(&second.name), "{:?}", launcher.loaded());
}
