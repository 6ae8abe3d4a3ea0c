//! What a start would refuse, found before one is made.
//!
//! Goes in: a [`Config`]. Comes out: what an operator should look at although it starts. Invariant: nothing is changed
//! and nobody is answered; sockets, and sources that need not be there at a start, are left alone.

use super::leases::Leases;
use super::{Common, Signers, assemble, lasting, unregistered};
use crate::config::Config;
use crate::db::DbError;
use crate::health::Health;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::pki::{Clock, ClockGuard, SystemClock};
use crate::registry::{Registry, RegistryError};
use crate::state::{State, StateError};
use anyhow::Context;
use std::sync::Arc;

/// Builds all that [`super::serve`] builds before it listens.
///
/// # Errors
/// As those of [`super::serve`].
pub async fn check(config: &Config) -> anyhow::Result<Vec<String>> {
    let scratch = tempfile::tempdir().context("cannot make a folder for what is only tried")?;
    let state = match State::read_only(&config.state.path).await {
        // A start makes it, or brings it up to date.
        Err(StateError::Open(DbError::Missing { .. } | DbError::Older { .. })) => {
            State::open(&scratch.path().join("state.db")).await
        }
        opened => opened,
    }?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let guard = Arc::new(ClockGuard::new(Arc::clone(&clock)));
    let leases = Arc::new(Leases::new(config));
    let common = Common { clock, guard, health: Health::new(), metrics: Metrics::new(), state, leases };
    if config.uses_database() {
        look_at_database(config).await?;
    }
    let mut issuers = Vec::new();
    for settings in &config.issuers {
        let made = lasting(settings, Arc::new(Index::default()), config, &common).await;
        issuers.push(made.with_context(|| format!("issuer \"{}\"", settings.name))?.0);
    }
    let (_, responder) = assemble(config, &issuers, &mut (0..), &common)?;
    let now = common.clock.now();
    let lapsed =
        responder.look_after_signers(now).filter(|of| !of.signs).map(|Signers { issuer, from, until, .. }| {
            format!(
                "issuer \"{issuer}\" answers nothing: its last certificate for OCSP is valid from {from} to {until}"
            )
        });
    let lapsed = lapsed.collect();
    common.state.close().await;
    Ok(lapsed)
}

async fn look_at_database(config: &Config) -> anyhow::Result<()> {
    match Registry::read_only(&config.database.place).await {
        // A start brings it up to date.
        Err(RegistryError::Db(DbError::Older { .. })) => Ok(()),
        opened => {
            let registry = opened?;
            let looked = unregistered(config, &registry, |issuer| issuer.source.is_none()).await.map(drop);
            registry.close().await;
            looked
        }
    }
}
