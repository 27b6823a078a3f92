//! Parameter structs that several families take, from the headers that their `params.h` include.

include!(concat!(env!("OUT_DIR"), "/abi/shared.rs"));
