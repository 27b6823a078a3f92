//! A batch spread over ranks equals the batch on one device.

use std::sync::Arc;

use x2ct::collective::{Alone, Collective, Threads};
use x2ct::kernels::contrastive::check_wgmma;
use x2ct::ops::contrastive::{Sharded, SigLip, ids};

use super::*;

/// The ranks' losses added up, every set's gradient put together, and the gradients of scale and bias added up.
#[allow(clippy::too_many_arguments)] // one argument a setting of the run
fn sharded(
    device: &Device,
    loss: &Contrastive,
    dtype: DType,
    ranks: usize,
    sets: &[Vec<f32>],
    extra: &[f32],
    keys: Option<&[usize]>,
    n: usize,
) -> (f64, Vec<Vec<f32>>) {
    let (rows, d) = (n / ranks, sets[0].len() / n);
    let work = |rank: Threads| {
        let at = rank.rank();
        let ids = keys.map(|keys| {
            let ids: Vec<f32> = keys[at * rows..(at + 1) * rows].iter().map(|&key| key as f32).collect();
            Tensor::from_slice(device, [rows], DType::F32, &ids).unwrap()
        });
        let tape = Tape::recording();
        let mut leaves: Vec<_> = sets
            .iter()
            .map(|x| {
                let own = &x[at * rows * d..(at + 1) * rows * d];
                tape.leaf(&Tensor::from_slice(device, [rows, d], dtype, own).unwrap())
            })
            .collect();
        for &value in extra {
            leaves.push(tape.leaf(&Tensor::from_slice(device, [1], DType::F32, &[value]).unwrap()));
        }
        let op = Sharded { loss: Contrastive { ids, ..loss.clone() }, collective: Arc::new(rank) };
        let y = tape.apply(op, &leaves.iter().collect::<Vec<_>>()).unwrap();
        let value = y.tensor().item().unwrap() as f64;
        let gradients = tape.backward(&y).unwrap();
        (value, leaves.iter().map(|leaf| gradients.get(leaf).unwrap().to_vec().unwrap()).collect::<Vec<_>>())
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = Threads::group(ranks).into_iter().map(|rank| scope.spawn(|| work(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut out = vec![Vec::new(); sets.len() + extra.len()];
    for (_, gradients) in &results {
        for (input, gradient) in gradients.iter().enumerate() {
            if input < sets.len() {
                out[input].extend(gradient);
            } else if out[input].is_empty() {
                out[input] = gradient.clone();
            } else {
                out[input][0] += gradient[0];
            }
        }
    }
    (results.iter().map(|(value, _)| value).sum(), out)
}

#[test]
fn shards_add_up_to_the_whole_batch() {
    let (n, d) = (144, 20);
    let sets: Vec<_> = (0..3).map(|k| normal(90 + k, n * d)).collect();
    let keys: Vec<usize> = (0..n).map(|i| i * i % 31).collect();
    let three = Contrastive { sets: 3, pairs: vec![(0, 1, 1.0), (2, 0, 0.5), (1, 2, 0.25)], ..pair(Scale::Learnable) };
    on_host_and_cuda(ThreadOrder::Seeded(4), |device| {
        for (loss, scale) in [
            (Contrastive { scale: Scale::Fixed(14.0), ..three.clone() }, 14.0),
            (three.clone(), 60.0),
            (Contrastive { objective: Objective::Sigmoid { bias: Scale::Learnable }, ..three.clone() }, 9.0),
            (Contrastive { reduction: Reduction::Sum, normalize: false, ..three.clone() }, 0.3),
            (Contrastive { variant: Variant::Naive, ..three.clone() }, 30.0),
            (Contrastive { variant: Variant::TensorCores, ..three.clone() }, 5.0),
            (Contrastive { variant: Variant::Hopper, ..three.clone() }, 5.0),
        ] {
            if loss.variant == Variant::Hopper && check_wgmma(device.launcher()).is_err() {
                continue;
            }
            let mut extra = vec![];
            if loss.scale == Scale::Learnable {
                extra.push(scale);
            }
            if loss.objective != Objective::Softmax {
                extra.push(BIAS);
            }
            for keys in [None, Some(&keys[..])] {
                let whole = Contrastive { ids: keys.map(|keys| ids(&Device::host(), keys).unwrap()), ..loss.clone() };
                // In bf16 storage, whose values TF32 holds too.
                let dtype = if loss.variant == Variant::Hopper { DType::Bf16 } else { DType::F32 };
                let round = |x: &Vec<f32>| if dtype == DType::Bf16 { round_bf16(x) } else { x.clone() };
                let sets: Vec<_> = sets.iter().map(round).collect();
                let want = reference(&whole, scale as f64, &sets, n);
                let tf32 = loss.variant == Variant::TensorCores || dtype == DType::Bf16;
                for ranks in [1, 2, 3, 8] {
                    let (value, got) = sharded(&device, &loss, dtype, ranks, &sets, &extra, keys, n);
                    let what = format!("{ranks} ranks {:?} {:?} ids {}", loss.variant, loss.objective, keys.is_some());
                    let bound = if tf32 { 5e-3 } else { loss_bound(scale) };
                    assert!((value - want.loss).abs() <= bound * want.loss, "{what}: {value} for {}", want.loss);
                    for (got, want) in got.iter().zip(&want.sets) {
                        assert_close(&what, got, want, if tf32 { 5e-3 } else { 1e-5 });
                    }
                    let bound = if tf32 { 2e-2 } else { 2e-5 };
                    for (got, want) in got[3..].iter().zip([want.scale, want.bias]) {
                        assert!(relative(got[0], want) < bound, "{what}: {} for {want}", got[0]);
                    }
                }
            }
        }
    });
}

#[test]
fn one_rank_alone_is_the_whole_batch() {
    let device = Device::host();
    let (n, d) = (70, 16);
    let sets = related(91, n, d, 1.0);
    let tensors: Vec<_> = sets.iter().map(|x| Tensor::from_slice(&device, [n, d], DType::F32, x).unwrap()).collect();
    let inputs: Vec<_> = tensors.iter().collect();
    for loss in [pair(Scale::Fixed(20.0)), SigLip::new(Scale::Fixed(10.0), Scale::Fixed(-4.0)).general()] {
        let whole = loss.forward(&inputs).unwrap().0.item().unwrap();
        let op = Sharded { loss, collective: Arc::new(Alone) };
        let part = op.forward(&inputs).unwrap().0.item().unwrap();
        assert!(relative(part, whole as f64) < 1e-6, "{part} for {whole}");
    }
}

/// NCCL is looked for when it is asked for; where it is missing, that is an error of one line.
#[cfg(feature = "cuda")]
#[test]
fn nccl_is_optional_at_run_time() {
    use x2ct::collective::Nccl;
    match Nccl::unique_id() {
        Ok(id) => assert!(id.iter().any(|&byte| byte != 0)),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("NCCL") && !text.contains('\n'), "{text}");
        }
    }
    let text = Nccl::new(&Device::host(), [0; 128], 2, 2).err().expect("an error").to_string();
    assert!(text.contains("rank 2 of 2"), "{text}");
    let text = Nccl::new(&Device::host(), [0; 128], 0, 2).err().expect("an error").to_string();
    assert!(text.contains("NCCL") && !text.contains('\n'), "{text}");
}

#[test]
fn ranks_exchange_in_order_and_notice_who_has_left() {
    let device = Device::host();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = Threads::group(3)
            .into_iter()
            .map(|rank| {
                let device = &device;
                scope.spawn(move || {
                    let r = rank.rank() as f32;
                    let part = Tensor::from_slice(device, [2], DType::F32, &[r, 10.0 * r]).unwrap();
                    let whole = Tensor::empty(device, [6], DType::F32, "whole").unwrap();
                    rank.all_gather(&part, &whole).unwrap();
                    rank.all_reduce(&part).unwrap();
                    let uneven = Tensor::zeros(device, [1 + rank.rank()], DType::F32, "uneven").unwrap();
                    let text = rank.all_reduce(&uneven).unwrap_err().to_string();
                    assert!(text.contains("equal shapes"), "{text}");
                    if rank.rank() == 2 {
                        return (whole.to_vec().unwrap(), part.to_vec().unwrap());
                    }
                    let text = rank.all_reduce(&part).unwrap_err().to_string();
                    assert!(text.contains("has left"), "{text}");
                    (whole.to_vec().unwrap(), part.to_vec().unwrap())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (whole, sum) in results {
        assert_eq!(whole, [0.0, 0.0, 1.0, 10.0, 2.0, 20.0]);
        assert_eq!(sum, [3.0, 30.0]);
    }
}

/// Each rank with a queue of its own: the sums are whole when a rank reads its own, for every rank and again and again.
#[test]
fn ranks_with_queues_of_their_own_sum_in_order() {
    let n = 1 << 16;
    for (name, device) in devices() {
        std::thread::scope(|scope| {
            for rank in Threads::group(3) {
                let (device, name) = (device.new_stream().unwrap(), name.clone());
                scope.spawn(move || {
                    for round in 0..5 {
                        let part = vec![(rank.rank() + round) as f32; n];
                        let part = Tensor::from_slice(&device, [n], DType::F32, &part).unwrap();
                        rank.all_reduce(&part).unwrap();
                        let want = (3 + 3 * round) as f32;
                        assert!(part.to_vec().unwrap().iter().all(|&v| v == want), "{name}, round {round}");
                    }
                });
            }
        });
    }
}

#[test]
fn ranks_on_different_devices_are_all_told() {
    std::thread::scope(|scope| {
        for rank in Threads::group(2) {
            scope.spawn(move || {
                // `Device::host()` twice is two devices.
                let part = Tensor::zeros(&Device::host(), [4], DType::F32, "part").unwrap();
                let whole = Tensor::zeros(part.device(), [8], DType::F32, "whole").unwrap();
                for outcome in [rank.all_reduce(&part), rank.all_gather(&part, &whole)] {
                    let text = outcome.unwrap_err().to_string();
                    assert!(text.contains("put all tensors on one device"), "{text}");
                }
            });
        }
    });
}
