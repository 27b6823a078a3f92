//! One golden file: its attributes, tolerances and tensors, which nothing may be left of unused.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde_json::Value;

use crate::archive::Archive;
use crate::device::Device;
use crate::nn::models::DcFormer;
use crate::nn::{ParameterBuilder, Parameters, StateDict};
use crate::tensor::Shape;
use crate::{Error, Result, files};

/// The format that a golden file names in its metadata.
pub const FORMAT: &str = "x2ct-golden-1";
const HINT: &str = "see tests/golden/README.md for the format";
/// What a golden file's metadata may hold.
const METADATA: [&str; 7] = ["format", "op", "attrs", "mode", "tol", "source", "checksum"];
/// The tolerances, and the largest value that still is one.
const TOLERANCES: [(&str, f64); 5] =
    [("rel_l2", 1e-2), ("atol_of_max_grad", 1e-2), ("atol", f64::MAX), ("loss", 1e-2), ("spreads", 10.0)];

/// Named things, and which of them somebody has asked for.
struct Ledger<T> {
    entries: BTreeMap<String, T>,
    used: RefCell<BTreeSet<String>>,
}

impl<T> Ledger<T> {
    fn new(entries: BTreeMap<String, T>) -> Self {
        Ledger { entries, used: RefCell::default() }
    }

    fn get(&self, name: &str) -> Option<&T> {
        let found = self.entries.get(name);
        if found.is_some() {
            self.used.borrow_mut().insert(name.into());
        }
        found
    }

    fn unused(&self) -> Vec<&str> {
        let used = self.used.borrow();
        self.entries.keys().map(String::as_str).filter(|name| !used.contains(*name)).collect()
    }
}

/// One golden file. Attributes, tolerances and tensors are handed out by name, and the case remembers what it was asked for:
/// whatever is left when it has run is an error ([`Case::run`]), so nothing in a file goes unnoticed.
pub struct Case {
    /// The file's name without extension.
    pub name: String,
    /// Where it was read.
    pub file: PathBuf,
    /// The operation.
    pub op: String,
    mode: String,
    attrs: Ledger<Value>,
    tolerances: Ledger<f64>,
    tensors: Ledger<(Shape, Vec<f32>)>,
}

