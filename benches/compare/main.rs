//! Jarchy beside what else could answer: servers with a canned answer (a bare epoll loop, bare hyper, nginx with a
//! file) as the limit, `openssl ocsp` as a rival. The server has one core and `wrk` the other; repetitions take
//! turns, so that what else runs on the machine hits all of them alike. Counted are requests per second of the
//! server's own CPU time, because the generator is often the slower of the two.
//!
//! `cargo bench --bench compare [-- GROUP…]` needs Debian's `wrk`, `nginx-light`, `openssl` and `util-linux`
//! (`taskset`); the groups stand in `report.rs`. It prints the tables and writes them to
//! `target/compare-GROUP.md`. JARCHY_ROUNDS (7) repetitions of JARCHY_SECONDS (2) each; JARCHY_WIDE (1,000,000)
//! certificates in the group `wide`; JARCHY_IDLE (10,000) connections in the group `idle`; JARCHY_ISSUED
//! (10,000,000) certificates in the group `memory`; JARCHY_ENTRIES (10,000) revoked ones at first in the group `steady`.
#![allow(missing_docs, clippy::print_stdout)]

mod demo;
mod make;
mod memory;
mod report;
mod run;
mod serve;
mod steady;

use anyhow::Context;
use std::path::Path;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // This program is its own servers, each a process of its own.
    if let [serve, role, dir] = arguments.as_slice()
        && serve == "serve"
    {
        return serve::serve(role, Path::new(dir)).with_context(|| format!("the server \"{role}\""));
    }
    // `cargo test --benches` and `cargo bench -- --test` only want to know that it works.
    let smoke = !arguments.iter().any(|argument| argument == "--bench") || arguments.iter().any(|a| a == "--test");
    let groups: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with("--")).collect();
    report::report(&groups, smoke)
}
