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
mod flight;
mod live;
pub mod refresh;
pub mod request;
mod requestor;
pub mod response;

pub use authority::{Authority, Credential, DelegateError, NoncePolicy, NotIssued, NotYetValid, Policy, Signers};
pub use live::{Client, LiveRate, neighbourhood};
pub use refresh::Presign;
pub use requestor::{RequestorError, Requestors};
pub use response::ResponderId;

use crate::metrics::{Hash, Limit, Metrics, Origin as Counted, Outcome, Purpose};
use crate::pki::{Clock, HashAlgorithm, Serial, Time};
use crate::sign::SignError;
use authority::{Key as SigningKey, Plan, Silence};
use bytes::Bytes;
use cache::{Cache, Key, Origin, Signed};
use flight::Flights;
use foldhash::fast::RandomState;
use live::Spent;
use request::{CertId, Limits, Request};
use response::{CertStatus, Failure, ResponseData, Single, nonce_extension};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How soon it is asked again whether the second has come in which an answer may be dated.
const EARLY: Duration = Duration::from_millis(10);

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
        /// producedAt, which is Last-Modified.
        produced_at: Time,
        /// nextUpdate, which is Expires.
        next_update: Time,
        /// Seconds until the client should ask again.
        max_age: u32,
        /// What tells this reply from every other about the same certificate: HTTP's strong validator.
        tag: [u8; 24],
    },
}

