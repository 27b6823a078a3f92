//! CT volumes: files, geometry, Hounsfield units, procedural phantoms.

pub mod annotate;
mod body;
pub mod collimation;
#[cfg(feature = "dicom")]
pub mod dicom;
pub mod geometry;
pub mod image;
mod jpeg;
pub mod nifti;
pub mod phantom;
pub mod physics;
pub mod placement;
pub mod plausibility;
pub mod pose;
pub mod preprocess;
pub mod radchest;
pub mod radiograph;
pub mod read;
pub mod view;
pub mod volume;

pub use collimation::Collimation;
pub use geometry::{Affine, AxisCodes};
pub use image::GrayImage;
pub use placement::Placement;
pub use pose::{Pose, PosedProjection};
pub use preprocess::Preset;
pub use radiograph::{Mode, Radiograph, RadiographOptions, padding_pixels, radiograph, radiographs};
pub use read::{ReadOptions, read, read_bytes, read_with};
pub use view::{Geometry, Projection, View};
pub use volume::{AffineSource, CtVolume, HuSource, Voxels};
