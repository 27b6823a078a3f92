//! The dense decomposed convolution: chunks of every size, both backends, the direct kernels.

use x2ct::autograd::{Op, Tape};
use x2ct::kernels::decomp_conv::traffic::total;
use x2ct::kernels::decomp_conv::{DecompConvShape, NormKind};
use x2ct::kernels::decomp_dense::direct::Direct;
use x2ct::kernels::decomp_dense::{Chunks, traffic};
use x2ct::ops::decomp_conv::{DecompConv, Groups, Variant};
use x2ct::ops::gemm::{Backend, Method, Precision};
use x2ct::ops::norm::Mode;
use x2ct::tensor::{DType, Tensor};

use super::decomp_conv::{Case, Size, size};
use crate::support::{devices, has_backend, host};

const OWN: Method = Method { backend: Backend::Own, precision: Precision::F32 };
const LIBRARY: Method = Method { backend: Backend::Library, precision: Precision::F32 };

/// Parts of dx that reach one, two and no planes further, strides, planes of one voxel, odd sizes.
const CHUNKED: [Size; 6] = [
    size(2, [2, 3], [5, 4, 7], 3, 1),
    size(1, [3, 2], [11, 2, 3], 7, 1),
    size(3, [1, 4], [13, 9, 6], 7, 4),
    size(2, [2, 2], [7, 6, 5], 5, 2),
    size(5, [2, 3], [3, 1, 1], 1, 1),
    size(2, [3, 2], [4, 5, 3], 5, 1),
];

/// What the tensor-core kernels meet: few and odd channels, channels beside a tile of 16, 32 and 64, several tiles along every
/// axis, edges inside tiles, rows of odd length.
const TENSOR_CORES: [Size; 5] = [
    size(2, [5, 7], [5, 7, 11], 3, 1),
    size(1, [33, 35], [4, 5, 9], 3, 1),
    size(1, [64, 70], [2, 3, 8], 3, 1),
    size(2, [8, 32], [9, 4, 10], 3, 1),
    size(3, [1, 1], [1, 2, 1], 3, 1),
];

/// Of the first layer: one thread's four voxels short of a row, whole vectors, more channels than shared memory holds, strides.
const STEM: [Size; 4] = [
    size(2, [1, 5], [17, 13, 9], 7, 4),
    size(1, [1, 67], [9, 6, 16], 7, 4),
    size(2, [1, 3], [4, 5, 13], 7, 1),
    size(3, [1, 2], [1, 2, 1], 7, 2),
];

#[test]
fn decomp_conv_dense_in_chunks_of_any_size() {
    for (name, device) in devices() {
        for (i, size) in CHUNKED.into_iter().enumerate() {
            for (j, norm) in [None, Some(Mode::Eval), Some(Mode::Train)].into_iter().enumerate() {
                let case = Case::new(size, Groups::Dense, DType::F32, norm, (i + j) % 2 == 1, (i + j) % 3 == 0);
                for planes in [1, 2, 5] {
                    let got = case.run_as(&device, |op| op.planes = Some(planes));
                    case.check(&format!("{name} {planes} planes"), &got, 2e-5);
                }
            }
        }
    }
}

/// The columns of each chunk, and dz, are rounded to bf16, the sums are not: 2^-9 each.
#[test]
fn decomp_conv_dense_in_bf16_by_both_backends() {
    for (name, device) in devices() {
        for size in [CHUNKED[0], CHUNKED[3]] {
            let case = Case::new(size, Groups::Dense, DType::Bf16, Some(Mode::Train), true, true);
            for method in [OWN, LIBRARY].into_iter().filter(|method| has_backend(&device, method.backend)) {
                let set = |op: &mut DecompConv| (op.planes, op.method) = (Some(2), Some(method));
                case.check(&format!("{name} {method:?}"), &case.run_as(&device, set), 8e-3);
            }
        }
    }
}

#[test]
fn decomp_conv_dense_on_tensor_cores_agrees_with_f64() {
    for (name, device) in devices() {
        for (i, size) in TENSOR_CORES.into_iter().enumerate() {
            let norm = [Some(Mode::Train), Some(Mode::Eval), None][i % 3];
            for norm in [Some(Mode::Train), norm] {
                let case = Case::new(size, Groups::Dense, DType::Bf16, norm, i % 2 == 0, i % 2 == 1);
                case.check(&name, &case.run_as(&device, |op| op.method = Some(OWN)), 8e-3);
            }
        }
    }
}

#[test]
fn decomp_conv_dense_first_layer_agrees_with_f64() {
    for (name, device) in devices() {
        for (i, size) in STEM.into_iter().enumerate() {
            for (dtype, bound) in [(DType::F32, 2e-5), (DType::Bf16, 8e-3)] {
                for norm in [Some(Mode::Train), [Some(Mode::Eval), None][i % 2]] {
                    let case = Case::new(size, Groups::Dense, dtype, norm, i % 2 == 0, i % 2 == 1);
                    case.check(&name, &case.run_as(&device, |op| op.method = Some(OWN)), bound);
                }
            }
        }
    }
}

/// A CT's window: its mean a few spreads away from zero, and hardly any difference between neighbours.
#[test]
fn decomp_conv_dense_first_layer_keeps_small_variances() {
    let device = host(Default::default());
    let mut case =
        Case::new(size(2, [1, 4], [33, 29, 31], 7, 4), Groups::Dense, DType::F32, Some(Mode::Train), true, false);
    case.smooth();
    for method in [OWN, LIBRARY] {
        case.check(&format!("{method:?}"), &case.run_as(&device, |op| op.method = Some(method)), 1e-4);
    }
}

