//! What the cells of the tables are computed from: features, scores and ranks, each made once and kept in the output folder.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::ct_rate::VolumeName;
use x2ct::data::features::FeatureSet;
use x2ct::data::id_table::IdTable;
use x2ct::data::label_map::LabelMap;
use x2ct::data::provenance::{Provenance, fields};
use x2ct::data::radiographs::RadiographSet;
use x2ct::eval::bootstrap::{Bootstrap, Interval};
use x2ct::eval::retrieval::{self, Recall};
use x2ct::eval::retrieval_file::{Modality as Kind, NEAREST, RetrievalFile};
use x2ct::eval::score_file::ScoreFile;
use x2ct::eval::zero_shot;
use x2ct::labels::NAMES;
use x2ct::table::first_of;
use x2ct::train::{Checkpoint, CtTeacher, Texts};
use x2ct::{Device, Error, files};

use super::data::{DataRoot, Ingredient};
use super::paper::{DataName, Modality, Source};
use super::runs::Run;
use crate::chain::Chain;
use crate::embed;
use crate::embedding::Material;
use crate::label_table;

/// Why a cell has no value.
#[derive(Clone)]
pub enum Trouble {
    /// What is not there, in words.
    Missing(String),
    /// What is there and cannot be used.
    Bad(Error),
}

impl From<String> for Trouble {
    fn from(missing: String) -> Self {
        Trouble::Missing(missing)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Bad(error)
    }
}

/// Share of the volumes of a test set that recall is measured on, at least.
const LEAST: f64 = 0.95;

/// A value, or why there is none.
pub type Found<T> = Result<T, Trouble>;

/// Folders of the output that results are kept in.
pub const FOLDERS: [&str; 3] = ["features", "ranks", "scores"];

/// Everything the tables are filled from.
pub struct Workshop<'a> {
    pub device: &'a Device,
    pub data: &'a DataRoot,
    pub runs: &'a [Run],
    pub out: &'a Path,
    pub bootstrap: Bootstrap,
    pub stop: Arc<AtomicBool>,
    pub chain: Chain,
    /// Whether radiographs of other settings than a run's are taken.
    force: bool,
    features: HashMap<PathBuf, Rc<Filed>>,
    caches: HashMap<PathBuf, Rc<EmbeddingCache>>,
}

/// Features, and the file of the user's that they are of.
pub struct Filed {
    /// The features' own file, or that of the radiographs behind them.
    pub file: PathBuf,
    pub set: FeatureSet,
}

/// A file that results are kept in, and what they must have been made of to be taken again.
pub struct Kept {
    path: PathBuf,
    made: Provenance,
}

impl Kept {
    /// Whether a file was made in this way of this very material.
    fn is(&self, made: &Provenance) -> bool {
        let digests = |from: &Provenance| -> Vec<(String, String)> {
            from.from.iter().map(|(name, part)| (name.clone(), part.digest.clone())).collect()
        };
        made.settings == self.made.settings && digests(made) == digests(&self.made)
    }
}

impl Deref for Filed {
    type Target = FeatureSet;

    fn deref(&self) -> &FeatureSet {
        &self.set
    }
}

/// Provenance of a result with these settings, of these parts by name and digest.
pub fn made_of<'a>(settings: Value, parts: impl IntoIterator<Item = (&'a str, String)>) -> Provenance {
    Provenance::of_digests(fields(settings), parts)
}

impl<'a> Workshop<'a> {
    /// Nothing is made yet.
    pub fn new(
        device: &'a Device,
        (data, runs): (&'a DataRoot, &'a [Run]),
        out: &'a Path,
        (bootstrap, stop, chain): (Bootstrap, Arc<AtomicBool>, Chain),
        force: bool,
    ) -> Self {
        Workshop {
            device,
            data,
            runs,
            out,
            bootstrap,
            stop,
            chain,
            force,
            features: HashMap::new(),
            caches: HashMap::new(),
        }
    }

