//! `x2ct check FILE...`: golden files on any device.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use x2ct::check::{Case, Found, PassedOver, Row};
use x2ct::files;
use x2ct::table::first_of;

use crate::Common;
use crate::effect::{self, Rule};
use crate::output::{Failure, Report};
use crate::terminal::print_table;

/// Compare operators and models with golden files (format: tests/golden/README.md)
///
/// A case fails where a tensor is further from its reference than its tolerance allows, and where the file is not what it should be:
/// nothing to compare, attributes or tensors that the operation does not have, values that are not finite. What the operation computes
/// and a file has no reference of is named, and the case fails where that is its result, or, but for evaluation mode, every gradient
/// although one arrives. Other files of a folder are passed over by name.
#[derive(clap::Args)]
pub struct CheckArgs {
    /// Golden files, or folders with such
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print passing tensors too, not only a line per case
    #[arg(long)]
    all: bool,
}

pub fn run(args: CheckArgs, common: &Common) -> anyhow::Result<ExitCode> {
    effect::check(&[Rule::new("all", !common.json, "text: JSON has every tensor")])?;
    let device = common.device()?;
    let mut found = Found::default();
    args.files.iter().for_each(|path| found.add(path));
    let (mut rows, mut not_compared) = (Vec::new(), BTreeMap::new());
    let mut failures: Vec<Failure> = found.unreadable.iter().map(Failure::from).collect();
    for file in &found.cases {
        match Case::read(file).and_then(|case| case.run(&device)) {
            Ok(outcome) => {
                rows.extend(outcome.rows);
                if !outcome.not_compared.is_empty() {
                    not_compared.insert(files::lossy(file), outcome.not_compared);
                }
            }
            Err(error) => failures.push(Failure::new(file, &error)),
        }
    }
    if rows.is_empty() && failures.is_empty() {
        let problem =
            format!("no golden case among {} file(s): {}", found.passed_over.len(), names(&found.passed_over));
        return Err(x2ct::Error::argument("check", problem, "name golden files, or a folder that has some").into());
    }
    failures.extend(rows.iter().filter_map(failure));
    failures.iter().for_each(|failure| remark!("x2ct: {}", failure.error));
    let failed = rows.iter().filter(|row| !row.pass).count();
    let report = Report::new("check").with("rows", &rows)?.with("not_compared", &not_compared)?;
    let report = report.with("passed_over", &found.passed_over)?;
    report.failing(failures).finish(common.json, || {
        if rows.is_empty() {
            return;
        }
        print_rows(&rows, args.all);
        let cases = found.cases.len();
        say!("{} on {cases} case(s): {} tensors compared, {failed} failed", device.name(), rows.len());
        for (file, tensors) in &not_compared {
            say!("not compared, since {file} has no reference of them: {}", first_of(tensors));
        }
        print_passed_over(&found.passed_over);
    })
}

fn failure(row: &Row) -> Option<Failure> {
    let reason = row.reason.as_ref()?;
    let error = format!("{}: {}: {reason}", row.file, row.tensor);
    Some(Failure { file: Some(row.file.clone()), field: Some(row.tensor.clone()), error })
}

fn print_rows(rows: &[Row], all: bool) {
    let mut shown: Vec<&Row> = Vec::new();
    for row in rows {
        let worst_so_far = shown.iter_mut().find(|r| r.file == row.file && r.pass);
        match worst_so_far {
            // One line a case: the tensor that uses most of its limit; failures always.
            Some(worst) if !all && row.pass => {
                if row.margin > worst.margin {
                    *worst = row;
                }
            }
            _ => shown.push(row),
        }
    }
    let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2e}"));
    let cells = shown.iter().map(|r| {
        let verdict = r.reason.as_ref().map_or("pass".into(), |reason| format!("FAIL: {reason}"));
        let (limit, margin) =
            (format!("{} {:.1e}", r.measure, r.limit), r.margin.map_or("-".into(), |m| format!("{m:.3}")));
        vec![
            r.file.clone(),
            r.op.clone(),
            r.tensor.clone(),
            number(r.max_abs),
            number(r.rel_l2),
            limit,
            margin,
            verdict,
        ]
    });
    print_table(&["file", "op", "tensor", "max_abs", "rel_l2", "limit", "used", ""], &cells.collect::<Vec<_>>());
}

fn print_passed_over(files: &[PassedOver]) {
    if !files.is_empty() {
        say!("passed over {} file(s): {}", files.len(), names(files));
    }
}

fn names(files: &[PassedOver]) -> String {
    files.iter().map(|f| format!("{} ({})", f.file, f.reason)).collect::<Vec<_>>().join(", ")
}
