//! The parameter arena.

use std::sync::Arc;

use crate::Result;
use crate::device::Device;
use crate::philox::Rng;
use crate::tensor::{DType, Shape, Tensor};

/// Elements a parameter's start is aligned to in the arena: 256 bytes, what vector loads and bulk copies like.
const ALIGNMENT: usize = 64;

/// A parameter of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterId(usize);

/// A buffer of a model: state that is not trained, such as running statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferId(usize);

/// How a tensor is stored inside, given PyTorch's shape and order outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As PyTorch has it.
    Plain,
    /// A conv2d weight: [O, I, KH, KW] outside, [O, KH, KW, I] inside.
    Conv2d,
}

impl Layout {
    /// The shape inside of a tensor with PyTorch's `shape`.
    pub fn stored_shape(self, shape: &Shape) -> Shape {
        match (self, &shape[..]) {
            (Layout::Conv2d, &[o, i, kh, kw]) => [o, kh, kw, i].into(),
            _ => shape.clone(),
        }
    }

    /// PyTorch's elements rearranged to the order inside.
    pub fn to_stored(self, shape: &Shape, data: &[f32]) -> Vec<f32> {
        self.rearrange(shape, data, |outer, inner| (inner, outer))
    }

    /// Elements in the order inside rearranged to PyTorch's.
    pub fn to_torch(self, shape: &Shape, data: &[f32]) -> Vec<f32> {
        self.rearrange(shape, data, |outer, inner| (outer, inner))
    }

    fn rearrange(self, shape: &Shape, data: &[f32], pick: impl Fn(usize, usize) -> (usize, usize)) -> Vec<f32> {
        let (Layout::Conv2d, &[o, i, kh, kw]) = (self, &shape[..]) else { return data.to_vec() };
        let mut out = vec![0.0; data.len()];
        for ((oo, ii), (y, x)) in (0..o)
            .flat_map(|oo| (0..i).map(move |ii| (oo, ii)))
            .flat_map(|oi| (0..kh * kw).map(move |k| (oi, (k / kw, k % kw))))
        {
            let torch = ((oo * i + ii) * kh + y) * kw + x;
            let stored = ((oo * kh + y) * kw + x) * i + ii;
            let (to, from) = pick(torch, stored);
            out[to] = data[from];
        }
        out
    }
}

/// How a parameter starts, following PyTorch's defaults for the layer that owns it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All equal.
    Constant(f32),
    /// Normal with this standard deviation, mean 0.
    Normal(f32),
    /// Uniform in [-bound, bound].
    Uniform(f32),
    /// Rows (the last axis) of length 1: uniform in a cube, then scaled.
    UnitRows,
}

impl Init {
    fn draw(self, shape: &Shape, mut random: Rng) -> Vec<f32> {
        let n = shape.numel();
        match self {
            Init::Constant(c) => vec![c; n],
            Init::Normal(deviation) => (0..n).map(|_| deviation * random.normal()).collect(),
            Init::Uniform(bound) => (0..n).map(|_| bound * (2.0 * random.unit() - 1.0)).collect(),
            Init::UnitRows => {
                let mut drawn: Vec<f32> = (0..n).map(|_| 2.0 * random.unit() - 1.0).collect();
                for row in drawn.chunks_mut(shape.last().copied().unwrap_or(1).max(1)) {
                    let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
                    row.iter_mut().for_each(|v| *v /= norm);
                }
                drawn
            }
        }
    }
}

struct Entry {
    name: String,
    shape: Shape,
    layout: Layout,
    init: Init,
    offset: usize,
}

struct BufferEntry {
    name: String,
    shape: Shape,
    init: Init,
}

/// Collects a model's parameters and buffers by name.
#[derive(Default)]
pub struct ParameterBuilder {
    prefix: Vec<String>,
    entries: Vec<Entry>,
    buffers: Vec<BufferEntry>,
    elements: usize,
}

impl ParameterBuilder {
    /// An empty collection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers what `make` registers under `name.`.
    pub fn scope<T>(&mut self, name: impl std::fmt::Display, make: impl FnOnce(&mut Self) -> T) -> T {
        self.prefix.push(name.to_string());
        let made = make(self);
        self.prefix.pop();
        made
    }

    fn full_name(&self, name: &str) -> String {
        self.prefix.iter().map(String::as_str).chain(std::iter::once(name)).collect::<Vec<_>>().join(".")
    }

    /// A trained tensor with PyTorch's shape.
    pub fn parameter(&mut self, name: &str, shape: impl Into<Shape>, layout: Layout, init: Init) -> ParameterId {
        let shape = shape.into();
        let offset = self.elements;
        self.elements += shape.numel().next_multiple_of(ALIGNMENT);
        self.entries.push(Entry { name: self.full_name(name), shape, layout, init, offset });
        ParameterId(self.entries.len() - 1)
    }

    /// State that is not trained, all equal at first; f32.
    pub fn buffer(&mut self, name: &str, shape: impl Into<Shape>, initial: f32) -> BufferId {
        self.drawn_buffer(name, shape, Init::Constant(initial))
    }

