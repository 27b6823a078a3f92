//! Caches, checkpoints, packed radiographs and golden files: flipped and cut bytes, and well-formed files whose content is
//! not what it should be.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::json;
use x2ct::archive::Writer;

use super::workspace::Workspace;
use super::{Case, Demand, draws};

/// Metadata and tensors of f32, as they stand in a file.
#[derive(Clone)]
struct Content {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Content {
    fn read(bytes: &[u8]) -> Self {
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
        let metadata = header.metadata().clone().unwrap().into_iter().collect();
        let file = SafeTensors::deserialize(bytes).unwrap();
        let tensors = file.iter().filter(|(_, t)| t.dtype() == Dtype::F32).map(|(name, t)| {
            let values = t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            (name.to_string(), (t.shape().to_vec(), values))
        });
        Content { metadata, tensors: tensors.collect() }
    }

    /// An archive with the checksum of what it holds.
    fn archive(&self, workspace: &Workspace, name: &str) {
        let mut writer = Writer::new(&self.metadata["format"]);
        for (key, value) in self.metadata.iter().filter(|(key, _)| !["format", "checksum"].contains(&key.as_str())) {
            writer.set(key, value);
        }
        for (tensor, (shape, values)) in &self.tensors {
            writer.put_f32(tensor, shape, values);
        }
        writer.write(&workspace.at().join(name)).unwrap();
    }

