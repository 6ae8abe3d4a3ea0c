//! `jarchy serve`: answers for the issuers of a config file until it is told to stop.

use super::ConfigFile;
use crate::{app, telemetry};
use clap::Args;
use std::io::{self, Write};
use std::net::SocketAddr;

/// Answer OCSP requests and publish CRLs as the config file says.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jarchy serve --config /etc/jarchy/jarchy.toml\n\n\
    The environment variable JARCHY_LOG, for instance info,jarchy::feed=debug, takes the place of [log] level.")]
pub struct Serve {
    #[command(flatten)]
    config: ConfigFile,
    /// Where to listen, in place of what the config file says; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", value_parser = crate::config::address)]
    listen: Option<SocketAddr>,
}

impl Serve {
    /// Serves until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// If the config, or what it names, cannot be used.
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.config.load()?;
        let logs = telemetry::init(config.log.format, &config.log.level)?;
        let listeners = app::bind(self.listen.unwrap_or(config.server.listen), &config.server)?;
        app::serve(config, listeners, logs, announce).await
    }
}

/// The line that scripts wait for.
pub(super) fn announce(address: SocketAddr) {
    // Nobody may be reading it, and that is no reason to stop.
    _ = writeln!(io::stdout(), "jarchy: serving http://{address}/");
}
