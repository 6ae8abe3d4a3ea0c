//! What must never be forgotten, on its way into the durable state: revocations, and releases from hold.
//!
//! Invariant: it is written before anyone is told, unless the store is too busy (promise 8); then it is kept
//! here and tried again (promise 12).

use crate::index::Record;
use crate::pki::{IssuerName, Serial, Status};
use crate::state::{Seen, State};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Revocations and releases that the state store takes at once.
const SAVED_AT_ONCE: usize = 2_000;

/// What is not in the state store yet.
#[derive(Debug)]
pub(super) struct Memory {
    state: State,
    /// Revocations (and releases: `None`); the last word on each serial.
    unsaved: HashMap<IssuerName, BTreeMap<Serial, Option<Seen>>>,
    /// Why they are not saved.
    refusal: String,
}

impl Memory {
    pub(super) fn new(state: State) -> Self {
        Self { state, unsaved: HashMap::new(), refusal: String::new() }
    }

    pub(super) const fn state(&self) -> &State {
        &self.state
    }

    /// Notes what is new of `serial`.
    pub(super) fn note(&mut self, issuer: &IssuerName, serial: Serial, record: &Record) {
        let seen = seen_of(record);
        match self.unsaved.get_mut(issuer) {
            Some(unsaved) => _ = unsaved.insert(serial, seen),
            None => _ = self.unsaved.insert(issuer.clone(), BTreeMap::from([(serial, seen)])),
        }
    }

    /// Writes what is unsaved into the durable state, before anyone is told of it. What cannot be written
    /// within `patience` is told all the same, and tried again whenever there is time.
    pub(super) async fn save(&mut self, patience: Duration) {
        for (issuer, unsaved) in &mut self.unsaved {
            while !unsaved.is_empty() {
                let batch: Vec<_> = unsaved.iter().take(SAVED_AT_ONCE).map(|(serial, seen)| (*serial, *seen)).collect();
                self.refusal = match tokio::time::timeout(patience, self.state.record(issuer, &batch)).await {
                    Ok(Ok(())) => {
                        for (serial, _) in batch {
                            unsaved.remove(&serial);
                        }
                        continue;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "it is busy".to_owned(),
                };
                return;
            }
        }
    }

    /// What an operator must know, if anything is unsaved.
    pub(super) fn alarm(&self) -> Option<String> {
        let unsaved: usize = self.unsaved.values().map(BTreeMap::len).sum();
        (unsaved > 0).then(|| {
            format!(
                "{unsaved} revocations or releases are not in the state store yet, so a restart may forget them: {}",
                self.refusal
            )
        })
    }
}

/// The record of a revocation that was seen before.
pub(super) fn record_of(seen: &Seen) -> Record {
    let status = Status::Revoked(seen.revocation);
    Record { not_before: seen.not_before, not_after: seen.not_after, status, since: seen.learned, sha256: None }
}

/// `None` for one that is good now: it was released.
fn seen_of(record: &Record) -> Option<Seen> {
    let revocation = *record.status.revocation()?;
    Some(Seen { not_before: record.not_before, not_after: record.not_after, revocation, learned: record.since })
}