    /// Ends the work where that was asked for: all that is finished is kept.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn expect_going(&self) -> x2ct::Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted("finished features and scores are kept; run again to go on".into())),
            false => Ok(()),
        }
    }

    /// A name for files of a row; of one that nothing fills, what tells it from the others.
    pub fn slug(&self, source: &Source) -> String {
        match source {
            Source::Features { key } => format!("features-{key}"),
            Source::Teacher => "teacher".into(),
            Source::Absent { .. } => format!("{source:?}"),
            _ => self.runs.iter().find(|run| run.fits(source)).map_or_else(|| format!("{source:?}"), Run::slug),
        }
    }

    /// The run of a row.
    ///
    /// # Errors
    /// No such run.
    pub fn run(&mut self, source: &Source) -> Result<&'a Run, String> {
        let fitting: Vec<&'a Run> = self.runs.iter().filter(|run| run.fits(source)).collect();
        if let [first, others @ ..] = &fitting[..]
            && !others.is_empty()
        {
            let names: Vec<String> = others.iter().map(|run| run.name()).collect();
            let says = format!("fills a row that other runs fit as well, which are left out: {}", first_of(names));
            self.chain.note(&first.folder, &says);
        }
        fitting.first().copied().ok_or_else(|| match source {
            Source::Run { model, beta, gamma } => {
                format!("no run of a {model} with loss.beta = {beta} and loss.gamma = {gamma} among --runs")
            }
            Source::CtRun { model, mixer } => format!("no run of a {model} with the mixer {mixer} among --runs"),
            Source::Absent { why } => why.clone(),
            _ => "no such run among --runs".into(),
        })
    }

    /// Says which kept results are of runs that are not among these: `x2ct report` would show them beside the current ones.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn tell_of_other_runs(&mut self) -> x2ct::Result<()> {
        let datas = [DataName::CtRate, DataName::RadchestCt, DataName::MimicCt].map(DataName::name);
        let mine: Vec<String> =
            self.runs.iter().flat_map(|run| datas.map(|data| format!("{}-{data}-", run.slug()))).collect();
        for folder in FOLDERS.map(|name| self.out.join(name)) {
            let unreadable = |e: std::io::Error| Error::io(&folder, "read the folder", &e);
            let mut others = Vec::new();
            for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
                let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
                if name.starts_with(Run::PREFIX) && !mine.iter().any(|mine| name.starts_with(mine)) {
                    others.push(name);
                }
            }
            if !others.is_empty() {
                others.sort();
                let (count, first) = (others.len(), first_of(&others));
                let says = format!(
                    "holds {count} file(s) of runs that are not among these, which no table rests on and `x2ct report` would show: {first}; \
                     delete what is out of date"
                );
                self.chain.note(&folder, &says);
            }
        }
        Ok(())
    }

    /// Features of the images of a part: of radiographs by a run, of CTs by the teacher.
    pub fn features(&mut self, source: &Source, data: DataName, part: &str) -> Found<Rc<Filed>> {
        match source {
            Source::Absent { why } => Err(Trouble::Missing(why.clone())),
            Source::Teacher => self.tower(data, part, Modality::Ct),
            Source::Features { key } => {
                let path = self.data.features(data, part, key)?;
                self.read(&path, Modality::Ct)
            }
            _ => self.embedded(source, data, part),
        }
    }

    /// The teacher's embeddings of a modality.
    pub fn tower(&mut self, data: DataName, part: &str, modality: Modality) -> Found<Rc<Filed>> {
        let path = self.data.find(data, part, Ingredient::Cache)?;
        self.read(&path, modality)
    }

    fn read(&mut self, path: &Path, modality: Modality) -> Found<Rc<Filed>> {
        let key = path.join(format!("{modality:?}"));
        if let Some(known) = self.features.get(&key) {
            return Ok(known.clone());
        }
        let set = match FeatureSet::has_towers(path)? {
            true => FeatureSet::of_cache(&*self.open(path)?, modality.tower()),
            false => FeatureSet::read(path)?,
        };
        let provenance = set.provenance();
        self.chain.settle(path, Ok(provenance.undecided("features")))?;
        self.holds(path, &provenance.digest);
        Ok(self.filed(key, path, set))
    }

    /// Remembers features under a key.
    fn filed(&mut self, key: PathBuf, file: &Path, set: FeatureSet) -> Rc<Filed> {
        let filed = Rc::new(Filed { file: file.into(), set });
        self.features.insert(key, filed.clone());
        filed
    }

    /// The teacher's embeddings and prompts of a part, with their file.
    fn cache(&mut self, data: DataName, part: &str) -> Found<(PathBuf, Rc<EmbeddingCache>)> {
        let path = self.data.find(data, part, Ingredient::Cache)?;
        let cache = self.open(&path)?;
        Ok((path, cache))
    }

    fn open(&mut self, path: &Path) -> x2ct::Result<Rc<EmbeddingCache>> {
        if let Some(known) = self.caches.get(path) {
            return Ok(known.clone());
        }
        let cache = Rc::new(EmbeddingCache::read(path)?);
        self.holds(path, &cache.provenance().digest);
        self.caches.insert(path.into(), cache.clone());
        Ok(cache)
    }

    /// An input file whose content has this digest.
    fn holds(&mut self, path: &Path, digest: &str) {
        self.chain.holds(&files::lossy(path), digest);
    }

    /// Features of radiographs by a run, which are computed once.
    fn embedded(&mut self, source: &Source, data: DataName, part: &str) -> Found<Rc<Filed>> {
        let run = self.run(source)?;
        if run.is_of_cts() {
            return Err(Trouble::Missing("is a CT encoder, which sees no radiographs".into()));
        }
        let images = self.data.find(data, part, Ingredient::Radiographs)?;
        let name = format!("{}-{}-{part}.safetensors", run.slug(), data.name());
        let path = self.out.join("features").join(name);
        if let Some(known) = self.features.get(&path) {
            return Ok(known.clone());
        }
        let set = self.embed(run, &images, &path)?;
        Ok(self.filed(path, &images, set))
    }

    fn embed(&mut self, run: &Run, images: &Path, path: &Path) -> x2ct::Result<FeatureSet> {
        let checkpoint: Checkpoint = Checkpoint::read(&run.checkpoint())?;
        self.holds(&run.checkpoint(), &checkpoint.digest());
        let (radiographs, left_out) = RadiographSet::read_usable(images)?;
        self.holds(images, &radiographs.provenance().digest);
        left_out.into_iter().try_for_each(|bad| self.chain.fail(bad.error))?;
        self.chain.doubt_origins(images, &radiographs.doubts())?;
        let alike = checkpoint.sources.expect_alike("radiographs", &radiographs.provenance());
        let forced = alike.is_err();
        match alike {
            Err(error) if self.force => self.chain.force(images, &error.to_string()),
            alike => self.chain.settle(images, alike)?,
        }
        let kept = Kept { path: path.into(), made: embed::made(&checkpoint, &radiographs, forced) };
        if let Some(set) = FeatureSet::read(path).ok().filter(|set| kept.is(&set.made)) {
            return Ok(set);
        }
        remark!("embedding {} radiographs by {}", radiographs.ids().len(), run.folder.display());
        let set = embed::features(self.device, &checkpoint, &radiographs, kept.made)?;
        set.write(path)?;
        Ok(set)
    }

    /// What a CT encoder says of volumes, reports and prompts.
    pub fn ct_cache(&mut self, source: &Source, data: DataName, part: &str) -> Found<(Rc<EmbeddingCache>, f64)> {
        if *source == Source::Teacher {
            return Ok((self.cache(data, part)?.1, 1.0));
        }
        let run = self.run(source)?;
        let [volumes, text] = [Ingredient::Volumes, Ingredient::Text].map(|of| self.data.find(data, part, of));
        let (volumes, text) = (volumes?, text?);
        let path = self.out.join("features").join(format!("{}-{}-{part}.cache.safetensors", run.slug(), data.name()));
        let teacher = CtTeacher::read(self.device, &run.checkpoint())?;
        self.holds(&run.checkpoint(), teacher.digest());
        let scale = f64::from(teacher.config().loss.scale);
        let material = Material::read(&teacher, &volumes, [Some(&text), None], &mut self.chain)?;
        let stop = self.stop.clone();
        let (cache, _) = material.embed(&mut self.chain, |volumes, texts: &Texts, watch| {
            teacher.write_cache(volumes, texts, &path, &stop, watch)
        })?;
        for (name, file) in [("volumes", &volumes), ("text", &text)] {
            let digest = cache.made.from.get(name).map(|made| made.digest.clone());
            digest.into_iter().for_each(|digest| self.holds(file, &digest));
        }
        Ok((Rc::new(cache), scale))
    }

    /// What the queries of a row find in a gallery; the ranks are written beside the scores.
    pub fn ranked(&mut self, source: &Source, data: DataName, gallery: Modality) -> Found<Ranked> {
        let part = data.test();
        let (query, asks) = match source {
            Source::Teacher => (self.tower(data, part, gallery.other())?, gallery.other().kind()),
            _ => (self.features(source, data, part)?, Kind::Cxr),
        };
        let answers = self.tower(data, part, gallery)?;
        if query.dim != answers.dim {
            return Err(another_space(query.dim, answers.dim));
        }
        expect_teacher(source, &query, (&answers.file, &answers.made))?;
        let (query, answers) = self.paired(&query, &answers)?;
        let [found, _] = retrieval::paired(&query.normalised()?, &answers.features, query.dim, NEAREST)?;
        let ranked = Ranked::of(&found.above, &query.ids, &self.bootstrap)?;
        let parts = [("features", query.provenance().digest), ("gallery", answers.provenance().digest)];
        let made = made_of(json!({"protocol": "retrieval"}), parts);
        let file = RetrievalFile::of_pairs([asks, gallery.kind()], &query.ids, found, made);
        let name =
            format!("{}-{}-{}-to-{}.safetensors", self.slug(source), data.name(), asks.name(), file.gallery.name());
        file.write(self.out.join("ranks").join(name))?;
        Ok(ranked)
    }

    /// What reports find among CTs and CTs among reports, by a CT encoder.
    pub fn clip_ranked(&mut self, source: &Source, data: DataName) -> Found<[Ranked; 2]> {
        let (cache, _) = self.ct_cache(source, data, data.test())?;
        let [of_reports, of_cts] = retrieval::paired(&cache.report, &cache.ct, cache.dim, 0)?;
        let of = |above: &[usize]| Ranked::of(above, &cache.ids, &self.bootstrap);
        Ok([of(&of_reports.above)?, of(&of_cts.above)?])
    }

    /// The rows of two sets of features that are of the same ids.
    fn paired(&mut self, one: &Filed, other: &Filed) -> x2ct::Result<(FeatureSet, FeatureSet)> {
        let [file, of_others] = [one, other].map(|filed| filed.file.display().to_string());
        let places: HashMap<&str, usize> = other.ids.iter().enumerate().map(|(at, id)| (id.as_str(), at)).collect();
        let (mine, theirs): (Vec<usize>, Vec<usize>) =
            one.ids.iter().enumerate().filter_map(|(at, id)| Some((at, *places.get(id.as_str())?))).unzip();
        if mine.is_empty() {
            let problem = format!("has no id in common with {of_others}");
            return Err(Error::file(&one.file, problem, "make both of the same volumes"));
        }
        if (mine.len() as f64) < LEAST * other.ids.len() as f64 {
            let (have, all) = (mine.len(), other.ids.len());
            let problem = format!("has {have} of the {all} volumes of {of_others}");
            let hint = "recall among fewer is another measure: complete it";
            return Err(Error::file(&one.file, problem, hint));
        }
        if mine.len() < other.ids.len() {
            let lacks = other.ids.len() - mine.len();
            let says = format!("has none of {lacks} volume(s) of {of_others}, which are no part of recall");
            self.chain.note(&one.file, &says);
        }
        let lacking: Vec<&String> = one.ids.iter().filter(|id| !places.contains_key(id.as_str())).collect();
        if !lacking.is_empty() {
            let (count, first) = (lacking.len(), first_of(&lacking));
            self.chain.note(&other.file, &format!("has no embedding of {count} image(s) of {file}: {first}"));
        }
        let (mine, theirs) = (one.select(&mine), other.select(&theirs));
        let rows: Vec<usize> = (0..mine.ids.len()).collect();
        let undecided = mine.cts.expect_same("features", &mine.ids, ("embeddings", &theirs.cts, &rows));
        self.chain.settle(&one.file, undecided)?;
        Ok((mine, theirs))
    }

    /// Scores of a row by the prompts of a data set's cache, on the labels of the data set.
    pub fn zero_shot(&mut self, source: &Source, data: DataName) -> Found<ScoreFile> {
        let part = data.test();
        let features = self.features(source, data, part)?;
        let (file, cache) = self.cache(data, part)?;
        expect_teacher(source, &features, (&file, &cache.provenance()))?;
        self.detect(source, (&features, &cache, 1.0), data)
    }

    /// The same by a CT encoder.
    pub fn clip_zero_shot(&mut self, source: &Source, data: DataName) -> Found<ScoreFile> {
        let (cache, scale) = self.ct_cache(source, data, data.test())?;
        let made = made_of(json!({"encoder": cache.teacher}), [("cache", cache.provenance().digest)]);
        let (ids, cts) = (cache.ids.clone(), cache.cts.clone());
        let features =
            FeatureSet { ids, features: cache.ct.clone(), dim: cache.dim, encoder: cache.teacher.clone(), cts, made };
        self.detect(source, (&features, &cache, scale), data)
    }

    fn detect(
        &mut self,
        source: &Source,
        (features, cache, scale): (&FeatureSet, &EmbeddingCache, f64),
        data: DataName,
    ) -> Found<ScoreFile> {
        if features.dim != cache.dim {
            return Err(another_space(features.dim, cache.dim));
        }
        let labels = self.labels(data, data.test())?;
        let (features, labels) = self.labelled(features, &labels)?;
        let settings = json!({"protocol": "zero-shot", "scale": scale, "labels": labels.names});
        let parts = [
            ("features", features.provenance().digest),
            ("prompts", cache.provenance().digest),
            ("labels", labels.digest.clone()),
        ];
        let kept = self.kept(source, &format!("{}-zero-shot", data.name()), made_of(settings, parts));
        if let Some(file) = read_kept(&kept) {
            return Ok(file);
        }
        let (positive, negative) = (&cache.prompts_positive, &cache.prompts_negative);
        let logits = zero_shot::logits(&features.normalised()?, positive, negative, features.dim, scale)?;
        let logits = merged(&logits, &NAMES.map(String::from), data.map(), &labels.names)?;
        write_kept(kept, features.ids.clone(), labels, logits)
    }

    /// Where scores of a row are kept.
    pub fn kept(&self, source: &Source, what: &str, made: Provenance) -> Kept {
        Kept { path: self.out.join("scores").join(format!("{}-{what}.safetensors", self.slug(source))), made }
    }

    /// The labels of a part that it is tested on: those that stand for CT-RATE's, or all of CT-RATE's.
    pub fn labels(&mut self, data: DataName, part: &str) -> Found<Labels> {
        let names = match data.map() {
            Some(map) => LabelMap::open(map)?.names(),
            None => NAMES.map(String::from).to_vec(),
        };
        Ok(self.table(data, part, Some(&names))?.into())
    }

    /// The table of labels of a part: all of them, or those of `names`.
    pub fn table(&mut self, data: DataName, part: &str, names: Option<&[String]>) -> Found<IdTable<bool>> {
        let path = self.data.find(data, part, Ingredient::Labels)?;
        let table = label_table::read(&path, names, &mut self.chain)?;
        label_table::fail_rows(&table.rows.bad, &mut self.chain)?;
        self.holds(&path, &table.digest);
        Ok(table)
    }

    /// Features of the images that have labels, and those, `[images, names]`.
    pub fn labelled(&mut self, features: &FeatureSet, labels: &Labels) -> x2ct::Result<(FeatureSet, LabelRows)> {
        let lacks = |id: &String| Error::File {
            path: labels.path.clone(),
            field: Some(id.clone()),
            problem: "has no usable row for this image".into(),
            hint: "complete the table".into(),
        };
        let known =
            self.chain.keep("images", &features.ids, |id| (!labels.cells.contains_key(id)).then(|| lacks(id)))?;
        let without = labels.cells.len() - known.len();
        if without > 0 {
            self.chain.note(&labels.path, &format!("lists {without} image(s) that have no features, and are left out"));
        }
        let features = features.select(&known);
        let cells = features.ids.iter().flat_map(|id| labels.cells[id].clone()).collect();
        let (file, names, digest) = (labels.path.clone(), labels.names.clone(), labels.digest.clone());
        Ok((features, LabelRows { file, names, digest, cells }))
    }
}

