//! The one test binary. Operators are tested in `ops/NAME.rs`, flows in files of their own; `support` holds what they share.

mod abi;
#[cfg(feature = "cli")]
mod cli;
mod content;
mod cts;
mod data;
#[cfg(feature = "cli")]
mod dataset;
mod device;
#[cfg(feature = "dicom")]
mod dicom;
#[cfg(feature = "dicom")]
mod dicom_codecs;
#[cfg(feature = "cli")]
mod doors;
mod eval;
#[cfg(feature = "cli")]
mod folders;
mod geometry;
mod golden;
mod gradient_cache;
mod image;
mod ingest;
#[cfg(feature = "cli")]
mod joins;
#[cfg(feature = "cli")]
mod json;
mod layout;
#[cfg(feature = "cli")]
mod left_out;
#[cfg(feature = "cli")]
mod malformed;
#[cfg(feature = "cli")]
mod metrics;
mod nifti;
mod nifti_forms;
mod ops;
#[cfg(feature = "cli")]
mod output;
mod phantom;
mod physics;
mod pictures;
mod plausibility;
#[cfg(feature = "cli")]
mod predict;
mod preprocess;
#[cfg(feature = "cli")]
mod probe;
mod prompts;
#[cfg(feature = "cli")]
mod protocols;
mod provenance;
#[cfg(feature = "cli")]
mod radchest;
mod radiograph;
mod readers;
#[cfg(feature = "cli")]
mod real_radiographs;
mod recompute;
#[cfg(feature = "cli")]
mod report;
#[cfg(feature = "cli")]
mod reproduce;
mod shim;
mod support;
mod teacher;
mod text;
mod train;
mod train_ct;
mod view;
mod volumes;
