use x2ct::ops::gather::{Places, gather_into};
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, random, size};

/// Minibatches of features and of labels, as a linear probe takes them.
pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    let rows = size(device, 47_149, 8_192);
    let order: Vec<u32> = (0..rows as u64).map(|i| (i * 7919 % rows as u64) as u32).collect();
    for (batch, d) in [(512, 512), (512, 18), (4096, 768)] {
        let x = Tensor::from_slice(device, [rows, d], DType::F32, &random(1, rows * d))?;
        let y = Tensor::empty(device, [batch, d], DType::F32, "gathered rows")?;
        let places = Places::new(device, &order)?;
        each(Case {
            family: "gather",
            name: format!("{batch} of {rows}x{d} f32"),
            bytes: (2 * y.bytes() + 4 * batch) as u64,
            flops: 0,
            run: Box::new(move || gather_into(&x, &places, 0..batch, &y)),
        })?;
    }
    Ok(())
}
