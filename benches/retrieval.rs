use x2ct::ops::retrieval::{best, paired_ranks};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, brief, random, size};

/// CT-RATE's validation volumes ranked both ways, and the ten best reports of each.
pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    let d = 512;
    for dtype in [DType::F32, DType::Bf16] {
        let all = [360, size(device, 3039, 1000), size(device, 47149, 1500)];
        for &n in if brief() { &all[..1] } else { &all } {
            let tensor = |seed| Tensor::from_slice(device, [n, d], dtype, &random(seed, n * d));
            let (queries, items) = (tensor(1)?, tensor(2)?);
            let (bytes, flops) = ((queries.bytes() + items.bytes()) as u64, 2 * (n * n * d) as u64);
            let of = |what: &str| format!("{what} {n}x{n}x{d} {}", dtype.name());
            let (q, i) = (queries.clone(), items.clone());
            let run = Box::new(move || paired_ranks(&q, &i).map(drop));
            each(Case { family: "retrieval", name: of("ranks both ways"), bytes, flops, run })?;
            let run = Box::new(move || best(&queries, &items, 10).map(drop));
            each(Case { family: "retrieval", name: of("best 10"), bytes, flops, run })?;
        }
    }
    Ok(())
}
