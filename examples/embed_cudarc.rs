//! Kernels of this crate in a program that has a CUDA runtime of its own.
//!
//! ```sh
//! cargo run --example embed_cudarc
//! ```
//!
//! The program owns its context, stream and memory (here through cudarc) and takes from x2ct one thing: launches on
//! that stream. [`CudaLauncher`] loads the kernel families that are wanted; the functions of `x2ct::kernels` fill the
//! parameter struct, choose the grid and launch on raw device pointers. Nothing of x2ct's tensors, tape or allocator is
//! involved. A program with another runtime implements the three methods of [`x2ct::kernels::Launcher`] instead.

use std::error::Error;

use x2ct::Device;
use x2ct::device::CudaLauncher;
// The bindings at the very version that x2ct speaks; a dependency of one's own on the same version is the same crate.
use x2ct::device::cudarc::driver::{CudaContext, DevicePtr as _, DevicePtrMut as _};
use x2ct::kernels::pointwise::{self, Unary};
use x2ct::kernels::{DType, DevicePtr, Launcher, Write};

fn main() -> Result<(), Box<dyn Error>> {
    // cudarc panics where there is no driver, so the question comes first.
    if let Err(why) = Device::cuda_count() {
        println!("no GPU to run on: {why}");
        return Ok(());
    }
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;

    // Fails with what to do when this build has no CUDA kernels, or none for this GPU.
    let launcher = CudaLauncher::new(&stream, &[&pointwise::FAMILY])?;
    println!("{}: {} multiprocessors", context.name()?, launcher.properties().multiprocessors);

    let n = 1_000_003; // no multiple of anything
    let x: Vec<f32> = (0..n).map(|i| (i % 2001) as f32 / 200.0 - 5.0).collect();
    let input = stream.clone_htod(&x)?;
    let mut output = stream.alloc_zeros::<f32>(n)?;
    {
        // The guards tell cudarc that the stream reads and writes these slices.
        let (a, _reads) = input.device_ptr(&stream);
        let (out, _writes) = output.device_ptr_mut(&stream);
        // Safety: both slices hold n f32, aligned to 256 bytes, and live until the stream has been waited for below.
        unsafe {
            pointwise::unary(&launcher, Unary::Gelu, DType::F32, DevicePtr(a), DevicePtr(out), n, Write::Overwrite)?;
        }
    }
    let y = stream.clone_dtoh(&output)?;
    stream.synchronize()?;

    // GELU(x) - GELU(-x) = x Phi(x) + x Phi(-x) = x: a check that needs no erf.
    let at = |value: f32| x.iter().position(|&v| v == value).map(|i| y[i]);
    for value in [0.5f32, 1.0, 3.0] {
        if let (Some(plus), Some(minus)) = (at(value), at(-value)) {
            println!("GELU({value}) = {plus:.6}, GELU(-{value}) = {minus:.6}");
            if (plus - minus - value).abs() > 1e-6 {
                return Err(format!("GELU({value}) - GELU(-{value}) = {} instead of {value}", plus - minus).into());
            }
        }
    }
    Ok(())
}
