//! Models, with the parameter names of their public implementations.

mod encoder;
mod resnet;

pub use encoder::{EncoderConfig, RadiographEncoder};
pub use resnet::{ResNet, ResNetDepth};
