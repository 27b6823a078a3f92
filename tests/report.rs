//! Reports: tables in every form, charts and pages.

mod drawn;
mod evaluation;
mod page;
mod table;
