//! `x2ct reproduce`: the papers' tables, filled from whatever checkpoints, caches and data are there.

mod cells;
mod data;
mod grid;
mod paper;
mod probes;
mod runs;
mod significance;
mod work;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use x2ct::eval::bootstrap::Bootstrap;
use x2ct::files;
use x2ct::report::{Row, Table};

use crate::Common;
use crate::arguments::{count, within};
use crate::chain::{Chain, Trust};
use crate::effect::{self, Rule};
use crate::output::{Report, usage};
use crate::terminal::stop_flag;
use cells::Cells;
use data::DataRoot;
use paper::{Paper, PaperRow, PaperTable};
use runs::Run;
use significance::Comparison;
use work::Workshop;

/// Fill the tables of the papers from runs and data of your own, with intervals and the papers' figures beside
///
/// A cell whose ingredients are not there says what is missing; run again when it is there: features and scores are kept in DIR and
/// computed once, unless what they were made of changes; those of runs that are not named any more are told. DIR/table-NAME.table.json (which `x2ct report` shows), .csv, .tex and .txt
/// are written, and table-NAME.significance.json: each of the paper's own rows against the closest baseline.
///
/// ROOT holds the data sets in the folders ct-rate (parts train, valid), radchest-ct and mimic-ct (part test). For each PART:
/// PART/ap.safetensors or its shards (x2ct drr --dataset --out ROOT/ct-rate/PART), or PART.safetensors (x2ct radiographs);
/// PART.cache.safetensors, the teacher's embeddings; PART.labels.csv, or the data set's own table of labels; for CT encoders
/// PART.volumes and PART.text.safetensors; and PART.features/NAME.safetensors for encoders that are not x2ct's, such as
/// medclip-resnet. ROOT/data.toml may name other files: [ct-rate.valid] cache = "FILE". A run of `x2ct train` fills the rows of its
/// model and loss.
#[derive(clap::Args)]
pub struct ReproduceArgs {
    /// The paper
    #[arg(long)]
    paper: Paper,
    /// Its table; all of them if none is named, and `grid` for the runs of --vary
    #[arg(long = "table", value_name = "NAME")]
    tables: Vec<String>,
    /// Folder of the data sets
    #[arg(long, value_name = "ROOT")]
    data: PathBuf,
    /// Folders of runs: those that `out` names in their configurations
    #[arg(long, num_args = 1.., value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// Folder of the tables, and of the features and scores behind them
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Train runs first, of this configuration with the values of --vary, below DIR/runs; a run that is there is not trained again
    #[arg(long, value_name = "CONFIG", requires = "vary")]
    train: Option<PathBuf>,
    /// A key of the configuration and its values: loss.beta=0,1; with several keys all combinations
    #[arg(long, value_name = "KEY=VALUES", requires = "train")]
    vary: Vec<String>,
    #[command(flatten)]
    probes: probes::Settings,
    /// Resamples for intervals
    #[arg(long, default_value_t = 1000, value_parser = count(40..=1_000_000))]
    bootstrap: usize,
    /// Coverage of intervals
    #[arg(long, default_value_t = 0.95, value_parser = within(0.5, 0.95))]
    level: f64,
    #[command(flatten)]
    trust: Trust,
    /// Take radiographs that were made with other settings than those of a run's training, and warn
    #[arg(long)]
    force: bool,
}

