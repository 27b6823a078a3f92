//! `x2ct model NAME`: layers, parameters, multiply-adds.

use std::process::ExitCode;

use serde_json::json;
use x2ct::nn::ParameterBuilder;
use x2ct::nn::models::{EncoderConfig, RadiographEncoder};

use crate::Common;
use crate::terminal::print_table;

/// Print a model's layers, parameters and multiply-adds
#[derive(clap::Args)]
pub struct ModelArgs {
    /// resnet18 or resnet50
    name: String,
    /// Channels of the first stage
    #[arg(long, default_value_t = 64)]
    width: usize,
    /// Height and width of the input
    #[arg(long, default_value_t = 224)]
    size: usize,
    /// Dimensions of the embedding
    #[arg(long, default_value_t = 512)]
    embedding: usize,
}

pub fn run(args: ModelArgs, common: &Common) -> anyhow::Result<ExitCode> {
    if !(32..=16384).contains(&args.size) {
        anyhow::bail!("--size: {} is not usable; use 32 to 16384", args.size);
    }
    let config = EncoderConfig { embedding: args.embedding, ..EncoderConfig::new(&args.name, args.width) };
    let model = RadiographEncoder::new(&mut ParameterBuilder::new(), &config)?;
    let summary = model.summary([1, 3, args.size, args.size]);
    let stages = summary.stages();
    if common.json {
        let stages: Vec<_> =
            stages.iter().map(|(name, p, m)| json!({"name": name, "parameters": p, "macs": m})).collect();
        let report = json!({
            "model": args.name, "input": [1, 3, args.size, args.size],
            "parameters": summary.parameters(), "macs": summary.macs(), "stages": stages, "layers": summary.layers,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(ExitCode::SUCCESS);
    }
    let layers = summary
        .layers
        .iter()
        .map(|l| vec![l.name.clone(), format!("{:?}", l.output), l.parameters.to_string(), l.macs.to_string()]);
    print_table(&["layer", "output", "parameters", "macs"], &layers.collect::<Vec<_>>());
    println!();
    let rows = stages.iter().map(|(name, p, m)| vec![name.clone(), p.to_string(), m.to_string()]);
    let total = vec!["total".to_string(), summary.parameters().to_string(), summary.macs().to_string()];
    print_table(&["stage", "parameters", "macs"], &rows.chain([total]).collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}
