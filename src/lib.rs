//! Jarchy: the OCSP responder and CRL publisher that runs beside a CA's issuance database.
//!
//! # The map
//!
//! Data flows one way; a module knows only what stands before it (`tests/it/layers.rs` holds this table).
//!
//! ```text
//!  issuance database          Jarchy
//! ┌──────────────┐   ┌────────────────────────────────────────────────────────────────┐
//! │ registry     │──►│ source ─► feed ─► index ──┬──► ocsp ─────────┐                 │
//! │ (or another) │   │            │        │     │                  ├──► http ──► relying parties
//! └──────────────┘   │            └► state ◄┘     └──► crl ──────────┘                 │
//!                    │        sign (keys)   db (SQLite)   app (builds and connects)    │
//!                    └────────────────────────────────────────────────────────────────┘
//! ```
//!
//! | module | what it is for | may use, besides der, pki, metrics, health |
//! |---|---|---|
//! | [`der`] | DER read in place and written length first | nothing |
//! | [`pki`] | serials, statuses, times, certificates, issuers | der only |
//! | [`metrics`] | every figure | nothing |
//! | [`health`] | what each component says of itself | nothing |
//! | [`telemetry`] | logs | nothing |
//! | [`db`] | databases of our own, in SQLite files and on servers: open, make, migrate | – |
//! | [`registry`] | the issuance database: schema, add, revoke, hold, release | db, sign |
//! | [`source`] | reading an issuance database by position, whichever kind it is | db, registry, sign |
//! | [`state`] | the durable memory: revocations seen, CRL numbers, lists, journal | db |
//! | [`index`] | what was issued and its status, behind arc-swap | – |
//! | [`feed`] | keeps index and state in agreement with a source | source, index, state |
//! | [`sign`] | key files to signatures, and checking signatures | – |
//! | [`ocsp`] | request bytes to reply | index, sign |
//! | [`crl`] | changes to complete and delta CRLs | index, sign, state |
//! | [`http`] | listeners, routes, validators; health and metrics for the operator | ocsp, crl |
//! | [`load`] | asks and judges a responder or CRL server as fast as it goes | ocsp |
//! | [`config`] | `jarchy.toml` | crl, db, source, telemetry |
//! | [`app`] | builds, connects, starts and stops all of it | everything but cli |
//! | [`cli`] | one file for each command | app, config, db, registry, source, state, sign, ocsp, crl, http, load, telemetry |
pub mod app;
pub mod cli;
pub mod config;
pub mod crl;
pub mod db;
pub mod der;
pub mod feed;
pub mod health;
pub mod http;
pub mod index;
#[cfg(target_os = "linux")]
pub mod load;
pub mod metrics;
pub mod ocsp;
pub mod pki;
pub mod registry;
#[cfg(test)]
#[path = "../tests/it/servers.rs"]
pub(crate) mod servers;
pub mod sign;
pub mod source;
pub mod state;
pub mod telemetry;
