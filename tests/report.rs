//! Reports: tables in every form, charts and pages.

mod evaluation;
mod page;
mod table;
