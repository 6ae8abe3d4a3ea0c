//! Jarchy from outside: the real binary, asked by the clients that its users have.
//!
//! `openssl`, `curl` and `sh` must be there; a missing one fails the test that needs it.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
mod bench;
mod beside;
mod cli;
mod crash;
mod crl;
mod crl_commands;
mod demo;
mod deploy;
mod fuzz;
mod harness;
mod interop;
mod issuers;
mod layers;
mod losses;
mod nodes;
mod ocsp;
mod ocsp_table;
mod on_servers;
mod proxy;
mod publish;
mod reload;
mod restart;
mod servers;
mod shutdown;
mod signed;
mod tables;
mod validators;
