//! HTTP for relying parties: OCSP by `GET` and `POST`, CRLs and issuers' certificates as files.
//!
//! Goes in: a request, its path raw. Comes out: an answer with the validators and lifetimes by which any
//! cache in front can keep it. Rules: RFC 6960 appendix A, RFC 9919 6 and 7, RFC 9110 13, RFC 2585.
//!
//! Invariants: whatever arrives is answered with an OCSP response or a plain 4xx, in bounded time and
//! memory, and a panic costs one answer (promise 10). OCSP errors travel under 200 (OCSP-28). Nothing of
//! a request gets into a header (SEC-09). What is not an authoritative answer is `no-store` (SEC-11).
//!
//! | file | does |
//! |---|---|
//! | `server` | threads, sockets, limits, stopping |
//! | `io`, `framing` | one client's socket: time-outs, and framing that leaves no doubt |
//! | `hot` | plain OCSP requests, answered without hyper, which a connection of such alone never sees |
//! | `path` | raw path → route, base64 tail → request |
//! | `body` | bodies, read with a limit and sent without a copy |
//! | `proxy` | who asks through a reverse proxy |
//! | `range`, `pem` | parts of a list, and lists as text |
//! | `admin` | health and metrics, on a listener of their own |

pub mod admin;
mod body;
mod framing;
mod hot;
mod io;
mod path;
mod pem;
mod proxy;
mod range;
pub mod server;
#[cfg(test)]
mod tests;

use crate::crl::{Shelf, plan};
use crate::metrics::{Cut, Document, Method as CountedMethod, Metrics, Outcome};
use crate::ocsp::response::Failure;
use crate::ocsp::{Caching, Client, Reply, Responder};
use crate::pki::hash::sha256;
use crate::pki::{Clock, IssuerName, Time};
use body::{Payload, Unread, Versions};
use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use path::{List, Route, Which};
use pem::Texts;
use range::Asked;
use server::Limits;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Mutex;

/// No cached list outlives this, so that a fresh one reaches clients soon (CRL-92).
const LONGEST_MAX_AGE: Duration = Duration::from_secs(3600);
/// What follows max-age: the directives of RFC 9919 7.2 (HTTP-12).
const CACHE_DIRECTIVES: &str = ", public, no-transform, must-revalidate";
/// When a client should ask again for a list that is not built yet.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

const OCSP_RESPONSE: HeaderValue = HeaderValue::from_static("application/ocsp-response");
const PKIX_CRL: HeaderValue = HeaderValue::from_static("application/pkix-crl");
const PKIX_CERT: HeaderValue = HeaderValue::from_static("application/pkix-cert");
/// PEM has no registered type; this one makes browsers save it.
const PEM: HeaderValue = HeaderValue::from_static("application/x-pem-file");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const BYTES: HeaderValue = HeaderValue::from_static("bytes");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
const GET_HEAD: HeaderValue = HeaderValue::from_static("GET, HEAD");
const GET_HEAD_POST: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");

/// The lists of one scope.
#[derive(Debug)]
struct Lists {
    shelf: Arc<Shelf>,
    complete: Series,
    delta: Series,
    older: Series,
}

/// What is in memory for the readers of lists that follow one another.
#[derive(Debug, Default)]
struct Series {
    versions: Versions,
    texts: Arc<Mutex<Texts>>,
}

impl Lists {
    fn new(shelf: Arc<Shelf>) -> Self {
        let [complete, delta, older] = std::array::from_fn(|_| Series::default());
        Self { shelf, complete, delta, older }
    }
}

/// The list of a part of an issuer's certificates.
#[derive(Clone, Debug)]
pub struct PartList {
    /// As it is called in paths, `shard-3` or `user`; not a number.
    pub name: String,
    /// The path under which its certificates name it, if that is another.
    pub path: Option<String>,
    /// What there is of it.
    pub shelf: Arc<Shelf>,
}

/// The files of one issuer.
#[derive(Debug)]
pub struct Files {
    whole: Option<Lists>,
    parts: BTreeMap<String, Lists>,
    /// Other paths of parts.
    paths: BTreeMap<String, String>,
    certificate: Bytes,
    certificate_tag: String,
    max_age: Duration,
    interval: Duration,
}

