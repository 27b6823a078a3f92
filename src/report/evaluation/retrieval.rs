//! Retrieval: how often a query's own item is among the first, and what came first instead.

use std::collections::HashMap;
use std::fmt::Write;

use super::super::sheet::{self, missing};
use super::super::table::{Better, Cell, Column, Row, Table};
use super::super::text::escape;
use super::detection::{cell, drawn};
use super::{Material, Named, thousands};
use crate::Result;
use crate::data::ct_rate::VolumeName;
use crate::data::radiographs::RadiographSet;
use crate::eval::bootstrap::{Bootstrap, Interval};
use crate::eval::retrieval::{Recall, chance};
use crate::eval::retrieval_file::{Modality, RetrievalFile};

/// Depths of the recalls.
pub const DEPTHS: [usize; 5] = [1, 5, 10, 50, 100];
/// Queries that are shown of each file.
const STRIPS: usize = 6;
/// Items that are shown of each query.
const FIRST: usize = 5;

/// A retrieval file and its recalls.
pub struct Recalls<'a> {
    pub name: &'a str,
    pub file: &'a RetrievalFile,
    pub recall: Recall,
    /// At each depth.
    intervals: Vec<Option<Interval>>,
}

impl Recalls<'_> {
    /// At each of [`DEPTHS`].
    pub fn values(&self) -> [f64; DEPTHS.len()] {
        let Recall { r1, r5, r10, r50, r100, .. } = self.recall;
        [r1, r5, r10, r50, r100]
    }
}

/// What a modality is called.
pub fn called(modality: Modality) -> &'static str {
    match modality {
        Modality::Cxr => "radiograph",
        Modality::Ct => "CT",
        Modality::Report => "report",
    }
}

pub fn recalls<'a>(files: &'a [Named<RetrievalFile>], bootstrap: Option<&Bootstrap>) -> Result<Vec<Recalls<'a>>> {
    let of = |Named { name, of: file }: &'a Named<RetrievalFile>| {
        let ranks: Vec<usize> = file.rank.iter().map(|&rank| rank.saturating_sub(1) as usize).collect();
        let patients: Vec<String> = file.query_ids.iter().map(|id| VolumeName::patient_of(id)).collect();
        let share = |weights: &[u32], depth: usize| {
            let hits = ranks.iter().zip(weights).filter(|(rank, _)| **rank < depth).map(|(_, &times)| u64::from(times));
            let all: u64 = weights.iter().map(|&times| u64::from(times)).sum();
            (all > 0).then(|| hits.sum::<u64>() as f64 / all as f64)
        };
        let intervals = match bootstrap {
            Some(bootstrap) => bootstrap
                .intervals(&patients, |weights| DEPTHS.map(|depth| share(weights, depth)).to_vec())?
                .into_iter()
                .map(Result::ok)
                .collect(),
            None => vec![None; DEPTHS.len()],
        };
        Ok(Recalls { name, file, recall: Recall::from_ranks(&ranks)?, intervals })
    };
    files.iter().map(of).collect()
}

pub fn body(
    material: &Material,
    recalls: &[Recalls],
    bootstrap: Option<&Bootstrap>,
    keep: &mut dyn FnMut(Table) -> String,
) -> Result<String> {
    if recalls.is_empty() {
        return Ok(missing(
            "There is no retrieval: add a folder with what `x2ct eval retrieval --ranks NAME` writes (NAME.safetensors).",
        ));
    }
    let mut out = keep(table(recalls, bootstrap));
    if material.radiographs.is_none() {
        out += &missing("The strips have no pictures: --radiographs FILE (what `x2ct drr --dataset` wrote) adds them.");
    }
    if material.reports.is_none() {
        out += &missing("The strips have no texts: --dataset ROOT adds the reports.");
    }
    let places = material.radiographs.as_ref().map(places).unwrap_or_default();
    for of_file in recalls {
        out += &strips(of_file, material, &places)?;
    }
    Ok(out)
}

/// The place of each radiograph, by its id.
pub fn places(radiographs: &RadiographSet) -> HashMap<&str, usize> {
    radiographs.ids().iter().enumerate().map(|(place, id)| (id.as_str(), place)).collect()
}

