//! From PyTorch's element order to ours and back.

use crate::tensor::Shape;

/// How an operand is stored inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As in PyTorch.
    Same,
    /// PyTorch's channels (the second axis) come last inside.
    ChannelsLast,
}

impl Order {
    /// Shape and elements as stored inside.
    pub fn stored(self, shape: &Shape, data: &[f32]) -> (Shape, Vec<f32>) {
        let Some((n, c, inner)) = self.parts(shape) else { return (shape.clone(), data.to_vec()) };
        let mut out = vec![0.0; data.len()];
        for_each(n, c, inner, |torch, stored| out[stored] = data[torch]);
        let mut sizes = shape.to_vec();
        let channels = sizes.remove(1);
        sizes.push(channels);
        (sizes.into(), out)
    }

    /// Elements in PyTorch's order; `shape` is PyTorch's.
    pub fn torch(self, shape: &Shape, data: &[f32]) -> Vec<f32> {
        let Some((n, c, inner)) = self.parts(shape) else { return data.to_vec() };
        let mut out = vec![0.0; data.len()];
        for_each(n, c, inner, |torch, stored| out[torch] = data[stored]);
        out
    }

    fn parts(self, shape: &Shape) -> Option<(usize, usize, usize)> {
        let (n, c) = (*shape.first()?, *shape.get(1)?);
        (self == Order::ChannelsLast).then(|| (n, c, shape[2..].iter().product()))
    }
}

fn for_each(n: usize, c: usize, inner: usize, mut visit: impl FnMut(usize, usize)) {
    for b in 0..n {
        for ch in 0..c {
            for i in 0..inner {
                visit((b * c + ch) * inner + i, (b * inner + i) * c + ch);
            }
        }
    }
}
