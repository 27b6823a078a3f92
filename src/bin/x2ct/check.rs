//! `x2ct check FILE...`: golden files on any device.

use std::path::PathBuf;
use std::process::ExitCode;

use x2ct::check::Case;

use crate::Common;
use crate::output::{Failure, Report};
use crate::terminal::print_table;

/// Compare operators and models with golden files (format: tests/golden/README.md)
#[derive(clap::Args)]
pub struct CheckArgs {
    /// Golden files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print passing tensors too, not only a line per case
    #[arg(long)]
    all: bool,
}

pub fn run(args: CheckArgs, common: &Common) -> anyhow::Result<ExitCode> {
    let device = common.device()?;
    let mut rows = Vec::new();
    for file in &args.files {
        rows.extend(Case::read(file)?.run(&device)?);
    }
    let failures: Vec<Failure> = rows.iter().filter(|r| !r.pass).map(failure).collect();
    let failed = failures.len();
    Report::new("check").with("rows", &rows)?.failing(failures).finish(common.json, || {
        print_rows(&rows, args.all);
        let cases = args.files.len();
        say!("{} on {cases} case(s): {} tensors compared, {failed} failed", device.name(), rows.len());
    })
}

fn failure(row: &x2ct::check::Row) -> Failure {
    let error = format!("{} {}: relative L2 {:.2e}", row.op, row.tensor, row.rel_l2);
    Failure { file: Some(row.case.clone()), field: Some(row.tensor.clone()), error }
}

fn print_rows(rows: &[x2ct::check::Row], all: bool) {
    let mut shown: Vec<&x2ct::check::Row> = Vec::new();
    for row in rows {
        let worst_so_far = shown.iter_mut().find(|r| r.case == row.case && r.pass);
        match worst_so_far {
            // One line a case: the tensor furthest from its reference; failures always.
            Some(worst) if !all && row.pass => {
                if row.rel_l2 > worst.rel_l2 {
                    *worst = row;
                }
            }
            _ => shown.push(row),
        }
    }
    let cells = shown.iter().map(|r| {
        let verdict = if r.pass { "pass" } else { "FAIL" };
        vec![
            r.case.clone(),
            r.op.clone(),
            r.tensor.clone(),
            format!("{:.2e}", r.max_abs),
            format!("{:.2e}", r.rel_l2),
            verdict.into(),
        ]
    });
    print_table(&["case", "op", "tensor", "max_abs", "rel_l2", ""], &cells.collect::<Vec<_>>());
}
