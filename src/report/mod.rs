//! What a run shows a person: charts and one self-contained HTML page.

mod page;
mod plot;

pub use page::{CtStudy, Study, html};
pub use plot::{Axes, Series, lines};
