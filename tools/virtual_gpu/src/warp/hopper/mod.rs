//! What compute capability 9.0 added: mbarriers, bulk copies, warpgroup products.

mod bulk;
mod mbarrier;
mod warpgroup;
mod wgmma;

pub use bulk::*;
pub use mbarrier::*;
pub use warpgroup::Warpgroup;
pub use wgmma::*;
