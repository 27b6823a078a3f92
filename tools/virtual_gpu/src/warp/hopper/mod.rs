//! What compute capability 9.0 added: clusters, mbarriers, bulk copies, warpgroup products.

mod bulk;
mod cluster;
mod mbarrier;
mod warpgroup;
mod wgmma;

pub use bulk::*;
pub use cluster::*;
pub use mbarrier::*;
pub use warpgroup::Warpgroup;
pub use wgmma::*;
