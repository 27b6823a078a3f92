//! PTX text to statements with virtual registers. Entries are found when a module is loaded and read at their first launch.

mod body;
mod call;
mod declaration;
mod error;
pub mod fatbin;
mod lexer;
mod module;
mod operand;
mod position;
mod scope;

pub use body::{Body, Class, Item, Label, Statement, parse_entry};
pub use declaration::{AddressIn, Parameter, Variable};
pub use error::{Error, Why};
pub use module::{Entry, Limits, Module};
pub use operand::Operand;
pub use position::{Position, Source, Sources};
