//! Jarchy.
pub mod der;
pub mod pki;