/// Answers requests for all its authorities.
#[derive(Debug)]
pub struct Responder {
    authorities: Vec<Authority>,
    /// Hash of the issuer's key, to the issuers with that key; the hash of the name decides among them (OCSP-04).
    by_key_hash: HashMap<Vec<u8>, Vec<Candidate>, RandomState>,
    cache: Cache,
    /// Answers about serials that nobody issued: a stranger's to choose, they must not push out what is
    /// asked for in earnest (SEC-14). None lives longer than a minute.
    absent: Cache,
    flights: Flights,
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
        let mut by_key_hash: HashMap<Vec<u8>, Vec<Candidate>, RandomState> = HashMap::default();
        for (number, authority) in authorities.iter().enumerate() {
            for algorithm in HashAlgorithm::ALL {
                let hashes = authority.issuer.hashes(algorithm);
                let candidate = Candidate { algorithm, name_hash: hashes.name, authority: number };
                by_key_hash.entry(hashes.key).or_default().push(candidate);
            }
        }
        let (cache, absent) = (Cache::new(cache_bytes), Cache::new(cache_bytes / 16));
        Self { authorities, by_key_hash, cache, absent, flights: Flights::default(), limits, clock, metrics }
    }

    /// Looks up which delegates their CAs have revoked since, so that their keys sign no more, and tells how long
    /// each issuer's keys can sign.
    pub fn look_after_signers(&self, now: Time) -> impl Iterator<Item = Signers<'_>> {
        self.authorities.iter().map(move |authority| authority.look_after_signers(now))
    }

    /// Answers one request of `client`. `issuer`, if given, is the name in the path: nobody else is
    /// answered for then.
    pub async fn answer(&self, client: Client, issuer: Option<&str>, request: &[u8]) -> Reply {
        let began = self.metrics.answer_time.begin();
        let answered = self.try_answer(client, issuer, request).await.unwrap_or_else(|failure| Answered {
            reply: Reply::failure(failure),
            outcome: match failure {
                Failure::MalformedRequest => Outcome::Malformed,
                Failure::InternalError => Outcome::Internal,
                Failure::TryLater => Outcome::TryLater,
                Failure::SigRequired => Outcome::SigRequired,
                Failure::Unauthorized => Outcome::Unauthorized,
            },
        });
        self.metrics.outcomes.count(answered.outcome);
        self.metrics.answer_time.end(began);
        answered.reply
    }

    /// The answer to a request about one certificate that wants no signature of its own, if one is kept that
    /// would be given at `now`: `body` becomes it. `None` for any other request; nothing is counted then, and
    /// [`Responder::answer`] has the answer.
    pub fn answer_kept(&self, issuer: Option<&str>, request: &[u8], now: Time, body: &mut Vec<u8>) -> Option<Caching> {
        let began = self.metrics.answer_time.begin();
        let request = request::parse(request, self.limits).ok()?;
        let cert_id = request.cert_ids().next().filter(|_| request.count == 1 && request.nonce.is_none())?;
        let authority = self.authorities.get(self.find(&cert_id)?)?;
        if authority.is_closed() || issuer.is_some_and(|name| name != authority.name()) {
            return None;
        }
        let key = authority.key(request.preferred_algorithms(), now)?;
        let serial = Serial::from_content(cert_id.serial).ok()?;
        let plan = authority.plan(Some(&serial), key, now).ok()?;
        let asked = Asked { authority, key, cert_id: cert_id.raw, plan, now };
        let (signed, origin) = self.kept(&asked, &key_of(&asked, &cert_id, serial))?;
        self.metrics.hashes.count(hash_label(cert_id.hash));
        self.metrics.answers.count(origin);
        self.metrics.outcomes.count(outcome(&asked.plan));
        body.clear();
        asked.splice(&signed, body);
        self.metrics.answer_time.end(began);
        Some(public(&asked, Some(&serial), &signed))
    }

    async fn try_answer(&self, client: Client, issuer: Option<&str>, bytes: &[u8]) -> Result<Answered, Failure> {
        let request = request::parse(bytes, self.limits).map_err(|_| Failure::MalformedRequest)?;
        let authority = self.authority_for(issuer, &request)?;
        let now = self.clock.now();
        authority.admit(&request, now, || self.may_spend(authority, client))?;
        let mut answered = self.answer_admitted(client, authority, &request, now).await?;
        if authority.is_closed() {
            answered.reply.caching = Caching::NoStore;
        }
        Ok(answered)
    }

    /// Answers a request that may be asked and that `authority` may answer.
    async fn answer_admitted(
        &self,
        client: Client,
        authority: &Authority,
        request: &Request<'_>,
        now: Time,
    ) -> Result<Answered, Failure> {
        let key = authority.key(request.preferred_algorithms(), now).ok_or(Failure::TryLater)?;
        // What is signed for ever is nobody's in particular (ETSI-24).
        let sees_nonces = authority.policy.nonce != NoncePolicy::Off && !authority.policy.end_of_life;
        let nonce = request.nonce.filter(|_| sees_nonces);
        if request.count > 1 {
            return self.answer_many(client, authority, key, request, nonce, now).await;
        }
        let cert_id = request.cert_ids().next().ok_or(Failure::MalformedRequest)?;
        // A serial of 21 octets is well-formed and nobody's.
        let serial = Serial::from_content(cert_id.serial).ok();
        let (plan, now) = match self.plan(authority, serial.as_ref(), key, now).await {
            Err(Silence::NotIssued) => {
                return Ok(Answered { reply: Reply::failure(Failure::Unauthorized), outcome: Outcome::NotIssued });
            }
            planned => planned.map_err(silent)?,
        };
        let asked = Asked { authority, key, cert_id: cert_id.raw, plan, now };
        if let Some(nonce) = nonce.filter(|_| authority.policy.nonce == NoncePolicy::Live)
            && let Some(body) = self.answer_nonce(client, &asked, nonce).await?
        {
            return Ok(answered(body, Caching::NoStore, &asked.plan));
        }
        let signed = match serial {
            Some(serial) => self.signed(client, &asked, key_of(&asked, &cert_id, serial)).await?,
            None => self.sign_alone(client, &asked).await?,
        };
        let caching = if nonce.is_none() { public(&asked, serial.as_ref(), &signed) } else { Caching::NoStore };
        let mut body = Vec::new();
        asked.splice(&signed, &mut body);
        Ok(answered(body.into(), caching, &asked.plan))
    }

    /// What is to be said and when, as soon as it may be dated: a status that is the second within one second
    /// waits for the next one, so that no client takes it for as old as the first (promise 2).
    async fn plan(
        &self,
        authority: &Authority,
        serial: Option<&Serial>,
        key: &SigningKey,
        mut now: Time,
    ) -> Result<(Plan, Time), Silence> {
        loop {
            match authority.plan(serial, key, now) {
                Err(Silence::Early) => tokio::time::sleep(EARLY).await,
                planned => return planned.map(|plan| (plan, now)),
            }
            now = self.clock.now();
        }
    }

    /// An answer with the client's nonce; `None` if there is none to be had. The nonce is optional for the
    /// server; being answered is not (OCSP-65).
    async fn answer_nonce(&self, client: Client, asked: &Asked<'_>, nonce: &[u8]) -> Result<Option<Bytes>, Failure> {
        let Asked { authority, plan, now, .. } = asked;
        if !self.may_spend(authority, client) {
            return Ok(None);
        }
        let nonce = [&authority.extensions, &nonce_extension(nonce)[..]].concat();
        let more = asked.extensions(*now);
        let single = asked.single(plan.this_update, plan.next_update, &more);
        match self.sign(&asked.job(), &[single], &nonce).await {
            Ok((body, _)) => {
                self.metrics.answers.count(Counted::Live);
                Ok(Some(body))
            }
            Err(Failure::TryLater) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Takes one signature out of the budgets for those that are made or verified for one request alone (SEC-01).
    fn may_spend(&self, authority: &Authority, client: Client) -> bool {
        let taken = authority.live.take(client);
        match taken {
            Ok(()) => {}
            Err(Spent::Issuer) => self.metrics.live_refused.count(Limit::Issuer),
            Err(Spent::Client) => self.metrics.live_refused.count(Limit::Client),
        }
        taken.is_ok()
    }

    /// The signature that is kept for `place` and may be given, and how that is counted.
    fn kept(&self, asked: &Asked<'_>, place: &Key) -> Option<(Signed, Counted)> {
        let kept = self.cache_for(&asked.plan).get(place)?;
        match fit(&kept, asked) {
            Fit::Fresh => Some((kept, Counted::Cache)),
            Fit::Overdue => Some((kept, Counted::Overdue)),
            Fit::True | Fit::False => None,
        }
    }

    /// The signature that answers `asked`: kept, or made by one of those who ask for it just now.
    async fn signed(&self, client: Client, asked: &Asked<'_>, place: Key) -> Result<Signed, Failure> {
        if let Some((kept, origin)) = self.kept(asked, &place) {
            self.metrics.answers.count(origin);
            return Ok(kept);
        }
        for _ in 0..3 {
            match self.flights.join(place, || self.sign_and_keep(client, asked, place, Origin::Asked)).await {
                Ok(signed) if fit(&signed, asked) == Fit::Fresh => return Ok(signed),
                // Whoever signed had looked the status up before a change that was seen here (promise 4).
                Ok(_) => {}
                // What was signed earlier and is still true is better than nothing.
                Err(failure) => {
                    let kept = self.cache_for(&asked.plan).peek(&place);
                    return kept.filter(|kept| fit(kept, asked) != Fit::False).ok_or(failure);
                }
            }
        }
        self.sign_and_keep(client, asked, place, Origin::Asked).await
    }

    /// Signs, unless somebody has just done so.
    async fn sign_and_keep(
        &self,
        client: Client,
        asked: &Asked<'_>,
        place: Key,
        origin: Origin,
    ) -> Result<Signed, Failure> {
        let cache = self.cache_for(&asked.plan);
        if let Some(kept) = cache.peek(&place).filter(|kept| fit(kept, asked) == Fit::Fresh) {
            return Ok(kept);
        }
        if origin == Origin::Asked && self.is_one_form_more(&place) && !self.may_spend(asked.authority, client) {
            return Err(Failure::TryLater);
        }
        let signed = self.sign_alone(client, asked).await?;
        cache.insert(&place, &signed, origin);
        Ok(signed)
    }

    /// Each form of a CertID has its answer, so that who knows a serial could have it signed in all of them. Those
    /// that clients use are free, and one more, whichever somebody's clients need (SEC-01).
    fn is_one_form_more(&self, place: &Key) -> bool {
        let usual = refresh::HASHES.map(hash_number);
        let forms = (0..=u8::MAX).take(HashAlgorithm::ALL.len() * 2).filter(|form| !usual.contains(&(form >> 1)));
        let kept = |form: &u8| self.cache.peek(&Key { algorithm: *form, ..*place }).is_some();
        !usual.contains(&(place.algorithm >> 1))
            && forms.filter(|form| *form != place.algorithm).any(|form| kept(&form))
    }

    async fn sign_alone(&self, client: Client, asked: &Asked<'_>) -> Result<Signed, Failure> {
        let Asked { authority, plan, now, .. } = asked;
        if (plan.absent || plan.unlisted) && !self.may_spend(authority, client) {
            return Err(Failure::TryLater);
        }
        let more = asked.extensions(*now);
        let single = asked.single(plan.this_update, plan.next_update, &more);
        let (_, signature) = self.sign(&asked.job(), &[single], &authority.extensions).await?;
        self.metrics.answers.count(Counted::Signed);
        let Plan { status, this_update, next_update, .. } = *plan;
        Ok(Signed { status, produced_at: *now, this_update, next_update, signature })
    }

    const fn cache_for(&self, plan: &Plan) -> &Cache {
        if plan.absent || plan.unlisted { &self.absent } else { &self.cache }
    }

    /// Several CertIDs get one answer, which is not kept; one that may not be answered spoils them all,
    /// because every CertID must be answered (OCSP-09).
    async fn answer_many(
        &self,
        client: Client,
        authority: &Authority,
        key: &SigningKey,
        request: &Request<'_>,
        nonce: Option<&[u8]>,
        mut now: Time,
    ) -> Result<Answered, Failure> {
        let mut plans = Vec::with_capacity(request.count);
        for cert_id in request.cert_ids() {
            let serial = Serial::from_content(cert_id.serial).ok();
            let (plan, at) = self.plan(authority, serial.as_ref(), key, now).await.map_err(silent)?;
            now = at;
            let extensions = authority.single_extensions(&plan.status, plan.sha256.as_ref(), plan.absent, now);
            plans.push((cert_id, plan, extensions));
        }
        if !self.may_spend(authority, client) {
            return Err(Failure::TryLater);
        }
        let nonce = nonce.filter(|_| authority.policy.nonce == NoncePolicy::Live);
        let singles: Vec<_> = plans.iter().map(|(cert_id, plan, more)| single(cert_id, plan, more)).collect();
        let may_sign = plans.iter().all(|(_, plan, _)| plan.may_sign);
        let nonce = nonce.map(nonce_extension).unwrap_or_default();
        let job = Job { key, now, may_sign };
        let (body, _) = self.sign(&job, &singles, &[&authority.extensions[..], &nonce].concat()).await?;
        self.metrics.answers.count(Counted::Live);
        // The worst of them is what the request came to.
        let worst = plans.iter().map(|(_, plan, _)| plan).max_by_key(|plan| match plan.status {
            CertStatus::Good => 0,
            CertStatus::Unknown => 1,
            CertStatus::Revoked(_) => 2,
        });
        worst.map(|plan| answered(body, Caching::NoStore, plan)).ok_or(Failure::MalformedRequest)
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
        job: &Job<'_>,
        singles: &[Single<'_>],
        extensions: &[u8],
    ) -> Result<(Bytes, Vec<u8>), Failure> {
        // Promise 3: what would be served past its nextUpdate is not worth a signature.
        if !job.may_sign || singles.iter().any(|single| single.next_update <= job.now) {
            return Err(Failure::TryLater);
        }
        let data = ResponseData { produced_at: job.now, singles, extensions };
        let template = &job.key.template;
        let signature = job.key.signer.sign_in_turn(&template.to_be_signed(&data)).await.map_err(|error| {
            self.metrics.signature_failures.count(Purpose::Ocsp);
            match error {
                SignError::Overloaded | SignError::Clock(_) => Failure::TryLater,
                SignError::Failed => Failure::InternalError,
            }
        })?;
        self.metrics.signatures.count(Purpose::Ocsp);
        Ok((template.respond(&data, &signature).into(), signature))
    }
}

/// Who signs an answer, and when.
struct Job<'a> {
    key: &'a SigningKey,
    now: Time,
    may_sign: bool,
}

const fn silent(silence: Silence) -> Failure {
    match silence {
        Silence::Unready | Silence::Early => Failure::TryLater,
        // Promise 1: what is not kept any more is not spoken of, whatever is said of what never was.
        Silence::NotIssued | Silence::Purged => Failure::Unauthorized,
    }
}

/// What is asked, who answers, and what is to be said now.
struct Asked<'a> {
    authority: &'a Authority,
    key: &'a SigningKey,
    /// The CertID as it was asked.
    cert_id: &'a [u8],
    plan: Plan,
    now: Time,
}

