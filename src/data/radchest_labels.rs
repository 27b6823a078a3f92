//! RadChest-CT's tables of labels, `img{train,valid,test}_Abnormality_and_Location_Labels.csv`: the column `NoteAcc_DEID` is the id, and
//! each other one is named `abnormality*location`. An abnormality is present where it is at any location. Names are compared
//! whole: `nodule` is not `nodulegr1cm`.
//!
//! The names are those of the data set's own code (rachellea/ct-net-models), which lists 83; the data set's paper counts 84.

use std::path::Path;

use super::id_table::{IdTable, label};
use crate::error::{Error, Result};
use crate::table::{Others, Table, first_of};

/// The first column.
const ID: &str = "NoteAcc_DEID";
const HINT: &str = "use RadChest-CT's Abnormality_and_Location_Labels table";

/// The abnormalities of the data set's code, in its order.
pub const ABNORMALITIES: [&str; 83] = [
    "bandlike_or_linear",
    "bronchial_wall_thickening",
    "groundglass",
    "honeycombing",
    "reticulation",
    "tree_in_bud",
    "airspace_disease",
    "air_trapping",
    "aspiration",
    "atelectasis",
    "bronchiectasis",
    "bronchiolectasis",
    "bronchiolitis",
    "bronchitis",
    "emphysema",
    "hemothorax",
    "interstitial_lung_disease",
    "lung_resection",
    "mucous_plugging",
    "pleural_effusion",
    "pleural_thickening",
    "pneumonia",
    "pneumonitis",
    "pneumothorax",
    "pulmonary_edema",
    "septal_thickening",
    "tuberculosis",
    "cabg",
    "cardiomegaly",
    "coronary_artery_disease",
    "heart_failure",
    "heart_valve_replacement",
    "pacemaker_or_defib",
    "pericardial_effusion",
    "pericardial_thickening",
    "sternotomy",
    "arthritis",
    "atherosclerosis",
    "aneurysm",
    "breast_implant",
    "breast_surgery",
    "calcification",
    "cancer",
    "catheter_or_port",
    "cavitation",
    "clip",
    "congestion",
    "consolidation",
    "cyst",
    "debris",
    "deformity",
    "density",
    "dilation_or_ectasia",
    "distention",
    "fibrosis",
    "fracture",
    "granuloma",
    "hardware",
    "hernia",
    "infection",
    "infiltrate",
    "inflammation",
    "lesion",
    "lucency",
    "lymphadenopathy",
    "mass",
    "nodule",
    "nodulegr1cm",
    "opacity",
    "plaque",
    "postsurgical",
    "scarring",
    "scattered_calc",
    "scattered_nod",
    "secretion",
    "soft_tissue",
    "staple",
    "stent",
    "suture",
    "transplant",
    "chest_tube",
    "tracheal_tube",
    "gi_tube",
];

/// Those of the 15 of [`LabelMap`](super::label_map::LabelMap)'s `radchest` that mean the same as one label of CT-RATE or two.
pub const PURE: [&str; 9] = [
    "calcification",
    "pericardial_effusion",
    "hernia",
    "lymphadenopathy",
    "emphysema",
    "fibrosis",
    "bronchial_wall_thickening",
    "bronchiectasis",
    "septal_thickening",
];

/// Those that X2CT-CLIP's few-shot classification is of: what CT shows and a radiograph hardly does.
pub const FEW_SHOT: [&str; 9] = [
    "tree_in_bud",
    "bronchiolectasis",
    "bronchiolitis",
    "groundglass",
    "septal_thickening",
    "pericardial_thickening",
    "coronary_artery_disease",
    "aneurysm",
    "atherosclerosis",
];

/// The ids that one of the tables lists; none where it cannot be read.
pub(super) fn ids(path: &Path) -> Vec<String> {
    let table = Table::open(path, &[ID], Others::Ignored, HINT);
    table.iter().flat_map(Table::rows).flatten().map(|row| row.text(0).trim().to_string()).collect()
}

/// Labels of RadChest-CT's volumes.
pub struct RadChestLabels {
    /// One column an abnormality, in the order in which the header first names each.
    pub table: IdTable<bool>,
    /// Names of the header that are not among [`ABNORMALITIES`].
    pub unknown: Vec<String>,
    /// Those of [`ABNORMALITIES`] that the header does not name.
    pub absent: Vec<&'static str>,
}

impl RadChestLabels {
    /// Whether a table is one of these, by its first columns.
    pub fn is_one(table: &Table) -> bool {
        table.columns()[0] == ID && table.columns().get(1).is_some_and(|name| name.contains('*'))
    }

    /// Reads one of the tables.
    ///
    /// # Errors
    /// A file that is no table, and those of [`Self::of`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::of(&Table::open_whole(path, HINT)?)
    }

    /// The labels of an open table.
    ///
    /// # Errors
    /// Another first column; a column whose name is not of the form; none of the known names; no usable row, with the first reason. A
    /// bad row costs itself and stands in the table's.
    pub fn of(table: &Table) -> Result<Self> {
        let refuse = |problem: String| Error::file(table.path(), problem, HINT);
        let columns = table.columns();
        if columns[0] != ID {
            return Err(refuse(format!("its first column is {:?}, not {ID}", columns[0])));
        }
        let mut names: Vec<String> = Vec::new();
        let mut places: Vec<Vec<usize>> = Vec::new();
        for (column, name) in columns.iter().enumerate().skip(1) {
            let parts = name.split_once('*').filter(|(name, location)| !name.is_empty() && !location.is_empty());
            let Some((abnormality, _)) = parts else {
                return Err(refuse(format!("column {}, {name:?}, is not named abnormality*location", column + 1)));
            };
            match names.iter().position(|name| name == abnormality) {
                Some(at) => places[at].push(column),
                None => {
                    names.push(abnormality.to_string());
                    places.push(vec![column]);
                }
            }
        }
        let unknown: Vec<String> =
            names.iter().filter(|name| !ABNORMALITIES.contains(&name.as_str())).cloned().collect();
        if unknown.len() == names.len() {
            return Err(refuse(format!("names none of the known abnormalities, but {}", first_of(&unknown))));
        }
        let absent = ABNORMALITIES.into_iter().filter(|known| !names.iter().any(|name| name == known)).collect();
        let table = IdTable::read_rows(table, names, |row| {
            // Every cell is read, so that a bad one is found behind a location that has it.
            let any =
                |columns: &Vec<usize>| columns.iter().try_fold(false, |any, &column| Ok(any | label(row, column)?));
            places.iter().map(any).collect()
        })?;
        Ok(RadChestLabels { table: IdTable { others: Vec::new(), ..table }, unknown, absent })
    }
}