/// Recall with its intervals.
pub struct Ranked {
    pub recall: Recall,
    pub intervals: BTreeMap<&'static str, Option<Interval>>,
}

impl Ranked {
    fn of(above: &[usize], ids: &[String], bootstrap: &Bootstrap) -> x2ct::Result<Self> {
        let intervals = Recall::intervals(above, &patients(ids), bootstrap)?;
        Ok(Ranked { recall: Recall::from_ranks(above)?, intervals })
    }
}

/// Labels by id.
pub struct Labels {
    path: PathBuf,
    pub names: Vec<String>,
    digest: String,
    cells: HashMap<String, Vec<bool>>,
}

impl From<IdTable<bool>> for Labels {
    fn from(table: IdTable<bool>) -> Self {
        let cells = table.rows.rows.into_iter().map(|(id, (_, cells))| (id, cells)).collect();
        Labels { path: table.path, names: table.names, digest: table.digest, cells }
    }
}

/// Labels of rows of features.
#[derive(Clone)]
pub struct LabelRows {
    /// The file they are of.
    pub file: PathBuf,
    pub names: Vec<String>,
    pub digest: String,
    /// `[rows, names]`.
    pub cells: Vec<bool>,
}

/// The patient of each id.
pub fn patients(ids: &[String]) -> Vec<String> {
    ids.iter().map(|id| VolumeName::patient_of(id)).collect()
}

