//! A split of a data set of CTs as `drr` and `preprocess` take it: known by its tables, worked through by the ingest, and told of.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::json;
use x2ct::data::ct_rate::HuSource;
use x2ct::data::ingest::{self, CtSplit, Ingested};
use x2ct::table::{BadRow, first_of};
use x2ct::{Error, files};

use crate::effect::Rule;
use crate::ingest_teller::Teller;
use crate::inputs::PassedOver;
use crate::output::{Failure, Report, Warning};
use crate::source::{HuSourceName, SourceArgs};
use crate::terminal::stop_flag;

#[derive(clap::Args)]
pub struct DatasetArgs {
    /// Data set of CTs, whose volumes go to the folder --out, with manifest.csv: CT-RATE's layout, or RadChest-CT, known by
    /// its tables
    #[arg(long, value_name = "ROOT", requires = "split", conflicts_with = "paths")]
    pub dataset: Option<PathBuf>,
    /// Which part of it; RadChest-CT has all three
    #[arg(long, value_parser = ["train", "valid", "test"], requires = "dataset")]
    split: Option<String>,
    /// Make the I-th of N parts only; other processes or machines may make the others at once, in the same folder
    #[arg(long, value_name = "I/N", value_parser = shard, default_value = "1/1", requires = "dataset")]
    pub shard: [usize; 2],
    /// Forget what is in --out, finished or not, and begin anew
    #[arg(long, requires = "dataset")]
    pub restart: bool,
}

/// `I/N`.
pub fn shard(text: &str) -> Result<[usize; 2], String> {
    let numbers = text.split_once('/').and_then(|(i, n)| Some([i.parse().ok()?, n.parse().ok()?]));
    numbers.filter(|[i, n]| (1..=*n).contains(i)).ok_or_else(|| "give I/N with 1 <= I <= N, such as 3/8".into())
}

impl DatasetArgs {
    /// When its options act.
    pub fn rules(&self) -> impl Iterator<Item = Rule> {
        let acts = self.dataset.is_some();
        ["split", "shard", "restart"].into_iter().map(move |option| Rule::new(option, acts, "--dataset"))
    }

    /// The split, and what of it is left out, which is said. None where no data set is named.
    pub fn open(&self, source: &SourceArgs) -> x2ct::Result<Option<Dataset>> {
        let (Some(root), Some(split)) = (&self.dataset, &self.split) else { return Ok(None) };
        let hu_source = match source.hu_source {
            HuSourceName::AlreadyHu => HuSource::AlreadyHu,
            HuSourceName::Csv => HuSource::CsvRescale,
        };
        if source.metadata.is_some() {
            return Err(Error::argument("--metadata", "a data set has its own table", "leave it out"));
        }
        Dataset::open(root, split, hu_source, self.shard).map(Some)
    }
}

/// Lines about rows of the tables before only their number is told; JSON has them all.
const BAD_ROWS_SHOWN: usize = 5;

/// An open split.
pub struct Dataset {
    data: Box<dyn CtSplit>,
    shard: [usize; 2],
    /// The files of the volumes, by their names.
    paths: HashMap<String, PathBuf>,
    warnings: Vec<Warning>,
    passed_over: Vec<PassedOver>,
}

impl Dataset {
    fn open(root: &Path, split: &str, hu_source: HuSource, shard: [usize; 2]) -> x2ct::Result<Self> {
        let data = ingest::open(root, split, hu_source)?;
        let mut warnings: Vec<Warning> =
            data.left_out().into_iter().map(|(file, warning)| Warning::new(file, warning)).collect();
        let groups = data.passed_over();
        for group in &groups {
            let (count, first) = (group.files.len(), first_of(group.files.iter().map(|(name, _)| name)));
            warnings.push(Warning::new(data.folder(), format!("{count} {}, passed over: {first}", group.what)));
        }
        let (spare, bad_rows): (Vec<&BadRow>, Vec<&BadRow>) = data.bad_rows().iter().partition(|row| row.spare);
        warnings.extend(spare.iter().map(|row| Warning::new(&row.table, format!("{}: {}", row.place(), row.problem))));
        warnings.iter().for_each(|warning| remark!("{}", warning.line()));
        for bad in bad_rows.iter().take(BAD_ROWS_SHOWN) {
            remark!("x2ct: its volume is left out: {}", bad.error());
        }
        if bad_rows.len() > BAD_ROWS_SHOWN {
            remark!("x2ct: and {} more rows that cannot be used", bad_rows.len() - BAD_ROWS_SHOWN);
        }
        let of_group = |group: ingest::PassedOver| {
            let reason = group.reason;
            group.files.into_iter().map(move |(_, file)| PassedOver { file: files::lossy(file), reason: reason.into() })
        };
        let passed_over = groups.into_iter().flat_map(of_group).collect();
        let paths = data.items().into_iter().map(|item| (item.name, root.join(item.file))).collect();
        Ok(Dataset { data, shard, paths, warnings, passed_over })
    }

    /// How many volumes the shard has.
    pub fn volumes(&self) -> usize {
        let ([i, n], all) = (self.shard, self.paths.len());
        all * i / n - all * (i - 1) / n
    }

    fn path(&self, name: &str) -> &Path {
        self.paths.get(name).map_or(Path::new(""), PathBuf::as_path)
    }

    /// Works through the split with `make`, telling how far it is; gives the outcome, and a report of `command` on it.
    pub fn ingest(
        self,
        (command, what): (&'static str, &str),
        out: &Path,
        make: impl FnOnce(&dyn CtSplit, &AtomicBool, &mut dyn FnMut(ingest::Progress)) -> x2ct::Result<Ingested>,
    ) -> anyhow::Result<(Ingested, Report)> {
        // RadChest-CT's volumes lie in the root itself, below which anything may be written.
        let among = Some(self.data.folder()).filter(|folder| folder != self.data.root());
        files::check_all_apart([out.to_path_buf(), out.join("manifest.csv")], among)?;
        let stop = stop_flag()?;
        let file = |name: &str| self.path(name).to_path_buf();
        let mut teller = Teller::new(what, "volumes", self.volumes(), &file);
        let made = make(&*self.data, &stop, &mut |event| teller.tell(event))?;
        let failed = teller.finish(made.failed.iter().map(|(name, _)| name));
        let doubted = made.warnings.iter().map(|(name, doubt)| Warning::new(self.path(name), doubt.as_str()));
        let forced: Vec<String> = made.forced.iter().map(|name| files::lossy(self.path(name))).collect();
        let bad_rows = self.data.bad_rows().iter().filter(|bad| !bad.spare);
        let report = Report::new(command)
            .with_all(json!({
                "out": files::lossy(out), "manifest": files::lossy(&made.manifest),
                "preprocessing_digest": made.preprocessing_digest, "forced": forced, "passed_over": self.passed_over,
            }))?
            .warning(self.warnings.iter().cloned().chain(doubted))
            .failing(bad_rows.map(|bad| Failure::from(&bad.error())))
            .failing(failed);
        Ok((made, report))
    }
}

/// The last lines on a run: how many are left out, and how to try them again.
pub fn tell_failed(made: &Ingested, total: usize, json: bool) {
    if !json {
        say!("{}: {} of {total} volumes left out", made.manifest.display(), made.failed.len());
    }
    if !made.failed.is_empty() {
        remark!("run the same command again to try the volumes left out once more");
    }
}