impl Asked<'_> {
    const fn job(&self) -> Job<'_> {
        Job { key: self.key, now: self.now, may_sign: self.plan.may_sign }
    }

    fn extensions(&self, produced_at: Time) -> Vec<u8> {
        let Plan { status, sha256, absent, .. } = &self.plan;
        self.authority.single_extensions(status, sha256.as_ref(), *absent, produced_at)
    }

    const fn single<'b>(&'b self, this_update: Time, next_update: Time, extensions: &'b [u8]) -> Single<'b> {
        Single { cert_id: self.cert_id, status: self.plan.status, this_update, next_update, extensions }
    }

    /// Appends the response with a signature that was made over what is to be said now, if perhaps earlier.
    fn splice(&self, signed: &Signed, out: &mut Vec<u8>) {
        let more = self.extensions(signed.produced_at);
        let single = self.single(signed.this_update, signed.next_update, &more);
        let extensions = &self.authority.extensions;
        let data = ResponseData { produced_at: signed.produced_at, singles: &[single], extensions };
        self.key.template.put_response(out, &data, &signed.signature);
    }
}

/// What a signed answer is still good for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fit {
    /// It is the one that would be signed now.
    Fresh,
    /// A newer one could be signed, and the refresher is about to.
    Overdue,
    /// A newer one should be signed.
    True,
    /// It must not be given any more.
    False,
}

