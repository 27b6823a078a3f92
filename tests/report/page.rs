//! A small checker of HTML: what a browser would silently mend is an error here.

use std::collections::HashSet;

/// Elements that have no end.
const VOID: [&str; 9] = ["area", "br", "col", "hr", "img", "input", "link", "meta", "wbr"];
/// Entities in use.
const ENTITIES: [&str; 6] = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;", "&apos;"];

/// An element's start: its name and its attributes.
pub type Start = (String, Vec<(String, String)>);

/// The starts of all elements of a fragment whose tags are balanced, whose attributes are quoted and distinct, and whose text holds
/// neither a bare ampersand nor a bare angle bracket.
pub fn elements(html: &str) -> Vec<Start> {
    let (mut open, mut starts): (Vec<String>, Vec<Start>) = (Vec::new(), Vec::new());
    let mut rest = html.strip_prefix("<!doctype html>").unwrap_or(html);
    while let Some(at) = rest.find('<') {
        check_text(&rest[..at]);
        let end = end_of_tag(&rest[at..]);
        let tag = &rest[at + 1..at + end];
        rest = &rest[at + end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "after {:?}", starts.last());
            continue;
        }
        let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
        starts.push((name.into(), attributes_of(attributes)));
        if name == "style" {
            let end = rest.find("</style>").expect("the end of a style sheet");
            assert!(!rest[..end].contains('<'), "a style sheet that holds a tag");
            rest = &rest[end..];
        }
        if !closed && !VOID.contains(&name) {
            open.push(name.into());
        }
    }
    check_text(rest);
    assert!(open.is_empty(), "not closed: {open:?}");
    starts
}

/// Where the tag at the start ends: an angle bracket in a quoted value is none.
fn end_of_tag(text: &str) -> usize {
    let mut quoted = false;
    let end = text.char_indices().find(|&(_, c)| {
        quoted ^= c == '"';
        c == '>' && !quoted
    });
    end.unwrap_or_else(|| panic!("a tag without end: {:.80}", text)).0
}

fn attributes_of(mut text: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return all;
        }
        let (name, rest) = text.split_once("=\"").unwrap_or_else(|| panic!("an attribute without quotes: {text:.80}"));
        let (value, rest) = rest.split_once('"').expect("the end of a value");
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-_:".contains(c)), "the attribute {name:?}");
        assert!(all.iter().all(|(other, _)| other != name), "the attribute {name} twice");
        check_text(value);
        all.push((name.into(), value.into()));
        text = rest;
    }
}

fn check_text(text: &str) {
    assert!(!text.contains('>'), "a bare bracket: {text:.200}");
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\r');
    assert!(!text.contains(control), "a control character: {text:?}");
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        rest = &rest[at..];
        assert!(ENTITIES.iter().any(|entity| rest.starts_with(entity)), "a bare ampersand: {rest:.40}");
        rest = &rest[1..];
    }
}

/// The value of an attribute.
pub fn attribute<'a>((_, attributes): &'a Start, name: &str) -> Option<&'a str> {
    attributes.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

#[test]
fn the_checker_refuses_what_is_not_well_formed() {
    let good = "<p class=\"a\">x &amp; y<br><img alt=\"&lt;\" src=\"data:,\"></p>";
    assert_eq!(elements(good).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["p", "br", "img"]);
    for bad in ["<p>", "<p></b>", "</p>", "a & b", "a > b", "<p a=b></p>", "<p a=\"1\" a=\"2\"></p>", "<p", "\u{1}"] {
        assert!(std::panic::catch_unwind(|| elements(bad)).is_err(), "{bad}");
    }
    let distinct: HashSet<&str> = ENTITIES.into_iter().collect();
    assert_eq!(distinct.len(), ENTITIES.len());
}