/// The picture of a volume, as the page shows it.
pub fn film(
    material: &Material,
    places: &HashMap<&str, usize>,
    id: &str,
    class: &str,
    caption: &str,
) -> Result<String> {
    let pixels = material.radiographs.as_ref().and_then(|all| Some((all.grey(*places.get(id)?), all.size())));
    sheet::film(pixels, class, id, caption)
}

/// The report of a volume, as a paragraph; empty where there is none.
pub fn report(material: &Material, id: &str, before: &str) -> String {
    match material.reports.as_ref().and_then(|reports| reports.get(id)) {
        Some(text) => format!("<p class=\"report\">{}{}</p>", escape(before), escape(text)),
        None => String::new(),
    }
}

fn table(recalls: &[Recalls], bootstrap: Option<&Bootstrap>) -> Table {
    let depths = DEPTHS.map(|depth| Column::new(format!("R{depth}")).of(["Recall"]));
    let rank = Column::new("Median rank").digits(1).better(Better::Lower);
    let gallery = Column::new("Gallery").digits(0).better(Better::Neither);
    let row = |of_file: &Recalls| {
        let values = of_file.values().into_iter().zip(&of_file.intervals);
        let mut cells: Vec<Cell> = values.map(|(value, interval)| cell(Some(value), *interval)).collect();
        cells.extend([of_file.recall.median_rank, of_file.file.gallery_ids.len() as f64].map(Cell::of));
        let [query, gallery] = [of_file.file.query, of_file.file.gallery].map(called);
        Row::new(of_file.name, cells).variant(format!("{query} asks, {gallery}s answer"))
    };
    let mut sizes: Vec<usize> = recalls.iter().map(|of_file| of_file.file.gallery_ids.len()).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let by_chance = sizes.into_iter().map(|size| {
        let mut cells: Vec<Cell> = DEPTHS.iter().map(|&depth| Cell::of(chance(depth, size))).collect();
        cells.extend([(size + 1) as f64 / 2.0, size as f64].map(Cell::of));
        Row::new("Chance", cells).reference()
    });
    Table {
        name: "retrieval".into(),
        title: "Retrieval.".into(),
        caption: format!(
            "Share of the queries whose own item is among the first k of the gallery; equal similarities count in its favour.{}",
            drawn(bootstrap)
        ),
        heads: ["Ranks".into(), "Task".into()],
        against: None,
        columns: depths.into_iter().chain([rank, gallery]).collect(),
        rows: recalls.iter().map(row).chain(by_chance).collect(),
    }
}

/// Queries from the best to the worst rank, evenly, with what came first.
fn strips(of_file: &Recalls, material: &Material, places: &HashMap<&str, usize>) -> Result<String> {
    let Recalls { name, file, .. } = of_file;
    let [query, gallery] = [file.query, file.gallery].map(called);
    let mut order: Vec<usize> = (0..file.query_ids.len()).collect();
    order.sort_by_key(|&row| (file.rank[row], row));
    let shown = order.len().min(STRIPS);
    let last = order.len().saturating_sub(1);
    let mut out = format!(
        "<h3>{}: a {query} asks, {gallery}s answer</h3><p>From the best rank to the worst, evenly. Each item is shown by its radiograph; \
         the query's own is outlined in green.</p>",
        escape(name)
    );
    for strip in 0..shown {
        let row = order[if shown > 1 { strip * last / (shown - 1) } else { 0 }];
        let (id, rank, of) = (&file.query_ids[row], file.rank[row] as usize, file.gallery_ids.len());
        let asks = format!("{id} asks: its own is at rank {} of {}", thousands(rank), thousands(of));
        let _ = write!(out, "<div class=\"row\"><p><b>{}</b></p>", escape(&asks));
        out += &film(material, places, id, "query", "query")?;
        for (place, (item, score)) in file.nearest_of(row).take(FIRST).enumerate() {
            let item = &file.gallery_ids[item];
            let class = if item == id { "hit" } else { "" };
            out += &film(material, places, item, class, &format!("{}: {item}, cos {score:.2}", place + 1))?;
        }
        if rank > FIRST {
            out += &film(material, places, id, "hit", &format!("rank {}: its own", thousands(rank)))?;
        }
        out += &report(material, id, &format!("{id}: "));
        let first = file.nearest_of(row).next().map(|(item, _)| &file.gallery_ids[item]).filter(|item| *item != id);
        if let Some(first) = first {
            out += &report(material, first, &format!("first answer, {first}: "));
        }
        out.push_str("</div>");
    }
    Ok(out)
}
