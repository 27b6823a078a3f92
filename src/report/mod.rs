//! What a run shows a person: tables, charts and self-contained HTML pages.

pub mod evaluation;
mod loss;
mod page;
pub mod pca;
mod plot;
mod sheet;
pub mod table;
mod text;

pub use page::{CtStudy, Study, html};
pub use plot::{Axes, Series, Shape, lines};
pub use sheet::STYLE;
pub use table::{Better, Cell, Column, Row, Table};
