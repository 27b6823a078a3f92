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
    /// Shape and elements as stored inside, of PyTorch's.
    pub fn stored(self, shape: &Shape, data: &[f32]) -> (Shape, Vec<f32>) {
        match (self, &shape[..]) {
            (Order::ChannelsLast, &[n, c, ref inner @ ..]) => {
                let sizes = [&[n], inner, &[c]].concat();
                (sizes.into(), transposed(data, [n, c, inner.iter().product()]))
            }
            _ => (shape.clone(), data.to_vec()),
        }
    }

    /// Shape and elements as in PyTorch, of those stored inside.
    pub fn torch(self, shape: &Shape, data: &[f32]) -> (Shape, Vec<f32>) {
        match (self, &shape[..]) {
            (Order::ChannelsLast, &[n, ref inner @ .., c]) => {
                let sizes = [&[n, c], inner].concat();
                (sizes.into(), transposed(data, [n, inner.iter().product(), c]))
            }
            _ => (shape.clone(), data.to_vec()),
        }
    }
}

/// [batch, rows, columns] to [batch, columns, rows].
pub fn transposed(data: &[f32], [batch, rows, columns]: [usize; 3]) -> Vec<f32> {
    let place = |i: usize| {
        let (b, c, r) = (i / (rows * columns), i / rows % columns, i % rows);
        data[(b * rows + r) * columns + c]
    };
    (0..batch * rows * columns).map(place).collect()
}

/// Whether two shapes are one, but for leading axes of 1: an image of a batch of one is an image.
pub fn alike(one: &Shape, other: &Shape) -> bool {
    let inner = |shape: &Shape| shape.iter().copied().skip_while(|&size| size == 1).collect::<Vec<_>>();
    inner(one) == inner(other)
}
