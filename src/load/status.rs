//! Asking for the status of certificates (RFC 6960): which ones, how, and what answer is right.
//!
//! Goes in: a [`Mix`] of serial numbers and of ways to ask. Comes out: requests, encoded into the buffer of the
//! connection, and a judgement of each answer: HTTP 200, well-formed, about the certificate that was asked for,
//! with the status expected and no foreign nonce; of a sample, signature and freshness too.

use super::wire::Head;
use super::{Exchange, Problem, Right, Target, Verdict};
use crate::der::{self, tag};
use crate::ocsp::check::{self, CheckError};
use crate::ocsp::request;
use crate::ocsp::response::{self, CertStatus, Glance};
use crate::pki::{Certificate, Clock, HashAlgorithm, Issuer, Serial, SystemClock, serial::SerialError};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

/// No honest answer about one certificate is larger.
const MAX_BODY: usize = 1 << 20;
/// Octets of a nonce (RFC 9654 2.1).
const NONCE: usize = 32;
/// Octets of a serial number that nobody issued.
const RANDOM_SERIAL: usize = 16;
/// Octets of the longest request and of its base64: under SHA-512, with nonce.
const MAX_REQUEST: usize = 320;

/// What the answer about a certificate should be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Expected {
    /// Any status; an error is none.
    #[default]
    Any,
    /// good.
    Good,
    /// revoked.
    Revoked,
    /// unknown.
    Unknown,
    /// The error unauthorized.
    Unauthorized,
    /// Whatever a responder may say of a serial number that was never issued: all but good.
    NotGood,
}

impl Expected {
    const fn word(self) -> &'static str {
        match self {
            Self::Any => "any status",
            Self::Good => "good",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
            Self::Unauthorized => "unauthorized",
            Self::NotGood => "not issued, so anything but good",
        }
    }
}

/// A word that is no expectation.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is none of good, revoked, unknown, unauthorized")]
pub struct NotExpected(String);

impl FromStr for Expected {
    type Err = NotExpected;

    fn from_str(word: &str) -> Result<Self, NotExpected> {
        Ok(match word {
            "good" => Self::Good,
            "revoked" => Self::Revoked,
            "unknown" => Self::Unknown,
            "unauthorized" => Self::Unauthorized,
            _ => return Err(NotExpected(word.to_owned())),
        })
    }
}

/// Serial numbers that follow one another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sequence {
    /// The first, as 20 octets.
    first: [u8; 20],
    /// How many there are.
    pub count: u64,
}

impl Sequence {
    /// `count` numbers from `first` on.
    ///
    /// # Errors
    /// If one of them would be negative or have more than 20 octets.
    pub fn new(first: &Serial, count: u64) -> Result<Self, SerialError> {
        let content = first.as_bytes();
        if content.first().is_some_and(|octet| *octet >= 0x80) {
            return Err(SerialError::Text(first.to_string()));
        }
        let mut octets = [0; 20];
        octets[20 - content.len()..].copy_from_slice(content);
        let sequence = Self { first: octets, count };
        let last = sequence.add(count.saturating_sub(1)).filter(|last| last[0] < 0x80).ok_or(SerialError::TooLong)?;
        Serial::from_magnitude(&last).map(|_| sequence)
    }

    /// All numbers from `first` to `last`, both included.
    ///
    /// # Errors
    /// If `last` comes before `first` or more than 2^64 numbers after it, or as [`Self::new`].
    pub fn between(first: &Serial, last: &Serial) -> Result<Self, SerialError> {
        let refused = || SerialError::Text(format!("{first}..{last}"));
        let one = Self::new(first, 1)?;
        let end = Self::new(last, 1)?.first;
        let (mut count, mut borrow) = ([0; 20], false);
        for place in (0..20).rev() {
            let (less, under) = end[place].overflowing_sub(one.first[place]);
            let (less, under_too) = less.overflowing_sub(u8::from(borrow));
            (count[place], borrow) = (less, under || under_too);
        }
        let (high, low) = count.split_at(12);
        let count = low.iter().fold(0_u64, |number, octet| number << 8 | u64::from(*octet));
        match count.checked_add(1) {
            Some(count) if !borrow && high.iter().all(|octet| *octet == 0) => Self::new(first, count),
            _ => Err(refused()),
        }
    }

