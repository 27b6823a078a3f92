//! `x2ct embed`: what a trained radiograph encoder makes of radiographs, as a file.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use x2ct::data::features::FeatureSet;
use x2ct::data::provenance::{Provenance, fields};
use x2ct::data::radiographs::{self, RadiographSet};
use x2ct::train::{Checkpoint, Trainer};
use x2ct::{Device, files};

use crate::Common;
use crate::chain::{Chain, Trust};
use crate::output::Report;
use crate::radiographs::Radiographs;

/// Embed radiographs with a trained encoder, once for all evaluations: `x2ct eval retrieval`, `x2ct eval zero-shot`, probes
///
/// The file holds one L2-normalised row a radiograph, the ids, the CT behind each and how it was made, so that what does not belong
/// together is told apart later. A radiograph that is damaged or one value everywhere is left out and named; the exit code is
/// then 1.
#[derive(clap::Args)]
pub struct EmbedArgs {
    /// Checkpoint of `x2ct train`, of a radiograph encoder
    #[arg(long)]
    checkpoint: PathBuf,
    /// Radiographs (`x2ct drr --dataset`, `x2ct radiographs`): a file, or shards by their folder or by a quoted name with *
    #[arg(long)]
    radiographs: PathBuf,
    /// The file to write (.safetensors)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    trust: Trust,
    /// Embed radiographs that were made with other settings than those of the training, and warn
    #[arg(long)]
    force: bool,
}

pub fn run(args: EmbedArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    files::check_writable(&args.out)?;
    let shards = radiographs::files_of(&args.radiographs)?;
    files::check_apart(&args.out, shards.iter().chain([&args.checkpoint]))?;
    radiographs::expect_none_of(&args.radiographs, &[&args.out])?;
    let checkpoint: Checkpoint = Checkpoint::read(&args.checkpoint)?;
    let mut chain = Chain::new(args.trust);
    let Radiographs { set, undecided, .. } = Radiographs::read(&checkpoint, &args.radiographs, args.force, &mut chain)?;
    chain.settle(&args.radiographs, Ok(undecided))?;
    let features = features(&device, &checkpoint, &set, made(&checkpoint, &set, chain.is_forced()))?;
    features.write(&args.out)?;
    chain.holds("features", &features.provenance().digest);
    let report = Report::new("embed").with_all(json!({
        "features": files::lossy(&args.out), "radiographs": features.ids.len(), "dim": features.dim, "encoder": features.encoder,
        "teacher": checkpoint.sources.teacher,
    }))?;
    chain.report(report)?.finish(common.json, || {
        let (out, count) = (args.out.display(), features.ids.len());
        say!("{out}: {count} radiographs, {} numbers each, by {}", features.dim, features.encoder);
    })
}

/// Features of radiographs by an encoder.
pub fn features(
    device: &Device,
    checkpoint: &Checkpoint,
    set: &RadiographSet,
    made: Provenance,
) -> x2ct::Result<FeatureSet> {
    let features = Trainer::resume(device, checkpoint)?.embed(&set.upload(device)?)?;
    let (ids, dim, cts) = (set.ids().to_vec(), checkpoint.config.model.embedding, set.cts().clone());
    Ok(FeatureSet { ids, features, dim, encoder: encoder(checkpoint), cts, made })
}

/// How they are made, and of what.
pub fn made(checkpoint: &Checkpoint, set: &RadiographSet, forced: bool) -> Provenance {
    let settings = fields(json!({"encoder": encoder(checkpoint), "checkpoint": checkpoint.digest(), "forced": forced}));
    Provenance::made(settings, [("checkpoint", checkpoint.provenance()), ("radiographs", set.provenance())])
}

fn encoder(checkpoint: &Checkpoint) -> String {
    format!("radiograph encoder ({})", checkpoint.config.model.name)
}
