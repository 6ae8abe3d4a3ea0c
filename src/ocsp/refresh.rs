//! Answers signed anew before anybody has to wait for that.
//!
//! Goes in: a [`Responder`], whose cache knows what was asked for. Comes out: the same answers with newer
//! dates, one after another, at the second at which they may be dated anew or a few seconds later; until
//! then the older ones are given ([`Policy::grace`](super::Policy)). Where all answers of an issuer are to
//! be kept signed, its index is looked through for those that are missing.
//!
//! Invariants: it signs one at a time, so that a slow key has turns left for those who ask; it looks
//! through cache and index for at most one fiftieth of the time; what it signs follows the same rules as
//! what a request has signed.

use super::cache::{Key, Origin, Signed};
use super::{Asked, Authority, Client, Fit, Responder, SigningKey, fit, hash_number, request};
use crate::der::tag;
use crate::metrics::Presigned;
use crate::pki::{HashAlgorithm, Time};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

/// Which answers are signed anew before anybody asks for them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Presign {
    /// None: who asks for one first waits for its signature.
    None,
    /// Those that were asked for since they were last signed.
    #[default]
    Hot,
    /// Those of every certificate that has not expired, under SHA-1 and SHA-256 with NULL, the forms in
    /// which clients ask.
    All {
        /// Signatures a second, at most, for answers that nobody has asked for yet.
        rate: u32,
    },
}

/// How often the cache is looked through.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often an index is looked through for certificates whose answers are to be kept signed.
const PASS: Duration = Duration::from_secs(10);
/// Looking takes one part in so many of the time.
const SHARE: u32 = 50;
/// Signatures after which the pace is kept.
const BATCH: u32 = 16;
/// Octets for the answers about one certificate under both hashes, while a generation of them replaces
/// the other; see the cache.
const ROOM: u64 = 500;
/// Those under which clients ask.
pub(super) const HASHES: [HashAlgorithm; 2] = [HashAlgorithm::Sha1, HashAlgorithm::Sha256];

/// Keeps the answers of the present one of `responders` signed until `stop` becomes true.
pub async fn run(mut responders: watch::Receiver<Arc<Responder>>, mut stop: watch::Receiver<bool>) {
    loop {
        let responder = Arc::clone(&responders.borrow_and_update());
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            changed = responders.changed() => if changed.is_err() { return },
            () = passes(&responder) => {}
            () = rounds(&responder) => {}
        }
    }
}

/// Looks through the indexes again and again.
async fn passes(responder: &Responder) {
    let authorities = responder.authorities.iter();
    let all: Vec<_> = authorities.filter_map(|authority| all_at(authority).map(|rate| (authority, rate))).collect();
    let mut is_small = false;
    if all.is_empty() {
        return std::future::pending().await;
    }
    loop {
        let began = Instant::now();
        let mut looked = Duration::ZERO;
        let issued = all.iter().map(|(authority, _)| authority.index.issued()).sum();
        is_small = responder.warn_if_small(issued, is_small);
        for (authority, rate) in &all {
            looked += responder.sign_missing(authority, *rate).await;
        }
        sleep_until((began + PASS.max(looked * SHARE)).into()).await;
    }
}

/// Looks through the cache again and again.
async fn rounds(responder: &Responder) {
    loop {
        let looked = responder.renew_due().await;
        sleep(INTERVAL.max(looked * SHARE)).await;
    }
}

fn all_at(authority: &Authority) -> Option<u32> {
    match authority.policy.presign {
        Presign::All { rate } => Some(rate),
        Presign::None | Presign::Hot => None,
    }
}

impl Responder {
    /// Signs anew what is due and was asked for or is to be kept signed; how long it took to find that out.
    async fn renew_due(&self) -> Duration {
        let mut looked = Duration::ZERO;
        let now = self.clock.now();
        // What nobody asks for is kept signed as long as the certificate lives.
        let wanted = |place: &Key, signed: &Signed, asked: bool| {
            self.signer(place, now).is_some_and(|(authority, key)| {
                authority.policy.presign != Presign::None
                    && authority.is_due(&place.serial, key, signed, now)
                    && (asked || authority.is_alive(&place.serial, now))
            })
        };
        for shard in 0..self.cache.shards() {
            for piece in 0.. {
                let began = Instant::now();
                let due = self.cache.due(shard, piece, wanted);
                looked += began.elapsed();
                let Some(due) = due else { break };
                for key in due {
                    self.renew(&key, Origin::Renewed).await;
                }
                // Others may want to do something.
                tokio::task::yield_now().await;
            }
        }
        let (entries, bytes) = self.cache.size();
        self.metrics.cache_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.metrics.cache_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        looked
    }

