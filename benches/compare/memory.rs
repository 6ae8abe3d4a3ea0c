//! What a node takes of memory: everything issued in its index, answers in its cache, lists on its shelf.
//!
//! In a process of its own, step by step; merges last, as the index is rewritten piece by piece when it changes.

use crate::make::serial;
use crate::report::number;
use crate::serve::{ask, good, published, responder, revoked};
use anyhow::{Context, ensure};
use jarchy::index::Index;
use jarchy::metrics::Metrics;
use jarchy::pki::{Clock, SystemClock};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Answers that are kept, one for so many certificates.
const ASKED: u64 = 10;
/// One certificate in so many is revoked.
const REVOKED: u64 = 100;
/// The default of `ocsp_cache_mib`.
const CACHE: usize = 256 << 20;

/// The table of what [`show`] says.
pub(crate) fn memory(dir: &Path, smoke: bool) -> anyhow::Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", "memory"]).arg(dir);
    if smoke {
        command.env("JARCHY_ISSUED", "100000");
    }
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Says after each step what memory it takes.
pub(crate) fn show(dir: &Path) -> anyhow::Result<()> {
    let issued = number("JARCHY_ISSUED", 1e7) as u64;
    println!(
        "| {issued} certificates, 1 in {REVOKED} revoked | resident | at most since the line above |\n|---|---|---|"
    );
    let now = SystemClock.now();
    let index = Arc::new(Index::new());
    let record = |n: u64| if n.is_multiple_of(REVOKED) { revoked(now) } else { good(now) };
    // As the feed does it: page by page.
    for first in (0..issued).step_by(2_000) {
        let page = (first..issued.min(first + 2_000)).map(|n| Ok((serial(n)?, record(n))));
        index.stage(page.collect::<anyhow::Result<_>>()?);
    }
    index.settle();
    step("the index")?;
    let responder = responder(dir, "p256", &index, CACHE, &Metrics::new())?;
    ask(dir, &responder, &index, issued / ASKED)?;
    step(&format!("and {} answers that are kept", responder.cache_size().0))?;
    let (_runtime, shelf) = published(dir, &index)?;
    step(&format!("and a CRL of {} octets", shelf.complete().context("no list")?.bytes.len()))?;
    // Every segment is merged, some of them twice.
    for first in (1..issued / 100).step_by(20) {
        let batch = (first..first + 20).map(|n| Ok((serial(n * 97 % issued)?, revoked(now))));
        index.apply(&batch.collect::<anyhow::Result<Vec<_>>>()?);
    }
    step("while 1 in 100 more is revoked and merged")
}

/// Resident memory, and its peak since the last step.
fn step(what: &str) -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mb = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).context("a line of the status")?;
        let kib: f64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
        anyhow::Ok(kib * 1_024.0 / 1e6)
    };
    println!("| {what} | {:.0} MB | {:.0} MB |", mb("VmRSS")?, mb("VmHWM")?);
    // Forgets the peak.
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}
