//! Gradients against central finite differences.

use super::{Op, Tape};
use crate::Result;
use crate::device::Device;
use crate::tensor::{DType, Shape, Tensor};

/// How far a gradient is from the finite difference of one input.
#[derive(Clone, Debug)]
pub struct GradientReport {
    /// Which input.
    pub input: usize,
    /// ||analytic - numeric|| / ||numeric|| over the probed directions.
    pub relative_l2: f64,
}

/// Compares an operator's gradients with central differences along seeded random directions of each input.
///
/// The function is `sum(output * weight)` with a fixed random weight, evaluated in f32 through the operator itself and
/// summed in f64; `step` is relative to each input's root mean square. Six directions an input are probed.
pub fn check_gradients<O: Op + Clone + 'static>(
    device: &Device,
    op: &O,
    inputs: &[(Shape, Vec<f32>)],
    step: f64,
) -> Result<Vec<GradientReport>> {
    let upload = |data: &[(Shape, Vec<f32>)]| -> Result<Vec<Tensor>> {
        data.iter().map(|(shape, x)| Tensor::from_slice(device, shape, DType::F32, x)).collect()
    };
    let mut random = SplitMix(0x5eed);
    let tape = Tape::recording();
    let leaves: Vec<_> = upload(inputs)?.iter().map(|t| tape.leaf(t)).collect();
    let y = tape.apply(op.clone(), &leaves.iter().collect::<Vec<_>>())?;
    let weight: Vec<f32> = (0..y.tensor().numel()).map(|_| random.uniform() as f32).collect();
    let upstream = Tensor::from_slice(device, y.tensor().shape(), DType::F32, &weight)?;
    let gradients = tape.backward_from(&[(&y, &upstream)])?;
    let value = |data: &[(Shape, Vec<f32>)]| -> Result<f64> {
        let tensors = upload(data)?;
        let (y, _) = op.forward(&tensors.iter().collect::<Vec<_>>())?;
        Ok(y.to_vec()?.iter().zip(&weight).map(|(&a, &b)| a as f64 * b as f64).sum())
    };
    let mut reports = Vec::new();
    for (i, leaf) in leaves.iter().enumerate() {
        let Some(gradient) = gradients.get(leaf) else { continue };
        let gradient = gradient.to_vec()?;
        let rms = (inputs[i].1.iter().map(|&x| (x as f64).powi(2)).sum::<f64>() / inputs[i].1.len() as f64).sqrt();
        let h = step * rms.max(1e-3);
        let (mut difference, mut size) = (0.0f64, 0.0f64);
        for _ in 0..6 {
            let direction: Vec<f64> = (0..gradient.len()).map(|_| random.uniform()).collect();
            let mut moved = inputs.to_vec();
            let mut shifted = |sign: f64| -> Result<f64> {
                for ((x, &x0), d) in moved[i].1.iter_mut().zip(&inputs[i].1).zip(&direction) {
                    *x = (x0 as f64 + sign * h * d) as f32;
                }
                value(&moved)
            };
            let numeric = (shifted(1.0)? - shifted(-1.0)?) / (2.0 * h);
            let analytic: f64 = gradient.iter().zip(&direction).map(|(&g, d)| g as f64 * d).sum();
            difference += (analytic - numeric).powi(2);
            size += numeric.powi(2);
        }
        reports.push(GradientReport { input: i, relative_l2: (difference / size.max(1e-30)).sqrt() });
    }
    Ok(reports)
}

/// SplitMix64: small, seeded, good enough to draw directions.
struct SplitMix(u64);

impl SplitMix {
    /// Uniform in [-1, 1).
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) as f64 / 2f64.powi(63) - 1.0
    }
}