    /// Signs what no answer is kept of, at most `rate` a second; how long it took to find that out.
    async fn sign_missing(&self, authority: &Authority, rate: u32) -> Duration {
        let (mut looked, mut part) = (Duration::ZERO, Some(0));
        let mut pace = Pace::new(rate);
        while let Some(number) = part {
            let (began, now) = (Instant::now(), self.clock.now());
            let mut missing = Vec::new();
            let Some(key) = authority.key(std::iter::empty(), now) else { break };
            part = authority.index.view().for_each_of_part(number, |serial, record| {
                if record.not_after >= now {
                    let options = u8::from(authority.policy.cert_hash && record.sha256.is_some());
                    // With NULL.
                    let algorithms = HASHES.map(|hash| hash_number(hash) << 1 | 1);
                    let keys = algorithms.map(|algorithm| Key { signer: key.id, algorithm, options, serial });
                    missing.extend(keys.into_iter().filter(|key| !self.cache.pin(key)));
                }
            });
            looked += began.elapsed();
            for key in missing {
                self.renew(&key, Origin::All).await;
                pace.keep().await;
            }
            tokio::task::yield_now().await;
        }
        looked
    }

    /// Says so, once, if the answers of `issued` certificates cannot all be kept.
    fn warn_if_small(&self, issued: u64, was_small: bool) -> bool {
        let (needed, has) = (issued.saturating_mul(ROOM), self.cache.max_bytes());
        let is_small = usize::try_from(needed).unwrap_or(usize::MAX) > has;
        if is_small && !was_small {
            tracing::warn!(
                needed_mib = needed >> 20,
                has_mib = has >> 20,
                "presign = \"all\" needs more memory for signed answers: raise ocsp_cache_mib in [server.limits]"
            );
        }
        is_small
    }

    /// Who signs what is kept under `place`, if it still is the one who would sign it now.
    fn signer(&self, place: &Key, now: Time) -> Option<(&Authority, &SigningKey)> {
        self.authorities.iter().find_map(|authority| Some((authority, authority.current_key(place.signer, now)?)))
    }

    /// Signs the answer for `place`, if it may be and nobody has.
    async fn renew(&self, place: &Key, origin: Origin) {
        let now = self.clock.now();
        let Some((authority, key)) = self.signer(place, now) else { return };
        let Ok(plan) = authority.plan(Some(&place.serial), key, now) else { return };
        let Some(cert_id) = cert_id(authority, place) else { return };
        // A certificate's hash that came to be known makes another answer of it.
        if plan.absent || !plan.may_sign || place.options != u8::from(plan.sha256.is_some()) {
            return;
        }
        let asked = Asked { authority, key, cert_id: &cert_id, plan, now };
        let sign = || self.sign_and_keep(Client::LOCAL, &asked, *place, origin);
        let Ok(signed) = self.flights.join(*place, sign).await else { return };
        if signed.produced_at == now && fit(&signed, &asked) == Fit::Fresh {
            self.metrics.presigned.count(if origin == Origin::All { Presigned::All } else { Presigned::Hot });
            let lag = now.since(asked.plan.this_update).as_secs();
            if origin == Origin::Renewed {
                self.metrics.refresh_lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
            }
        }
    }

    /// Looks through everything once, as [`run`] does again and again; for tests and benches.
    #[doc(hidden)]
    pub async fn refresh_once(&self) {
        for authority in &self.authorities {
            if let Some(rate) = all_at(authority) {
                self.sign_missing(authority, rate).await;
            }
        }
        self.renew_due().await;
    }

    /// Entries and bytes of the cache; for benches.
    #[doc(hidden)]
    #[must_use]
    pub fn cache_size(&self) -> (usize, usize) {
        self.cache.size()
    }
}

/// The CertID that belongs to `key`: the inverse of how a key is made from one.
fn cert_id(authority: &Authority, key: &Key) -> Option<Vec<u8>> {
    let hashes = authority.issuer.hashes(*HashAlgorithm::ALL.get(usize::from(key.algorithm >> 1))?);
    let parameters: &[u8] = if key.algorithm & 1 == 1 { &[tag::NULL, 0] } else { &[] };
    Some(request::cert_id_with(&hashes, parameters, key.serial.as_bytes()))
}

/// So many a second.
struct Pace {
    rate: u32,
    batch: u32,
    began: Instant,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Self { rate: rate.max(1), batch: 0, began: Instant::now() }
    }

    async fn keep(&mut self) {
        self.batch += 1;
        if self.batch == BATCH {
            let due = self.began + Duration::from_secs(1) * BATCH / self.rate;
            // Timers count whole milliseconds: even one that is due already waits for the next.
            if due > Instant::now() {
                sleep_until(due.into()).await
            } else {
                tokio::task::yield_now().await
            }
            *self = Self::new(self.rate);
        }
    }
}
