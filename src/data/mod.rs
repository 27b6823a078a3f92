//! Data sets on disk.

pub mod rows;
