//! Named tensors in PyTorch's order, on disk as safetensors.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::Parameters;
use crate::tensor::Shape;
use crate::{Error, Result, files};

/// Named tensors as `state_dict()` gives them: PyTorch's names, shapes and element order, as f32.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    /// Shape and elements by name.
    pub tensors: BTreeMap<String, (Shape, Vec<f32>)>,
    /// Tensors of a file that are of no type that is read, by name, with their type: counters, indices, quantised weights.
    pub unread: BTreeMap<String, String>,
}

impl StateDict {
    /// A model's parameters and buffers.
    pub fn of(parameters: &Parameters) -> Result<Self> {
        let all = parameters.to_torch(parameters.values())?.into_iter().chain(parameters.buffers_to_torch()?);
        Ok(all.map(|(name, shape, data)| (name, (shape, data))).collect())
    }

    /// Reads a safetensors file of f32, f16, bf16 or f64 tensors; of others (such as `num_batches_tracked`) name and type alone.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_bytes(path, &files::read(path).map_err(|e| Error::io(path, "read", &e))?)
    }

    /// [`StateDict::read`] of a file's bytes; `path` only labels errors.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|e| Error::file(path, format!("is not a safetensors file: {e}"), "export the state_dict again"))?;
        let mut dict = StateDict::default();
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
                other => {
                    dict.unread.insert(name.to_string(), format!("{other:?}"));
                    continue;
                }
            };
            dict.tensors.insert(name.to_string(), (view.shape().into(), values));
        }
        Ok(dict)
    }

    /// The names of all tensors, read or not.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys().chain(self.unread.keys())
    }

    /// Whether there is a tensor of this name, read or not.
    pub fn holds(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.unread.contains_key(name)
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
        stripped.collect()
    }

    /// Copies every parameter and buffer of the model from here.
    ///
    /// # Errors
    /// Names the first tensor that is missing, or has another shape or type. Names that the model does not have are returned,
    /// not refused: a head that was cut off, a counter.
    pub fn load_into(&self, parameters: &Parameters, source: &str) -> Result<Vec<String>> {
        let wanted = parameters.names().chain(parameters.buffer_names());
        self.load(parameters, source, wanted.map(|(name, shape)| (name, shape, name.to_string())))
    }

    /// [`StateDict::load_into`] of weights of unknown origin: `spelt` gives the name that a tensor of the model has here, or `None`
    /// to leave it as it is.
    ///
    /// # Errors
    /// Also values that are NaN or infinite, of tensors that the model has.
    pub fn load_as(
        &self,
        parameters: &Parameters,
        source: &str,
        spelt: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<String>> {
        let all = parameters.names().chain(parameters.buffer_names());
        let wanted: Vec<_> = all.filter_map(|(name, shape)| Some((name, shape, spelt(name)?))).collect();
        for (_, _, name) in &wanted {
            self.expect_finite(name, source)?;
        }
        self.load(parameters, source, wanted.into_iter())
    }

    /// [`StateDict::load_into`] for the parameters alone.
    pub fn load_into_parameters(&self, parameters: &Parameters, source: &str) -> Result<Vec<String>> {
        self.load(parameters, source, parameters.names().map(|(name, shape)| (name, shape, name.to_string())))
    }

    /// Copies tensors of the model, each with the shape it must have and the name it has here.
    fn load<'a>(
        &self,
        parameters: &Parameters,
        source: &str,
        wanted: impl Iterator<Item = (&'a str, &'a Shape, String)>,
    ) -> Result<Vec<String>> {
        let mut used = HashSet::new();
        for (name, shape, spelt) in wanted {
            parameters.set(name, self.values(&spelt, shape, source)?)?;
            used.insert(spelt);
        }
        Ok(self.tensors.keys().filter(|name| !used.contains(*name)).cloned().collect())
    }

    /// The values of a tensor that must be of this shape.
    fn values(&self, name: &str, shape: &Shape, source: &str) -> Result<&[f32]> {
        let refuse = |problem: String, hint: &str| Err(Error::argument(source, problem, hint));
        let fitting = "check that the weights are of this model and width";
        if let Some(dtype) = self.unread.get(name) {
            return refuse(format!("{name} is {dtype}"), "export it as F32, F16, BF16 or F64");
        }
        let Some((found, data)) = self.tensors.get(name) else {
            let first = self.names().next().map_or("it has none".into(), |first| format!("its first is `{first}`"));
            return refuse(format!("has no tensor `{name}` ({first})"), fitting);
        };
        if found != shape {
            return refuse(format!("`{name}` has the shape {found}, the model's is {shape}"), fitting);
        }
        Ok(data)
    }

    /// Refuses a tensor, if it is there, with values that are NaN or infinite.
    fn expect_finite(&self, name: &str, source: &str) -> Result<()> {
        let data = self.tensors.get(name).map_or(&[][..], |(_, data)| data);
        match data.iter().filter(|value| !value.is_finite()).count() {
            0 => Ok(()),
            bad => Err(Error::argument(
                source,
                format!("{name} holds {bad} of {} values that are NaN or infinite", data.len()),
                "export the weights of a run that did not diverge",
            )),
        }
    }
}

impl FromIterator<(String, (Shape, Vec<f32>))> for StateDict {
    fn from_iter<I: IntoIterator<Item = (String, (Shape, Vec<f32>))>>(tensors: I) -> Self {
        StateDict { tensors: tensors.into_iter().collect(), unread: BTreeMap::new() }
    }
}
