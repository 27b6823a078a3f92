//! Models, with the parameter names of their public implementations.

mod dcformer;
mod encoder;
mod resnet;

pub use dcformer::{DcFormer, DcFormerConfig};
pub use encoder::{EncoderConfig, RadiographEncoder};
pub use resnet::{ResNet, ResNetDepth};
