//! What a model consists of: layers, parameters, multiply-adds.

use crate::tensor::Shape;

/// One layer of a model at a given input size.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LayerSummary {
    /// The name of the layer in the `state_dict`.
    pub name: String,
    /// The stage it is counted under.
    pub stage: String,
    /// Shape of its output, PyTorch's order.
    pub output: Vec<usize>,
    /// Trained elements.
    pub parameters: usize,
    /// Multiply-adds of convolutions and matrix products; everything else counts 0.
    pub macs: u64,
}

/// Every layer of a model at a given input size, in the order they run.
#[derive(Clone, Debug, Default)]
pub struct ModelSummary {
    /// The layers.
    pub layers: Vec<LayerSummary>,
    scope: Vec<String>,
    stage: String,
}

impl ModelSummary {
    /// Names what `trace` adds under `name.`; at the top level the name is also the stage.
    pub fn scope<T>(&mut self, name: impl std::fmt::Display, trace: impl FnOnce(&mut Self) -> T) -> T {
        if self.scope.is_empty() {
            self.stage = name.to_string();
        }
        self.scope.push(name.to_string());
        let traced = trace(self);
        self.scope.pop();
        traced
    }

    /// Counts what `trace` adds under `stage`, without adding to the names.
    pub fn stage(&mut self, stage: &str) {
        self.stage = stage.into();
    }

    /// Adds a layer.
    pub fn layer(&mut self, name: &str, output: &Shape, parameters: usize, macs: u64) {
        let name = self
            .scope
            .iter()
            .map(String::as_str)
            .chain((!name.is_empty()).then_some(name))
            .collect::<Vec<_>>()
            .join(".");
        self.layers.push(LayerSummary { name, stage: self.stage.clone(), output: output.to_vec(), parameters, macs });
    }

    /// Trained elements in all.
    pub fn parameters(&self) -> usize {
        self.layers.iter().map(|l| l.parameters).sum()
    }

    /// Multiply-adds in all.
    pub fn macs(&self) -> u64 {
        self.layers.iter().map(|l| l.macs).sum()
    }

    /// (stage, parameters, multiply-adds), in the order the stages run.
    pub fn stages(&self) -> Vec<(String, usize, u64)> {
        let mut stages: Vec<(String, usize, u64)> = Vec::new();
        for layer in &self.layers {
            match stages.iter_mut().find(|(name, ..)| *name == layer.stage) {
                Some((_, parameters, macs)) => {
                    *parameters += layer.parameters;
                    *macs += layer.macs;
                }
                None => stages.push((layer.stage.clone(), layer.parameters, layer.macs)),
            }
        }
        stages
    }
}