    fn add(&self, offset: u64) -> Option<[u8; 20]> {
        let mut octets = self.first;
        let mut carry = u128::from(offset);
        for octet in octets.iter_mut().rev() {
            carry += u128::from(*octet);
            *octet = carry.to_le_bytes()[0];
            carry >>= 8;
        }
        (carry == 0).then_some(octets)
    }

    fn at(&self, offset: u64) -> Serial {
        let octets = self.add(offset).unwrap_or(self.first);
        let zeros = octets.iter().take_while(|octet| **octet == 0).count().min(19);
        let sign = usize::from(octets[zeros] >= 0x80 && zeros > 0);
        Serial::from_content(&octets[zeros - sign..]).unwrap_or(Serial::ZERO)
    }
}

/// A share of requests, from none to all.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

/// A text that is no share.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no share: write 0% to 100%, all or none")]
pub struct NotShare(String);

impl Share {
    /// No request.
    pub const NONE: Self = Self(0.0);

    /// As a number from 0 to 1.
    #[must_use]
    pub const fn fraction(self) -> f64 {
        self.0
    }

    /// Whether no request at all is meant.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0 <= 0.0
    }

    /// Whether it falls to a request for which `random` was drawn.
    pub(super) fn falls(self, random: u64) -> bool {
        // 53 bits are what a float holds.
        self.0 > 0.0 && (random >> 11) as f64 / (1_u64 << 53) as f64 <= self.0
    }
}

/// Reads `30%`, `0.5%`, `all`, `none`.
impl FromStr for Share {
    type Err = NotShare;

    fn from_str(text: &str) -> Result<Self, NotShare> {
        let percent = match text {
            "all" => Some(100.0),
            "none" | "0" => Some(0.0),
            _ => text.strip_suffix('%').and_then(|number| number.trim_end().parse::<f64>().ok()),
        };
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        percent.map(|percent| Self(percent / 100.0)).ok_or_else(|| NotShare(text.to_owned()))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// Whom is asked about, and how.
#[derive(Clone, Debug)]
pub struct Mix {
    /// The CA that issued all of them.
    pub issuer: Issuer,
    /// Serial numbers one by one, each as likely as every other.
    pub serials: Vec<(Serial, Expected)>,
    /// Serial numbers in a row; each as likely as one of `serials`.
    pub sequences: Vec<Sequence>,
    /// How many ask for random serial numbers, which nobody issued.
    pub not_issued: Share,
    /// How many ask by GET.
    pub get: Share,
    /// How many name the issuer by SHA-256, the others by SHA-1.
    pub sha256: Share,
    /// How many carry a nonce.
    pub nonce: Share,
    /// Of how many answers signature and freshness are checked.
    pub verify: Share,
    /// Where the random choices begin.
    pub seed: u64,
}

impl Mix {
    /// Serial numbers to choose from, without those not issued.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.serials.len() as u64 + self.sequences.iter().map(|sequence| sequence.count).sum::<u64>()
    }

    fn at(&self, mut place: u64) -> (Serial, Expected) {
        if let Some(serial) = usize::try_from(place).ok().and_then(|place| self.serials.get(place)) {
            return *serial;
        }
        place = place.saturating_sub(self.serials.len() as u64);
        for sequence in &self.sequences {
            if place < sequence.count {
                return (sequence.at(place), Expected::Any);
            }
            place -= sequence.count;
        }
        (Serial::ZERO, Expected::Any)
    }
}

/// Numbers that look random (SplitMix64): for choices, not for secrets.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    /// Numbers that are others for each thread.
    pub(super) const fn of_thread(seed: u64, thread: usize) -> Self {
        Self(seed ^ (thread as u64).wrapping_mul(0xd134_2543_de82_ef95))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// One of `count`; 0 if there are none.
    pub(super) fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(count)) >> 64) as u64
    }

    fn fill(&mut self, octets: &mut [u8]) {
        for part in octets.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            part.copy_from_slice(&random[..part.len()]);
        }
    }
}

