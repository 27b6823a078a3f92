//! See the module list below.