impl Files {
    /// `shelf` is `None` where no list of all certificates is made. `certificate` is the CA's, in DER.
    /// `max_age` is how long a cache may keep the current lists; it is never more than an hour, nor past
    /// their nextUpdate.
    #[must_use]
    pub fn new(shelf: Option<Arc<Shelf>>, certificate: Bytes, max_age: Duration) -> Self {
        let certificate_tag = quoted_hex(&sha256(&certificate));
        Self {
            whole: shelf.map(Lists::new),
            parts: BTreeMap::new(),
            paths: BTreeMap::new(),
            certificate,
            certificate_tag,
            max_age,
            interval: LONGEST_MAX_AGE,
        }
    }

    /// A new list comes at least this often, at the regular slots: no cache keeps a current one past the next.
    #[must_use]
    pub const fn published_every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// The same with the lists of the parts of the issuer's certificates.
    #[must_use]
    pub fn with_parts(mut self, parts: Vec<PartList>) -> Self {
        for PartList { name, path, shelf } in parts {
            self.paths.extend(path.map(|path| (path, name.clone())));
            self.parts.insert(name, Lists::new(shelf));
        }
        self
    }
}

/// The OCSP request in the path of a `GET`, read as the listener reads it: `None` if the path is not one of
/// OCSP, or what follows is no base64 in any of the spellings that clients use (HTTP-05).
#[must_use]
pub fn ocsp_request_in_path(path: &str, is_issuer: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
    match path::route(path, is_issuer) {
        Route::Ocsp(_, tail) => path::decode_tail(tail),
        _ => None,
    }
}

/// Everything that is served: replaced as a whole when the config is read again.
#[derive(Debug)]
pub struct Site {
    responder: Arc<Responder>,
    issuers: BTreeMap<IssuerName, Files>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    index: Bytes,
    /// Requests that were answered without hyper.
    #[cfg(test)]
    plain: std::sync::atomic::AtomicUsize,
}

/// The answer to a request.
type Answer = Response<Payload>;