pub fn run(args: ReproduceArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    let mut tables = wanted(&args)?;
    args.probes.check()?;
    let data = DataRoot::open(&args.data)?;
    let mut runs: Vec<Run> = args.runs.iter().map(|folder| Run::open(folder)).collect::<x2ct::Result<_>>()?;
    for folder in work::FOLDERS.map(|name| args.out.join(name)) {
        files::create_folder(&folder)?;
        [".safetensors", ".csv"].into_iter().try_for_each(|ending| files::remove_all_unfinished(&folder, ending))?;
    }
    let with_grid = args.train.is_some() && asks_for_grid(&args);
    let has_probes = |table: &PaperTable| table.columns.iter().any(|column| column.task.is_probe());
    let with_probes = with_grid || tables.iter().any(has_probes);
    let of_probes = ["recipe", "order", "by_patient"];
    effect::check(&of_probes.map(|option| Rule::new(option, with_probes, "a --table that has linear probes")))?;
    let (stop, mut chain) = (stop_flag()?, Chain::new(args.trust));
    if let Some(config) = &args.train {
        let trained = grid::train(&device, (config, &args.vary), &args.out, &mut chain, &stop)?;
        tables.extend(grid::table(args.paper, &trained).filter(|_| asks_for_grid(&args)));
        runs.extend(trained);
    }
    Run::expect_apart(&runs)?;
    let bootstrap = Bootstrap { replicates: args.bootstrap, level: args.level, seed: args.probes.seed };
    let shop = Workshop::new(&device, (&data, &runs), &args.out, (bootstrap, stop, chain), args.force);
    let mut cells = Cells::new(shop, args.probes.clone());
    let mut filled = Vec::new();
    for table in &tables {
        filled.push(fill(&mut cells, table, &args.out)?);
    }
    cells.shop.tell_of_other_runs()?;
    let report = Report::new("reproduce").with_all(json!({
        "paper": args.paper.name(), "out": files::lossy(&args.out), "tables": filled,
    }))?;
    cells.shop.chain.report(report)?.finish(common.json, || filled.iter().for_each(|table| say!("{}", table.text())))
}

fn asks_for_grid(args: &ReproduceArgs) -> bool {
    args.tables.is_empty() || args.tables.iter().any(|name| name == grid::NAME)
}

/// The tables that are asked for.
fn wanted(args: &ReproduceArgs) -> anyhow::Result<Vec<PaperTable>> {
    let known = args.paper.tables();
    let of_grid = |name: &String| name == grid::NAME && args.train.is_some();
    let unknown = args.tables.iter().find(|name| !of_grid(name) && !known.iter().any(|table| table.name == **name));
    if let Some(name) = unknown {
        let names: Vec<&str> = known.iter().map(|table| table.name.as_str()).collect();
        let hint = if name == grid::NAME { "; the grid needs --train" } else { "" };
        let paper = args.paper.name();
        return Err(usage(format!("there is no table {name} of {paper}: choose {}{hint}", names.join(", "))));
    }
    let asked = |table: &&PaperTable| args.tables.is_empty() || args.tables.contains(&table.name);
    Ok(known.iter().filter(asked).cloned().collect())
}

/// Fills a table row by row, and writes it.
fn fill(cells: &mut Cells, table: &PaperTable, out: &Path) -> x2ct::Result<Table> {
    let rows = table.rows.clone();
    let mut filled = Vec::new();
    for row in &rows {
        let columns = table.columns.iter().zip(&row.paper);
        let values =
            columns.map(|(column, &paper)| cells.cell(row, column, paper)).collect::<x2ct::Result<Vec<_>>>()?;
        let measured = values.iter().filter(|cell| cell.value.is_some()).count();
        remark!("table {}, {}: {measured} of {} cells", table.name, row.title(), values.len());
        filled.push(made(row, values));
    }
    let compared = significance::compare(cells, table, &rows)?;
    // A mark of significance is read as one of success.
    for better in compared.iter().filter(|comparison| comparison.is_better()) {
        filled[better.row].cells[better.column].p = Some(better.p_holm);
    }
    let against = "the closest baseline (or the teacher where there is none), where it is better: DeLong's two-tailed test on pooled \
                   cells, Holm's correction";
    let filled = Table {
        name: format!("table-{}", table.name),
        title: table.title.clone(),
        caption: table.caption.clone(),
        against: (!compared.is_empty()).then(|| against.into()),
        columns: table.headings(),
        rows: filled,
        ..Table::default()
    };
    write(&filled, &compared, out)?;
    Ok(filled)
}

fn made(row: &PaperRow, cells: Vec<x2ct::report::Cell>) -> Row {
    let made = Row { reference: row.source.is_reference(), ..Row::new(row.method.as_str(), cells) };
    if row.variant.is_empty() { made } else { made.variant(row.variant.as_str()) }
}

fn write(table: &Table, compared: &[Comparison], out: &Path) -> x2ct::Result<()> {
    let file = |ending: &str| out.join(format!("{}{ending}", table.name));
    files::write_atomic(file(x2ct::report::table::ENDING), table.json().as_bytes())?;
    files::write_atomic(file(".csv"), table.csv().as_bytes())?;
    files::write_atomic(file(".tex"), table.latex().as_bytes())?;
    files::write_atomic(file(".txt"), table.text().as_bytes())?;
    files::write_atomic(file(".significance.json"), format!("{:#}\n", json!(compared)).as_bytes())
}
