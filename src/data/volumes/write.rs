//! Writing a prepared volume: piece by piece, so that neither it nor its preparation need fit into memory.

use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};

use super::{ONE, VOLUME};
use crate::Result;
use crate::archive::TensorStream;
use crate::ct::{CtVolume, HuSource, Preset};
use crate::data::provenance::of_ct;
use crate::device::Device;
use crate::tensor::{DType, Tensor};

/// What the file of a prepared volume says of it beside its voxels, its preset and its geometry.
pub struct Said<'a> {
    /// File name of the CT.
    pub input: &'a str,
    /// Where HU come from, as JSON: `from`, and `rescale` where that was asked for.
    pub hu_source: Value,
    /// What is doubtful of the CT.
    pub warnings: Vec<&'a str>,
    /// Whether it was only taken because the user insisted.
    pub forced: bool,
    /// Of a data set: BLAKE3 of all that decides what is in the file. Else empty.
    pub run: &'a str,
}

/// Prepares one volume and writes it to `out` as `x2ct-volume-2`, while the device works on one piece the last is being written.
/// Gives the shape of what was written.
///
/// # Errors
/// A volume that the preset cannot be applied to, a device that fails, a file that cannot be written.
pub fn write_one(
    device: &Device,
    (preset, dtype): (&Preset, DType),
    volume: &CtVolume,
    said: &Said,
    out: &Path,
) -> Result<Vec<usize>> {
    // In cache on a processor; enough work for a GPU.
    let piece = if device.is_host() { 2 << 20 } else { 64 << 20 };
    let operator = preset.operator(volume.shape, &volume.affine, dtype)?;
    let shape = operator.shape();
    let hu = HuSource::AlreadyHu;
    let (slope, intercept) = volume.hu_scale(hu);
    let mut hu_source = said.hu_source.clone();
    (hu_source["slope"], hu_source["intercept"]) = (json!(slope), json!(intercept));
    let mut metadata = vec![
        ("input", said.input.to_string()),
        ("preset", json!(preset).to_string()),
        ("preset_digest", preset.digest()),
        ("ct_digest", of_ct(volume)),
        ("hu_source", hu_source.to_string()),
        (
            "geometry",
            json!({
                "shape": volume.shape, "spacing_mm": volume.spacing(), "axis_codes": volume.axis_codes().to_string(),
                "affine": volume.affine.rows(), "resized": operator.to,
            })
            .to_string(),
        ),
    ];
    if !said.warnings.is_empty() {
        metadata.push(("warnings", json!(said.warnings).to_string()));
        metadata.push(("forced", said.forced.to_string()));
    }
    if !said.run.is_empty() {
        metadata.push(("run", said.run.into()));
    }
    let kind = match dtype {
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
    };
    let mut stream = TensorStream::create(out, ONE, &metadata, VOLUME, kind, &shape)?;
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
