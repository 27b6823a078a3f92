//! Named tensors in PyTorch's order, on disk as safetensors.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::Parameters;
use crate::tensor::Shape;
use crate::{Error, Result};

/// Named tensors as `state_dict()` gives them: PyTorch's names, shapes and element order, as f32.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    /// Shape and elements by name.
    pub tensors: BTreeMap<String, (Shape, Vec<f32>)>,
}

impl StateDict {
    /// A model's parameters and buffers.
    pub fn of(parameters: &Parameters) -> Result<Self> {
        let all = parameters.to_torch(parameters.values())?.into_iter().chain(parameters.buffers_to_torch()?);
        Ok(StateDict { tensors: all.map(|(name, shape, data)| (name, (shape, data))).collect() })
    }

    /// Reads a safetensors file of f32, f16, bf16 or f64 tensors; integer tensors (such as `num_batches_tracked`) are
    /// left out.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", &e))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| Error::file(path, format!("is not a safetensors file: {e}"), "export the state_dict again"))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let data = view.data();
            let values: Vec<f32> = match view.dtype() {
                Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
                Dtype::F16 => data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
                Dtype::BF16 => data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
                Dtype::F64 => data
                    .chunks_exact(8)
                    .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
                    .collect(),
                _ => continue,
            };
            tensors.insert(name.to_string(), (view.shape().into(), values));
        }
        Ok(StateDict { tensors })
    }

    /// Writes a safetensors file of f32 tensors, atomically.
    pub fn write(&self, path: &Path, metadata: &[(String, String)]) -> Result<()> {
        let views = self.tensors.iter().map(|(name, (shape, data))| {
            let view = safetensors::tensor::TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(data));
            (name.clone(), view.expect("shape and data agree"))
        });
        let metadata = metadata.iter().cloned().collect();
        let bytes = safetensors::serialize(views, Some(metadata))
            .map_err(|e| Error::file(path, format!("cannot serialise: {e}"), "this is a defect"))?;
        crate::files::write_atomic(path, &bytes)
    }

    /// The tensors whose names start with `prefix`, without it.
    pub fn strip_prefix(&self, prefix: &str) -> Self {
        let stripped =
            self.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone())));
        StateDict { tensors: stripped.collect() }
    }

    /// Copies every parameter and buffer of the model from here.
    ///
    /// # Errors
    /// Names the first tensor that is missing or has another shape. Names that the model does not have are returned, not
    /// refused: a head that was cut off, a counter.
    pub fn load_into(&self, parameters: &Parameters, source: &str) -> Result<Vec<String>> {
        self.load(parameters, source, parameters.names().chain(parameters.buffer_names()))
    }

    /// [`StateDict::load_into`] for the parameters alone.
    pub fn load_into_parameters(&self, parameters: &Parameters, source: &str) -> Result<Vec<String>> {
        self.load(parameters, source, parameters.names())
    }

    fn load<'a>(
        &self,
        parameters: &Parameters,
        source: &str,
        wanted: impl Iterator<Item = (&'a str, &'a Shape)>,
    ) -> Result<Vec<String>> {
        let mut used = HashSet::new();
        for (name, shape) in wanted {
            let (found, data) = self.tensors.get(name).ok_or_else(|| {
                Error::argument(
                    source,
                    format!("has no tensor `{name}`"),
                    "check that the weights are of this model and width",
                )
            })?;
            if found != shape {
                let problem = format!("`{name}` has the shape {found}, the model's is {shape}");
                return Err(Error::argument(source, problem, "check that the weights are of this model and width"));
            }
            parameters.set(name, data)?;
            used.insert(name);
        }
        Ok(self.tensors.keys().filter(|name| !used.contains(name.as_str())).cloned().collect())
    }
}
