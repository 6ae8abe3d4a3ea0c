//! Commands.
pub mod query;
