//! `x2ct bench mixers`: the encoder of DCFormer beside its siblings, which differ in the token mixer alone.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use x2ct::device::Memory;
use x2ct::nn::models::{DcFormer, DcFormerConfig, Mixer};
use x2ct::nn::{Forward, ParameterBuilder, Parameters};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Error};

use super::{cases, median_and_spread, print_device};
use crate::Common;
use crate::arguments::{count, within};
use crate::output::Report;
use crate::terminal::print_table;

/// Compare the token mixers in one frame: parameters, multiply-adds, times, memory
#[derive(clap::Args)]
pub struct MixersArgs {
    /// Size of the frame
    #[arg(long, default_value = "nano", value_parser = ["nano", "naive", "tiny", "small"])]
    model: String,
    /// Sizes of a volume along H, W and D
    #[arg(long, default_value = "64x64x64", value_parser = parse_size)]
    size: [usize; 3],
    /// Volumes of a batch
    #[arg(long, default_value = "2", value_parser = count(1..=4096))]
    batch: usize,
    /// Storage of activations: f32 or bf16
    #[arg(long, default_value = "f32", value_parser = parse_dtype)]
    dtype: DType,
    /// Seconds to measure each time
    #[arg(long, default_value = "1", value_parser = within(0.01, 600.0))]
    seconds: f64,
}

fn parse_size(text: &str) -> Result<[usize; 3], String> {
    let sizes: Vec<usize> = text.split('x').map_while(|n| n.parse().ok()).filter(|n| (1..=4096).contains(n)).collect();
    let three = || format!("`{text}` is not a size; give H, W and D as 64x64x64, each from 1 to 4096");
    if text.split('x').count() == 3 { sizes.try_into().map_err(|_| three()) } else { Err(three()) }
}

fn parse_dtype(text: &str) -> Result<DType, String> {
    match text {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::Bf16),
        _ => Err(format!("there is no storage type `{text}`; use f32 or bf16")),
    }
}

/// The size that the paper counts at.
const PUBLISHED: [usize; 3] = [512, 512, 256];

#[derive(Serialize)]
struct Row {
    mixer: Mixer,
    /// Of the encoder, without a projection.
    parameters: usize,
    /// Multiply-adds a volume at the size of the run, and at 512x512x256.
    macs: u64,
    macs_published: u64,
    /// Milliseconds a batch: an evaluation pass; a training pass with its gradients.
    forward_ms: Time,
    training_ms: Time,
    /// Bytes of device memory at the peak of a training pass: parameters and their gradients, the batch, what is recorded.
    peak_bytes: usize,
}

#[derive(Serialize)]
struct Time {
    median: f64,
    /// Half the distance between the quartiles.
    spread: f64,
}

#[derive(Serialize)]
struct Comparison {
    device: String,
    model: String,
    size: [usize; 3],
    batch: usize,
    dtype: DType,
    rows: Vec<Row>,
}

pub fn run(args: MixersArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    let config = DcFormerConfig { input: args.size, ..DcFormerConfig::named(&format!("dcformer-{}", args.model))? };
    if args.batch * config.map().iter().product::<usize>() < 2 {
        let problem = format!("a batch of {} volumes has one value a channel at the end", args.batch);
        return Err(Error::argument("--batch", problem, "batch norms need two: use --batch 2").into());
    }
    let mixers = Mixer::SIBLINGS.map(|mixer| compare(&device, &args, &DcFormerConfig { mixer, ..config.clone() }));
    let report = Comparison {
        device: device.description(),
        model: args.model,
        size: args.size,
        batch: args.batch,
        dtype: args.dtype,
        rows: mixers.into_iter().collect::<x2ct::Result<_>>()?,
    };
    Report::new("bench").with_all(&report)?.finish(common.json, || print(&device, &report))
}

fn compare(device: &Device, args: &MixersArgs, config: &DcFormerConfig) -> x2ct::Result<Row> {
    let mut b = ParameterBuilder::new();
    let model = DcFormer::new(&mut b, config)?;
    let parameters = b.build(device, 1)?;
    let [h, w, d] = args.size;
    let shape = [args.batch, 1, h, w, d];
    let volumes = Tensor::from_slice(device, shape, DType::F32, &cases::random(1, shape.iter().product()))?;
    let [n, c, m] = [args.batch, model.features(), config.map().iter().product()];
    let [m1, m2, m3] = config.map();
    let upstream = Tensor::from_slice(device, [n, c, m1, m2, m3], args.dtype, &cases::random(2, n * c * m))?;
    let budget = Duration::from_secs_f64(args.seconds);
    let time = |run: &mut dyn FnMut() -> x2ct::Result<()>| {
        let [median, spread] = median_and_spread(cases::measure(device, run, budget)?).map(|seconds| seconds * 1e3);
        x2ct::Result::Ok(Time { median, spread })
    };
    let mut train = || training_pass(&model, &parameters, args.dtype, &volumes, &upstream);
    device.reset_peak();
    train()?;
    device.synchronize()?;
    let Memory { peak, .. } = device.memory();
    let macs = |[h, w, d]: [usize; 3]| model.summary([1, 1, h, w, d]).macs();
    Ok(Row {
        mixer: config.mixer,
        parameters: model.summary([1, 1, h, w, d]).parameters(),
        macs: macs(args.size),
        macs_published: macs(PUBLISHED),
        forward_ms: time(&mut || {
            let pass = Forward::evaluation(&parameters).with_dtype(args.dtype);
            model.feature_maps(&pass, &pass.tape.constant(&volumes)).map(drop)
        })?,
        training_ms: time(&mut train)?,
        peak_bytes: peak,
    })
}

fn training_pass(
    model: &DcFormer,
    parameters: &Parameters,
    dtype: DType,
    volumes: &Tensor,
    upstream: &Tensor,
) -> x2ct::Result<()> {
    let pass = Forward::training(parameters).with_dtype(dtype);
    let mut maps = model.feature_maps(&pass, &pass.tape.constant(volumes))?;
    let last = maps.swap_remove(4);
    drop(maps);
    pass.tape.backward_from(&[(&last, upstream)]).map(drop)
}

fn print(device: &Device, report: &Comparison) {
    let Comparison { model, size: [h, w, d], batch, dtype, .. } = report;
    print_device(device, &report.device);
    say!("DCFormer-{model}'s frame, {batch} volumes of {h}x{w}x{d}, activations in {}", dtype.name());
    let time = |t: &Time| format!("{:.1} +- {:.1}", t.median, t.spread);
    let rows = report.rows.iter().map(|row| {
        vec![
            row.mixer.to_string(),
            row.parameters.to_string(),
            format!("{:.3}", row.macs as f64 / 1e9),
            format!("{:.1}", row.macs_published as f64 / 1e9),
            time(&row.forward_ms),
            time(&row.training_ms),
            format!("{:.1}", row.peak_bytes as f64 / 1e6),
        ]
    });
    let header =
        ["mixer", "parameters", "GMACs", "at 512x512x256", "forward ms", "and backward ms", "training peak MB"];
    print_table(&header, &rows.collect::<Vec<_>>());
}