/// What has to be remembered of a request.
#[derive(Debug)]
pub struct Asked {
    serial: Serial,
    expected: Expected,
    /// The request in DER.
    der: Vec<u8>,
    /// Where in it the CertID stands.
    cert_id: Range<usize>,
    nonce: Option<[u8; NONCE]>,
    /// The answer as far as it came, if it does not come in one piece.
    body: Vec<u8>,
}

impl Default for Asked {
    fn default() -> Self {
        let der = Vec::with_capacity(MAX_REQUEST);
        Self { serial: Serial::ZERO, expected: Expected::Any, der, cert_id: 0..0, nonce: None, body: Vec::new() }
    }
}

/// One thread's questions; see the module's text.
#[derive(Debug)]
pub struct Questions {
    mix: Arc<Mix>,
    random: Random,
    /// What a CertID holds before the serial number, under SHA-1 and SHA-256.
    prefixes: [Vec<u8>; 2],
    /// Head of a POST up to the number behind Content-Length.
    post: Vec<u8>,
    /// Request line of a GET up to the encoded request, and what stands behind that.
    get: [Vec<u8>; 2],
}

impl Questions {
    /// The questions of `thread` to `target`; `close` asks for the end of the connection each time.
    #[must_use]
    pub fn new(mix: Arc<Mix>, target: &Target, close: bool, thread: usize) -> Self {
        let Target { host, path, .. } = target;
        let close = if close { "Connection: close\r\n" } else { "" };
        let prefix = |hash| {
            let hashes = mix.issuer.hashes(hash);
            let algorithm = der::element(tag::SEQUENCE, &[hash.oid(), &[tag::NULL, 0]]);
            let name = der::element(tag::OCTET_STRING, &[&hashes.name]);
            [algorithm, name, der::element(tag::OCTET_STRING, &[&hashes.key])].concat()
        };
        let post = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/ocsp-request\r\n{close}Content-Length: "
        );
        let get = format!("GET {}/", path.trim_end_matches('/'));
        let behind = format!(" HTTP/1.1\r\nHost: {host}\r\n{close}\r\n");
        Self {
            prefixes: [HashAlgorithm::Sha1, HashAlgorithm::Sha256].map(prefix),
            random: Random::of_thread(mix.seed, thread),
            mix,
            post: post.into_bytes(),
            get: [get.into_bytes(), behind.into_bytes()],
        }
    }

    fn choose(&mut self) -> (Serial, Expected) {
        let count = self.mix.count();
        if count > 0 && !self.mix.not_issued.falls(self.random.next()) {
            return self.mix.at(self.random.below(count));
        }
        let mut octets = [0; RANDOM_SERIAL];
        self.random.fill(&mut octets);
        // A positive number in its shortest form.
        octets[0] = octets[0] & 0x7f | 0x40;
        (Serial::from_content(&octets).unwrap_or(Serial::ZERO), Expected::NotGood)
    }

    fn judge_body(&mut self, asked: &Asked, body: &[u8]) -> Verdict {
        let problem = |problem, text: String| Verdict::Problem(problem, format!("serial {}: {text}", asked.serial));
        let cert_id = asked.der.get(asked.cert_id.clone()).unwrap_or_default();
        let seen = match response::glance(body, |found| request::is_same_certificate(found, cert_id)) {
            Ok(seen) => seen,
            Err(error) => {
                return problem(Problem::Malformed, format!("{error}; the answer begins with {}", head(body)));
            }
        };
        let (single, nonce) = match seen {
            Glance::Failure(6) if matches!(asked.expected, Expected::Unauthorized | Expected::NotGood) => {
                return Verdict::Right(Right { outcome: UNAUTHORIZED, marks: 0, octets: body.len() as u64 });
            }
            Glance::Failure(6) if asked.expected != Expected::Any => {
                return problem(Problem::Status, format!("expected {}, got unauthorized", asked.expected.word()));
            }
            Glance::Failure(code) => {
                return problem(Problem::Failure(code), Problem::Failure(code).label().into_owned());
            }
            Glance::Basic { single: None, .. } => {
                return problem(Problem::OtherCertificate, "the answer does not speak of it".to_owned());
            }
            Glance::Basic { single: Some(single), nonce } => (single, nonce),
        };
        let (outcome, fits) = match single.status {
            CertStatus::Good => (GOOD, matches!(asked.expected, Expected::Any | Expected::Good)),
            CertStatus::Revoked(_) => {
                (REVOKED, matches!(asked.expected, Expected::Any | Expected::Revoked | Expected::NotGood))
            }
            CertStatus::Unknown => {
                (UNKNOWN, matches!(asked.expected, Expected::Any | Expected::Unknown | Expected::NotGood))
            }
        };
        if !fits {
            let got = Self::OUTCOMES[outcome];
            return problem(Problem::Status, format!("expected {}, got {got}", asked.expected.word()));
        }
        let mut marks = 0;
        if let Some(sent) = &asked.nonce {
            marks |= NONCE_SENT;
            match nonce {
                None => {}
                Some([tag::OCTET_STRING, 32, echoed @ ..]) if echoed == sent => marks |= NONCE_ECHOED,
                Some(_) => return problem(Problem::Nonce, "it was not the one that was sent".to_owned()),
            }
        }
        if self.mix.verify.falls(self.random.next()) {
            let nonce = asked.nonce.as_ref().map(<[u8; NONCE]>::as_slice);
            match verify(body, cert_id, nonce, &self.mix.issuer.certificate) {
                Ok(()) => marks |= VERIFIED,
                Err((kind, text)) => return problem(kind, text),
            }
        }
        Verdict::Right(Right { outcome, marks, octets: body.len() as u64 })
    }
}