    /// State that is not trained; f32.
    pub fn drawn_buffer(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> BufferId {
        self.buffers.push(BufferEntry { name: self.full_name(name), shape: shape.into(), init });
        BufferId(self.buffers.len() - 1)
    }

    /// Names and PyTorch shapes of the parameters, then of the buffers.
    pub fn names(&self) -> impl Iterator<Item = (&str, &Shape)> {
        let parameters = self.entries.iter().map(|e| (e.name.as_str(), &e.shape));
        parameters.chain(self.buffers.iter().map(|b| (b.name.as_str(), &b.shape)))
    }

    /// Puts everything on a device. Parameter `i` draws from Philox stream `i` of `seed`, whatever the device, buffer `i` from
    /// stream 2^31 + i.
    pub fn build(self, device: &Device, seed: u64) -> Result<Parameters> {
        let mut values = vec![0.0f32; self.elements];
        for (stream, entry) in self.entries.iter().enumerate() {
            let drawn = entry.init.draw(&entry.shape, Rng::new(seed, 0, stream as u32));
            values[entry.offset..entry.offset + drawn.len()]
                .copy_from_slice(&entry.layout.to_stored(&entry.shape, &drawn));
        }
        let buffers = self
            .buffers
            .iter()
            .enumerate()
            .map(|(i, b)| {
                let drawn = b.init.draw(&b.shape, Rng::new(seed, 0, (1 << 31) + i as u32));
                Tensor::from_slice(device, &b.shape, DType::F32, &drawn)
            })
            .collect::<Result<_>>()?;
        Ok(Parameters {
            values: Tensor::from_slice(device, [self.elements], DType::F32, &values)?,
            gradients: Tensor::zeros(device, [self.elements], DType::F32, "gradient arena")?,
            entries: self.entries.into(),
            buffer_entries: self.buffers.into(),
            buffers,
        })
    }
}

/// A model's parameters, their gradients, and its buffers.
///
/// Values and gradients are one flat f32 tensor each; a parameter is a view. The gaps between parameters are zero and
/// stay zero. Gradients accumulate: [`Parameters::zero_gradients`] before a step. Clones share the memory, as tensors do.
#[derive(Clone)]
pub struct Parameters {
    values: Tensor,
    gradients: Tensor,
    entries: Arc<[Entry]>,
    buffer_entries: Arc<[BufferEntry]>,
    buffers: Arc<[Tensor]>,
}

impl Parameters {
    /// The arena of values.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The arena of gradients.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// Whose memory it is.
    pub fn device(&self) -> &Device {
        self.values.device()
    }

    /// Sets every gradient to zero.
    pub fn zero_gradients(&self) -> Result<()> {
        self.gradients.fill_zero()
    }

    /// A parameter's value, in the layout inside.
    pub fn value(&self, id: ParameterId) -> Result<Tensor> {
        self.view(&self.values, &self.entries[id.0])
    }

    /// A parameter's gradient, in the layout inside.
    pub fn gradient(&self, id: ParameterId) -> Result<Tensor> {
        self.view(&self.gradients, &self.entries[id.0])
    }

    fn view(&self, arena: &Tensor, entry: &Entry) -> Result<Tensor> {
        arena.view(entry.offset, entry.layout.stored_shape(&entry.shape))
    }

    /// A buffer.
    pub fn buffer(&self, id: BufferId) -> &Tensor {
        &self.buffers[id.0]
    }

    /// Trained elements (without the gaps of the arena).
    pub fn count(&self) -> usize {
        self.entries.iter().map(|e| e.shape.numel()).sum()
    }

    /// Names and PyTorch shapes of the parameters, in order.
    pub fn names(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.entries.iter().map(|e| (e.name.as_str(), &e.shape))
    }

    /// Where each parameter lies in the arena: (name, first element, elements, axes).
    pub fn ranges(&self) -> impl Iterator<Item = (&str, usize, usize, usize)> {
        self.entries.iter().map(|e| (e.name.as_str(), e.offset, e.shape.numel(), e.shape.len()))
    }

    /// Every parameter (`from` = values or gradients) in PyTorch's order: (name, shape, data).
    pub fn to_torch(&self, from: &Tensor) -> Result<Vec<(String, Shape, Vec<f32>)>> {
        let all = from.to_vec()?;
        let read = |e: &Entry| e.layout.to_torch(&e.shape, &all[e.offset..e.offset + e.shape.numel()]);
        Ok(self.entries.iter().map(|e| (e.name.clone(), e.shape.clone(), read(e))).collect())
    }

    /// Every buffer: (name, shape, data).
    pub fn buffers_to_torch(&self) -> Result<Vec<(String, Shape, Vec<f32>)>> {
        let read = |(e, t): (&BufferEntry, &Tensor)| Ok((e.name.clone(), e.shape.clone(), t.to_vec()?));
        self.buffer_entries.iter().zip(&*self.buffers).map(read).collect()
    }

    /// Overwrites a parameter or buffer by name with PyTorch-ordered data; `false` when there is none of that name.
    pub fn set(&self, name: &str, data: &[f32]) -> Result<bool> {
        if let Some(entry) = self.entries.iter().find(|e| e.name == name) {
            self.view(&self.values, entry)?.copy_from_slice(&entry.layout.to_stored(&entry.shape, data))?;
            return Ok(true);
        }
        match self.buffer_entries.iter().position(|e| e.name == name) {
            Some(i) => self.buffers[i].copy_from_slice(data).map(|()| true),
            None => Ok(false),
        }
    }

    /// Names and shapes of the buffers, in order.
    pub fn buffer_names(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.buffer_entries.iter().map(|e| (e.name.as_str(), &e.shape))
    }
}
