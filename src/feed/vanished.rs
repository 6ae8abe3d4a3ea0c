//! Certificates that the database had and has no more, though nothing explains that: they keep their last
//! status until they are back or an operator lets go of them.

use crate::pki::{IssuerName, Serial};
use std::collections::{BTreeMap, HashMap};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Vanished(HashMap<IssuerName, BTreeMap<Serial, Missed>>);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Missed {
    /// An operator has not spoken yet.
    Open,
    /// Nobody need be told: it has ended, as such leave many databases, or an operator knows that it is gone.
    Settled,
}

impl Vanished {
    /// It is gone. Whether that is news.
    pub(super) fn missed(&mut self, issuer: &IssuerName, serial: Serial) -> bool {
        self.note(issuer, serial, Missed::Open)
    }

    /// It is gone, and nobody need be told.
    pub(super) fn settled(&mut self, issuer: &IssuerName, serial: Serial) {
        self.found(issuer.as_str(), &serial);
        self.note(issuer, serial, Missed::Settled);
    }

    fn note(&mut self, issuer: &IssuerName, serial: Serial, missed: Missed) -> bool {
        let of_issuer = match self.0.get_mut(issuer) {
            Some(of_issuer) => of_issuer,
            None => self.0.entry(issuer.clone()).or_default(),
        };
        let news = !of_issuer.contains_key(&serial);
        of_issuer.entry(serial).or_insert(missed);
        news
    }

    /// It is there. Whether it was missed.
    pub(super) fn found(&mut self, issuer: &str, serial: &Serial) -> bool {
        self.0.get_mut(issuer).is_some_and(|of_issuer| of_issuer.remove(serial).is_some())
    }

    /// Whether it is missed.
    pub(super) fn has(&self, issuer: &IssuerName, serial: &Serial) -> bool {
        self.0.get(issuer).is_some_and(|of_issuer| of_issuer.contains_key(serial))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.values().all(BTreeMap::is_empty)
    }

    /// How many are not in the database, whatever operators know.
    pub(super) fn len(&self) -> u64 {
        self.0.values().map(|of_issuer| u64::try_from(of_issuer.len()).unwrap_or(0)).sum()
    }

    /// Those that an operator has not spoken about.
    pub(super) fn open(&self) -> impl Iterator<Item = (&IssuerName, Serial)> {
        self.0.iter().flat_map(|(issuer, of_issuer)| {
            let open = of_issuer.iter().filter(|(_, missed)| **missed == Missed::Open);
            open.map(move |(serial, _)| (issuer, *serial))
        })
    }

    /// What an operator must know, if any is missed.
    pub(super) fn alarm(&self) -> Option<String> {
        let (issuer, serial) = self.open().next()?;
        let (count, example) = (self.open().count(), format!("issuer {issuer}, serial {serial}"));
        Some(format!(
            "{count} certificates are gone from the database and nothing explains it (one is {example}): they keep their \
             last status; put them back, or let go of them with `jarchy database confirm-drop`"
        ))
    }
}