/// Signature, signer, times.
fn verify(body: &[u8], cert_id: &[u8], nonce: Option<&[u8]>, ca: &Certificate) -> Result<(), (Problem, String)> {
    let checked = check::check(body, cert_id, nonce, ca, SystemClock.now());
    checked.map(|_| ()).map_err(|error| {
        let problem = match error {
            CheckError::Failure(code) => Problem::Failure(code),
            CheckError::OtherCertificate => Problem::OtherCertificate,
            CheckError::Nonce => Problem::Nonce,
            CheckError::Signer => Problem::Signer,
            CheckError::Signature(_) => Problem::Signature,
            CheckError::Time { .. } => Problem::Stale,
            CheckError::Malformed(_) => Problem::Malformed,
        };
        (problem, error.to_string())
    })
}

/// The beginning of a body, for people to see what it might be.
fn head(body: &[u8]) -> String {
    let head = body.get(..body.len().min(24)).unwrap_or_default();
    if head.iter().all(|octet| octet.is_ascii_graphic() || octet.is_ascii_whitespace()) && !head.is_empty() {
        return format!("{:?}", String::from_utf8_lossy(head));
    }
    if head.is_empty() { "nothing".to_owned() } else { head.iter().map(|octet| format!("{octet:02x}")).collect() }
}

const GOOD: usize = 0;
const REVOKED: usize = 1;
const UNKNOWN: usize = 2;
const UNAUTHORIZED: usize = 3;
const VERIFIED: u8 = 1;
const NONCE_SENT: u8 = 2;
const NONCE_ECHOED: u8 = 4;
const POST: usize = 0;
const GET: usize = 1;

