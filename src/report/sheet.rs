//! What all pages have in common: the style sheet, the head, headings that a table of contents links to, and pictures in the page.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::text::escape;
use crate::Result;
use crate::ct::image::{Depth, GrayImage, PngOptions, Window, encode_png};

/// The style sheet of every page: light and dark, narrow and wide, on paper.
pub const STYLE: &str = "\
:root{color-scheme:light dark;--page:#fff;--text:#222;--soft:#595959;--line:#d4d4d4;--shade:#f3f4f6;--query:#1f61b4;--hit:#1a8a1a;--miss:#b3261e}\
@media(prefers-color-scheme:dark){:root{--page:#16181c;--text:#e6e6e6;--soft:#b0b0b0;--line:#444;--shade:#22252b;--query:#6aa9ff;--hit:#4c4;--miss:#ff8a80}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:1160px;margin:2em auto;padding:0 1em;color:var(--text);background:var(--page)}\
h1{font-size:1.7em;line-height:1.2}h2{font-size:1.3em;margin-top:2em;border-bottom:1px solid var(--line)}h3{font-size:1.05em;margin-top:1.6em}\
h1,h2,h3,p,li,td,th{overflow-wrap:break-word}a{color:var(--query)}\
svg{max-width:100%;height:auto;color:var(--text)}.page{fill:var(--page)}.wide{overflow-x:auto;margin:1em 0}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}p.caption{margin:1.4em 0 -.6em}\
td,th{padding:.2em .55em;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;font-weight:normal}\
thead th{font-weight:600;vertical-align:bottom}th.group{text-align:center}th.name,tbody th,td.variant,td.text{text-align:left}\
tr.reference{color:var(--soft)}small,.paper{color:var(--soft)}td small,td .paper{white-space:nowrap}figure{margin:1em 0}.notes{color:var(--soft);font-size:13px;margin:.3em 0}\
p.missing{color:var(--soft);border-left:3px solid var(--line);padding-left:.7em}.summary{background:var(--shade);padding:.4em 1em;border-radius:6px}\
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.1em 1em}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}\
nav ul,ul.chain,ul.chain ul{padding-left:1.2em}nav ul{columns:2 16em}ul.chain{font-size:13px}ul.chain li{overflow-wrap:anywhere;margin:.2em 0}\
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20em),1fr));gap:1.2em}.grid figure{margin:0}\
figcaption{font-size:13px;color:var(--soft)}.grid table{font-size:12px}.grid td,.grid th{padding:.1em .4em}\
.key{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.2em 1.2em;font-size:13px}\
.key i{display:inline-block;width:1.1em;height:.35em;margin-right:.4em;vertical-align:middle}\
.film{position:relative;display:inline-block;margin:4px;background:#000;color:#fff;vertical-align:top;width:128px}\
.film img{display:block;width:100%;image-rendering:auto}\
.film b{position:absolute;top:2px;font-size:11px;text-shadow:0 0 2px #000}.film .r{left:4px}.film .l{right:4px}\
.film small{display:block;padding:1px 4px;font-size:11px;color:#fff;overflow-wrap:anywhere}\
.film .none{display:flex;height:128px;align-items:center;justify-content:center;font-size:11px;color:#ccc}\
.hit{outline:3px solid var(--hit)}.query{outline:3px solid var(--query)}\
.row{margin:1em 0;border-top:1px solid var(--line);padding-top:.5em}p.report{margin:.2em 0;color:var(--soft);font-size:13px}\
@media(max-width:1300px){.wide table{font-size:14px}td,th{padding:.2em .35em}}\
@media(max-width:600px){body{margin:1em auto;padding:0 .6em}td,th{padding:.2em .35em;font-size:13px}dl{grid-template-columns:minmax(0,1fr)}dd{margin-bottom:.4em}\
.film{width:104px}.film .none{height:104px}}\
@media print{:root{--page:#fff;--text:#000;--soft:#444;--line:#bbb;--shade:#fff;color-scheme:light}body{max-width:none;margin:0;font-size:10pt}\
h2,h3,p.caption{break-after:avoid}#curves{break-before:page}figure,.row,.film,tr,.summary{break-inside:avoid}\
.wide{overflow:visible}td,th{padding:.1em .3em;font-size:8pt}a{color:inherit;text-decoration:none}\
.grid{grid-template-columns:repeat(3,minmax(0,1fr));gap:.6em}.film{width:80px}\
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}";

