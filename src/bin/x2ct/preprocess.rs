//! `x2ct preprocess FILE... --preset NAME --out PATH`: CT volumes as a network's input.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use x2ct::archive::TensorStream;
use x2ct::ct::{CtVolume, HuSource, Preset};
use x2ct::data::volumes::{self, VolumeSet};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result, files};

use crate::Common;
use crate::output::{Failure, Report};
use crate::projection::HuSourceName;
use crate::source;

/// Prepare CT volumes as a network's input
///
/// Each volume becomes a safetensors file: `volume` [1, Z, X, Y] or [1, Z, Y, X] with the preset, its digest, the geometry it
/// came from and the source of its HU. A volume that cannot be read is reported and skipped; the exit code is then 1.
#[derive(clap::Args)]
pub struct PreprocessArgs {
    /// CT volumes: .nii, .nii.gz, RadChest-CT .npz (with its metadata table), or folders with a DICOM series
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// ct-clip-v2, ct-clip-v1, dcformer (the paper's window), dcformer-code (the code's), or x2ct (HU at 1 mm)
    #[arg(long)]
    preset: String,
    /// Clip after the resize only, as CT-CLIP's training does
    #[arg(long)]
    clip_after: bool,
    /// Storage type
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16"])]
    dtype: String,
    /// File to write, or a folder: NAME.safetensors for each volume
    #[arg(long, value_name = "FILE|DIR")]
    out: PathBuf,
    /// Then pack all volumes of the folder into one file, for training
    #[arg(long, value_name = "FILE")]
    pack: Option<PathBuf>,
    /// Where Hounsfield units come from: the file itself, or the data set's metadata table (CT-RATE's original release,
    /// RadChest-CT)
    #[arg(long, value_enum, default_value = "already-hu")]
    hu_source: HuSourceName,
    /// The metadata table, for `--hu-source csv`: scaling and voxel size of the file of this name
    #[arg(long, value_name = "CSV", required_if_eq("hu_source", "csv"))]
    metadata: Option<PathBuf>,
}

pub fn run(args: PreprocessArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    let mut preset = Preset::named(&args.preset)?;
    if args.clip_after {
        preset = preset.clip_after();
    }
    let dtype = if args.dtype == "bf16" { DType::Bf16 } else { DType::F32 };
    let outputs = outputs(&args.files, &args.out)?;
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for (file, out) in args.files.iter().zip(&outputs) {
        let begin = Instant::now();
        let done = source::open(file, args.hu_source, args.metadata.as_deref(), &device).and_then(|(volume, hu)| {
            let read = begin.elapsed().as_secs_f64();
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let from_table = args.hu_source == HuSourceName::Csv;
            let shape = write(&device, &preset, dtype, &volume, hu, (&name, from_table), out)?;
            Ok((shape, read))
        });
        let seconds = begin.elapsed().as_secs_f64();
        match done {
            Ok((shape, read)) if common.json => rows.push(json!({
                "input": file, "output": out, "shape": shape, "seconds": {"read": read, "total": seconds},
            })),
            Ok((shape, _)) => say!("{}: {shape:?} {}, {seconds:.2} s", out.display(), dtype.name()),
            Err(error) => {
                remark!("x2ct: {error:#}");
                failed.push(Failure::new(file, &error));
            }
        }
    }
    if let Some(path) = &args.pack {
        VolumeSet::read(&args.out)?.write(path)?;
    }
    let report = Report::new("preprocess").with_all(json!({
        "preset": preset.name, "preset_digest": preset.digest(), "dtype": dtype.name(), "device": device.name(),
        "volumes": rows,
    }))?;
    report.failing(failed).finish(common.json, || ())
}

/// The file of each volume. A folder is made where `out` is one or has no `.safetensors` name.
fn outputs(inputs: &[PathBuf], out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !out.is_dir() && out.extension().is_some_and(|e| e == "safetensors") {
        anyhow::ensure!(inputs.len() == 1, "{}: one file for {} volumes; name a folder", out.display(), inputs.len());
        files::check_writable(out)?;
        return Ok(vec![out.into()]);
    }
    files::create_folder(out)?;
    let mut seen: HashMap<PathBuf, &PathBuf> = HashMap::new();
    inputs
        .iter()
        .map(|input| {
            let name = input.file_name().unwrap_or_default().to_string_lossy();
            let stem = [".nii.gz", ".nii", ".npz"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            let path = out.join(format!("{stem}.safetensors"));
            if let Some(other) = seen.insert(path.clone(), input) {
                anyhow::bail!("{}: {} would be written to the same file; rename one", input.display(), other.display());
            }
            Ok(path)
        })
        .collect()
}

/// Prepares and writes one volume, piece by piece: while the device works on one, the last is being written.
fn write(
    device: &Device,
    preset: &Preset,
    dtype: DType,
    volume: &CtVolume,
    hu: HuSource,
    (name, from_table): (&str, bool),
    out: &Path,
) -> Result<Vec<usize>> {
    // In cache on a processor; enough work for a GPU.
    let piece = if device.is_host() { 2 << 20 } else { 64 << 20 };
    let operator = preset.operator(volume.shape, &volume.affine, dtype)?;
    let shape = operator.shape();
    let (slope, intercept) = volume.hu_scale(hu);
    let metadata = [
        ("input", name.to_string()),
        ("preset", json!(preset).to_string()),
        ("preset_digest", preset.digest()),
        (
            "hu_source",
            json!({
                "from": if from_table { "metadata table" } else { "file" }, "slope": slope, "intercept": intercept,
            })
            .to_string(),
        ),
        (
            "geometry",
            json!({
                "shape": volume.shape, "spacing_mm": volume.spacing(), "axis_codes": volume.axis_codes().to_string(),
                "affine": volume.affine.rows(), "resized": operator.to,
            })
            .to_string(),
        ),
    ];
    let kind = match dtype {
        DType::F32 => safetensors::Dtype::F32,
        DType::Bf16 => safetensors::Dtype::BF16,
    };
    let mut stream = TensorStream::create(out, volumes::ONE, &metadata, "volume", kind, &shape)?;
    std::thread::scope(|scope| {
        let (sender, pieces) = crossbeam_channel::bounded::<Tensor>(1);
        let writer = scope.spawn(move || {
            for piece in pieces {
                piece.with_bytes(|bytes| stream.append(bytes))??;
            }
            Ok(stream)
        });
        let made = preset.apply_in_pieces(device, volume, hu, dtype, piece, |tensor| {
            // The writer is gone when it has failed; it says why.
            let _ = sender.send(tensor);
            Ok(())
        });
        drop(sender);
        let stream = writer.join().expect("the writer does not panic");
        made?;
        stream?.finish()
    })?;
    Ok(shape)
}
