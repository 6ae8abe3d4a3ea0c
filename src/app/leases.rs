//! Whose lists are whose, where several nodes read one issuance database: this one's are claimed there again and
//! again.
//!
//! Goes in: the issuance database. Comes out: a [`Lease`] for each issuer whose lists are made from it. An issuer with
//! a source of its own has none, as nothing is written there: one node only may make its lists.

use crate::config::Config;
use crate::crl::Lease;
use crate::db::Place;
use crate::health::Component;
use crate::pki::IssuerName;
use crate::registry::{Claim, LAPSE, Node, Publisher, Registry};
use crate::state::{State, StateError};
use anyhow::Context;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the database is asked.
const LOOK: Duration = Duration::from_secs(2);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// This process, which works with `state`.
///
/// # Errors
/// If the store cannot be read.
pub async fn this_node(state: &State) -> Result<Node, StateError> {
    let id = std::process::id();
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.map_or_else(|| "a host without a name".to_owned(), |name| name.trim().to_owned());
    Ok(Node {
        store: state.identity().await?,
        process: format!("{:016x}", RandomState::new().hash_one(id)),
        host: format!("{name} (process {id})"),
    })
}

/// The leases of the issuers of `[database]` with lists.
pub(super) struct Leases(BTreeMap<IssuerName, watch::Sender<Lease>>);

impl Leases {
    pub(super) fn new(config: &Config) -> Self {
        let leased = config.issuers.iter().filter(|issuer| issuer.crl.is_some() && issuer.source.is_none());
        Self(leased.map(|issuer| (issuer.name.clone(), watch::Sender::new(Lease::Unsaid(None)))).collect())
    }

    pub(super) fn are_any(&self) -> bool {
        !self.0.is_empty()
    }

    /// What is known of the lists of `issuer`.
    pub(super) fn of(&self, issuer: &IssuerName) -> watch::Receiver<Lease> {
        self.0.get(issuer).map_or_else(|| watch::channel(Lease::Free).1, watch::Sender::subscribe)
    }

    /// Claims them until `stop` says true.
    pub(super) async fn keep(
        self: Arc<Self>,
        place: Place,
        state: State,
        health: Component,
        mut stop: watch::Receiver<bool>,
    ) {
        let keeper = async {
            let mut registry = None;
            let mut node = None;
            loop {
                let look = tokio::time::timeout(PATIENCE, self.look(&place, &state, &mut registry, &mut node));
                match look.await.context("the issuance database does not answer").flatten() {
                    Ok(None) => health.ok(),
                    Ok(Some(unknown)) => health.degraded(unknown),
                    Err(error) => {
                        let why = format!("{error:#}");
                        for lease in self.0.values() {
                            lease.send_if_modified(|lease| {
                                let unsaid = matches!(lease, Lease::Unsaid(_));
                                if unsaid {
                                    *lease = Lease::Unsaid(Some(why.clone()));
                                }
                                unsaid
                            });
                        }
                        health.degraded(format!("who makes the CRLs cannot be asked: {why}"));
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = keeper => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Claims each once; why that is in vain, where it is.
    async fn look(
        &self,
        place: &Place,
        state: &State,
        registry: &mut Option<Registry>,
        node: &mut Option<Node>,
    ) -> anyhow::Result<Option<String>> {
        if node.is_none() {
            *node = Some(this_node(state).await?);
        }
        let Some(node) = node else { return Ok(None) };
        let opened = match registry.take() {
            Some(registry) => registry,
            None => Registry::open(place).await?,
        };
        let mut claims = Vec::new();
        for (issuer, lease) in &self.0 {
            let number = state.highest(issuer).await?;
            let anew = matches!(*lease.borrow(), Lease::Unsaid(_) | Lease::Free);
            claims.push(Claim { issuer: issuer.clone(), number, anew });
        }
        let asked = Instant::now();
        let answers = opened.claim_lists(node, &claims).await?;
        match place {
            // Another file may come to stand in its place.
            Place::File(_) => opened.close().await,
            Place::Server(_) => *registry = Some(opened),
        }
        let mut unknown = None;
        for ((issuer, lease), answer) in self.0.iter().zip(answers) {
            let known = lease.borrow().floor();
            lease.send_replace(match answer {
                Publisher::Us { age, floor } => {
                    Lease::Ours { until: asked + LAPSE.saturating_sub(age), floor: floor.max(known) }
                }
                Publisher::Other { host, renewed_at, copy: false } => Lease::Others(format!(
                    "the CRLs of {issuer} are made at {host}, as that said last at {renewed_at}: none is made here. If \
                     that node is gone, `jarchy crl take-over {issuer}` has them made here; so has silence there for ten \
                     minutes"
                )),
                Publisher::Other { host, renewed_at, copy: true } => Lease::Others(format!(
                    "the CRLs of {issuer} are made with a copy of this state store at {host}, as that said last at \
                     {renewed_at}: none is made here. One of the two has to stop; a node that answers OCSP only needs \
                     no [issuer.crl]"
                )),
                Publisher::Unknown(why) => {
                    unknown = Some(format!(
                        "whether another node makes CRLs as well cannot be known, as nothing can be written into the \
                         table publishers ({why}): make sure that this is the only one, or grant INSERT and UPDATE on it"
                    ));
                    Lease::Free
                }
            });
        }
        Ok(unknown)
    }
}
