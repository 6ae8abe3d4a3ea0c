//! OCSP: request bytes in, reply out.
//!
//! The request is read in place ([`request`]), its issuer found among the authorities ([`authority`]), the
//! status taken from the index's present view, and the answer either spliced from the cache or signed
//! ([`response`]). HTTP is not known here; [`Reply`] says what caches may do with it.
//!
//! Invariants: `good` only for what the index knows as issued (promise 1); a cached answer is given only
//! if it says what the view says now (promise 4); the CertID comes back as it was asked (promise 11).

pub mod authority;
mod cache;
pub mod check;
pub mod request;
pub mod response;

pub use authority::{Authority, DelegateError, NoncePolicy, NotIssued, Policy};

use crate::metrics::{Hash, Metrics, Outcome, Purpose};
use crate::pki::{Clock, HashAlgorithm, Serial, Time};
use crate::sign::SignError;
use authority::Plan;
use bytes::Bytes;
use cache::{Cache, Key, Signed};
use request::{CertId, Limits, Request};
use response::{CertStatus, Failure, ResponseData, Single, nonce_extension};
use std::collections::HashMap;
use std::sync::Arc;

/// What goes back to the client.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The OCSPResponse.
    pub body: Bytes,
    /// What HTTP caches may do with it.
    pub caching: Caching,
}

impl Reply {
    const fn failure(failure: Failure) -> Self {
        Self { body: Bytes::from_static(failure.der()), caching: Caching::NoStore }
    }
}

/// What HTTP caches may do with a reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Caching {
    /// Nothing: an error, or an answer to one client's nonce (HTTP-16).
    NoStore,
    /// Keep it, as HTTP-12 and HTTP-15 say.
    Public {
        /// thisUpdate.
        this_update: Time,
        /// producedAt, which is Last-Modified.
        produced_at: Time,
        /// nextUpdate, which is Expires.
        next_update: Time,
        /// Seconds until the client should ask again.
        max_age: u32,
    },
}

/// Answers requests for all its authorities.
#[derive(Debug)]
pub struct Responder {
    authorities: Vec<Authority>,
    /// Hash of the issuer's key, to the issuers with that key; the hash of the name decides among them (OCSP-04).
    by_key_hash: HashMap<Vec<u8>, Vec<Candidate>>,
    cache: Cache,
    limits: Limits,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Candidate {
    algorithm: HashAlgorithm,
    name_hash: Vec<u8>,
    authority: usize,
}

/// What a request came to, as the metrics count it.
struct Answered {
    reply: Reply,
    outcome: Outcome,
}

impl Responder {
    /// Answers for `authorities`; signed answers take at most `cache_bytes` of memory.
    #[must_use]
    pub fn new(
        authorities: Vec<Authority>,
        cache_bytes: usize,
        limits: Limits,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        let mut by_key_hash: HashMap<Vec<u8>, Vec<Candidate>> = HashMap::new();
        for (number, authority) in authorities.iter().enumerate() {
            for algorithm in HashAlgorithm::ALL {
                let hashes = authority.issuer.hashes(algorithm);
                let candidate = Candidate { algorithm, name_hash: hashes.name, authority: number };
                by_key_hash.entry(hashes.key).or_default().push(candidate);
            }
        }
        Self { authorities, by_key_hash, cache: Cache::new(cache_bytes), limits, clock, metrics }
    }

    /// Answers one request. `issuer`, if given, is the name in the path: nobody else is answered for then.
    pub async fn answer(&self, issuer: Option<&str>, request: &[u8]) -> Reply {
        let answered = self.try_answer(issuer, request).await.unwrap_or_else(|failure| Answered {
            reply: Reply::failure(failure),
            outcome: match failure {
                Failure::MalformedRequest => Outcome::Malformed,
                Failure::InternalError => Outcome::Internal,
                Failure::TryLater => Outcome::TryLater,
                Failure::Unauthorized => Outcome::Unauthorized,
            },
        });
        self.metrics.outcomes.count(answered.outcome);
        answered.reply
    }