impl Site {
    /// Serves what `responder` answers, and the files of `issuers`.
    #[must_use]
    pub fn new(
        responder: Arc<Responder>,
        issuers: BTreeMap<IssuerName, Files>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        let index = index(&issuers).into();
        Self {
            responder,
            issuers,
            clock,
            metrics,
            index,
            #[cfg(test)]
            plain: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    /// Answers a request, whatever happens.
    async fn answer(&self, client: Client, request: Request<Incoming>, limits: &Limits) -> Answer {
        let is_ocsp = request.uri().path().starts_with("/ocsp");
        let closes = request.headers().contains_key(header::TRANSFER_ENCODING);
        let mut answer = self.contain(self.route(client, request, limits)).await.unwrap_or_else(|| {
            if is_ocsp {
                ocsp(None, Time::default(), failure(Failure::InternalError))
            } else {
                refusal(StatusCode::INTERNAL_SERVER_ERROR, "This is a fault of the server, and it has been counted.\n")
            }
        });
        // `framing` follows no chunks, so nothing may come after a chunked body (SEC-12).
        if closes {
            set(&mut answer, header::CONNECTION, CLOSE);
        }
        answer
    }

    /// What `work` comes to; `None` if it panics, which is counted.
    async fn contain<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let caught = std::future::poll_fn(|context| {
            // What a panic can leave half done is only what belongs to this request.
            catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)))
                .map_or(Poll::Ready(None), |poll| poll.map(Some))
        });
        let done = caught.await;
        if done.is_none() {
            self.metrics.connections.panics.inc();
        }
        done
    }

    async fn route(&self, client: Client, request: Request<Incoming>, limits: &Limits) -> Answer {
        let (head, body) = request.into_parts();
        let target = head.uri.path_and_query().map_or("", |target| target.as_str());
        if target.len() > limits.target_octets {
            return refusal(StatusCode::URI_TOO_LONG, "This address is too long: use POST.\n");
        }
        let encoding = head.headers.get(header::TRANSFER_ENCODING);
        let is_encoded = encoding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        // A body of GET has no meaning, and not every proxy sees one there (SEC-12).
        if is_encoded || (is_read && !body.is_end_stream()) {
            return closing(refusal(StatusCode::BAD_REQUEST, "This request's body cannot be accepted.\n"));
        }
        #[cfg(test)]
        assert!(head.uri.query() != Some("panic"), "a test asked for it");
        let route = self.part_at(head.uri.path());
        let route = route.unwrap_or_else(|| path::route(head.uri.path(), |name| self.issuers.contains_key(name)));
        match (route, is_read) {
            (Route::Ocsp(issuer, tail), true) => self.get_ocsp(client, issuer, tail, &head, limits).await,
            (Route::Ocsp(issuer, rest), false) if head.method == Method::POST => {
                self.post_ocsp(client, issuer, rest, body, limits).await
            }
            (Route::Ocsp(..), false) => not_allowed(GET_HEAD_POST),
            (Route::Unknown, _) => not_found(),
            (_, false) => not_allowed(GET_HEAD),
            (Route::Index, true) => plain(StatusCode::OK, self.index.clone()),
            (Route::List(list), true) => self.list(list, &head).await,
            (Route::Certificate(issuer), true) => self.certificate(issuer, &head),
        }
    }

    async fn get_ocsp(
        &self,
        client: Client,
        issuer: Option<&str>,
        tail: &[u8],
        head: &Parts,
        limits: &Limits,
    ) -> Answer {
        let method = if head.method == Method::HEAD { CountedMethod::Head } else { CountedMethod::Get };
        self.metrics.methods.count(method);
        // A query makes another address of the same request, for as many cache entries as somebody likes
        // (SEC-10). What does not decode is an empty request: malformed, and counted as such.
        let decoded = if head.uri.query().is_none() { path::decode_tail(tail) } else { None };
        let reply = self.reply(client, issuer, &decoded.unwrap_or_default(), limits).await;
        ocsp(Some(&head.headers), self.clock.now(), reply)
    }

    /// Whatever its Content-Type says: it is a request if it parses (HTTP-10).
    async fn post_ocsp(
        &self,
        client: Client,
        issuer: Option<&str>,
        rest: &[u8],
        body: Incoming,
        limits: &Limits,
    ) -> Answer {
        if rest.iter().any(|byte| *byte != b'/') {
            return not_found();
        }
        self.metrics.methods.count(CountedMethod::Post);
        match tokio::time::timeout(limits.body_time, body::read(body, limits.body_octets)).await {
            Ok(Ok(body)) => {
                let reply = self.reply(client, issuer, &body, limits).await;
                ocsp(None, self.clock.now(), reply)
            }
            Ok(Err(Unread::TooLarge)) => {
                closing(refusal(StatusCode::PAYLOAD_TOO_LARGE, "This request is larger than any OCSP request.\n"))
            }
            Ok(Err(Unread::Broken)) => closing(refusal(StatusCode::BAD_REQUEST, "This request's body broke off.\n")),
            Err(_) => {
                self.metrics.connections.cut.count(Cut::Body);
                closing(refusal(StatusCode::REQUEST_TIMEOUT, "This request's body did not come in time.\n"))
            }
        }
    }

    /// A key that does not answer, in some HSM, must not keep every connection that asks for it (HTTP-20).
    async fn reply(&self, client: Client, issuer: Option<&str>, request: &[u8], limits: &Limits) -> Reply {
        let answer = self.responder.answer(client, issuer, request);
        tokio::time::timeout(limits.answer_time, answer).await.unwrap_or_else(|_| {
            self.metrics.outcomes.count(Outcome::TryLater);
            failure(Failure::TryLater)
        })
    }

    /// The part whose certificates name this path, where the config has a template of its own for that.
    fn part_at<'a>(&'a self, path: &str) -> Option<Route<'a>> {
        self.issuers.iter().find_map(|(issuer, files)| {
            let part = files.paths.get(path)?;
            let list = List { issuer: issuer.as_str(), part: Some(part), which: Which::Complete, is_text: false };
            Some(Route::List(list))
        })
    }

    async fn list(&self, list: List<'_>, request: &Parts) -> Answer {
        let Some(files) = self.issuers.get(list.issuer) else { return not_found() };
        let lists = list.part.map_or(files.whole.as_ref(), |part| files.parts.get(part));
        let Some(lists) = lists else { return not_found() };
        let series = match list.which {
            Which::Complete => &lists.complete,
            Which::Delta => &lists.delta,
            Which::Numbered(_) => &lists.older,
        };
        // First, so that whoever waits for a text keeps no list in memory meanwhile.
        let texts = if list.is_text { Some(Arc::clone(&series.texts).lock_owned().await) } else { None };
        let (document, published) = match list.which {
            Which::Complete => (Document::Complete, lists.shelf.complete()),
            Which::Delta => (Document::Delta, lists.shelf.delta()),
            Which::Numbered(number) => {
                let Some(published) = lists.shelf.numbered(number).await else { return not_found() };
                (Document::Numbered, Some(published))
            }
        };
        self.metrics.documents.count(document);
        let Some(published) = published else { return not_yet() };
        // What is asked for by its number never changes.
        let is_current = !matches!(list.which, Which::Numbered(_));
        let max_age = if is_current { self.max_age(files) } else { LONGEST_MAX_AGE };
        let (bytes, tag, content_type) = match texts {
            None => (published.bytes.clone(), published.etag.clone(), PKIX_CRL),
            Some(texts) => {
                let Some(text) = Texts::of(texts, Arc::clone(&published)).await else { return not_yet() };
                // Another entity tag, because the octets are others.
                (text, format!("{}-pem\"", published.etag.trim_end_matches('"')), PEM)
            }
        };
        let now = self.clock.now();
        let max_age = max_age.min(LONGEST_MAX_AGE).min(published.next_update.since(now));
        // A number is at least the second in which it was given, which is at least thisUpdate: the list
        // whose number equals its thisUpdate is the first of that second, and the current one the last.
        let is_only_version = i64::try_from(published.number) == Ok(published.this_update.unix());
        let modified = Some(published.this_update);
        let validators = Validators { tag: tag.as_bytes(), modified, is_only_version };
        let body = |part| Payload::list(&bytes, part, published.number, &series.versions);
        validators.file(request, bytes.len(), body, content_type, now..now + max_age)
    }

    fn certificate(&self, issuer: &str, request: &Parts) -> Answer {
        let Some(files) = self.issuers.get(issuer) else { return not_found() };
        self.metrics.documents.count(Document::Certificate);
        let validators = Validators { tag: files.certificate_tag.as_bytes(), modified: None, is_only_version: false };
        let body = |part| files.certificate.slice(part).into();
        let now = self.clock.now();
        validators.file(request, files.certificate.len(), body, PKIX_CERT, now..now + LONGEST_MAX_AGE)
    }

    /// How long a cache may keep a current list: no longer than to the next publication that is known of.
    fn max_age(&self, files: &Files) -> Duration {
        files.max_age.min(plan::until_slot(self.clock.now(), files.interval))
    }
}

