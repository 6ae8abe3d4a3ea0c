//! Jarchy.
pub mod cli;
pub mod config;
pub mod db;
pub mod der;
pub mod health;
pub mod index;
pub mod metrics;
pub mod ocsp;
pub mod pki;
pub mod registry;
pub mod sign;
pub mod source;
pub mod telemetry;
