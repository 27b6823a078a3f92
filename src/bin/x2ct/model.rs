//! `x2ct model NAME`: layers, parameters, multiply-adds.

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use serde_json::json;
use x2ct::nn::models::{DcFormer, DcFormerConfig, EncoderConfig, RadiographEncoder, TokenReduction};
use x2ct::nn::{ParameterBuilder, Recompute};
use x2ct::tensor::DType;
use x2ct::train::StepMemory;

use crate::Common;
use crate::arguments::count;
use crate::output::{Report, usage};
use crate::terminal::print_table;

/// Print a model's layers, parameters and multiply-adds
#[derive(clap::Args)]
pub struct ModelArgs {
    /// The model
    #[arg(value_parser = PossibleValuesParser::new(["resnet18", "resnet50"].iter().chain(&DcFormerConfig::NAMES)))]
    name: String,
    /// Channels of the first stage (ResNet); 64 as published
    #[arg(long, value_parser = count(1..=2048))]
    width: Option<usize>,
    /// Height and width of the input; a DCFormer's is half as deep. Default 224, or 512 for a DCFormer
    #[arg(long, value_parser = count(32..=16384))]
    size: Option<usize>,
    /// Dimensions of the embedding
    #[arg(long, default_value = "512", value_parser = count(1..=65536))]
    embedding: usize,
    /// What a DCFormer's projection takes of the last feature map; channel when absent
    #[arg(long, value_parser = TokenReduction::NAMES)]
    reduction: Option<String>,
    /// Also count the device memory of a training step on a batch of this many radiographs or volumes
    #[arg(long, value_parser = count(1..=1_000_000))]
    batch: Option<usize>,
    /// Radiographs or volumes recorded at a time in that step, as `micro_batch` of a training run
    #[arg(long, requires = "batch", value_parser = count(1..=1_000_000))]
    micro_batch: Option<usize>,
}

impl ModelArgs {
    /// Refuses an option that the other kind of model has.
    fn check(&self, dcformer: bool) -> anyhow::Result<()> {
        match (dcformer, &self.width, &self.reduction) {
            (true, Some(_), _) => {
                Err(usage(format!("--width is a ResNet's, and {} has channels of its own", self.name)))
            }
            (false, _, Some(_)) => {
                Err(usage(format!("--reduction is a DCFormer's, and {} has a mean over pixels", self.name)))
            }
            _ => match self.micro_batch.zip(self.batch) {
                Some((part, batch)) if part > batch => {
                    Err(usage(format!("--micro-batch {part} is more than the batch of {batch}, of which it is a part")))
                }
                _ => Ok(()),
            },
        }
    }

    fn encoder(&self) -> EncoderConfig {
        EncoderConfig { embedding: self.embedding, ..EncoderConfig::new(&self.name, self.width.unwrap_or(64)) }
    }
}

pub fn run(args: ModelArgs, common: &Common) -> anyhow::Result<ExitCode> {
    common.expect_device()?;
    let dcformer = args.name.starts_with("dcformer");
    args.check(dcformer)?;
    let size = args.size.unwrap_or(if dcformer { 512 } else { 224 });
    let memory = match args.batch {
        Some(batch) => step_memory(&args, size, batch)?,
        None => Vec::new(),
    };
    let mut builder = ParameterBuilder::new();
    let (input, summary, published) = if dcformer {
        let config = dcformer_config(&args, size)?;
        let model = DcFormer::new(&mut builder, &config)?;
        let [h, w, d] = config.input;
        let input = [1, 1, h, w, d];
        (
            input.to_vec(),
            model.summary(input),
            Some((model.head().inputs() * args.embedding, model.normalized_values(input))),
        )
    } else {
        let input = [1, 3, size, size];
        (input.to_vec(), RadiographEncoder::new(&mut builder, &args.encoder())?.summary(input), None)
    };
    let stages = summary.stages();
    if common.json {
        let stages: Vec<_> =
            stages.iter().map(|(name, p, m)| json!({"name": name, "parameters": p, "macs": m})).collect();
        let mut report = json!({
            "model": args.name, "input": input,
            "parameters": summary.parameters(), "macs": summary.macs(), "stages": stages, "layers": summary.layers,
        });
        if let Some((projection, normalized)) = published {
            report["parameters_with_projection"] = json!(summary.parameters() + projection);
            report["fvcore_train"] = json!(summary.macs() + 5 * normalized);
            report["fvcore_eval"] = json!(summary.macs() + 2 * normalized);
        }
        if !memory.is_empty() {
            report["step_memory"] = memory.iter().map(|(label, m)| (label.clone(), json!(m))).collect();
        }
        return Report::new("model").with_all(report)?.finish(true, || ());
    }
    let layers = summary
        .layers
        .iter()
        .map(|l| vec![l.name.clone(), format!("{:?}", l.output), l.parameters.to_string(), l.macs.to_string()]);
    print_table(&["layer", "output", "parameters", "macs"], &layers.collect::<Vec<_>>());
    say!("");
    let rows = stages.iter().map(|(name, p, m)| vec![name.clone(), p.to_string(), m.to_string()]);
    let total = vec!["total".to_string(), summary.parameters().to_string(), summary.macs().to_string()];
    print_table(&["stage", "parameters", "macs"], &rows.chain([total]).collect::<Vec<_>>());
    if let Some((projection, normalized)) = published {
        say!("with a projection to {}: {} parameters", args.embedding, summary.parameters() + projection);
        let [train, eval] = [5, 2].map(|operations| summary.macs() + operations * normalized);
        say!("as fvcore counts, batch norms included: {train} in training, {eval} in evaluation");
    }
    if let Some(batch) = args.batch {
        let parts = args.micro_batch.map_or("in one pass".to_string(), |m| format!("in micro-batches of at most {m}"));
        let what = if dcformer { "volumes" } else { "radiographs" };
        say!("\ndevice memory of a training step on {batch} {what} {parts}, GB");
        let rows = memory.iter().map(|(label, m)| {
            let bytes = [m.activations, m.embeddings, m.parameters, m.total()];
            std::iter::once(label.clone()).chain(bytes.map(|b| format!("{:.2}", b as f64 / 1e9))).collect()
        });
        print_table(&["", "activations", "embeddings", "parameters", "total"], &rows.collect::<Vec<_>>());
    }
    Ok(ExitCode::SUCCESS)
}

/// Of both storage types and, for a DCFormer, with and without recomputation.
fn step_memory(args: &ModelArgs, size: usize, batch: usize) -> x2ct::Result<Vec<(String, StepMemory)>> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::Bf16] {
        let name = dtype.name().to_string();
        if !args.name.starts_with("dcformer") {
            all.push((name, StepMemory::of(&args.encoder(), size, dtype, batch, args.micro_batch)?));
            continue;
        }
        let config = DcFormerConfig { projection: Some(args.embedding), ..dcformer_config(args, size)? };
        for (what, recompute) in [
            ("", Recompute::Nothing),
            (", hidden layers recomputed", Recompute::Hidden),
            (", blocks recomputed", Recompute::Blocks),
        ] {
            let memory = StepMemory::of_volumes(&config, dtype, batch, args.micro_batch, recompute)?;
            all.push((format!("{name}{what}"), memory));
        }
    }
    Ok(all)
}

fn dcformer_config(args: &ModelArgs, size: usize) -> x2ct::Result<DcFormerConfig> {
    let reduction = args.reduction.as_deref().map_or(Ok(TokenReduction::default()), TokenReduction::parse)?;
    Ok(DcFormerConfig { input: [size, size, size / 2], reduction, ..DcFormerConfig::named(&args.name)? })
}
