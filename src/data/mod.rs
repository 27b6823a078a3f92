//! Data sets on disk: the CT-RATE layout and its labels, radiographs, prepared volumes, and the cache of teacher embeddings;
//! and what each was made of.

pub mod cache;
pub mod ct_rate;
pub mod cts;
pub mod features;
pub mod id_table;
pub mod ingest;
pub mod label_map;
pub mod origins;
mod per_row;
pub mod phantom;
pub mod phantom_set;
pub mod pixels;
pub mod prompts;
pub mod provenance;
pub mod radchest;
pub mod radchest_labels;
pub mod radiograph_table;
pub mod radiographs;
pub mod rows;
pub mod text;
pub mod volumes;
mod words;
