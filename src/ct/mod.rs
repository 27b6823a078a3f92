//! CT volumes: files, geometry, Hounsfield units.

pub mod geometry;
pub mod image;
pub mod nifti;
pub mod volume;

pub use geometry::{Affine, AxisCodes};
pub use image::GrayImage;
pub use volume::{AffineSource, CtVolume, HuSource, Voxels};
