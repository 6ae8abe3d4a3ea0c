//! The plain OCSP request, answered before hyper sees it.
//!
//! Goes in: what the socket delivered between two requests. Comes out: the answers to those requests at its
//! front that are whole and plain, from the cache, or one that is still to be made ([`Work`]). The first that
//! is anything else stays as it came, with all that follows it, and is hyper's. Nearly all requests are of
//! this kind, and hyper's ways, which suit every kind, take longer than all the rest of an answer.
//!
//! Invariant: hyper would have answered with the same octets; a test asks both. Plain is therefore only what
//! leaves no doubt: HTTP/1.1, `GET` or `POST` below `/ocsp`, lines that end in CRLF, names of letters, digits
//! and hyphens, values of printable ASCII, and no header that gives the message another meaning.

use super::path::{self, Route};
use super::proxy::{FORWARDED_FOR, Peer};
use super::server::Limits;
use super::{CACHE_DIRECTIVES, Site, entity_tag, failure, max_age};
use crate::metrics::Method;
use crate::ocsp::response::Failure;
use crate::ocsp::{Caching, Client};
use crate::pki::Time;
use arc_swap::ArcSwap;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

/// A longer head is hyper's, whose limit is at least twice as much.
const HEAD_OCTETS: usize = 4096;
/// Header fields; hyper takes 100.
const FIELDS: usize = 64;
/// No answer's head is longer.
const HEAD_MOST: usize = 512;
/// Once so much is to be sent in answer to what came at once, the rest is hyper's.
const SENT_AT_ONCE: usize = 64 * 1024;

/// Octets of a target, of a field's name, and of its value.
const TARGET: [bool; 256] = class(b"/+=%-_.", false);
const NAME: [bool; 256] = class(b"-", false);
const VALUE: [bool; 256] = class(b"", true);

/// Letters, digits and `more`, or all that is printable.
const fn class(more: &[u8], printable: bool) -> [bool; 256] {
    let mut class = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        let is = octet as u8;
        class[octet] = is.is_ascii_alphanumeric() || (printable && matches!(is, b' '..=b'~'));
        octet += 1;
    }
    let mut at = 0;
    while at < more.len() {
        class[more[at] as usize] = true;
        at += 1;
    }
    class
}

/// What answers the plain requests of one connection.
#[derive(Debug)]
pub(super) struct Hot {
    site: Arc<ArcSwap<Site>>,
    limits: Arc<Limits>,
    peer: Peer,
}

/// An answer that is being made.
pub(super) type Work = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

/// What was done with the front of what came.
#[derive(Default)]
pub(super) struct Done {
    /// Octets of the requests that were taken.
    pub(super) taken: usize,
    /// The last of them wants the connection to end with its answer.
    pub(super) closes: bool,
    /// The answer to the last of them, if it has to be made.
    pub(super) work: Option<Work>,
}

/// A plain request.
#[derive(Debug, Eq, PartialEq)]
struct Plain<'a> {
    target: &'a str,
    /// The lines of its fields, each with its CRLF.
    fields: &'a [u8],
    /// `None` for a `GET`.
    body: Option<&'a [u8]>,
    /// It says `Connection: close`.
    closes: bool,
    /// Octets of all of it.
    len: usize,
}

impl Hot {
    pub(super) const fn new(site: Arc<ArcSwap<Site>>, limits: Arc<Limits>, peer: Peer) -> Self {
        Self { site, limits, peer }
    }