    fn golden(&self, workspace: &Workspace, name: &str) {
        let bytes: BTreeMap<&str, Vec<u8>> = self
            .tensors
            .iter()
            .map(|(n, (_, values))| (n.as_str(), values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views = self
            .tensors
            .iter()
            .map(|(n, (s, _))| (n, TensorView::new(Dtype::F32, s.clone(), &bytes[n.as_str()]).unwrap()));
        let metadata = self.metadata.clone().into_iter().collect();
        workspace.write(name, &safetensors::serialize(views, Some(metadata)).unwrap());
    }
}

/// Edits of a cache that is whole otherwise.
type Edit = (&'static str, fn(&mut Content), &'static str);

fn ids(content: &mut Content, edit: impl Fn(&mut Vec<String>)) {
    let mut ids: Vec<String> = serde_json::from_str(&content.metadata["ids"]).unwrap();
    edit(&mut ids);
    content.metadata.insert("ids".into(), json!(ids).to_string());
}

fn values<'a>(content: &'a mut Content, name: &str) -> &'a mut Vec<f32> {
    &mut content.tensors.get_mut(name).unwrap().1
}

#[rustfmt::skip] // one edit a line
const CACHE: [Edit; 12] = [
    ("NaN in ct", |c| values(c, "ct")[5] = f32::NAN, "ct"),
    ("infinity in report", |c| values(c, "report")[7] = f32::INFINITY, "report"),
    ("a row twice as long", |c| values(c, "ct")[..8].iter_mut().for_each(|v| *v *= 200.0), "ct"),
    ("a row of zeros", |c| { let n = c.tensors["report"].0[1]; values(c, "report")[..n].fill(0.0) }, "report"),
    ("an id twice", |c| ids(c, |ids| ids[1] = ids[0].clone()), "ids|twice"),
    ("an id less", |c| ids(c, |ids| drop(ids.pop())), "ct|report|ids"),
    ("no prompts", |c| drop(c.tensors.remove("prompts_negative")), "prompts_negative"),
    ("a prompt less", |c| { let (s, v) = c.tensors.get_mut("prompts_positive").unwrap(); s[0] -= 1; v.truncate(s[0] * s[1]) }, "prompts_positive"),
    ("a tensor more", |c| drop(c.tensors.insert("logits".into(), (vec![1, 1], vec![0.0]))), "logits"),
    ("no teacher", |c| drop(c.metadata.remove("teacher")), "teacher"),
    ("another teacher", |c| drop(c.metadata.insert("teacher".into(), "CT-CLIP".into())), "teacher"),
    ("another teacher's weights", |c| drop(c.metadata.insert("checkpoint_digest".into(), "ab".repeat(32))), "checkpoint"),
];

fn attributes(content: &mut Content, key: &str, name: &str, value: serde_json::Value) {
    let mut all: serde_json::Value = serde_json::from_str(&content.metadata[key]).unwrap();
    all[name] = value;
    content.metadata.insert(key.into(), all.to_string());
}

#[rustfmt::skip] // one edit a line
const GOLDEN: [Edit; 18] = [
    ("NaN in the reference", |c| values(c, "out.y")[0] = f32::NAN, "out.y"),
    ("infinity in a gradient", |c| values(c, "g.in.x")[1] = f32::INFINITY, "g.in.x"),
    ("NaN in the input", |c| values(c, "in.x")[1] = f32::NAN, "in.x|out.y"),
    ("nothing to compare", |c| c.tensors.retain(|n, _| !n.starts_with("out.") && !n.starts_with("g.")), "out|compare"),
    ("an output nobody knows", |c| drop(c.tensors.insert("out.scores".into(), (vec![1], vec![1.0]))), "out.scores"),
    ("an input nobody knows", |c| drop(c.tensors.insert("in.mask".into(), (vec![1], vec![1.0]))), "in.mask"),
    ("a gradient nobody knows", |c| drop(c.tensors.insert("g.w.bia".into(), (vec![1], vec![1.0]))), "g.w.bia"),
    ("a tensor of no kind", |c| drop(c.tensors.insert("extra".into(), (vec![1], vec![1.0]))), "extra"),
    ("an attribute nobody knows", |c| attributes(c, "attrs", "epsilon", json!(1e-5)), "epsilon"),
    ("an attribute of another type", |c| attributes(c, "attrs", "eps", json!("small")), "eps"),
    ("a tolerance nobody knows", |c| attributes(c, "tol", "rel_12", json!(1e-5)), "rel_12"),
    ("a tolerance of 1e9", |c| attributes(c, "tol", "rel_l2", json!(1e9)), "rel_l2"),
    ("a negative tolerance", |c| attributes(c, "tol", "rel_l2", json!(-1e-5)), "rel_l2"),
    ("a tolerance that is text", |c| attributes(c, "tol", "rel_l2", json!("1e-5")), "rel_l2"),
    ("an output of another shape", |c| c.tensors.get_mut("out.y").unwrap().0.reverse(), "out.y"),
    ("an operation nobody knows", |c| drop(c.metadata.insert("op".into(), "layer_nrom".into())), "layer_nrom"),
    ("attributes that are no JSON", |c| drop(c.metadata.insert("attrs".into(), "{eps".into())), "attrs"),
    ("a mode nobody knows", |c| drop(c.metadata.insert("mode".into(), "test".into())), "mode"),
];

pub fn cases(workspace: &Workspace) -> Vec<Case> {
    let mut cases = Vec::new();
    let evaluate = |cache: &str| {
        format!("eval --checkpoint run/checkpoint.safetensors --radiographs valid --cache {cache} --dataset .")
    };
    let cache = Content::read(&workspace.read("valid.cache.safetensors"));
    for (index, (what, edit, words)) in CACHE.into_iter().enumerate() {
        let (name, mut content) = (format!("e{index}.cache.safetensors"), cache.clone());
        edit(&mut content);
        content.archive(workspace, &name);
        cases.push(Case::new(format!("cache: {what}"), evaluate(&name), Demand::Refused, &[&name, words]));
    }
    // Bytes of what is read at every start: each is under the checksum, or makes the header another.
    let commands: [(&str, &dyn Fn(&str) -> String); 3] = [
        ("valid.cache.safetensors", &evaluate),
        ("run/checkpoint.safetensors", &|name| {
            format!("predict good.png --checkpoint {name} --cache valid.cache.safetensors")
        }),
        ("valid/ap.safetensors", &|name| {
            format!(
                "eval --checkpoint run/checkpoint.safetensors --radiographs {name} --cache valid.cache.safetensors --dataset ."
            )
        }),
    ];
    for (kind, (file, command)) in commands.into_iter().enumerate() {
        let good = workspace.read(file);
        for index in 0..12 {
            let mut rng = draws(9 + kind as u32, index);
            let name = format!("f{kind}_{index}.safetensors");
            let (byte, bit) = (rng.below(good.len()), rng.below(8));
            let mut bytes = good.clone();
            if index % 3 == 0 {
                bytes.truncate(byte);
            } else {
                bytes[byte] ^= 1 << bit;
            }
            workspace.write(&name, &bytes);
            let what = format!("{file}: {} at byte {byte}", if index % 3 == 0 { "cut" } else { "flipped" });
            cases.push(Case::new(what, command(&name), Demand::Refused, &[&name]));
        }
    }
    let golden = Content::read(include_bytes!("../golden/layer_norm_3x770.safetensors"));
    golden.golden(workspace, "golden.safetensors");
    crate::cli::succeed(workspace.at(), "check golden.safetensors");
    for (index, (what, edit, words)) in GOLDEN.into_iter().enumerate() {
        let (name, mut content) = (format!("g{index}.safetensors"), golden.clone());
        edit(&mut content);
        content.golden(workspace, &name);
        cases.push(Case::new(format!("golden: {what}"), format!("check {name}"), Demand::Refused, &[&name, words]));
    }
    cases
}
