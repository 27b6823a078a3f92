//! Models, with the parameter names of their public implementations.

mod ct_clip;
mod dcformer;
mod encoder;
mod head;
mod mixer;
mod resnet;

pub use ct_clip::{CtClip, CtClipConfig};
pub use dcformer::{DcFormer, DcFormerConfig, UnitRecord};
pub use encoder::{EncoderConfig, RadiographEncoder};
pub use head::{TokenReduction, VolumeHead};
pub use mixer::Mixer;
pub use resnet::{ResNet, ResNetDepth};