/// Promise 4: an answer that may be given says what the view says and is dated after the last change. One
/// that is due for renewal goes on where nothing new may be signed (promise 2).
fn fit(signed: &Signed, asked: &Asked<'_>) -> Fit {
    let Asked { authority, plan, now, .. } = asked;
    if signed.status != plan.status || signed.this_update < plan.since || *now >= signed.next_update {
        Fit::False
    } else if !plan.may_sign
        || plan.absent
        || (signed.this_update >= plan.this_update && signed.next_update >= plan.at_least_until)
    {
        Fit::Fresh
    } else if *now <= plan.overdue_until && *now + authority.policy.lifetime / 2 <= signed.next_update {
        // BR-10: one of an earlier period, which nobody had asked for since, has used up more.
        Fit::Overdue
    } else {
        Fit::True
    }
}

fn single<'a>(cert_id: &CertId<'a>, plan: &Plan, extensions: &'a [u8]) -> Single<'a> {
    let Plan { status, this_update, next_update, .. } = *plan;
    Single { cert_id: cert_id.raw, status, this_update, next_update, extensions }
}

/// The AlgorithmIdentifier of a known hash differs only in the OBJECT IDENTIFIER and in whether the NULL is there.
fn key_of(asked: &Asked<'_>, cert_id: &CertId<'_>, serial: Serial) -> Key {
    let with_null = cert_id.hash.is_some_and(|hash| cert_id.algorithm.len() > hash.oid().len() + 2);
    Key {
        signer: asked.key.id,
        algorithm: cert_id.hash.map_or(0, hash_number) << 1 | u8::from(with_null),
        options: u8::from(asked.plan.sha256.is_some()),
        serial,
    }
}

