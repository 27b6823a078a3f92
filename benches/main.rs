//! `X2CT_DEVICE=cuda:0 cargo bench -- FILTER`: every case through criterion, timed by the device's own events.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use x2ct::Device;

mod cases;

fn main() -> x2ct::Result<()> {
    let device = Device::parse(&std::env::var("X2CT_DEVICE").unwrap_or_else(|_| "auto".into()))?;
    println!("device: {}", device.description());
    if device.is_host() {
        println!("these are times of the host build on a processor; they say nothing about a GPU");
    }
    let mut criterion =
        Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).configure_from_args();
    for (_, make) in cases::FAMILIES {
        make(&device, &mut |mut case| {
            let mut group = criterion.benchmark_group(case.family);
            group.throughput(Throughput::Bytes(case.bytes));
            group.bench_function(&case.name, |bencher| {
                bencher.iter_custom(|iterations| {
                    let seconds = cases::time(&device, &mut case.run, iterations as usize)
                        .unwrap_or_else(|e| panic!("{}: {e}", case.name));
                    Duration::from_secs_f64(seconds.iter().sum())
                })
            });
            group.finish();
            Ok(())
        })?;
    }
    criterion.final_summary();
    Ok(())
}