impl Case {
    /// Reads a golden file.
    ///
    /// # Errors
    /// All name the file and the field: no safetensors file, another format, metadata that the format does not know, attributes
    /// that stand twice, a tolerance that is none, a tensor of another type than f32 or i64, empty, or not finite, no `out.`.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = files::read(path).map_err(|e| Error::io(path, "read", &e))?;
        let broken = |e| Error::file(path, format!("is not a whole safetensors file ({e})"), HINT);
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let text = |key: &str| metadata.get(key).map_or("", String::as_str);
        let refuse = |field: &str, problem: String| Error::argument(field, problem, HINT).of_file(path);
        if text("format") != FORMAT {
            return Err(refuse("format", format!("is {:?}, not {FORMAT:?}", text("format"))));
        }
        if let Some(key) = metadata.keys().filter(|key| !METADATA.contains(&key.as_str())).min() {
            return Err(refuse(key, format!("no such metadata; there is {}", METADATA.join(", "))));
        }
        if metadata.contains_key("checksum") {
            Archive::read(path, FORMAT, "golden case", "copy or write it again")?;
        }
        if text("op").is_empty() {
            return Err(refuse("op", "is missing".into()));
        }
        if !["train", "eval", ""].contains(&text("mode")) {
            return Err(refuse("mode", format!("is {:?}; it can be train, eval or empty", text("mode"))));
        }
        let object = |key: &str| match text(key) {
            "" => Ok(BTreeMap::new()),
            json => serde_json::from_str::<Object>(json).map(|o| o.0).map_err(|e| refuse(key, e.to_string())),
        };
        let tolerances = object("tol")?.into_iter().map(|(name, value)| {
            let limit = tolerance(&name, &value).map_err(|problem| refuse(&format!("tol.{name}"), problem))?;
            Ok((name, limit))
        });
        let tolerances = tolerances.collect::<Result<BTreeMap<_, _>>>()?;
        if tolerances.is_empty() {
            return Err(refuse("tol", "there is no tolerance; give rel_l2, 0 for equality".into()));
        }
        let file = SafeTensors::deserialize(&bytes).map_err(broken)?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let data = values(&view).map_err(|problem| refuse(name, problem))?;
            tensors.insert(name.to_string(), (Shape::from(view.shape()), data));
        }
        let op = text("op").to_string();
        if ["decomp_conv", "model.dcformer", "trajectory.dcformer"].contains(&op.as_str()) {
            tensors = one_spelling(tensors).map_err(|(name, problem)| refuse(&name, problem))?;
        }
        if !tensors.keys().any(|name| name.starts_with("out.")) {
            return Err(refuse("out.", "there is no expected output, so nothing would be compared".into()));
        }
        Ok(Case {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            file: path.to_path_buf(),
            op,
            mode: text("mode").into(),
            attrs: Ledger::new(object("attrs")?),
            tolerances: Ledger::new(tolerances),
            tensors: Ledger::new(tensors),
        })
    }

    /// An error in a field of the file.
    pub(super) fn fault(&self, field: impl Into<String>, problem: impl Into<String>) -> Error {
        let hint = "see tests/golden/README.md for what this operation needs";
        Error::argument(field, problem, hint).of_file(&self.file)
    }

    /// A tensor that the operation needs.
    pub(super) fn tensor(&self, name: &str) -> Result<&(Shape, Vec<f32>)> {
        self.optional(name).ok_or_else(|| self.fault(name, "there is no such tensor, and the operation needs it"))
    }

    /// A tensor that the operation can do without.
    pub(super) fn optional(&self, name: &str) -> Option<&(Shape, Vec<f32>)> {
        self.tensors.get(name)
    }

    /// A tensor's sizes, of so many axes.
    pub(super) fn dims<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let (shape, _) = self.tensor(name)?;
        shape.as_ref().try_into().map_err(|_| self.fault(name, format!("the shape {shape} does not have {N} axes")))
    }

    /// The names of all tensors; asking for them uses none.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.entries.keys().map(String::as_str)
    }

    /// Whether a tensor has been asked for.
    pub(super) fn is_used(&self, name: &str) -> bool {
        self.tensors.used.borrow().contains(name)
    }

    /// The largest absolute value in the tensors whose names start with `prefix`.
    pub(super) fn largest(&self, prefix: &str) -> f64 {
        let wanted = self.tensors.entries.iter().filter(|(name, _)| name.starts_with(prefix));
        wanted.flat_map(|(_, (_, data))| data).fold(0.0, |most, &x| most.max(f64::from(x.abs())))
    }

    /// An attribute as the file has it.
    pub fn attribute(&self, name: &str) -> Option<&Value> {
        self.attrs.get(name)
    }

    /// An attribute; `default` where it is absent, an error where there is no default.
    pub(super) fn attr<T: DeserializeOwned>(&self, name: &str, default: Option<T>) -> Result<T> {
        match (self.attrs.get(name), default) {
            (Some(value), _) => serde_json::from_value(value.clone())
                .map_err(|e| self.fault(attribute(name), format!("is {value}: {e}"))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.fault(attribute(name), "is missing, and the operation needs it")),
        }
    }

    /// An attribute within a range.
    pub(super) fn within<T>(&self, name: &str, default: Option<T>, range: RangeInclusive<T>) -> Result<T>
    where
        T: DeserializeOwned + PartialOrd + Display,
    {
        let value = self.attr(name, default)?;
        if range.contains(&value) {
            return Ok(value);
        }
        let problem = format!("is {value}; it can be from {} to {}", range.start(), range.end());
        Err(self.fault(attribute(name), problem))
    }

    /// An attribute that says again what the operation or the tensors say; absent or equal to `actual`.
    pub(super) fn states<T: DeserializeOwned + PartialEq + serde::Serialize>(
        &self,
        name: &str,
        actual: T,
    ) -> Result<()> {
        match self.attr(name, Some(None::<T>))? {
            Some(stated) if stated != actual => {
                let [stated, actual] = [&stated, &actual].map(|v| serde_json::json!(v));
                Err(self.fault(attribute(name), format!("is {stated}, and here it is {actual}")))
            }
            _ => Ok(()),
        }
    }

    /// A tolerance, 0 where the file gives none.
    pub(super) fn tolerance(&self, name: &str) -> f64 {
        self.tolerances.get(name).copied().unwrap_or(0.0)
    }

    /// Whether the case is of training, for an operation to which that makes a difference.
    pub(super) fn is_training(&self) -> Result<bool> {
        match self.mode.as_str() {
            "train" => Ok(true),
            "eval" => Ok(false),
            _ => Err(self.fault("mode", format!("is empty, and `{}` needs train or eval", self.op))),
        }
    }

    /// The parameters and buffers that `builder` has collected, on a device, with the values of the tensors `PREFIX NAME`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape, before anything is allocated.
    pub(super) fn parameters(&self, prefix: &str, builder: ParameterBuilder, device: &Device) -> Result<Parameters> {
        for (name, wanted) in builder.names() {
            let name = format!("{prefix}{name}");
            let (shape, _) = self.tensor(&name)?;
            if shape != wanted {
                return Err(self.fault(name, format!("has the shape {shape}, the model's is {wanted}")));
            }
        }
        let parameters = builder.build(device, 0)?;
        self.load(prefix, &parameters)?;
        Ok(parameters)
    }

    /// Copies the tensors `PREFIX NAME` into parameters and buffers.
    pub(super) fn load(&self, prefix: &str, parameters: &Parameters) -> Result<()> {
        let names = parameters.names().chain(parameters.buffer_names());
        let tensors = names.map(|(name, _)| {
            let tensor = self.tensor(&format!("{prefix}{name}"))?;
            Ok((name.to_string(), tensor.clone()))
        });
        let state: StateDict = tensors.collect::<Result<_>>()?;
        state.load_into(parameters, prefix).map(drop).map_err(|e| e.of_file(&self.file))
    }

    /// Refuses a file with anything in it that nobody has asked for.
    pub(super) fn expect_all_used(&self) -> Result<()> {
        let (op, of_op) = (&self.op, |names: Vec<&str>| names.join(", "));
        let attrs = self.attrs.unused();
        if !attrs.is_empty() {
            let names = attrs.iter().map(|name| attribute(name)).collect::<Vec<_>>().join(", ");
            return Err(self.fault(names, format!("`{op}` has no such attribute")));
        }
        let tolerances = self.tolerances.unused();
        if let Some(first) = tolerances.first() {
            return Err(self.fault(format!("tol.{first}"), format!("no tensor of `{op}` is compared by it")));
        }
        let tensors = self.tensors.unused();
        if !tensors.is_empty() {
            return Err(self.fault(of_op(tensors), format!("`{op}` has no such tensor")));
        }
        Ok(())
    }
}

