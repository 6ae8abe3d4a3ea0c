//! Jarchy.
pub mod cli;
pub mod config;
pub mod crl;
pub mod db;
pub mod der;
pub mod feed;
pub mod health;
pub mod http;
pub mod index;
pub mod metrics;
pub mod ocsp;
pub mod pki;
pub mod registry;
pub mod sign;
pub mod source;
pub mod state;
pub mod telemetry;