    /// Appends to `out` the answers to the requests at the front of `bytes`.
    pub(super) fn answer(&self, bytes: &[u8], out: &mut Vec<u8>) -> Done {
        let site = self.site.load();
        let mut done = Done::default();
        while out.len() < SENT_AT_ONCE && !done.closes && done.work.is_none() {
            let rest = bytes.get(done.taken..).unwrap_or_default();
            let Some(plain) = read(rest, &self.limits) else { break };
            // What comes after the last request is hyper's to drop.
            if plain.closes && plain.len != rest.len() {
                break;
            }
            let before = out.len();
            // As in `Site::answer`; what panics here panics there again, and is counted there.
            let caught = catch_unwind(AssertUnwindSafe(|| site.answer_plain(&plain, self, out)));
            match caught.unwrap_or(Answered::ByHyper) {
                Answered::Here => {}
                Answered::Later(work) => done.work = Some(work),
                Answered::ByHyper => {
                    out.truncate(before);
                    break;
                }
            }
            done.taken += plain.len;
            done.closes = plain.closes;
            #[cfg(test)]
            site.plain.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        done
    }
}

/// How a plain request is answered.
enum Answered {
    Here,
    Later(Work),
    ByHyper,
}

impl Site {
    /// Appends the whole answer to `request`, if it is kept; nothing is counted of one that is hyper's.
    fn answer_plain(&self, request: &Plain<'_>, hot: &Hot, out: &mut Vec<u8>) -> Answered {
        thread_local!(static SCRATCH: RefCell<[Vec<u8>; 3]> = const { RefCell::new([const { Vec::new() }; 3]) });
        let Route::Ocsp(issuer, tail) = path::route(request.target, |name| self.issuers.contains_key(name)) else {
            return Answered::ByHyper;
        };
        SCRATCH.with_borrow_mut(|[text, decoded, body]| {
            let asked = match request.body {
                Some(asked) if tail.iter().all(|octet| *octet == b'/') => asked,
                None if path::decode_tail_into(tail, text, decoded).is_some() => decoded.as_slice(),
                _ => return Answered::ByHyper,
            };
            let now = self.clock.now();
            let kept = self.responder.answer_kept(issuer, asked, now, body);
            self.metrics.methods.count(if request.body.is_some() { Method::Post } else { Method::Get });
            let Some(caching) = kept else {
                let (issuer, asked) = (issuer.map(str::to_owned), asked.to_vec());
                let client = request.client(hot);
                return Answered::Later(Box::pin(make(hot, client, issuer, asked, request.closes)));
            };
            put_answer(out, &caching, body, now, request.closes);
            Answered::Here
        })
    }
}

/// Makes an answer that is not kept, as [`Site::answer`] does.
fn make(
    hot: &Hot,
    client: Client,
    issuer: Option<String>,
    request: Vec<u8>,
    closes: bool,
) -> impl Future<Output = Vec<u8>> + Send + use<> {
    let (site, limits) = (hot.site.load_full(), Arc::clone(&hot.limits));
    async move {
        let work = async {
            #[cfg(test)]
            assert!(request != b"panic", "a test asked for it");
            site.reply(client, issuer.as_deref(), &request, &limits).await
        };
        let reply = site.contain(work).await.unwrap_or_else(|| failure(Failure::InternalError));
        let mut out = Vec::with_capacity(HEAD_MOST + reply.body.len());
        put_answer(&mut out, &reply.caching, &reply.body, site.clock.now(), closes);
        out
    }
}

/// Reads the request at the front of `bytes`, if it is whole and plain.
fn read<'a>(bytes: &'a [u8], limits: &Limits) -> Option<Plain<'a>> {
    let mut rest = bytes.get(..HEAD_OCTETS).unwrap_or(bytes);
    let is_post = rest.starts_with(b"POST ");
    rest = rest.strip_prefix(if is_post { &b"POST "[..] } else { b"GET " })?;
    let target = take(&mut rest, &TARGET);
    rest = rest.strip_prefix(b" HTTP/1.1\r\n")?;
    if !target.starts_with(b"/ocsp") || target.len() > limits.target_octets {
        return None;
    }
    let lines = rest;
    let (mut length, mut connection, mut fields) = (None, None, 0);
    while !rest.starts_with(b"\r\n") {
        let name = take(&mut rest, &NAME);
        rest = rest.strip_prefix(b":")?;
        let value = take(&mut rest, &VALUE).trim_ascii();
        rest = rest.strip_prefix(b"\r\n")?;
        fields += 1;
        match name.len() {
            0 => return None,
            10 if name.eq_ignore_ascii_case(b"connection") => {
                let closes = value.eq_ignore_ascii_case(b"close");
                if connection.replace(closes).is_some() || !(closes || value.eq_ignore_ascii_case(b"keep-alive")) {
                    return None;
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                length = Some(digits(value).filter(|_| length.is_none())?);
            }
            6 if name.eq_ignore_ascii_case(b"expect") => return None,
            7 if name.eq_ignore_ascii_case(b"upgrade") => return None,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => return None,
            // Conditions.
            _ if name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"if-")) => return None,
            _ => {}
        }
    }
    let lines = lines.get(..lines.len() - rest.len())?;
    let head = bytes.len().min(HEAD_OCTETS) - rest.len() + 2;
    // A GET has no body, and does not speak of one.
    if fields > FIELDS || is_post != length.is_some() {
        return None;
    }
    let length = length.unwrap_or(0);
    let body = bytes.get(head..head + length).filter(|_| length <= limits.body_octets)?;
    // All octets of the class are ASCII.
    let target = std::str::from_utf8(target).ok()?;
    let (body, closes) = (is_post.then_some(body), connection == Some(true));
    Some(Plain { target, fields: lines, body, closes, len: head + length })
}

impl Plain<'_> {
    /// Who sent it.
    fn client(&self, hot: &Hot) -> Client {
        let lines = self.fields.split(|octet| *octet == b'\n').filter_map(|line| {
            let (name, value) = line.split_at_checked(FORWARDED_FOR.len())?;
            value.strip_prefix(b":").filter(|_| name.eq_ignore_ascii_case(FORWARDED_FOR.as_bytes()))
        });
        hot.peer.client(&hot.limits, lines)
    }
}

/// Takes the octets of `class` from the front.
fn take<'a>(rest: &mut &'a [u8], class: &[bool; 256]) -> &'a [u8] {
    let end = rest.iter().position(|octet| !class[usize::from(*octet)]).unwrap_or(rest.len());
    let (taken, after) = rest.split_at(end);
    *rest = after;
    taken
}