impl Exchange for Questions {
    type Asked = Asked;
    const CLASSES: &'static [&'static str] = &["POST", "GET"];
    const OUTCOMES: &'static [&'static str] = &["good", "revoked", "unknown", "unauthorized"];
    const MARKS: &'static [&'static str] = &["verified", "nonce sent", "nonce echoed"];

    fn ask(&mut self, asked: &mut Asked, out: &mut Vec<u8>) -> usize {
        (asked.serial, asked.expected) = self.choose();
        asked.body.clear();
        asked.nonce = self.mix.nonce.falls(self.random.next()).then(|| {
            let mut nonce = [0; NONCE];
            self.random.fill(&mut nonce);
            nonce
        });
        let [sha1, sha256] = &self.prefixes;
        let prefix = if self.mix.sha256.falls(self.random.next()) { sha256 } else { sha1 };
        asked.cert_id = put_request(&mut asked.der, prefix, asked.serial.as_bytes(), asked.nonce.as_ref());
        if self.mix.get.falls(self.random.next()) {
            let [before, behind] = &self.get;
            out.extend_from_slice(before);
            put_path(out, &asked.der);
            out.extend_from_slice(behind);
            return GET;
        }
        out.extend_from_slice(&self.post);
        put_decimal(out, asked.der.len());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(&asked.der);
        POST
    }

    fn gather(&mut self, asked: &mut Asked, _: &Head, part: &[u8]) {
        // One octet too many tells that it was too large.
        let room = (MAX_BODY + 1).saturating_sub(asked.body.len());
        asked.body.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
    }

    fn judge(&mut self, asked: &mut Asked, head: &Head, last: &[u8]) -> Verdict {
        if head.status != 200 {
            let problem = Problem::Http(head.status);
            return Verdict::Problem(problem, format!("serial {}: {}", asked.serial, problem.label()));
        }
        if asked.body.is_empty() {
            return self.judge_body(asked, last);
        }
        self.gather(asked, head, last);
        if asked.body.len() > MAX_BODY {
            return Verdict::Problem(Problem::TooLarge, format!("serial {}: more than 1 MiB", asked.serial));
        }
        // Out of `asked` as long as both are shown around.
        let body = std::mem::take(&mut asked.body);
        let verdict = self.judge_body(asked, &body);
        asked.body = body;
        verdict
    }
}

/// Writes an OCSPRequest for one certificate into `out`, in place of what was there; where its CertID stands comes
/// back. The same octets as [`request::encode`], without its allocations.
fn put_request(out: &mut Vec<u8>, prefix: &[u8], serial: &[u8], nonce: Option<&[u8; NONCE]>) -> Range<usize> {
    /// The nonce extension up to the octets of the nonce, from `[2]` on (OCSP-60).
    const NONCE_HEAD: &[u8] =
        &[0xa2, 0x33, 0x30, 0x31, 0x30, 0x2f, 6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2, 4, 0x22, 4, 0x20];
    let id = prefix.len() + der::element_len(serial.len());
    let single = der::element_len(id);
    let list = der::element_len(single);
    let tbs = der::element_len(list) + nonce.map_or(0, |nonce| NONCE_HEAD.len() + nonce.len());
    out.clear();
    for length in [der::element_len(tbs), tbs, list, single] {
        der::put_header(out, tag::SEQUENCE, length);
    }
    let start = out.len();
    der::put_header(out, tag::SEQUENCE, id);
    out.extend_from_slice(prefix);
    der::put(out, tag::INTEGER, serial);
    let cert_id = start..out.len();
    if let Some(nonce) = nonce {
        out.extend_from_slice(NONCE_HEAD);
        out.extend_from_slice(nonce);
    }
    cert_id
}

/// base64 with the three characters escaped that mean something else in a URL (RFC 6960 A.1).
fn put_path(out: &mut Vec<u8>, request: &[u8]) {
    let mut base64 = [0; MAX_REQUEST * 4 / 3 + 4];
    let len = BASE64_STANDARD.encode_slice(request, &mut base64).unwrap_or_default();
    for character in &base64[..len] {
        match character {
            b'+' => out.extend_from_slice(b"%2B"),
            b'/' => out.extend_from_slice(b"%2F"),
            b'=' => out.extend_from_slice(b"%3D"),
            plain => out.push(*plain),
        }
    }
}

