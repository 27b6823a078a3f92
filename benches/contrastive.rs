use x2ct::autograd::Tape;
use x2ct::kernels::contrastive::check_wgmma;
use x2ct::ops::contrastive::{Contrastive, InfoNce, MAX_STORED, Scale, SigLip, TriModal, Variant};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, brief, random, small};

/// Forward and backward: the tri-modal loss with gradient to the radiographs, and one pair with both gradients.
pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    let d = if brief() { 64 } else { 512 };
    let batches: &[usize] = match (brief(), small(device)) {
        (true, _) => &[128, 360, 1100],
        (_, true) => &[128, 360, 512, 1000],
        _ => &[128, 360, 1024, 4096, 32768],
    };
    for dtype in [DType::F32, DType::Bf16] {
        for &n in batches {
            let tensors = (0..3)
                .map(|k| Tensor::from_slice(device, [n, d], dtype, &random(k + 1, n * d)))
                .collect::<Result<Vec<_>>>()?;
            let tri_modal = TriModal::default().general()?;
            let info_nce = InfoNce::new(Scale::Fixed(1.0 / 0.07)).general();
            let siglip = SigLip::new(Scale::Fixed(10.0), Scale::Fixed(-10.0)).general();
            for (name, loss, leaves) in [("tri_modal", tri_modal, 1), ("info_nce", info_nce, 2), ("siglip", siglip, 2)]
            {
                for variant in Variant::ALL {
                    let wanted = match variant {
                        // The reference, not a competitor: one size is enough.
                        Variant::Naive => n == 128 && dtype == DType::F32,
                        Variant::Tiled => true,
                        // A processor only imitates them.
                        Variant::TensorCores => !device.is_host(),
                        // Whose blocks all run, though they be counted from a sample.
                        Variant::OneLaunch => n <= if brief() { 128 } else { MAX_STORED },
                        Variant::OneLaunchTensorCores => n <= MAX_STORED && !device.is_host(),
                        // Of its own kernels, where the device has them.
                        Variant::Hopper => {
                            dtype == DType::Bf16 && !device.is_host() && check_wgmma(device.launcher()).is_ok()
                        }
                    };
                    if wanted {
                        let loss = Contrastive { variant, ..loss.clone() };
                        each(case(name, variant, loss, &tensors, leaves))?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The first `leaves` sets get a gradient.
fn case(name: &str, variant: Variant, loss: Contrastive, tensors: &[Tensor], leaves: usize) -> Case {
    let (n, d) = (tensors[0].shape()[0], tensors[0].shape()[1]);
    let sets = tensors[..loss.sets].to_vec();
    let pairs = loss.pairs.iter().filter(|p| p.2 != 0.0).count() as u64;
    let products = 2 * (n * n * d) as u64;
    // Logits forward; where they are not kept, again backward, once for both gradients of a pair, or once for each where
    // that is quicker; and a product with the partner for each pair of each gradient.
    let stored = n <= MAX_STORED && variant.stores();
    let gradients = leaves.max(pairs as usize) as u64;
    let again = match variant {
        _ if stored => 0,
        Variant::Naive => gradients,
        _ if variant.packs(tensors[0].dtype()) || (variant.tensor_cores() && n > 10_880) => gradients,
        _ => pairs,
    };
    // Embeddings that are laid out again are written and read once more.
    let copies = if variant.packs(tensors[0].dtype()) { 2 } else { 0 };
    let again_bytes = copies * sets.iter().map(|t| t.bytes() as u64).sum::<u64>();
    Case {
        family: "contrastive",
        name: format!("{name} {variant:?} {n}x{d} {}", tensors[0].dtype().name()),
        bytes: sets.iter().chain(&sets[..leaves]).map(|t| t.bytes() as u64).sum::<u64>() + again_bytes,
        flops: products * (pairs + again + gradients),
        run: Box::new(move || {
            let tape = Tape::recording();
            let make = |(i, t)| if i < leaves { tape.leaf(t) } else { tape.constant(t) };
            let vars: Vec<_> = sets.iter().enumerate().map(make).collect();
            let y = loss.apply(&tape, &vars.iter().collect::<Vec<_>>())?;
            tape.backward(&y).map(drop)
        }),
    }
}
