//! A demo that the binary serves, as benches start it.

use anyhow::Context;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A demo that is served; ended when dropped.
pub(crate) struct Demo {
    pub(crate) child: Child,
    /// Where it listens.
    pub(crate) address: String,
}

impl Drop for Demo {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Demo {
    /// Has `jarchy`, the command that starts the binary, serve the demo in `dir`.
    pub(crate) fn start(mut jarchy: Command, dir: &Path) -> anyhow::Result<Self> {
        jarchy.args(["demo", "--listen", "127.0.0.1:0", "--dir"]).arg(dir);
        let mut child = jarchy.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut out = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut first = String::new();
        out.read_line(&mut first)?;
        // Whoever prints must find a reader.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        let address = first.trim_end().strip_prefix("jarchy: serving http://").and_then(|url| url.strip_suffix('/'));
        let address = address.with_context(|| format!("the demo began with {first:?}"))?.to_owned();
        Ok(Self { child, address })
    }
}