/// What begins every page: its title, and the style sheet.
pub fn begin(title: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\"><title>{0}</title><style>{STYLE}</style></head><body><h1>{0}</h1>",
        escape(title)
    )
}

/// What ends every page.
pub const END: &str = "</body></html>\n";

/// A part of a page with a heading of its own.
pub struct Section {
    /// What the table of contents links to: letters and dashes, each once a page.
    pub id: &'static str,
    pub title: String,
    /// HTML below the heading; its own headings begin at `h3`.
    pub body: String,
}

/// Links to the sections, then the sections.
pub fn sections(all: &[Section]) -> String {
    let mut out = String::from("<nav aria-label=\"Contents\"><ul>");
    for Section { id, title, .. } in all {
        let _ = write!(out, "<li><a href=\"#{id}\">{}</a></li>", escape(title));
    }
    out.push_str("</ul></nav>");
    for Section { id, title, body } in all {
        let _ = write!(out, "<section aria-labelledby=\"{id}\"><h2 id=\"{id}\">{}</h2>{body}</section>", escape(title));
    }
    out
}

/// A sentence on what would add something to a page.
pub fn missing(sentence: &str) -> String {
    format!("<p class=\"missing\">{}</p>", escape(sentence))
}

/// Names and the colours of their lines.
pub fn key(names: &[(&str, [u8; 3])]) -> String {
    let item = |&(name, [r, g, b]): &(&str, [u8; 3])| {
        format!("<li><i style=\"background:rgb({r},{g},{b})\"></i>{}</li>", escape(name))
    };
    format!("<ul class=\"key\">{}</ul>", names.iter().map(item).collect::<String>())
}

/// The most that a picture's side has in a page; larger ones are reduced by a whole factor.
const MOST_PIXELS: usize = 256;

/// A radiograph in grey from 0 to 1, `[height, width]`, as a picture in the page with a caption; the patient's right is on the left.
/// Without pixels, an empty frame.
pub fn film(pixels: Option<(Vec<f32>, [usize; 2])>, class: &str, about: &str, caption: &str) -> Result<String> {
    let about = escape(about);
    let picture = match pixels {
        None => {
            format!("<span class=\"none\" role=\"img\" aria-label=\"no radiograph of {about}\">no radiograph</span>")
        }
        Some((pixels, size)) => {
            let (pixels, [height, width]) = reduced(pixels, size);
            let window = Window::Range { low: 0.0, high: 1.0 };
            let options = PngOptions { depth: Depth::Eight, window, ..PngOptions::default() };
            let png = encode_png(&GrayImage::new(pixels, height, width)?, &options, &1.0.into())?;
            let png = STANDARD.encode(png);
            format!(
                "<img alt=\"radiograph of {about}\" src=\"data:image/png;base64,{png}\"><b class=\"r\">R</b><b class=\"l\">L</b>"
            )
        }
    };
    let class = if class.is_empty() { "film".into() } else { format!("film {class}") };
    Ok(format!("<span class=\"{class}\">{picture}<small>{}</small></span>", escape(caption)))
}

/// A picture whose sides are at most [`MOST_PIXELS`]: means of squares of pixels.
fn reduced(pixels: Vec<f32>, [height, width]: [usize; 2]) -> (Vec<f32>, [usize; 2]) {
    let factor = height.max(width).div_ceil(MOST_PIXELS);
    if factor < 2 || height < factor || width < factor {
        return (pixels, [height, width]);
    }
    let size = [height / factor, width / factor];
    let square = |at: usize| {
        let [top, left] = [at / size[1] * factor, at % size[1] * factor];
        let rows = (top..top + factor).map(|row| pixels[row * width + left..][..factor].iter().sum::<f32>());
        rows.sum::<f32>() / (factor * factor) as f32
    };
    ((0..size[0] * size[1]).map(square).collect(), size)
}