/// By what a client or cache recognises what it already has.
struct Validators<'a> {
    /// Strong entity tag, in its quotes.
    tag: &'a [u8],
    modified: Option<Time>,
    /// Whether no other version bears the same `modified`.
    is_only_version: bool,
}

impl Validators<'_> {
    /// The body, or 304 for a client that has it already; `request` is `None` for a `POST`, which has no
    /// conditions.
    fn answer(&self, request: Option<&HeaderMap>, body: impl FnOnce() -> Payload, content_type: HeaderValue) -> Answer {
        let mut answer = if request.is_some_and(|headers| self.is_known(headers)) {
            let mut answer = Response::new(Bytes::new().into());
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            answer
        } else {
            let mut answer = Response::new(body());
            set(&mut answer, header::CONTENT_TYPE, content_type);
            answer
        };
        set(&mut answer, header::ETAG, value(self.tag));
        if let Some(modified) = self.modified {
            set(&mut answer, header::LAST_MODIFIED, http_date(modified));
        }
        answer
    }

    /// A file of `len` octets, or the part of it that is asked for (RFC 9110 13.2.2 has the order). Caches may
    /// keep it, but no refusal, for as long as `kept`, which begins now.
    fn file(
        &self,
        request: &Parts,
        len: usize,
        body: impl FnOnce(Range<usize>) -> Payload,
        content_type: HeaderValue,
        kept: Range<Time>,
    ) -> Answer {
        let headers = &request.headers;
        if !self.is_wanted(headers) {
            return refusal(StatusCode::PRECONDITION_FAILED, "There is another version of this file now.\n");
        }
        // Only GET has ranges (RFC 9110 14.2), and who asks for a part of an older version gets all of the new one.
        let may_be_partial = request.method == Method::GET && !self.is_known(headers) && self.is_continued(headers);
        let part = if may_be_partial { range::asked(headers, len) } else { Asked::Whole };
        let (octets, said) = match part {
            Asked::Whole => (0..len, None),
            Asked::Part(part) => {
                let said = format!("bytes {}-{}/{len}", part.start, part.end.saturating_sub(1));
                (part, Some(said))
            }
            Asked::Beyond => {
                let mut answer = refusal(StatusCode::RANGE_NOT_SATISFIABLE, "The file ends before this range.\n");
                set(&mut answer, header::CONTENT_RANGE, value(format!("bytes */{len}").as_bytes()));
                return answer;
            }
        };
        let mut answer = self.answer(Some(headers), || body(octets), content_type);
        // In this order, because nginx before 1.23 believes the first of the two.
        set(&mut answer, header::CACHE_CONTROL, cache_control(kept.end.since(kept.start)));
        set(&mut answer, header::EXPIRES, http_date(kept.end));
        match said {
            None => set(&mut answer, header::ACCEPT_RANGES, BYTES),
            Some(said) => {
                *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
                set(&mut answer, header::CONTENT_RANGE, value(said.as_bytes()));
            }
        }
        answer
    }

    /// If-Match and If-Unmodified-Since (RFC 9110 13.1.1, 13.1.4): by strong comparison, and a date only
    /// where it is later than ours or the same.
    fn is_wanted(&self, request: &HeaderMap) -> bool {
        if request.contains_key(header::IF_MATCH) {
            let tags = request.get_all(header::IF_MATCH).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
            return tags.map(<[u8]>::trim_ascii).any(|tag| tag == b"*" || tag == self.tag);
        }
        let since = request.get(header::IF_UNMODIFIED_SINCE).and_then(|date| Time::from_http_date(date.as_bytes()));
        since.is_none_or(|since| self.modified.is_none_or(|modified| modified <= since))
    }

    /// If-Range (RFC 9110 13.1.5): whether what a client has part of is this version, by strong comparison.
    fn is_continued(&self, request: &HeaderMap) -> bool {
        request.get(header::IF_RANGE).is_none_or(|condition| {
            let condition = condition.as_bytes();
            let date = || self.is_only_version && self.modified.is_some_and(|at| at.http_date() == condition);
            condition == self.tag || date()
        })
    }

    /// RFC 9110 13.2.2: If-None-Match rules, and If-Modified-Since counts only without it. A date is
    /// compared for equality: one that some other node or the client's own clock gave proves nothing.
    fn is_known(&self, request: &HeaderMap) -> bool {
        if request.contains_key(header::IF_NONE_MATCH) {
            let mut lines = request.get_all(header::IF_NONE_MATCH).iter();
            return lines.any(|line| self.is_listed(line.as_bytes()));
        }
        let since = request.get(header::IF_MODIFIED_SINCE).and_then(|date| Time::from_http_date(date.as_bytes()));
        self.is_only_version && since.is_some() && since == self.modified
    }

    /// Weak comparison (RFC 9110 8.8.3.2). Our tags have no comma in them.
    fn is_listed(&self, line: &[u8]) -> bool {
        line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(|tag| {
            let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
            tag == b"*" || tag == self.tag
        })
    }
}

