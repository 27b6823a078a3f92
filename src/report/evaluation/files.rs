//! The files behind the page: what each holds, how it was made and of what, and what was left out.

use super::super::sheet::missing;
use super::super::text::escape;
use super::training::flatten;
use super::{FileFacts, Material, Settings, thousands};
use crate::data::provenance::{Provenance, short};

pub fn body(material: &Material, settings: &Settings) -> String {
    let mut out = String::from("<dl>");
    for (name, value) in &settings.facts {
        out += &format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    out.push_str("</dl>");
    if !material.files.is_empty() {
        out.push_str("<p>Each file, what it holds, how it was made, and below it what it was made of. A digest is of the content, not of the name.</p><ul class=\"chain\">");
        for FileFacts { name, format, made } in &material.files {
            out += &link(&format!("{name} ({format})"), made);
        }
        out.push_str("</ul>");
    }
    if !material.left_out.is_empty() {
        out.push_str("<h3>Left out</h3><ul>");
        material.left_out.iter().for_each(|what| out += &format!("<li>{}</li>", escape(what)));
        out.push_str("</ul>");
    }
    if material.files.iter().any(|file| !file.made.known) {
        out += &missing(
            "A file that does not say how it was made is of an earlier version or of another program: make it again with this version of x2ct.",
        );
    }
    out
}

/// One link of the chain, and those below it.
fn link(name: &str, made: &Provenance) -> String {
    let mut says = format!("<b>{}</b>", escape(name));
    if made.rows > 0 {
        says += &format!(", {} rows", thousands(made.rows));
    }
    if !made.digest.is_empty() {
        says += &format!(", digest <code>{}</code>", escape(short(&made.digest)));
    }
    let mut settings = Vec::new();
    made.settings.iter().for_each(|(name, value)| flatten(name, value, &mut settings));
    let settings: Vec<String> = settings.into_iter().map(|(name, value)| format!("{name} {value}")).collect();
    match (settings.is_empty(), made.known) {
        (false, _) => says += &format!(": {}", escape(&settings.join(", "))),
        (true, false) => says += ": how it was made is not recorded",
        (true, true) => {}
    }
    if !made.from.is_empty() {
        let below: String = made.from.iter().map(|(name, from)| link(name, from)).collect();
        says += &format!("<ul>{below}</ul>");
    }
    format!("<li>{says}</li>")
}
