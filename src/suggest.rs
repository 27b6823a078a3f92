//! What a name that nobody knows was probably meant to be.

/// The known name nearest to `name`, if one is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |other: &str| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    let best = known.into_iter().map(|other| (likeness(other), other)).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(likeness, _)| *likeness > 0.75).map(|(_, other)| other)
}

/// "there is no KIND `NAME`", with the nearest known name, or all of them.
pub fn unknown(kind: &str, name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(other) => format!("there is no {kind} `{name}`; did you mean `{other}`?"),
        None => format!("there is no {kind} `{name}`; there is {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["resnet18", "resnet50", "dcformer-nano", "dcformer-tiny"];
        assert_eq!(nearest("dcformr-nano", known), Some("dcformer-nano"));
        assert_eq!(nearest("ResNet-18", known), Some("resnet18"));
        assert_eq!(nearest("bert", known), None);
        assert_eq!(unknown("model", "bert", &known[..2]), "there is no model `bert`; there is resnet18, resnet50");
    }
}