/// A length of at most seven digits.
fn digits(value: &[u8]) -> Option<usize> {
    let is_number = (1..=7).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    is_number.then(|| value.iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}

/// Head and body as hyper would write them.
fn put_answer(out: &mut Vec<u8>, caching: &Caching, body: &[u8], now: Time, closes: bool) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/ocsp-response\r\n");
    match caching {
        Caching::Public { produced_at, next_update, tag, .. } => {
            out.extend_from_slice(b"etag: ");
            out.extend_from_slice(&entity_tag(tag));
            out.extend_from_slice(b"\r\nlast-modified: ");
            out.extend_from_slice(&produced_at.http_date());
            out.extend_from_slice(b"\r\ncache-control: max-age=");
            put_number(out, max_age(caching, now).as_secs());
            out.extend_from_slice(CACHE_DIRECTIVES.as_bytes());
            out.extend_from_slice(b"\r\nexpires: ");
            out.extend_from_slice(&next_update.http_date());
            out.extend_from_slice(b"\r\n");
        }
        Caching::NoStore => out.extend_from_slice(b"cache-control: no-store\r\n"),
    }
    if closes {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"content-length: ");
    put_number(out, u64::try_from(body.len()).unwrap_or(u64::MAX));
    out.extend_from_slice(b"\r\ndate: ");
    out.extend_from_slice(&date(now));
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
}

/// In decimal; the formatting of the standard library takes several times as long.
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut from = digits.len();
    for digit in digits.iter_mut().rev() {
        from -= 1;
        *digit += u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(from..).unwrap_or_default());
}

/// The text of `now`, made once a second.
fn date(now: Time) -> [u8; 29] {
    thread_local!(static LAST: Cell<Option<(Time, [u8; 29])>> = const { Cell::new(None) });
    match LAST.get() {
        Some((second, text)) if second == now => text,
        _ => {
            let text = now.http_date();
            LAST.set(Some((now, text)));
            text
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_plain_is_read_and_nothing_else() {
        for (bytes, plain) in [
            ("GET /ocsp/MA== HTTP/1.1\r\nHost: a\r\n\r\n", Some(("/ocsp/MA==", None, false))),
            ("GET /ocsp/MA HTTP/1.1\r\n\r\nGET /next", Some(("/ocsp/MA", None, false))),
            ("GET /ocsp/MA HTTP/1.1\r\nCONNECTION: Close\r\n\r\n", Some(("/ocsp/MA", None, true))),
            ("POST /ocsp HTTP/1.1\r\ncontent-length:  2 \r\n\r\nabc", Some(("/ocsp", Some("ab"), false))),
            ("POST /ocsp HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", None),
            ("POST /ocsp HTTP/1.1\r\n\r\n", None),
            ("POST /ocsp HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", None),
            ("POST /ocsp HTTP/1.1\r\nContent-Length: +1\r\n\r\na", None),
            ("POST /ocsp HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na", None),
            ("POST /ocsp HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\na", None),
            ("GET /ocsp/MA HTTP/1.1\r\nContent-Length: 0\r\n\r\n", None),
            ("GET /ocsp/MA HTTP/1.1\r\nIf-None-Match: *\r\n\r\n", None),
            ("GET /ocsp/MA HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", None),
            ("GET /ocsp/MA HTTP/1.1\r\nConnection: close, te\r\n\r\n", None),
            ("GET /ocsp/MA HTTP/1.1\r\nConnection: close\r\nConnection: close\r\n\r\n", None),
            ("GET /ocsp/MA HTTP/1.1\r\nA: b\r\n c\r\n\r\n", None),
            ("GET /ocsp/MA HTTP/1.1\r\nA : b\r\n\r\n", None),
            ("GET /ocsp/MA HTTP/1.1\r\nA: \u{e9}\r\n\r\n", None),
            ("GET /ocsp/MA HTTP/1.1\nA: b\n\n", None),
            ("GET /ocsp/MA HTTP/1.1\r\nA: b\r\n", None),
            ("GET /ocsp/MA HTTP/1.0\r\n\r\n", None),
            ("GET /ocsp/MA?b HTTP/1.1\r\n\r\n", None),
            ("GET /ocsp/M A HTTP/1.1\r\n\r\n", None),
            ("GET  /ocsp/MA HTTP/1.1\r\n\r\n", None),
            ("GET /crl/demo.crl HTTP/1.1\r\n\r\n", None),
            ("HEAD /ocsp/MA HTTP/1.1\r\n\r\n", None),
            ("\r\nGET /ocsp/MA HTTP/1.1\r\n\r\n", None),
            ("", None),
        ] {
            let read = read(bytes.as_bytes(), &Limits::default());
            let expected = plain.map(|(target, body, closes)| (target, body.map(str::as_bytes), closes));
            assert_eq!(read.map(|plain| (plain.target, plain.body, plain.closes)), expected, "{bytes:?}");
        }
    }
}