    async fn try_answer(&self, issuer: Option<&str>, bytes: &[u8]) -> Result<Answered, Failure> {
        let request = request::parse(bytes, self.limits).map_err(|_| Failure::MalformedRequest)?;
        let authority = self.authority_for(issuer, &request)?;
        let now = self.clock.now();
        if !authority.is_valid_at(now) {
            return Err(Failure::TryLater);
        }
        let nonce = request.nonce.filter(|_| authority.policy.nonce == NoncePolicy::Live);
        if request.count > 1 {
            return self.answer_many(authority, &request, nonce, now).await;
        }
        let cert_id = request.cert_ids().next().ok_or(Failure::MalformedRequest)?;
        // A serial of 21 octets is well-formed and nobody's.
        let serial = Serial::from_content(cert_id.serial).ok();
        let Some(plan) = authority.plan(serial.as_ref(), now).map_err(|_| Failure::TryLater)? else {
            return Ok(Answered { reply: Reply::failure(Failure::Unauthorized), outcome: Outcome::NotIssued });
        };
        let key = serial.map(|serial| key_of(authority, &cert_id, serial));
        if let Some(nonce) = nonce {
            match self.sign(authority, &[single(&cert_id, &plan)], &nonce_extension(nonce), now, plan.may_sign).await {
                Ok((body, _)) => return Ok(answered(body, Caching::NoStore, &plan.status)),
                // The nonce is optional for the server; being answered is not (OCSP-65).
                Err(Failure::TryLater) => {}
                Err(failure) => return Err(failure),
            }
        }
        if let Some(signed) = key.and_then(|key| self.cache.get(&key)).filter(|signed| usable(signed, &plan, now)) {
            let body = splice(authority, &cert_id, &signed);
            let kept = Plan { this_update: signed.this_update, next_update: signed.next_update, ..plan };
            return Ok(answered(body, public(&kept, signed.produced_at, now), &plan.status));
        }
        let (body, signature) = self.sign(authority, &[single(&cert_id, &plan)], &[], now, plan.may_sign).await?;
        // Absent serials are a stranger's to choose: they must not push out what is asked for in earnest (SEC-14).
        if let Some(key) = key.filter(|_| plan.status != CertStatus::Unknown) {
            let Plan { status, this_update, next_update, .. } = plan;
            let signed = Signed { status, produced_at: now, this_update, next_update, signature: signature.into() };
            self.cache.insert(key, signed);
        }
        Ok(answered(body, public(&plan, now, now), &plan.status))
    }

    /// Several CertIDs get one answer, which is not kept; one that may not be answered spoils them all,
    /// because every CertID must be answered (OCSP-09).
    async fn answer_many(
        &self,
        authority: &Authority,
        request: &Request<'_>,
        nonce: Option<&[u8]>,
        now: Time,
    ) -> Result<Answered, Failure> {
        let mut plans = Vec::with_capacity(request.count);
        for cert_id in request.cert_ids() {
            let serial = Serial::from_content(cert_id.serial).ok();
            let plan = authority.plan(serial.as_ref(), now).map_err(|_| Failure::TryLater)?;
            plans.push((cert_id, plan.ok_or(Failure::Unauthorized)?));
        }
        let singles: Vec<_> = plans.iter().map(|(cert_id, plan)| single(cert_id, plan)).collect();
        let may_sign = plans.iter().all(|(_, plan)| plan.may_sign);
        let extensions = nonce.map(nonce_extension).unwrap_or_default();
        let (body, _) = self.sign(authority, &singles, &extensions, now, may_sign).await?;
        // The worst of them is what the request came to.
        let worst = plans.iter().map(|(_, plan)| plan.status).max_by_key(|status| match status {
            CertStatus::Good => 0,
            CertStatus::Unknown => 1,
            CertStatus::Revoked(_) => 2,
        });
        Ok(answered(body, Caching::NoStore, &worst.unwrap_or(CertStatus::Unknown)))
    }

    /// The one authority that all CertIDs of a request belong to. One response has one signature, and a
    /// delegate may answer only for the key that issued it (OCSP-51); a request that mixes issuers is
    /// therefore `unauthorized`, like one for an issuer or a hash that is not known here (OCSP-08, OCSP-29).
    fn authority_for(&self, issuer: Option<&str>, request: &Request<'_>) -> Result<&Authority, Failure> {
        let mut all: Option<usize> = None;
        for (number, cert_id) in request.cert_ids().enumerate() {
            if number == 0 {
                self.metrics.hashes.count(hash_label(cert_id.hash));
            }
            let found = self.find(&cert_id).ok_or(Failure::Unauthorized)?;
            if *all.get_or_insert(found) != found {
                return Err(Failure::Unauthorized);
            }
        }
        let authority = all.and_then(|number| self.authorities.get(number)).ok_or(Failure::Unauthorized)?;
        if issuer.is_some_and(|name| name != authority.issuer.name.as_str()) {
            return Err(Failure::Unauthorized);
        }
        Ok(authority)
    }