/// An OCSP answer; `request` is `None` where conditions do not count.
fn ocsp(request: Option<&HeaderMap>, now: Time, reply: Reply) -> Answer {
    let Caching::Public { produced_at, next_update, tag, .. } = reply.caching else {
        let mut answer = Response::new(reply.body.into());
        set(&mut answer, header::CONTENT_TYPE, OCSP_RESPONSE);
        set(&mut answer, header::CACHE_CONTROL, NO_STORE);
        return answer;
    };
    let tag = entity_tag(&tag);
    // HTTP-14 leaves the choice; producedAt tells re-signed answers apart, but one with another status may have
    // been signed in the same second (promise 4).
    let validators = Validators { tag: &tag, modified: Some(produced_at), is_only_version: false };
    let mut answer = validators.answer(request, || reply.body.into(), OCSP_RESPONSE);
    // In this order, because nginx before 1.23 believes the first of the two.
    set(&mut answer, header::CACHE_CONTROL, cache_control(max_age(&reply.caching, now)));
    set(&mut answer, header::EXPIRES, http_date(next_update));
    answer
}

/// How long a cache may keep an OCSP answer, never past its nextUpdate.
fn max_age(caching: &Caching, now: Time) -> Duration {
    match caching {
        Caching::Public { max_age, next_update, .. } => {
            Duration::from_secs((*max_age).into()).min(next_update.since(now))
        }
        Caching::NoStore => Duration::ZERO,
    }
}

