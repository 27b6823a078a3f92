//! Identities of a batch's items.

use std::collections::HashMap;
use std::hash::Hash;

use crate::device::Device;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// [`Contrastive::ids`](super::Contrastive::ids) of a batch's items: equal keys (a report's digest, a scan's or a patient's
/// name) get equal numbers. Errors: more than 2^24 different keys, which f32 does not tell apart.
pub fn ids<K: Eq + Hash>(device: &Device, keys: &[K]) -> Result<Tensor> {
    let mut numbers = HashMap::new();
    let ids: Vec<f32> = keys
        .iter()
        .map(|key| {
            let next = numbers.len();
            *numbers.entry(key).or_insert(next) as f32
        })
        .collect();
    if numbers.len() > 1 << 24 {
        return Err(Error::argument("ids", format!("{} different keys", numbers.len()), "pass at most 2^24"));
    }
    Tensor::from_slice(device, [ids.len()], DType::F32, &ids)
}
