//! `jarchy crl supersede` and `confirm-clock`: an operator's word on a clock that was wrong (promise 13). Both
//! are written down in the state store, with who gave it and when.

use super::{ConfigFile, configured};
use crate::cli::Audited;
use crate::pki::{Clock, IssuerName, SystemClock};
use crate::state::{Scope, State};
use anyhow::ensure;
use clap::Args;
use std::io::Write;
use std::path::Path;

/// Declare void the CRLs that a wrong clock dated in the future.
///
/// The next list gets a higher number and its true date; the service that waits for this goes on by itself. Clients
/// that have a void list may keep it until its nextUpdate.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jarchy crl supersede demo --by boris --config /etc/jarchy/jarchy.toml")]
pub(super) struct Supersede {
    /// Issuer of the config file
    issuer: IssuerName,
    #[command(flatten)]
    audited: Audited,
    #[command(flatten)]
    config: ConfigFile,
}

impl Supersede {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let config = self.config.load()?;
        configured(&config, &self.issuer)?;
        let (state, audit, now) = (existing(&config.state.path).await?, self.audited.audit()?, SystemClock.now());
        let whole = Scope::whole(&self.issuer);
        let shards = format!("{whole}/");
        for scope in state.scopes().await? {
            if scope == whole || scope.as_str().starts_with(&shards) {
                let lists = state.supersede(&scope, &audit.actor, now).await?;
                writeln!(out, "{scope}: {lists} lists dated after {now} are void")?;
            }
        }
        state.close().await;
        Ok(())
    }
}

/// Say that the clock of this machine is right, although it jumped.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jarchy crl confirm-clock --by boris --config /etc/jarchy/jarchy.toml")]
pub(super) struct ConfirmClock {
    #[command(flatten)]
    audited: Audited,
    #[command(flatten)]
    config: ConfigFile,
}

impl ConfirmClock {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let config = self.config.load()?;
        let (state, audit, now) = (existing(&config.state.path).await?, self.audited.audit()?, SystemClock.now());
        let doubted = state.confirm_clock(&audit.actor, now).await?;
        state.close().await;
        let what = if doubted { "the service goes on" } else { "nobody doubted it" };
        writeln!(out, "the clock is right when it says {now}: {what}")?;
        Ok(())
    }
}

async fn existing(path: &Path) -> anyhow::Result<State> {
    ensure!(path.exists(), "there is no state store {}", path.display());
    Ok(State::open(path).await?)
}
