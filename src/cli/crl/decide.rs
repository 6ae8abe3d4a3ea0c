//! `jarchy crl supersede`, `confirm-clock` and `take-over`: an operator's word on a clock that was wrong (promise
//! 13), and on which node makes the lists (promise 5). Each is written down in the state store, with who gave it and
//! when.

use super::{ConfigFile, configured};
use crate::app;
use crate::cli::Audited;
use crate::config::Config;
use crate::pki::{Clock, IssuerName, SystemClock};
use crate::registry::Node;
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

/// Have the CRLs of an issuer made by this node, the one of this config file, whichever made them before.
///
/// The other notices within seconds and makes no more; numbers go on above those that it gave out.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jarchy crl take-over demo --by boris --config /etc/jarchy/jarchy.toml

Needed where another node reads the same issuance database and made them until now: by itself this one does ten minutes
after the other was last heard of.")]
pub(super) struct TakeOver {
    /// Issuer of the config file
    issuer: IssuerName,
    #[command(flatten)]
    audited: Audited,
    #[command(flatten)]
    config: ConfigFile,
}

impl TakeOver {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let config = self.config.load()?;
        let settings = configured(&config, &self.issuer)?;
        ensure!(
            settings.source.is_none(),
            "issuer {} has a source of its own: nothing says there which node makes its CRLs",
            self.issuer
        );
        let (state, audit) = (State::open(&config.state.path).await?, self.audited.audit()?);
        let taken = take_over(&config, &self.issuer, &state, &audit.actor, out).await?;
        state.close().await;
        if !taken {
            writeln!(out, "nothing to do: no other node makes the CRLs of {}", self.issuer)?;
        }
        Ok(())
    }
}

/// Has the lists of `issuer` made by the node with `state`; whether another made them.
pub(super) async fn take_over(
    config: &Config,
    issuer: &IssuerName,
    state: &State,
    actor: &str,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<bool> {
    let registry = app::open_registry(config).await?;
    let node = Node { process: String::new(), ..app::this_node(state).await? };
    let other = registry.take_lists(issuer, &node).await?;
    registry.close().await;
    if let Some(other) = &other {
        state.took_over(issuer, other, actor, SystemClock.now()).await?;
        writeln!(out, "the CRLs of {issuer} are made here from now on, no longer at {other}")?;
    }
    Ok(other.is_some())
}

async fn existing(path: &Path) -> anyhow::Result<State> {
    ensure!(path.exists(), "there is no state store {}", path.display());
    Ok(State::open(path).await?)
}