const fn failure(failure: Failure) -> Reply {
    Reply { body: Bytes::from_static(failure.der()), caching: Caching::NoStore }
}

fn plain(status: StatusCode, text: Bytes) -> Answer {
    let mut answer = Response::new(text.into());
    *answer.status_mut() = status;
    set(&mut answer, header::CONTENT_TYPE, TEXT);
    set(&mut answer, header::CACHE_CONTROL, NO_STORE);
    answer
}

fn refusal(status: StatusCode, text: &'static str) -> Answer {
    plain(status, Bytes::from_static(text.as_bytes()))
}

fn closing(mut answer: Answer) -> Answer {
    set(&mut answer, header::CONNECTION, CLOSE);
    answer
}

fn not_found() -> Answer {
    refusal(StatusCode::NOT_FOUND, "There is nothing here. What is served stands at /.\n")
}

fn not_allowed(allow: HeaderValue) -> Answer {
    let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "This method is not allowed here.\n");
    set(&mut answer, header::ALLOW, allow);
    answer
}

fn not_yet() -> Answer {
    let mut answer = refusal(StatusCode::SERVICE_UNAVAILABLE, "This list has not been made yet: ask again soon.\n");
    set(&mut answer, header::RETRY_AFTER, RETRY_AFTER);
    answer
}

fn set(answer: &mut Answer, name: HeaderName, value: HeaderValue) {
    answer.headers_mut().insert(name, value);
}

/// Our own text as a header's value; it is printable, so that it always is one.
fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static(""))
}

fn http_date(time: Time) -> HeaderValue {
    value(&time.http_date())
}

fn cache_control(max_age: Duration) -> HeaderValue {
    value(format!("max-age={}{CACHE_DIRECTIVES}", max_age.as_secs()).as_bytes())
}

/// The tag of an OCSP answer as HTTP has it: hex in quotes.
fn entity_tag(tag: &[u8; 24]) -> [u8; 50] {
    let mut out = [b'"'; 50];
    for (digits, octet) in out[1..49].as_chunks_mut().0.iter_mut().zip(tag) {
        *digits = hex(*octet);
    }
    out
}

fn quoted_hex(octets: &[u8]) -> String {
    let digits = octets.iter().copied().flat_map(hex).map(char::from);
    std::iter::once('"').chain(digits).chain(['"']).collect()
}

const fn hex(octet: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[(octet >> 4) as usize], DIGITS[(octet & 15) as usize]]
}

/// What is served, for people.
fn index(issuers: &BTreeMap<IssuerName, Files>) -> String {
    let mut text = String::from("Jarchy answers here whether certificates are revoked.\n\nOCSP, all issuers  /ocsp\n");
    for (name, files) in issuers {
        // Writing to a String does not fail.
        _ = write!(text, "\n{name}\n  OCSP            /ocsp/{name}\n");
        if files.whole.is_some() {
            _ = write!(text, "  CRL             /crl/{name}.crl\n  delta CRL       /crl/{name}-delta.crl\n");
            _ = writeln!(text, "  the same, PEM   /crl/{name}.crl.pem, /crl/{name}-delta.crl.pem");
        }
        for part in files.parts.keys() {
            _ = writeln!(text, "  CRL of a part   /crl/{name}/{part}.crl");
        }
        _ = writeln!(text, "  CA certificate  /ca/{name}.cer");
    }
    text
}
