//! Retrieval as files: for each query the rank of its own item and the items nearest to it, for reports and comparisons later.
//!
//! # Format `x2ct-retrieval-1`
//! An [`Archive`] of Q queries in a gallery of N items, K = min(10, N). Tensors:
//!
//! | name | shape | is |
//! |---|---|---|
//! | `rank` | `[Q]` u32 | 1 + the number of other items that score strictly above the query's own: 1 is best, ties do not count |
//! | `nearest` | `[Q, K]` u32 | rows of the gallery, the best first, equal scores by row |
//! | `score` | `[Q, K]` f32 | the similarity of each, a cosine of L2-normalised embeddings |
//!
//! Metadata, all strings:
//!
//! | key | is |
//! |---|---|
//! | `query`, `gallery` | `cxr`, `ct` or `report`: what queries and items are embeddings of |
//! | `query_ids` | JSON array of Q distinct strings: row i belongs to `query_ids[i]`, whose own item has the same id |
//! | `gallery_ids` | JSON array of N distinct strings |
//! | `provenance` | see [`crate::data::provenance`]; may be absent in files of other writers |
//! | `checksum` | that of [`crate::archive`] |
//!
//! Beside it lies the same as a table ([`RetrievalFile::csv`]).

use std::collections::HashSet;
use std::path::Path;
use std::str::FromStr;

use serde_json::json;

use crate::archive::{Archive, Writer};
use crate::data::provenance::{Content, Provenance};
use crate::data::rows;
use crate::error::{Error, Result};
use crate::eval::retrieval::Found;

const FORMAT: &str = "x2ct-retrieval-1";
const ADVICE: &str = "make it again with `x2ct eval retrieval --ranks`";

/// The most items that a file names of each query.
pub const NEAREST: usize = 10;

/// What an embedding is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modality {
    /// A radiograph.
    Cxr,
    /// A CT volume.
    Ct,
    /// A report.
    Report,
}

impl Modality {
    /// All names.
    pub const NAMES: [&str; 3] = ["cxr", "ct", "report"];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for Modality {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Modality::Cxr, Modality::Ct, Modality::Report];
        all.into_iter().find(|modality| modality.name() == name).ok_or_else(|| {
            let hint = format!("choose one of {}", Self::NAMES.join(", "));
            Error::argument("modality", format!("unknown modality `{name}`"), hint)
        })
    }
}

/// Ranks and nearest items of queries. See the module's description.
#[derive(Clone, Debug, PartialEq)]
pub struct RetrievalFile {
    /// What the queries are embeddings of.
    pub query: Modality,
    /// What the items are embeddings of.
    pub gallery: Modality,
    /// The queries, each once.
    pub query_ids: Vec<String>,
    /// The items, each once; every query's id is among them.
    pub gallery_ids: Vec<String>,
    /// `[query_ids]`: the rank of the query's own item, from 1.
    pub rank: Vec<u32>,
    /// `[query_ids, K]`: rows of `gallery_ids`, the best first.
    pub nearest: Vec<u32>,
    /// `[query_ids, K]`: their similarities.
    pub score: Vec<f32>,
    /// How it was made, and of what; [`Self::provenance`] adds the content.
    pub made: Provenance,
}

impl RetrievalFile {
    /// What queries of one kind found in a gallery of another, both of the same ids in the same order.
    pub fn of_pairs([query, gallery]: [Modality; 2], ids: &[String], found: Found, made: Provenance) -> Self {
        RetrievalFile {
            query,
            gallery,
            query_ids: ids.to_vec(),
            gallery_ids: ids.to_vec(),
            rank: found.above.iter().map(|&above| above as u32 + 1).collect(),
            nearest: found.nearest,
            score: found.scores,
            made,
        }
    }

    /// Items that are named of each query: [`NEAREST`], or all where there are fewer.
    pub fn k(&self) -> usize {
        self.gallery_ids.len().min(NEAREST)
    }

    /// The nearest items of a query by its row, the best first: row of the gallery and similarity.
    pub fn nearest_of(&self, query: usize) -> impl Iterator<Item = (usize, f32)> {
        let of = query * self.k()..(query + 1) * self.k();
        self.nearest[of.clone()].iter().map(|&row| row as usize).zip(self.score[of].iter().copied())
    }