fn put_decimal(out: &mut Vec<u8>, number: usize) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ocsp::request::{encode, encode_cert_id};

    fn issuer() -> Issuer {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pki/ca-p256.pem");
        let certificate = Certificate::from_file_bytes(&std::fs::read(file).unwrap()).unwrap();
        Issuer { name: "main".parse().unwrap(), certificate }
    }

    fn mix() -> Mix {
        Mix {
            issuer: issuer(),
            serials: vec![("0A1B".parse().unwrap(), Expected::Good)],
            sequences: Vec::new(),
            not_issued: Share::NONE,
            get: Share::NONE,
            sha256: Share::NONE,
            nonce: Share::NONE,
            verify: Share::NONE,
            seed: 7,
        }
    }

    fn questions(mix: Mix) -> Questions {
        let target = Target {
            address: "127.0.0.1:80".parse().unwrap(),
            host: "ca.example".to_owned(),
            path: "/ocsp".to_owned(),
        };
        Questions::new(Arc::new(mix), &target, false, 0)
    }

    #[test]
    fn requests_are_those_of_the_encoder() {
        let issuer = issuer();
        let mut der = Vec::new();
        for (hash, place) in [(HashAlgorithm::Sha1, 0), (HashAlgorithm::Sha256, 1)] {
            let prefix = questions(mix()).prefixes[place].clone();
            for serial in [&[1][..], &[0x7f; 20]] {
                let cert_id = encode_cert_id(&issuer.hashes(hash), serial);
                for nonce in [None, Some([9; NONCE])] {
                    let range = put_request(&mut der, &prefix, serial, nonce.as_ref());
                    assert_eq!(der, encode(&cert_id, nonce.as_ref().map(<[u8; NONCE]>::as_slice)));
                    assert_eq!(der[range], cert_id);
                }
            }
        }
    }

    #[test]
    fn shares_are_kept() {
        let all = Mix { get: "30%".parse().unwrap(), not_issued: "5%".parse().unwrap(), ..mix() };
        let mut questions = questions(all);
        let (mut asked, mut gets, mut strangers) = (Asked::default(), 0, 0);
        for _ in 0..20_000 {
            let mut out = Vec::new();
            let class = questions.ask(&mut asked, &mut out);
            let method =
                if class == GET { &b"GET /ocsp/M"[..] } else { b"POST /ocsp HTTP/1.1\r\nHost: ca.example\r\n" };
            assert!(out.starts_with(method), "{}", String::from_utf8_lossy(&out));
            gets += u32::from(class == GET);
            strangers += u32::from(asked.expected == Expected::NotGood);
        }
        assert!((5_700..6_300).contains(&gets), "{gets}");
        assert!((900..1_100).contains(&strangers), "{strangers}");
    }

    #[test]
    fn shares_are_read_as_people_write_them() {
        for (text, fraction) in [("30%", 0.3), ("0.5 %", 0.005), ("all", 1.0), ("none", 0.0), ("100%", 1.0), ("0", 0.0)]
        {
            assert!((text.parse::<Share>().unwrap().fraction() - fraction).abs() < 1e-12, "{text}");
        }
        for text in ["", "30", "101%", "-1%", "NaN%", "%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn sequences_are_exact_at_every_carry_and_end_at_20_octets() {
        let sequence = Sequence::new(&"7E".parse().unwrap(), 300).unwrap();
        let texts: Vec<String> = [0, 1, 2, 129, 130, 299].map(|offset| sequence.at(offset).to_string()).into();
        assert_eq!(texts, ["7E", "7F", "80", "FF", "0100", "01A9"]);
        let last = Serial::from_content(&[0x7f; 20]).unwrap();
        assert!(Sequence::new(&last, 1).is_ok());
        let highest = Serial::from_content(&[&[0x7f][..], &[0xff; 19]].concat()).unwrap();
        assert_eq!(Sequence::new(&highest, 2), Err(SerialError::TooLong));
        assert!(Sequence::new(&"-01".parse().unwrap(), 2).is_err());
        let between = |first: &str, last: &str| Sequence::between(&first.parse().unwrap(), &last.parse().unwrap());
        assert_eq!(between("7E", "01A9"), Ok(sequence));
        assert_eq!(between("FF00", "FF00").unwrap().count, 1);
        for (first, last) in [("02", "01"), ("0100", "FF"), ("01", "0100000000000000000000")] {
            assert!(between(first, last).is_err(), "{first}..{last}");
        }
        let mix = Mix { serials: Vec::new(), sequences: vec![sequence], ..mix() };
        assert_eq!((mix.count(), mix.at(2).0.to_string()), (300, "80".to_owned()));
    }
}
