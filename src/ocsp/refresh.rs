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

use super::cache::{Key, Origin};
use super::{Asked, Authority, Client, Responder, fit, request};
use crate::der::{self, tag};
use crate::metrics::Presigned;
use crate::pki::{HashAlgorithm, Serial};
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
const HASHES: [HashAlgorithm; 2] = [HashAlgorithm::Sha1, HashAlgorithm::Sha256];

/// Keeps the answers of `responder` signed until `stop` becomes true.
pub async fn run(responder: Arc<Responder>, mut stop: watch::Receiver<bool>) {
    let all: Vec<_> =
        responder.authorities.iter().filter_map(|authority| all_at(authority).map(|rate| (authority, rate))).collect();
    let mut is_small = false;
    let passes = async {
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
    };
    let rounds = async {
        loop {
            let looked = responder.renew_due().await;
            sleep(INTERVAL.max(looked * SHARE)).await;
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = passes => {}
        () = rounds => {}
    }
}

fn all_at(authority: &Authority) -> Option<u32> {
    match authority.policy.presign {
        Presign::All { rate } => Some(rate),
        Presign::None | Presign::Hot => None,
    }
}

impl Responder {
    /// Signs anew what is due and was asked for; how long it took to find that out.
    async fn renew_due(&self) -> Duration {
        let mut looked = Duration::ZERO;
        let wanted = |key: &Key, this_update| {
            self.signer(key).is_some_and(|authority| {
                authority.policy.presign != Presign::None && authority.is_due(&key.serial, this_update)
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
            part = authority.index.view().for_each_of_part(number, |serial, record| {
                if record.not_after >= now {
                    let keys = HASHES.map(|hash| key(authority, hash, serial));
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

    fn signer(&self, key: &Key) -> Option<&Authority> {
        self.authorities.iter().find(|authority| authority.id == key.signer)
    }

    /// Signs the answer for `key`, if it may be and nobody has.
    async fn renew(&self, key: &Key, origin: Origin) {
        let now = self.clock.now();
        let Some(authority) = self.signer(key).filter(|authority| authority.is_valid_at(now)) else { return };
        let Ok(Some(plan)) = authority.plan(Some(&key.serial), now) else { return };
        let Some(cert_id) = cert_id(authority, key) else { return };
        if plan.absent || !plan.may_sign {
            return;
        }
        let asked = Asked { authority, cert_id: &cert_id, plan, now };
        let sign = || self.sign_and_keep(Client::LOCAL, &asked, *key, origin);
        let Ok(signed) = self.flights.join(*key, sign).await else { return };
        if signed.produced_at == now && fit(&signed, &asked) == super::Fit::Fresh {
            self.metrics.presigned.count(if origin == Origin::All { Presigned::All } else { Presigned::Hot });
            let lag = now.since(plan.this_update).as_secs();
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

/// The key under which clients ask that send NULL.
fn key(authority: &Authority, hash: HashAlgorithm, serial: Serial) -> Key {
    let number =
        HashAlgorithm::ALL.iter().position(|known| *known == hash).and_then(|number| u8::try_from(number).ok());
    Key { signer: authority.id, algorithm: number.unwrap_or(0) << 1 | 1, options: 0, serial }
}

/// The CertID that belongs to `key`: the inverse of how a key is made from one.
fn cert_id(authority: &Authority, key: &Key) -> Option<Vec<u8>> {
    let hashes = authority.issuer.hashes(*HashAlgorithm::ALL.get(usize::from(key.algorithm >> 1))?);
    if key.algorithm & 1 == 1 {
        return Some(request::encode_cert_id(&hashes, key.serial.as_bytes()));
    }
    let algorithm = der::element(tag::SEQUENCE, &[hashes.algorithm.oid()]);
    let octets = |value: &[u8]| der::element(tag::OCTET_STRING, &[value]);
    let serial = der::element(tag::INTEGER, &[key.serial.as_bytes()]);
    Some(der::element(tag::SEQUENCE, &[&algorithm, &octets(&hashes.name), &octets(&hashes.key), &serial]))
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
            sleep_until((self.began + Duration::from_secs(1) * BATCH / self.rate).into()).await;
            *self = Self::new(self.rate);
        }
    }
}