/// Refuses the embeddings of another teacher than the one that a run learned from.
fn expect_teacher(source: &Source, features: &FeatureSet, (file, teacher): (&Path, &Provenance)) -> x2ct::Result<()> {
    let learned = features.made.from.get("checkpoint").and_then(|checkpoint| checkpoint.from.get("cache"));
    let Some(learned) = learned.filter(|_| source.is_ours()) else { return Ok(()) };
    for name in ["teacher", "checkpoint"] {
        let [wanted, found] = [learned, teacher].map(|made| made.settings.get(name));
        if wanted.is_some() && found.is_some() && wanted != found {
            let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_string();
            let (wanted, found) = (text(wanted), text(found));
            let problem = format!("is of the {name} {found}, and the run learned from {wanted}");
            return Err(Error::file(file, problem, "pass the embeddings of the run's teacher"));
        }
    }
    Ok(())
}

fn another_space(dim: usize, teacher: usize) -> Trouble {
    Trouble::Missing(format!(
        "its features have {dim} dimensions, the teacher's embeddings {teacher}: one cannot query the other"
    ))
}

/// Logits `[rows, names]` as those of the labels of a map, the largest of the labels that one stands for; and of `wanted` in order.
pub fn merged(logits: &[f64], names: &[String], map: Option<&str>, wanted: &[String]) -> x2ct::Result<Vec<f64>> {
    let place = |name: &String| names.iter().position(|known| known == name);
    let sources: Vec<Vec<usize>> = match map {
        None => wanted.iter().map(|name| place(name).into_iter().collect()).collect(),
        Some(map) => {
            let map = LabelMap::open(map)?;
            let of = |name: &String| map.labels.iter().find(|label| label.name == *name).map(|label| &label.of);
            wanted.iter().map(|name| of(name).into_iter().flatten().filter_map(place).collect()).collect()
        }
    };
    if let Some(at) = sources.iter().position(Vec::is_empty) {
        let problem = format!("the label {} has no prompt", wanted[at]);
        return Err(Error::argument("labels", problem, "pass labels of the data set's published names"));
    }
    let largest = |row: &[f64], of: &Vec<usize>| of.iter().map(|&at| row[at]).fold(f64::NEG_INFINITY, f64::max);
    Ok(logits.chunks_exact(names.len()).flat_map(|row| sources.iter().map(move |of| largest(row, of))).collect())
}

/// The scores of a file that was made in this way of this very material.
pub fn read_kept(kept: &Kept) -> Option<ScoreFile> {
    let file = ScoreFile::read(&kept.path).ok().filter(|file| kept.is(&file.made))?;
    // The table is written second.
    kept.path.with_extension("csv").exists().then_some(file)
}

/// Keeps scores, as an archive and as a table.
pub fn write_kept(kept: Kept, ids: Vec<String>, labels: LabelRows, logits: Vec<f64>) -> Found<ScoreFile> {
    let file = ScoreFile { ids, names: labels.names, logits, labels: labels.cells, made: kept.made };
    file.write(&kept.path)?;
    files::write_atomic(kept.path.with_extension("csv"), file.csv()?.as_bytes())?;
    Ok(file)
}
