//! Reports: tables in every form, charts and pages.

mod page;
mod table;
