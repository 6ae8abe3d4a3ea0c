//! Jarchy.
pub mod der;
pub mod index;
pub mod pki;
pub mod sign;
