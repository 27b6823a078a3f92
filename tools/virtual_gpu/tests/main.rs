//! Tests of the virtual GPU: PTX goes in at the driver's interface, and what comes out is compared with results computed independently.

mod collectives;
#[allow(dead_code, reason = "the tests that use the rest are being written")]
mod common;
mod counters;
mod driver;
mod front;
mod harness;
mod products;
mod warpgroups;
