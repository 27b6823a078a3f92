//! Models, with the parameter names of their public implementations.

mod dcformer;
mod encoder;
mod mixer;
mod resnet;

pub use dcformer::{DcFormer, DcFormerConfig};
pub use encoder::{EncoderConfig, RadiographEncoder};
pub use mixer::Mixer;
pub use resnet::{ResNet, ResNetDepth};