fn attribute(name: &str) -> String {
    format!("attrs.{name}")
}

/// A JSON object without a key that stands twice.
struct Object(BTreeMap<String, Value>);

impl<'de> serde::Deserialize<'de> for Object {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if entries.contains_key(&key) {
                        return Err(serde::de::Error::custom(format!("{key} stands twice")));
                    }
                    entries.insert(key, value);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// Checks one entry of `tol`.
fn tolerance(name: &str, value: &Value) -> Result<f64, String> {
    let Some((_, most)) = TOLERANCES.iter().find(|(known, _)| *known == name) else {
        let known = TOLERANCES.map(|(name, _)| name).join(", ");
        return Err(format!("there is no such tolerance; use {known}"));
    };
    match value.as_f64() {
        Some(limit) if (0.0..=*most).contains(&limit) => Ok(limit),
        Some(_) if *most == f64::MAX => Err(format!("is {value}; it can be from 0")),
        Some(_) => Err(format!("is {value}; it can be from 0 to {most}")),
        None => Err(format!("is {value}, not a number")),
    }
}

/// A tensor's elements as f32, all finite and exact.
fn values(view: &safetensors::tensor::TensorView) -> Result<Vec<f32>, String> {
    /// Whole numbers up to here are f32.
    const EXACT: u64 = 1 << 24;
    let data: Vec<f32> = match view.dtype() {
        Dtype::F32 => view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::I64 => {
            let whole = view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b));
            let exact = whole.map(|v| (v.unsigned_abs() <= EXACT).then_some(v as f32).ok_or(v));
            exact.collect::<Result<_, _>>().map_err(|v| format!("holds {v}; whole numbers can be up to 2^24"))?
        }
        other => return Err(format!("is {other:?}; the format has F32 and I64")),
    };
    if data.is_empty() {
        return Err(format!("is empty, of the shape {}", Shape::from(view.shape())));
    }
    match data.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(format!("element {at} of the shape {} is {}", Shape::from(view.shape()), data[at])),
        None => Ok(data),
    }
}

type Tensors = BTreeMap<String, (Shape, Vec<f32>)>;

/// The released code stores a branch's norm under two names; here it has one. An alias of another content is an error.
fn one_spelling(tensors: Tensors) -> Result<Tensors, (String, String)> {
    let mut all = BTreeMap::new();
    for (name, tensor) in tensors {
        let canonical = DcFormer::canonical_name(&name);
        if all.get(&canonical).is_some_and(|other| *other != tensor) {
            return Err((name, format!("is another name of {canonical}, and they differ")));
        }
        all.insert(canonical, tensor);
    }
    Ok(all)
}