fn hash_number(hash: HashAlgorithm) -> u8 {
    let number = HashAlgorithm::ALL.iter().position(|known| *known == hash);
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(0)
}

/// Until the next signing, at most as long as the status allows, and never to nextUpdate (HTTP-15). Up to an
/// eighth is taken off by the serial, so that what was fetched together is not fetched together again.
fn public(asked: &Asked<'_>, serial: Option<&Serial>, signed: &Signed) -> Caching {
    let Asked { plan, key, now, .. } = asked;
    let Signed { produced_at, next_update, .. } = *signed;
    let is_overdue = fit(signed, asked) == Fit::Overdue;
    let renewed_at = if is_overdue { plan.overdue_until } else { plan.renewed_at };
    let left = renewed_at.min(next_update - Duration::from_secs(1)).since(*now);
    // A prime, so that every bit of the hash counts.
    let spread = serial.map_or(0, |serial| authority::phase(serial, 127));
    let longest = plan.max_age - plan.max_age / 1_024 * u32::try_from(spread).unwrap_or(0);
    let max_age = u32::try_from(left.min(longest).as_secs()).unwrap_or(u32::MAX);
    Caching::Public { produced_at, next_update, max_age, tag: tag(key, &signed.signature) }
}

/// A strong validator that costs no hash: everything in a response is either signed, and then the
/// signature differs with it, or belongs to the template. A signature's last 16 octets are as good as
/// random, or follow from everything that was signed (Ed25519, RSA).
fn tag(key: &SigningKey, signature: &[u8]) -> [u8; 24] {
    let mut tag = [0; 24];
    let (template, own) = tag.split_at_mut(8);
    template.copy_from_slice(&key.fingerprint);
    if let Some(last) = signature.last_chunk::<16>() {
        own.copy_from_slice(last);
    }
    tag
}

fn answered(body: Bytes, caching: Caching, plan: &Plan) -> Answered {
    Answered { reply: Reply { body, caching }, outcome: outcome(plan) }
}

const fn outcome(plan: &Plan) -> Outcome {
    match plan.status {
        _ if plan.absent => Outcome::NotIssued,
        CertStatus::Good => Outcome::Good,
        CertStatus::Revoked(_) => Outcome::Revoked,
        CertStatus::Unknown => Outcome::NotIssued,
    }
}

const fn hash_label(hash: Option<HashAlgorithm>) -> Hash {
    match hash {
        Some(HashAlgorithm::Sha1) => Hash::Sha1,
        Some(HashAlgorithm::Sha256) => Hash::Sha256,
        Some(HashAlgorithm::Sha384) => Hash::Sha384,
        Some(HashAlgorithm::Sha512) => Hash::Sha512,
        Some(HashAlgorithm::Gost94) => Hash::Gost94,
        Some(HashAlgorithm::Streebog256 | HashAlgorithm::KzStreebog256) => Hash::Streebog256,
        Some(HashAlgorithm::Streebog512 | HashAlgorithm::KzStreebog512) => Hash::Streebog512,
        None => Hash::Other,
    }
}

#[cfg(test)]
mod tests;