    fn find(&self, cert_id: &CertId<'_>) -> Option<usize> {
        let algorithm = cert_id.hash?;
        let candidates = self.by_key_hash.get(cert_id.key_hash)?;
        let ours =
            |candidate: &&Candidate| candidate.algorithm == algorithm && candidate.name_hash == cert_id.name_hash;
        candidates.iter().find(ours).map(|candidate| candidate.authority)
    }

    /// Signs one response; returns it and the signature.
    async fn sign(
        &self,
        authority: &Authority,
        singles: &[Single<'_>],
        extensions: &[u8],
        now: Time,
        may_sign: bool,
    ) -> Result<(Bytes, Vec<u8>), Failure> {
        // Promise 3: what would be served past its nextUpdate is not worth a signature.
        if !may_sign || singles.iter().any(|single| single.next_update <= now) {
            return Err(Failure::TryLater);
        }
        let data = ResponseData { produced_at: now, singles, extensions };
        let signature =
            authority.signer.sign_in_turn(&authority.template.to_be_signed(&data)).await.map_err(|error| {
                self.metrics.signature_failures.count(Purpose::Ocsp);
                match error {
                    SignError::Overloaded => Failure::TryLater,
                    SignError::Failed => Failure::InternalError,
                }
            })?;
        self.metrics.signatures.count(Purpose::Ocsp);
        Ok((authority.template.respond(&data, &signature).into(), signature))
    }
}

/// Promise 4: it says what the view says and is dated after the last change. One that is due for renewal
/// goes on only while nothing new may be signed (promise 2).
fn usable(signed: &Signed, plan: &Plan, now: Time) -> bool {
    let oldest = if plan.may_sign { plan.this_update } else { plan.since };
    signed.status == plan.status && signed.this_update >= oldest && now < signed.next_update
}

fn single<'a>(cert_id: &CertId<'a>, plan: &Plan) -> Single<'a> {
    Single { cert_id: cert_id.raw, status: plan.status, this_update: plan.this_update, next_update: plan.next_update }
}

fn splice(authority: &Authority, cert_id: &CertId<'_>, signed: &Signed) -> Bytes {
    let Signed { status, this_update, next_update, .. } = *signed;
    let single = Single { cert_id: cert_id.raw, status, this_update, next_update };
    let data = ResponseData { produced_at: signed.produced_at, singles: &[single], extensions: &[] };
    authority.template.respond(&data, &signed.signature).into()
}

/// The AlgorithmIdentifier of a known hash differs only in the OBJECT IDENTIFIER and in whether the NULL is there.
fn key_of(authority: &Authority, cert_id: &CertId<'_>, serial: Serial) -> Key {
    let hash = match cert_id.hash {
        Some(HashAlgorithm::Sha1) | None => 0,
        Some(HashAlgorithm::Sha256) => 1,
        Some(HashAlgorithm::Sha384) => 2,
        Some(HashAlgorithm::Sha512) => 3,
    };
    let with_null = cert_id.hash.is_some_and(|hash| cert_id.algorithm.len() > hash.oid().len() + 2);
    Key { authority: authority.id, algorithm: hash << 1 | u8::from(with_null), serial }
}

/// Until the next signing, at most as long as the status allows, and never to nextUpdate (HTTP-15).
fn public(plan: &Plan, produced_at: Time, now: Time) -> Caching {
    let left = plan.renewed_at.min(plan.next_update - std::time::Duration::from_secs(1)).since(now);
    let max_age = u32::try_from(left.min(plan.max_age).as_secs()).unwrap_or(u32::MAX);
    let Plan { this_update, next_update, .. } = *plan;
    Caching::Public { this_update, produced_at, next_update, max_age }
}

fn answered(body: Bytes, caching: Caching, status: &CertStatus) -> Answered {
    let outcome = match status {
        CertStatus::Good => Outcome::Good,
        CertStatus::Revoked(_) => Outcome::Revoked,
        CertStatus::Unknown => Outcome::NotIssued,
    };
    Answered { reply: Reply { body, caching }, outcome }
}

const fn hash_label(hash: Option<HashAlgorithm>) -> Hash {
    match hash {
        Some(HashAlgorithm::Sha1) => Hash::Sha1,
        Some(HashAlgorithm::Sha256) => Hash::Sha256,
        Some(HashAlgorithm::Sha384) => Hash::Sha384,
        Some(HashAlgorithm::Sha512) => Hash::Sha512,
        None => Hash::Other,
    }
}

#[cfg(test)]
mod tests;
