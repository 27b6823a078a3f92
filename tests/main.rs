mod eval;
mod geometry;
mod nifti;
