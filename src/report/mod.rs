//! What a run shows a person: tables, charts and self-contained HTML pages.

mod page;
mod plot;
pub mod table;
mod text;

pub use page::{CtStudy, STYLE, Study, html};
pub use plot::{Axes, Series, lines};
pub use table::{Better, Cell, Column, Row, Table};
