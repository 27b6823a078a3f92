//! A CT volume as the command line names it: path, what turns its values into HU, and the table for that; checked.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use clap::ValueEnum;
use x2ct::content::Content;
use x2ct::ct::{self, CtVolume, HuSource, ReadOptions, plausibility, radchest};
use x2ct::data::ct_rate;
use x2ct::limits::short;
use x2ct::{Device, Error, Result, files};

use crate::arguments::numbers;
use crate::effect::Rule;
use crate::output::Warning;

/// Where Hounsfield units come from, and what is taken for a chest CT.
#[derive(clap::Args, Clone)]
pub struct SourceArgs {
    /// Where Hounsfield units come from: the file itself, with its header's scaling (clinical exports, CT-RATE's corrected
    /// release); or CT-RATE's metadata table (original release: spacing too is the table's, axes are taken as L, P, S)
    #[arg(long, value_enum, default_value = "already-hu")]
    pub hu_source: HuSourceName,
    /// The metadata table: CT-RATE's, for --hu-source csv; or RadChest-CT's, which has the voxel size of an .npz. A data set has
    /// its own
    #[arg(long, value_name = "CSV")]
    pub metadata: Option<PathBuf>,
    /// HU = SLOPE * value + INTERCEPT, for files whose values are no HU once their header's scaling is applied
    #[arg(long, allow_hyphen_values = true, value_name = "SLOPE,INTERCEPT", value_parser = numbers::<2>)]
    pub rescale: Option<[f64; 2]>,
    /// Take volumes that are no plausible chest CT; they are warned of and recorded
    #[arg(long)]
    pub force: bool,
    #[arg(skip)]
    tables: Tables,
}

/// The metadata table in either reading, read once, when the first volume needs it.
#[derive(Clone, Default)]
struct Tables {
    ct_rate: Arc<OnceLock<Result<ct_rate::Acquisitions>>>,
    radchest: Arc<OnceLock<Result<radchest::Acquisitions>>>,
}

impl Tables {
    fn ct_rate(&self, table: &Path) -> Result<&ct_rate::Acquisitions> {
        self.ct_rate.get_or_init(|| ct_rate::Acquisitions::read(table)).as_ref().map_err(Error::clone)
    }

    fn radchest(&self, table: &Path) -> Result<&radchest::Acquisitions> {
        self.radchest.get_or_init(|| radchest::Acquisitions::read(table)).as_ref().map_err(Error::clone)
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum HuSourceName {
    #[value(alias = "header")]
    AlreadyHu,
    Csv,
}

/// A volume in HU, and what is doubtful of it.
pub struct Opened {
    pub volume: CtVolume,
    pub warnings: Vec<Warning>,
    /// Whether it was only taken because of `--force`.
    pub forced: bool,
}

impl SourceArgs {
    /// Refuses what is wrong whatever the volume.
    pub fn check(&self) -> Result<()> {
        if self.hu_source == HuSourceName::Csv && self.metadata.is_none() {
            let problem = "needs the data set's metadata table";
            return Err(Error::argument("--hu-source csv", problem, "pass it with --metadata"));
        }
        if let Some(table) = &self.metadata {
            files::open(table).map_err(|e| Error::io(table, "open the table", &e))?;
        }
        if let Some([slope, _]) = self.rescale
            && !(slope != 0.0 && slope.abs() <= 1e6)
        {
            return Err(Error::argument(
                "--rescale",
                format!("the slope is {}", short(slope)),
                "give one from -1e6 to 1e6, not 0",
            ));
        }
        Ok(())
    }

    /// When the table acts: on volumes that are found at these paths.
    pub fn metadata_rule<P: AsRef<Path>>(&self, volumes: impl IntoIterator<Item = P>) -> Rule {
        let acts = self.hu_source == HuSourceName::Csv || volumes.into_iter().any(|path| is_npz(path.as_ref()));
        Rule::new("metadata", acts, "--hu-source csv, or RadChest-CT's .npz")
    }

    /// Where HU come from, in words.
    pub fn origin(&self) -> &'static str {
        match (self.rescale, self.hu_source) {
            (Some(_), _) => "--rescale",
            (None, HuSourceName::Csv) => "metadata table",
            (None, HuSourceName::AlreadyHu) => "file",
        }
    }

    /// Reads a volume and checks that it can be a chest CT, after [`Self::check`]. With CT-RATE's table its geometry and scaling are the table's; the
    /// voxels of a RadChest-CT `.npz` are HU, and its table has their size.
    pub fn open(&self, path: &Path, device: &Device) -> Result<Opened> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_npz = self.metadata.is_some() && is_npz(path);
        let table = self.metadata.as_deref();
        let radchest = table.filter(|_| is_npz).map(|table| self.radchest(table, &name)).transpose()?;
        let row = match table.filter(|_| !is_npz && self.hu_source == HuSourceName::Csv) {
            Some(table) => Some(self.tables.ct_rate(table)?.of(&name.parse().map_err(|e: Error| e.of_file(path))?)?),
            None => None,
        };
        let mut volume = ct::read_with(path, &ReadOptions { device: Some(device), radchest })?;
        if let Some(row) = row {
            volume = row.apply(volume).map_err(|e| e.of_file(path))?;
        }
        if let Some([slope, intercept]) = self.rescale {
            volume.intercept = (slope * f64::from(volume.intercept) + intercept) as f32;
            volume.slope = (slope * f64::from(volume.slope)) as f32;
        }
        let verdict = plausibility::examine(&volume, HuSource::AlreadyHu, self.force).map_err(|e| {
            e.advising(
                "correct the file, give its scaling with --rescale where its HU are wrong, or go on with --force",
            )
            .of_file(path)
        })?;
        let said = volume.remarks.iter().chain(&verdict.warnings);
        let warnings = said.map(|warning| Warning::new(path, warning)).collect();
        Ok(Opened { volume, warnings, forced: verdict.forced })
    }

    /// What RadChest-CT's table says of a volume, whose voxels are HU: no slope can be asked for.
    fn radchest(&self, table: &Path, name: &str) -> Result<radchest::Acquisition> {
        let row = self.tables.radchest(table)?.of(name)?;
        if self.hu_source == HuSourceName::Csv && row.slope != 1.0 {
            let problem =
                format!("orig_slope of {name} is {}, and the voxels of RadChest-CT are HU already", row.slope);
            return Err(Error::file(
                table,
                problem,
                "leave out --hu-source csv: the table's voxel size is taken without it",
            ));
        }
        Ok(row)
    }
}

/// Whether a file is an .npz, by its name or its content.
fn is_npz(path: &Path) -> bool {
    let named = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npz"));
    !path.is_dir() && (named || Content::of_file(path).is_ok_and(|content| content == Content::Npz))
}