#[test]
fn decomp_conv_dense_gives_the_same_bits_under_every_thread_order() {
    let devices = devices();
    for (size, dtype) in [(CHUNKED[1], DType::F32), (TENSOR_CORES[3], DType::Bf16), (STEM[0], DType::F32)] {
        let case = Case::new(size, Groups::Dense, dtype, Some(Mode::Train), true, true);
        let set = |op: &mut DecompConv| (op.planes, op.method) = (Some(3), Some(OWN));
        let first = case.run_as(&devices[0].1, set);
        for (name, device) in &devices {
            let (a, b) = (case.run_as(device, set), case.run_as(device, set));
            assert_eq!(a, b, "{name} {}", case.name());
            assert!(!name.starts_with("host") || a == first, "{name} {}", case.name());
        }
    }
}

#[test]
fn decomp_conv_dense_direct_kernels_run_where_they_fit() {
    let shape = |channels: [usize; 2], kernel, stride| {
        let [inputs, outputs] = channels;
        DecompConvShape::new([1, inputs, 9, 9, 9], outputs, kernel, stride, true).unwrap()
    };
    assert_eq!(Direct::of(&shape([1, 64], 7, 4), DType::F32), Some(Direct::Stem));
    assert_eq!(Direct::of(&shape([64, 64], 3, 1), DType::Bf16), Some(Direct::TensorCores));
    assert_eq!(Direct::of(&shape([64, 64], 3, 1), DType::F32), None);
    assert_eq!(Direct::of(&shape([65, 64], 3, 1), DType::Bf16), None);
    assert_eq!(Direct::of(&shape([8, 8], 3, 2), DType::Bf16), None);
}

/// A volume is a constant: nothing is computed for its gradient, and the others are what they were.
#[test]
fn decomp_conv_dense_leaves_out_the_gradient_of_a_constant() {
    let device = host(Default::default());
    let shape = [2, 1, 17, 13, 9];
    let n = shape.iter().product::<usize>();
    let x = Tensor::from_slice(&device, shape, DType::F32, &crate::support::normal(1, n)).unwrap();
    let w = Tensor::from_slice(&device, [5, 1, 7], DType::F32, &crate::support::normal(2, 35)).unwrap();
    let op = DecompConv { variant: Some(Variant::Fused), ..DecompConv::new(7, 4, Groups::Dense) };
    assert!(op.forward(&[&x, &w, &w, &w]).is_ok());
    let gradient = |constant: bool| {
        let tape = Tape::recording();
        let x = if constant { tape.constant(&x) } else { tape.leaf(&x) };
        let w = [(); 3].map(|()| tape.leaf(&w));
        let y = tape.apply(op.clone(), &[&x, &w[0], &w[1], &w[2]]).unwrap();
        let gradients = tape.backward_from(&[(&y, y.tensor())]).unwrap();
        assert_eq!(gradients.get(&x).is_none(), constant);
        w.each_ref().map(|w| gradients.get(w).unwrap().to_vec().unwrap())
    };
    assert_eq!(gradient(true), gradient(false));
}

/// DCFormer-tiny's stem at 512x512x256, batch 8: passes of memory in units of one activation, and what a chunk takes.
#[test]
fn decomp_conv_dense_counts_its_bytes() {
    let device = host(Default::default());
    for dtype in [DType::F32, DType::Bf16] {
        let shape = DecompConvShape::new([8, 64, 128, 128, 64], 64, 3, 1, true).unwrap();
        let a = (8 * 64 * shape.out_voxels() * dtype.size()) as f64;
        let forward = total(&traffic::forward(&shape, dtype, NormKind::Train)) as f64 / a;
        let backward = total(&traffic::backward(&shape, dtype, NormKind::Train, false, true)) as f64 / a;
        let chunks = Chunks::new(device.launcher(), &shape, dtype, None).unwrap();
        let memory = traffic::workspace(&shape, &chunks, dtype, true) as f64 / a;
        let [chunked, direct, back] = traffic::cached(&shape, dtype).map(|bytes| bytes as f64 / a);
        println!(
            "stem 1-3 {}: A {:.0} MB, forward {forward:.3} A, backward {backward:.3} A, a chunk {memory:.4} A; in L2 beside that: \
             forward by chunks {chunked:.1} A, direct {direct:.1} A, backward {back:.1} A",
            dtype.name(),
            a / 1e6
        );
        assert!(forward < 3.001 && backward < 5.001 && memory < 0.1);
        // Evaluation reads x and writes y.
        assert!(total(&traffic::forward(&shape, dtype, NormKind::Eval)) as f64 / a < 2.001);
        // The first layer: 10 of 64 voxels, twice, and y.
        let first = DecompConvShape::new([8, 1, 512, 512, 256], 64, 7, 4, true).unwrap();
        let x = (8 * first.in_voxels() * dtype.size()) as f64;
        let read = total(&traffic::forward(&first, dtype, NormKind::Train)) as f64 - a;
        println!("stem 0 {}: forward writes A and reads {:.3} of x", dtype.name(), read / x);
        assert!((read / x - 2.0 * 10.0 / 64.0).abs() < 1e-3);
    }
}
