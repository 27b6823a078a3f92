//! Device memory of a training step, counted before there is one.

use super::micro_batches;
use crate::Result;
use crate::nn::models::{DcFormer, DcFormerConfig, EncoderConfig, RadiographEncoder, UnitRecord};
use crate::nn::{ParameterBuilder, Recompute};
use crate::tensor::DType;

/// Bytes of device memory a training step needs at its peak, by what they hold. Not counted: the stored radiographs, the
/// loss's O(batch) numbers, workspaces of the layer at work (on a GPU up to 64 MiB of convolution columns), and a ResNet's
/// gradients of the layer at work. On the host the allocator's peak is within 15% of the total (tests/gradient_cache.rs,
/// tests/recompute.rs).
///
/// A ResNet-50 at 224 x 224 records 89.5 MB a radiograph in f32, half in bf16. A batch of 32,768 in one pass needs 2.9 TB (1.5
/// in bf16), in micro-batches of 64 it needs 6.4 GB (3.6): 64 of those, 0.27 GB of embeddings and 0.39 GB of parameters (0.49).
/// `x2ct model resnet50 --batch 32768 --micro-batch 64` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StepMemory {
    /// Recorded for the backward pass of one micro-batch, or of the whole batch where it is not cut: network inputs, and the
    /// output of every layer.
    pub activations: u64,
    /// Embeddings [batch, D] in f32: of CTs, reports and radiographs, and the gradient of the radiographs'.
    pub embeddings: u64,
    /// Values, gradients and both moments in f32; in bf16 also the copies that matrix products read, and their gradients.
    pub parameters: u64,
}

impl StepMemory {
    /// Of a step on `batch` radiographs of `image_size` x `image_size` pixels. It grows with the micro-batch; with the batch
    /// grow the embeddings alone: 8 KiB a pair at 512 dimensions.
    ///
    /// # Errors
    /// An encoder that does not exist, and what [`micro_batches`] refuses.
    pub fn of(
        model: &EncoderConfig,
        image_size: usize,
        dtype: DType,
        batch: usize,
        micro_batch: Option<usize>,
    ) -> Result<Self> {
        let encoder = RadiographEncoder::new(&mut ParameterBuilder::new(), model)?;
        let rows = micro_batches(batch, micro_batch)?.iter().map(|rows| rows.len()).max().unwrap_or(0);
        let image = [3, image_size, image_size];
        let summary = encoder.summary([1, image[0], image[1], image[2]]);
        let layers = summary.layers.iter().map(|layer| layer.output.iter().product::<usize>());
        let values = layers.chain([image.iter().product()]).sum::<usize>();
        let copies = if dtype == DType::F32 { 0 } else { 2 * dtype.size() };
        Ok(StepMemory {
            activations: (rows * values * dtype.size()) as u64,
            embeddings: (4 * batch * model.embedding * DType::F32.size()) as u64,
            parameters: (summary.parameters() * (4 * DType::F32.size() + copies)) as u64,
        })
    }

    /// Of a step of DCFormer-CLIP on `batch` volumes of the size in `encoder`: the largest, over stem layers and blocks, of what
    /// is still recorded when its backward pass is at work, and its own gradients and hidden layer of one sample.
    ///
    /// DCFormer-tiny on eight volumes of 512x512x256: `x2ct model dcformer-tiny --batch 8`.
    ///
    /// # Errors
    /// An encoder that cannot be made, or whose token mixer is not the decomposed convolution.
    pub fn of_volumes(
        encoder: &DcFormerConfig,
        dtype: DType,
        batch: usize,
        micro_batch: Option<usize>,
        recompute: Recompute,
    ) -> Result<Self> {
        let model = DcFormer::new(&mut ParameterBuilder::new(), encoder)?;
        let rows = batch.div_ceil(batch.div_ceil(micro_batch.unwrap_or(batch).max(1)).max(1));
        let [h, w, d] = encoder.input;
        // bf16 networks read a rounded copy of the volumes.
        let copy = if dtype == DType::F32 { 0 } else { rows * h * w * d * DType::F32.size() };
        let parameters = model.summary([1, 1, h, w, d]).parameters();
        let copies = if dtype == DType::F32 { 0 } else { dtype.size() };
        let embedding = encoder.projection.unwrap_or(model.head().inputs());
        Ok(StepMemory {
            activations: (peak(&model.records()?, rows, dtype.size(), recompute) + copy) as u64,
            embeddings: (4 * batch * embedding * DType::F32.size()) as u64,
            parameters: (parameters * (4 * DType::F32.size() + copies)) as u64,
        })
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.activations + self.embeddings + self.parameters
    }
}

/// Bytes at the peak of a backward pass over `rows` volumes through these units, `size` bytes a value.
fn peak(units: &[UnitRecord], rows: usize, size: usize, recompute: Recompute) -> usize {
    let (mut before, mut peak) = (0, 0);
    for unit in units {
        let entry = if unit.choices > 0 { unit.entry } else { unit.input };
        let choices = rows * unit.choices;
        let inner = match recompute {
            Recompute::Nothing => unit.mixed + unit.hidden,
            Recompute::Hidden => unit.mixed,
            Recompute::Blocks => 0,
        };
        // A block that is computed again has all that again, its output too, and its upstream gradient twice.
        let again = if recompute == Recompute::Blocks && unit.hidden > 0 { unit.mixed + 2 * unit.output } else { 0 };
        // The hidden layer of one sample, activated, and its gradient.
        let scratch = 2 * unit.hidden * size;
        let at_work = rows * (entry + inner + again + unit.gradients) * size + choices + scratch;
        // The pooling has its gradients in the size of what it pools; the rest of the block is free by then.
        let pooling = if unit.choices > 0 { rows * (unit.choices + unit.input) * size + choices } else { 0 };
        peak = peak.max(before + at_work.max(pooling));
        before += rows * (entry + inner) * size + choices;
    }
    peak
}