    /// Reads and verifies a file.
    ///
    /// # Errors
    /// A file that is absent, of another format, cut short or changed; an unknown modality; an id twice; tensors of other shapes; a
    /// rank or row outside of the gallery; similarities that are not finite or not in order; provenance of other content.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let archive = Archive::read(path, FORMAT, "retrieval", ADVICE)?;
        let modality = |key| archive.get(key)?.parse::<Modality>().map_err(|e| e.of_file(path).advising(ADVICE));
        let (query_ids, gallery_ids): (Vec<String>, Vec<String>) =
            (archive.get_json("query_ids")?, archive.get_json("gallery_ids")?);
        let k = gallery_ids.len().min(NEAREST);
        let ((of_rank, rank), (of_nearest, nearest), (of_score, score)) =
            (archive.u32("rank")?, archive.u32("nearest")?, archive.f32("score")?);
        let pairs = [query_ids.len(), k];
        for (name, found, wanted) in
            [("rank", of_rank, &pairs[..1]), ("nearest", of_nearest, &pairs[..]), ("score", of_score, &pairs[..])]
        {
            if found != wanted {
                let problem = format!("tensor {name} has the shape {found:?}, not {wanted:?}");
                return Err(Error::file(path, problem, ADVICE));
            }
        }
        let (query, gallery, made) = (modality("query")?, modality("gallery")?, Provenance::default());
        let found = RetrievalFile { query, gallery, query_ids, gallery_ids, rank, nearest, score, made };
        found.validate().map_err(|e| Error::file(path, e.to_string(), ADVICE))?;
        let made = Provenance::read(&archive, &found.digest())?;
        Ok(RetrievalFile { made: made.unwrap_or_default(), ..found })
    }

    /// Writes the file, whole or not at all; equal content gives equal bytes.
    ///
    /// # Errors
    /// Content that [`Self::read`] would refuse; a file that cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.validate()?;
        let mut archive = Writer::new(FORMAT);
        archive.set("query", self.query.name());
        archive.set("gallery", self.gallery.name());
        archive.set("query_ids", json!(self.query_ids).to_string());
        archive.set("gallery_ids", json!(self.gallery_ids).to_string());
        self.provenance().record(&mut archive);
        let pairs = [self.query_ids.len(), self.k()];
        archive.put_u32("rank", &pairs[..1], &self.rank);
        archive.put_u32("nearest", &pairs, &self.nearest);
        archive.put_f32("score", &pairs, &self.score);
        archive.write(path.as_ref())
    }

    /// What the file holds and what it was made of.
    pub fn provenance(&self) -> Provenance {
        self.made.holding(self.digest(), self.query_ids.len())
    }

    /// As a table: a query's id, the rank of its own item, and the ids of the nearest, `nearest_1` first.
    ///
    /// # Errors
    /// Content that [`Self::read`] would refuse.
    pub fn csv(&self) -> Result<String> {
        self.validate()?;
        let columns = (1..=self.k()).map(|place| format!("nearest_{place}"));
        let header = ["query".to_string(), "rank".to_string()].into_iter().chain(columns).collect();
        let rows = self.query_ids.iter().enumerate().map(|(query, id)| {
            let nearest = self.nearest_of(query).map(|(row, _)| self.gallery_ids[row].clone());
            [id.clone(), self.rank[query].to_string()].into_iter().chain(nearest).collect()
        });
        crate::table::csv(std::iter::once(header).chain(rows))
    }

    /// BLAKE3 of all but how it was made.
    fn digest(&self) -> String {
        let mut content = Content::of("retrieval").and(self.query.name()).and(self.gallery.name());
        content.add(self.query_ids.len().to_string());
        self.query_ids.iter().chain(&self.gallery_ids).for_each(|id| content.add(id));
        content.add(bytemuck::cast_slice::<u32, u8>(&self.rank));
        content.add(bytemuck::cast_slice::<u32, u8>(&self.nearest));
        content.add_f32(&self.score);
        content.digest()
    }

    fn validate(&self) -> Result<()> {
        let refuse = |problem: String| Err(Error::argument("retrieval", problem, "pass what retrieval found"));
        let (queries, items, k) = (self.query_ids.len(), self.gallery_ids.len(), self.k());
        if queries == 0 || items == 0 {
            return refuse(format!("there are {queries} queries and {items} items"));
        }
        for (what, ids) in [("query", &self.query_ids), ("gallery", &self.gallery_ids)] {
            if let Some(id) = rows::first_repeated(ids) {
                return refuse(format!("{what} id {id:?} stands twice"));
            }
        }
        let known: HashSet<&String> = self.gallery_ids.iter().collect();
        if let Some(id) = self.query_ids.iter().find(|id| !known.contains(id)) {
            return refuse(format!("query {id:?} has no item of its own in the gallery"));
        }
        for (what, found, wanted) in [
            ("ranks", self.rank.len(), queries),
            ("nearest items", self.nearest.len(), queries * k),
            ("scores", self.score.len(), queries * k),
        ] {
            if found != wanted {
                return refuse(format!("there are {found} {what}, not {wanted}"));
            }
        }
        (0..queries).try_for_each(|query| match self.fault_of(query) {
            Some(problem) => refuse(format!("query {:?}: {problem}", self.query_ids[query])),
            None => Ok(()),
        })
    }

    /// What is wrong with the numbers of one query.
    fn fault_of(&self, query: usize) -> Option<String> {
        let (rank, items, k) = (self.rank[query] as usize, self.gallery_ids.len(), self.k());
        if !(1..=items).contains(&rank) {
            return Some(format!("rank {rank} is not one of 1 to {items}"));
        }
        let nearest: Vec<(usize, f32)> = self.nearest_of(query).collect();
        if let Some((row, _)) = nearest.iter().find(|(row, _)| *row >= items) {
            return Some(format!("row {row} is not in a gallery of {items}"));
        }
        if nearest.iter().map(|(row, _)| row).collect::<HashSet<_>>().len() < k {
            return Some("an item is named twice among the nearest".into());
        }
        if let Some((_, score)) = nearest.iter().find(|(_, score)| !score.is_finite()) {
            return Some(format!("a score is {score}"));
        }
        let ordered =
            |pair: &[(usize, f32)]| pair[0].1 > pair[1].1 || (pair[0].1 == pair[1].1 && pair[0].0 < pair[1].0);
        if !nearest.windows(2).all(ordered) {
            return Some("the nearest items are not in the order of their scores, equal ones by row".into());
        }
        let own = nearest.iter().position(|(row, _)| self.gallery_ids[*row] == self.query_ids[query])?;
        let above = nearest.iter().filter(|(_, score)| *score > nearest[own].1).count();
        (rank != above + 1).then(|| format!("rank {rank}, but {above} of the nearest score above its own item"))
    }
}
