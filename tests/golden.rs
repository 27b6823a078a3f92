//! Every golden file of the repository, on every device.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use x2ct::check::{Case, Found, Outcome, Row};

use crate::support::{checkout, devices};

fn folder() -> PathBuf {
    checkout("tests/golden")
}

/// The cases; a cache and text features are no cases.
fn files() -> Vec<PathBuf> {
    let mut found = Found::default();
    found.add(&folder());
    assert!(found.unreadable.is_empty());
    found.cases
}

/// Runs the cases whose operation `wanted` accepts; every tensor of every one must pass.
fn run(wanted: impl Fn(&str) -> bool) {
    let mut compared = 0;
    for (name, device) in devices() {
        for file in files() {
            let case = Case::read(&file).unwrap();
            if !wanted(&case.op) {
                continue;
            }
            for row in case.run(&device).unwrap_or_else(|e| panic!("{name}: {e}")).rows {
                assert!(row.pass, "{name}: {row:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 0, "no golden case was run");
}

#[test]
fn operators_agree_with_pytorch() {
    run(|op| !op.starts_with("model.") && !op.starts_with("trajectory."));
}

#[test]
fn models_agree_with_pytorch() {
    run(|op| op.starts_with("model."));
}

#[test]
fn training_follows_pytorch() {
    run(|op| op.starts_with("trajectory."));
}

/// A golden file as it stands in memory, to be spoiled.
#[derive(Clone)]
struct Golden {
    metadata: HashMap<String, String>,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let bytes = std::fs::read(folder().join(format!("{name}.safetensors"))).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors =
            file.iter().map(|(name, t)| (name.to_string(), (t.dtype(), t.shape().to_vec(), t.data().to_vec())));
        Golden { metadata: header.metadata().clone().unwrap(), tensors: tensors.collect() }
    }

    fn write(&self, path: &Path) {
        let views = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, data))| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
        std::fs::write(path, safetensors::serialize(views, Some(self.metadata.clone())).unwrap()).unwrap();
    }

    /// Sets an entry of `attrs` or `tol`; null removes it.
    fn set(&mut self, object: &str, key: &str, value: Value) {
        let text = self.metadata.get(object).map_or("{}", String::as_str);
        let mut entries: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap();
        entries.insert(key.into(), value);
        entries.retain(|_, value| !value.is_null());
        self.metadata.insert(object.into(), Value::Object(entries).to_string());
    }

    fn put(&mut self, name: &str, shape: &[usize], data: &[f32]) {
        let bytes = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.insert(name.into(), (Dtype::F32, shape.to_vec(), bytes));
    }

    /// Overwrites one element.
    fn poke(&mut self, name: &str, at: usize, value: f32) {
        self.tensors.get_mut(name).unwrap().2[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn outcome(&self) -> x2ct::Result<Outcome> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spoiled.safetensors");
        self.write(&path);
        Case::read(&path)?.run(&crate::support::host(Default::default()))
    }

    fn run(&self) -> x2ct::Result<Vec<Row>> {
        self.outcome().map(|outcome| outcome.rows)
    }
}

/// Spoils a golden file and says which field the error must name, and what it must say.
type Fault = (&'static str, fn(&mut Golden), &'static str, &'static str);

const FAULTS: &[Fault] = &[
    // Metadata.
    ("relu_7x131", |g| drop(g.metadata.insert("format".into(), "x2ct-golden-2".into())), "format", "x2ct-golden-2"),
    ("relu_7x131", |g| drop(g.metadata.insert("atrrs".into(), "{}".into())), "atrrs", "no such metadata"),
    ("relu_7x131", |g| drop(g.metadata.remove("op")), "op", "is missing"),
    ("relu_7x131", |g| drop(g.metadata.insert("op".into(), "rleu".into())), "op", "did you mean `relu`?"),
    ("relu_7x131", |g| drop(g.metadata.insert("op".into(), "bert".into())), "op", "no operation `bert`"),
    ("relu_7x131", |g| drop(g.metadata.insert("mode".into(), "training".into())), "mode", "train, eval or empty"),
    ("batch_norm_n4c7_5x3_train", |g| drop(g.metadata.insert("mode".into(), "".into())), "mode", "needs train or eval"),
    ("relu_7x131", |g| drop(g.metadata.insert("attrs".into(), "[1]".into())), "attrs", "JSON object"),
    ("relu_7x131", |g| drop(g.metadata.insert("attrs".into(), "{".into())), "attrs", "EOF"),
    (
        "linear_7x13x5",
        |g| drop(g.metadata.insert("attrs".into(), r#"{"bias":true,"bias":true}"#.into())),
        "attrs",
        "twice",
    ),
    ("relu_7x131", |g| drop(g.metadata.insert("checksum".into(), "0".into())), "", "checksum"),
    // Attributes.
    ("relu_7x131", |g| g.set("attrs", "slope", json!(0.1)), "attrs.slope", "no such attribute"),
    ("layer_norm_5x7", |g| g.set("attrs", "epsilon", json!(1e-5)), "attrs.epsilon", "no such attribute"),
    ("layer_norm_5x7", |g| g.set("attrs", "eps", json!(-1.0)), "attrs.eps", "from 0 to 1"),
    ("layer_norm_5x7", |g| g.set("attrs", "eps", json!("1e-5")), "attrs.eps", "string"),
    ("conv2d_n1c3o5_14x19_k3s1p1", |g| g.set("attrs", "stride", json!(0)), "attrs.stride", "from 1 to"),
    ("conv2d_n1c3o5_14x19_k3s1p1", |g| g.set("attrs", "padding", json!(1_000_000)), "attrs.padding", "from 0 to"),
    (
        "conv2d_n1c3o5_14x19_k3s1p1",
        |g| g.set("attrs", "bias", json!(true)),
        "attrs.bias",
        "is true, and here it is false",
    ),
    ("max_pool2d_1x3x8x8_k2s2p0", |g| g.set("attrs", "kernel", Value::Null), "attrs.kernel", "is missing"),
    ("avg_pool3d_1x2x4x9x12", |g| g.set("attrs", "kernel", json!(5)), "attrs.kernel", "is 5, and here it is 3"),
    ("matmul_31x17x23_nn", |g| g.set("attrs", "transpose_a", json!(1)), "attrs.transpose_a", "boolean"),
    ("info_nce_n2_d3_mean", |g| g.set("attrs", "reduction", json!("none")), "attrs.reduction", "mean or sum"),
    ("info_nce_n2_d3_mean", |g| g.set("attrs", "scale", json!(0)), "attrs.scale", "from 0.000001 to"),
    (
        "info_nce_n2_d3_mean",
        |g| g.set("attrs", "torch_f32", json!({"out.los": 0.1})),
        "attrs.torch_f32",
        "no tensor out.los",
    ),
    (
        "bce_with_logits_n37c18_weighted",
        |g| drop(g.tensors.remove("w.pos_weight")),
        "attrs.pos_weight",
        "is true, and here it is false",
    ),
    ("tri_modal_n2_d2_a1b1g1", |g| g.set("attrs", "temperature", json!(0)), "attrs.temperature", "from"),
    ("tri_modal_n2_d2_a1b1g1", |g| g.set("attrs", "delta", json!(1)), "attrs.delta", "no such attribute"),
    ("adamw_plain", |g| g.set("attrs", "betas", json!([0.9, 1.0])), "attrs.betas", "below 1"),
    ("adamw_plain", |g| g.set("attrs", "lr", json!(-1)), "attrs.lr", "from 0"),
    ("adamw_plain", |g| g.set("attrs", "amsgrad", json!(false)), "attrs.amsgrad", "no such attribute"),
    ("decomp_conv_depthwise_k9_eval", |g| g.set("attrs", "groups", json!(2)), "attrs.groups", "it can be 1 or"),
    (
        "resnet18_w4_projection_eval",
        |g| g.set("attrs", "layers", json!([3, 4, 6, 3])),
        "attrs.layers",
        "here it is [2,2,2,2]",
    ),
    (
        "resnet18_w4_projection_eval",
        |g| g.set("attrs", "width", json!(8)),
        "w.conv1.weight",
        "the model's is [8, 3, 7, 7]",
    ),
    ("resnet18_w4_projection_eval", |g| g.set("attrs", "width", json!(1u64 << 60)), "attrs.width", "from 1 to"),
    ("resnet18_w4_projection_eval", |g| g.set("attrs", "eps", json!(1e-3)), "attrs.eps", "here it is"),
    (
        "drr_siddon_parallel_ap",
        |g| g.set("attrs", "projector", json!("simon")),
        "attrs.projector",
        "siddon, joseph or trilinear",
    ),
    (
        "drr_siddon_parallel_ap",
        |g| g.set("attrs", "size", json!([100_000, 100_000])),
        "attrs.size",
        "out.image has the shape",
    ),
    ("drr_siddon_parallel_ap", |g| g.set("attrs", "affine", json!(vec![0; 12])), "attrs.affine", "affine"),
    ("drr_mean_hu_5x7x11", |g| g.set("attrs", "axes", json!("RAS")), "attrs.axes", "is \"RAS\""),
    (
        "ct_resample_ct_clip_down",
        |g| g.set("attrs", "window", json!([200.0, -1000.0])),
        "attrs.window",
        "is not a range",
    ),
    ("ct_resample_ct_clip_down", |g| g.set("attrs", "spacing", json!([0.0, 1.0, 1.0])), "attrs.spacing", "from 0.001"),
    ("ct_preset_x2ct_psr", |g| g.set("attrs", "preset", json!("x2cd")), "attrs.preset", "x2cd"),
    // Tolerances.
    ("relu_7x131", |g| drop(g.metadata.remove("tol")), "tol", "no tolerance"),
    ("relu_7x131", |g| g.set("tol", "rel_12", json!(1e-5)), "tol.rel_12", "use rel_l2"),
    ("relu_7x131", |g| g.set("tol", "rel_l2", json!(1e9)), "tol.rel_l2", "from 0 to 0.01"),
    ("relu_7x131", |g| g.set("tol", "rel_l2", json!(-1e-5)), "tol.rel_l2", "from 0 to 0.01"),
    ("relu_7x131", |g| g.set("tol", "rel_l2", json!("1e-5")), "tol.rel_l2", "not a number"),
    ("relu_7x131", |g| g.set("tol", "rel_l2", json!(true)), "tol.rel_l2", "not a number"),
    ("relu_7x131", |g| g.set("tol", "atol_of_max_grad", json!(1)), "tol.atol_of_max_grad", "from 0 to 0.01"),
    ("relu_7x131", |g| g.set("tol", "atol", json!(100)), "tol.atol", "out.y has values up to"),
    ("relu_7x131", |g| g.set("tol", "loss", json!(1e-5)), "tol.loss", "no tensor of `relu`"),
    ("relu_7x131", |g| drop(g.metadata.insert("tol".into(), r#"{"rel_l2": NaN}"#.into())), "tol", "expected"),
    ("trajectory_resnet18_w4", |g| g.set("tol", "spreads", json!(1e9)), "tol.spreads", "from 0 to 10"),
    ("trajectory_resnet18_w4", |g| g.poke("spread.loss", 3, 0.5), "spread.loss", "step 3 allows"),
    // Tensors.
    ("relu_7x131", |g| g.poke("out.y", 3, f32::NAN), "out.y", "element 3 of the shape [7, 131] is NaN"),
    ("relu_7x131", |g| g.poke("g.in.x", 0, f32::INFINITY), "g.in.x", "element 0"),
    ("relu_7x131", |g| g.poke("in.x", 1, f32::NEG_INFINITY), "in.x", "is -inf"),
    ("relu_7x131", |g| drop(g.tensors.remove("in.x")), "in.x", "no such tensor"),
    ("relu_7x131", |g| drop(g.tensors.remove("out.y")), "out.", "nothing would be compared"),
    ("adamw_plain", |g| g.tensors.retain(|name, _| !name.starts_with("out.")), "out.", "nothing would be compared"),
    ("adamw_plain", |g| drop(g.tensors.remove("in.grad.2")), "in.grad.2", "no such tensor"),
    ("adamw_plain", |g| drop(g.tensors.remove("out.param")), "out.param", "no such tensor"),
    (
        "resnet18_w4_projection_eval",
        |g| drop(g.tensors.remove("out.embedding")),
        "out.embedding",
        "no such tensor, and the operation needs it",
    ),
    ("relu_7x131", |g| drop(g.tensors.remove("g.in.x")), "up.y", "none to compare with"),
    ("adamw_plain", |g| g.put("in.grad.99", &[1], &[1.0]), "in.grad.99", "no such tensor"),
    ("relu_7x131", |g| g.put("in.mask", &[1], &[1.0]), "in.mask", "`relu` has no such tensor"),
    ("relu_7x131", |g| g.put("param.x", &[1], &[1.0]), "param.x", "`relu` has no such tensor"),
    ("relu_7x131", |g| g.put("up.z", &[1], &[1.0]), "up.z", "`relu` has no such tensor"),
    ("relu_7x131", |g| g.put("up.y", &[131, 7], &[1.0; 917]), "up.y", "out.y is [7, 131]"),
    ("relu_7x131", |g| g.put("in.x", &[0, 131], &[]), "in.x", "is empty"),
    ("relu_7x131", |g| g.tensors.get_mut("up.y").unwrap().0 = Dtype::I32, "up.y", "is I32"),
    ("linear_7x13x5", |g| g.put("w.scale", &[1], &[1.0]), "w.scale", "no such tensor"),
    ("resnet18_w4_projection_eval", |g| g.put("w.fc.bias", &[1], &[1.0]), "w.fc.bias", "no such tensor"),
    ("resnet18_w4_projection_eval", |g| drop(g.tensors.remove("w.bn1.bias")), "w.bn1.bias", "no such tensor"),
    (
        "dcformer_projection_eval",
        |g| g.set("attrs", "blocks", json!([1u64 << 40, 1, 1, 1])),
        "attrs.blocks",
        "more than",
    ),
    ("dcformer_projection_eval", |g| g.put("in.x", &[4, 4], &[0.0; 16]), "in.x", "does not have 5 axes"),
    ("trajectory_resnet18_w4", |g| g.put("g.3.conv1.wieght", &[1], &[1.0]), "g.3.conv1.wieght", "no such tensor"),
    ("trajectory_resnet18_w4", |g| g.put("spread.loss", &[2], &[0.0; 2]), "spread.loss", "there are 10 steps"),
];

#[test]
fn what_is_wrong_with_a_file_is_named() {
    let mut unseen = Vec::new();
    for (name, spoil, field, says) in FAULTS {
        let mut golden = Golden::read(name);
        spoil(&mut golden);
        let outcome = golden.run();
        let named = outcome.as_ref().is_err_and(|error| {
            let (file, named) = error.place();
            let text = error.to_string();
            file.is_some_and(|f| f.ends_with("spoiled.safetensors"))
                && named.unwrap_or_default().contains(field)
                && text.contains(says)
                && !text.contains('\n')
        });
        if !named {
            unseen.push(format!(
                "{name}, {field}, {says}: {:?}",
                outcome.map(|rows| rows.len()).map_err(|e| e.to_string())
            ));
        }
    }
    assert!(unseen.is_empty(), "{}", unseen.join("\n"));
}

/// What the file expects and the operator does not give is a row that fails, with the reason.
#[test]
fn what_cannot_be_compared_fails_with_the_reason() {
    let failing = |name: &str, spoil: fn(&mut Golden), tensor: &str, says: &str| {
        let mut golden = Golden::read(name);
        spoil(&mut golden);
        let rows = golden.run().unwrap();
        let row = rows.iter().find(|row| row.tensor == tensor).unwrap();
        let reason = row.reason.as_deref().unwrap_or_default();
        assert!(!row.pass && reason.contains(says), "{name}: {row:?}");
        assert!(rows.iter().all(|row| row.pass == row.reason.is_none()), "{name}");
        row.clone()
    };
    let stray = failing("relu_7x131", |g| g.put("out.scores", &[1], &[1.0]), "out.scores", "it computes out.y");
    assert_eq!((stray.max_abs, stray.rel_l2, stray.margin), (None, None, None));
    failing("relu_7x131", |g| g.put("g.w.weight", &[1], &[1.0]), "g.w.weight", "it computes g.in.x");
    failing("relu_7x131", |g| drop(g.tensors.remove("up.y")), "g.in.x", "no `up.` of any output");
    failing(
        "relu_7x131",
        |g| g.put("after.running_mean", &[1], &[1.0]),
        "after.running_mean",
        "computes no such tensor",
    );
    failing(
        "relu_7x131",
        |g| g.put("out.y", &[131, 7], &[1.0; 917]),
        "out.y",
        "the shape is [7, 131], the reference's is [131, 7]",
    );
    failing(
        "relu_7x131",
        |g| g.put("g.in.x", &[131, 7], &[1.0; 917]),
        "g.in.x",
        "the shape is [7, 131], the reference's is [131, 7]",
    );
    failing(
        "dcformer_projection_eval",
        |g| g.put("out.s7", &[1], &[1.0]),
        "out.s7",
        "it computes out.embedding, out.s0",
    );
    let wrong = failing("relu_7x131", |g| g.poke("out.y", 3, 1e3), "out.y", "more than");
    assert!(wrong.margin.unwrap() > 1.0 && wrong.limit > 0.0);
}

/// What is computed and has no reference is named; it does not fail the case.
#[test]
fn what_a_file_has_no_reference_of_is_named() {
    let without = |name: &str, gone: &[&str]| {
        let mut golden = Golden::read(name);
        gone.iter().for_each(|tensor| drop(golden.tensors.remove(*tensor).unwrap()));
        let outcome = golden.outcome().unwrap();
        assert!(outcome.rows.iter().all(|row| row.pass && !gone.contains(&&*row.tensor)));
        outcome.not_compared
    };
    let nothing: [&str; 0] = [];
    for (name, gone) in [
        ("adamw_plain", &["out.exp_avg", "out.exp_avg_sq"][..]),
        ("linear_7x13x5", &["g.w.bias"]),
        ("batch_norm_n4c7_5x3_train", &["after.running_mean", "after.running_var"]),
    ] {
        assert_eq!(without(name, &[]), nothing, "{name}");
        assert_eq!(without(name, gone), gone, "{name}");
    }
    // Evaluation moves no buffer, and its references may be of the forward pass alone.
    assert_eq!(without("batch_norm_n3c5_7x1_eval", &[]), nothing);
    let case = Golden::read("decomp_conv_depthwise_k9_eval");
    let gradients: Vec<&str> = case.tensors.keys().map(String::as_str).filter(|name| name.starts_with("g.")).collect();
    assert!(case.tensors.contains_key("up.y") && gradients.len() > 1);
    let mut not_compared = without("decomp_conv_depthwise_k9_eval", &gradients);
    not_compared.retain(|name| !gradients.contains(&name.as_str()));
    assert_eq!(not_compared, nothing);
}

#[test]
fn a_row_says_how_much_of_its_limit_is_used() {
    for row in Golden::read("linear_7x13x5").run().unwrap() {
        assert!(
            row.pass && row.margin.is_some_and(|m| m < 1.0) && row.limit == 1e-5 && row.measure == "rel_l2",
            "{row:?}"
        );
        assert!(row.file.ends_with("spoiled.safetensors") && row.case == "spoiled");
    }
    let mut exact = Golden::read("relu_7x131");
    exact.metadata.insert("tol".into(), r#"{"rel_l2": 0}"#.into());
    assert!(exact.run().unwrap().iter().all(|row| row.pass && row.margin == Some(0.0)), "0 is a tolerance: equality");
    exact.poke("out.y", 3, 1e-30);
    assert!(exact.run().unwrap().iter().any(|row| !row.pass && row.tensor == "out.y"));
}

/// A `state_dict` counts a batch norm's passes, and the released DCFormer has two names for a norm.
#[test]
fn what_a_state_dict_holds_beside_is_known() {
    let mut golden = Golden::read("batch_norm_n4c7_5x3_train");
    let count = |n: i64| (Dtype::I64, vec![], n.to_le_bytes().to_vec());
    golden.tensors.insert("w.num_batches_tracked".into(), count(4));
    golden.tensors.insert("after.num_batches_tracked".into(), count(5));
    assert!(golden.run().unwrap().iter().all(|row| row.pass));
    golden.tensors.insert("after.num_batches_tracked".into(), count(7));
    assert!(golden.run().unwrap().iter().any(|row| !row.pass));
    let mut golden = Golden::read("decomp_conv_depthwise_k9_eval");
    let norm = golden.tensors["w.norm.0.weight"].clone();
    golden.tensors.insert("w.c1.1.weight".into(), norm);
    assert!(golden.run().unwrap().iter().all(|row| row.pass));
    golden.poke("w.c1.1.weight", 0, 9.0);
    let error = golden.run().unwrap_err().to_string();
    assert!(error.contains("they differ"), "{error}");
}

#[test]
fn files_that_are_no_golden_case_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.safetensors");
    std::fs::write(&path, b"short").unwrap();
    let error = Case::read(&path).map(drop).unwrap_err().to_string();
    assert!(error.contains("case.safetensors") && error.contains("not a whole safetensors file"), "{error}");
}

#[test]
fn a_folder_is_gone_through_in_order_and_other_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("below")).unwrap();
    Golden::read("relu_7x131").write(&at("below/b.safetensors"));
    Golden::read("relu_7x131").write(&at("a.golden"));
    std::fs::copy(self::folder().join("cache_from_python.safetensors"), at("cache.safetensors")).unwrap();
    std::fs::write(at("notes.md"), "notes").unwrap();
    std::fs::write(at("cut.safetensors"), "cut").unwrap();
    let mut nameless = Golden::read("relu_7x131");
    nameless.metadata.clear();
    nameless.write(&at("nameless.safetensors"));
    nameless.tensors.retain(|name, _| !name.starts_with("out."));
    nameless.write(&at("weights.safetensors"));
    let mut found = Found::default();
    found.add(folder.path());
    found.add(&at("missing"));
    found.add(&at("notes.md"));
    let names = |paths: &[PathBuf]| {
        paths.iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    // A file that was named, one that cannot be read and one that lost its metadata are for the reader to refuse.
    let cases = ["a.golden", "b.safetensors", "cut.safetensors", "nameless.safetensors", "notes.md"];
    assert_eq!(names(&found.cases), cases);
    let passed_over: Vec<&str> = found.passed_over.iter().map(|f| f.reason.as_str()).collect();
    assert_eq!(passed_over, ["x2ct-cache-1", "no safetensors file", "safetensors without golden metadata"]);
    assert!(matches!(&found.unreadable[..], [error] if error.to_string().contains("missing")));
}
