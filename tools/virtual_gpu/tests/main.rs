//! Tests of the virtual GPU: PTX goes in at the driver's interface, and what comes out is compared with results computed independently.

mod barriers;
mod clusters;
mod collectives;
mod common;
mod counters;
mod driver;
mod front;
mod harness;
mod joined;
mod lanewise;
mod products;
mod reference;
mod warpgroups;
