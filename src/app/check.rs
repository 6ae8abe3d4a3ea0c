//! What a start would refuse, found before one is made.
//!
//! Goes in: a [`Config`]. Comes out: what an operator should look at although it starts. Invariant: nothing is changed
//! and nobody is answered; sockets, and sources that need not be there at a start, are left alone.

use super::leases::Leases;
use super::{Common, Signers, assemble, lasting, may_pass, unregistered};
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
    let mut warnings = Vec::new();
    if config.uses_database() {
        warnings.extend(look_at_database(config).await?);
    }
    let mut issuers = Vec::new();
    for settings in &config.issuers {
        let made = lasting(settings, Arc::new(Index::default()), config, &common).await;
        issuers.push(made.with_context(|| format!("issuer \"{}\"", settings.name))?.0);
    }
    let (_, responder) = assemble(config, &issuers, &mut (0..), &common)?;
    let now = common.clock.now();
    let lapsed = responder.look_after_signers(now).filter(|of| !of.signs);
    warnings.extend(lapsed.map(|Signers { issuer, from, until, .. }| {
        format!("issuer \"{issuer}\" answers nothing: its last certificate for OCSP is valid from {from} to {until}")
    }));
    common.state.close().await;
    Ok(warnings)
}

/// Whether the database knows the CAs by the names that the config gives them; what to say where it is out of reach.
async fn look_at_database(config: &Config) -> anyhow::Result<Option<String>> {
    let look = async {
        let registry = Registry::read_only(&config.database.place).await?;
        let looked = unregistered(config, &registry, |issuer| issuer.source.is_none()).await;
        registry.close().await;
        looked.map(drop)
    };
    match look.await {
        Err(error) if may_pass(&error) => Ok(Some(format!("{error}: nothing but known revocations is answered"))),
        // A start brings it up to date.
        Err(error) if matches!(error.downcast_ref(), Some(RegistryError::Db(DbError::Older { .. }))) => Ok(None),
        looked => looked.map(|()| None),
    }
}
