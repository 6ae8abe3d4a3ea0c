//! Reading a list back as a stranger would: strictly, and as a stream.
//!
//! Goes in: the bytes of a CRL (RFC 5280 5.1). Comes out: what its head says, the parts that a signature
//! check needs, and its entries one after another, all borrowed. It shares nothing with the writer but
//! the object identifiers, because it is there to find the writer's mistakes (promise 6).
//!
//! Not accepted: version 1, a list without nextUpdate, number or authority key identifier (CRL-01), an
//! empty revokedCertificates (CRL-04), times in the wrong form (CRL-05), numbers above 64 bits, an
//! issuingDistributionPoint that says more than one URI and one kind of certificates, and any other critical
//! extension (CRL-88).
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use super::Kind;
use crate::der::{self, Reader, tag};
use crate::pki::list::{REMOVE_FROM_CRL, oid};
use crate::pki::{Reason, Revocation, Serial, Time, serial::SerialError};
use std::str;
use thiserror::Error;

/// Why bytes are not a list that can be used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum ReadError {
    /// Not the DER of a CRL.
    #[error("not the DER of a CRL: {0}")]
    Der(#[from] der::Error),
    /// Version 1, or one that is not known.
    #[error("not a CRL of version 2")]
    Version,
    /// The two AlgorithmIdentifiers differ (CRL-02).
    #[error("the algorithm inside the signed part is not the one outside")]
    Algorithm,
    /// An extension that every list must have is missing.
    #[error("extension {0} is missing")]
    Missing(&'static str),
    /// An extension stands twice, or is critical where it must not be, or not where it must.
    #[error("extension {0} stands twice or is wrongly marked as critical or not")]
    Extension(&'static str),
    /// A critical extension that is not understood.
    #[error("a critical extension is not understood: {0:02x?}")]
    Critical(Vec<u8>),
    /// A number below zero or above 64 bits.
    #[error("the CRL number is below zero or needs more than 64 bits")]
    Number,
    /// A serial number that is none.
    #[error("serial number: {0}")]
    Serial(#[from] SerialError),
    /// A reason that RFC 5280 5.3.1 does not know, or removeFromCRL outside a delta, or an encoded "unspecified".
    #[error("reason {1} must not stand at serial {0}")]
    Reason(Serial, u8),
}

/// A list, borrowed from its bytes.
#[derive(Clone, Debug)]
pub struct List<'a> {
    /// What the signature covers.
    pub tbs: &'a [u8],
    /// DER of the AlgorithmIdentifier.
    pub algorithm: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
    /// DER of the issuer's Name.
    pub issuer: &'a [u8],
    /// thisUpdate.
    pub this_update: Time,
    /// nextUpdate.
    pub next_update: Time,
    /// keyIdentifier of authorityKeyIdentifier.
    pub authority_key: &'a [u8],
    /// CRLNumber.
    pub number: u64,
    /// BaseCRLNumber of a delta.
    pub base: Option<u64>,
    /// The URI of freshestCRL.
    pub freshest: Option<&'a str>,
    /// The URI of issuingDistributionPoint, which the list of a part has.
    pub distribution: Option<&'a str>,
    /// The one kind of certificates that issuingDistributionPoint names.
    pub only: Option<Kind>,
    /// expiredCertsOnCRL.
    pub expired_since: Option<Time>,
    /// Microsoft's Next CRL Publish.
    pub next_publish: Option<Time>,
    /// Where the CA's certificate is found.
    pub ca_issuers: Option<&'a str>,
    entries: &'a [u8],
}

impl<'a> List<'a> {
    /// Reads the head of the list in `bytes`, which hold nothing else. The signature is not checked.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, ReadError> {
        let mut outer = der::outer(bytes, tag::SEQUENCE)?;
        let tbs = outer.element(tag::SEQUENCE)?;
        let algorithm = outer.element(tag::SEQUENCE)?.raw;
        let [0, signature @ ..] = outer.value(tag::BIT_STRING)? else {
            return Err(der::Error::Value.into());
        };
        outer.finish()?;

        let mut fields = Reader::new(tbs.value);
        if fields.optional(tag::INTEGER)? != Some(&[1]) {
            return Err(ReadError::Version);
        }
        if fields.element(tag::SEQUENCE)?.raw != algorithm {
            return Err(ReadError::Algorithm);
        }
        let issuer = fields.element(tag::SEQUENCE)?.raw;
        let (this_update, next_update) = (time(&mut fields)?, time(&mut fields)?);
        let entries = match fields.optional(tag::SEQUENCE)? {
            Some([]) => return Err(der::Error::Value.into()),
            entries => entries.unwrap_or_default(),
        };
        let mut wrapped = fields.nested(tag::explicit(0))?;
        fields.finish()?;
        let extensions = Extensions::read(wrapped.nested(tag::SEQUENCE)?)?;
        wrapped.finish()?;
        Ok(Self {
            tbs: tbs.raw,
            algorithm,
            signature,
            issuer,
            this_update,
            next_update,
            authority_key: extensions.authority_key.ok_or(ReadError::Missing("authorityKeyIdentifier"))?,
            number: extensions.number.ok_or(ReadError::Missing("cRLNumber"))?,
            base: extensions.base,
            freshest: extensions.freshest,
            distribution: extensions.point.and_then(|(uri, _)| uri),
            only: extensions.point.and_then(|(_, only)| only),
            expired_since: extensions.expired_since,
            next_publish: extensions.next_publish,
            ca_issuers: extensions.ca_issuers,
            entries,
        })
    }

    /// The entries in the order in which they stand.
    #[must_use]
    pub const fn entries(&self) -> Entries<'a> {
        Entries { rest: Reader::new(self.entries), is_delta: self.base.is_some() }
    }
}

#[derive(Default)]
struct Extensions<'a> {
    authority_key: Option<&'a [u8]>,
    number: Option<u64>,
    base: Option<u64>,
    freshest: Option<&'a str>,
    point: Option<(Option<&'a str>, Option<Kind>)>,
    expired_since: Option<Time>,
    next_publish: Option<Time>,
    ca_issuers: Option<&'a str>,
}

impl<'a> Extensions<'a> {
    fn read(mut all: Reader<'a>) -> Result<Self, ReadError> {
        let mut read = Self::default();
        while !all.is_empty() {
            let (oid, critical, value) = extension(&mut all)?;
            match oid {
                oid::AUTHORITY_KEY => {
                    let mut fields = der::outer(value, tag::SEQUENCE)?;
                    let key = fields.value(tag::implicit(0))?;
                    fields.finish()?;
                    once("authorityKeyIdentifier", &mut read.authority_key, key, !critical)?;
                }
                oid::CRL_NUMBER => once("cRLNumber", &mut read.number, number(value)?, !critical)?,
                oid::DELTA_INDICATOR => once("deltaCRLIndicator", &mut read.base, number(value)?, critical)?,
                oid::FRESHEST => once("freshestCRL", &mut read.freshest, one_uri(value)?, !critical)?,
                oid::DISTRIBUTION => {
                    once("issuingDistributionPoint", &mut read.point, distribution_point(value)?, critical)?;
                }
                oid::EXPIRED => {
                    let mut since = Reader::new(value);
                    let text = since.value(tag::GENERALIZED_TIME)?;
                    since.finish()?;
                    let since = Time::from_generalized(text).ok_or(der::Error::Value)?;
                    once("expiredCertsOnCRL", &mut read.expired_since, since, !critical)?;
                }
                oid::NEXT_PUBLISH => {
                    let mut fields = Reader::new(value);
                    let next = time(&mut fields)?;
                    fields.finish()?;
                    once("nextPublish", &mut read.next_publish, next, !critical)?;
                }
                oid::ACCESS => once("authorityInfoAccess", &mut read.ca_issuers, ca_issuers(value)?, !critical)?,
                unknown if critical => return Err(ReadError::Critical(unknown.to_vec())),
                _ => {}
            }
        }
        Ok(read)
    }
}

/// OBJECT IDENTIFIER, criticality and value of the next extension.
fn extension<'a>(all: &mut Reader<'a>) -> Result<(&'a [u8], bool, &'a [u8]), der::Error> {
    let mut fields = all.nested(tag::SEQUENCE)?;
    let oid = fields.element(tag::OID)?.raw;
    let critical = fields.default_false()?;
    let value = fields.value(tag::OCTET_STRING)?;
    fields.finish()?;
    Ok((oid, critical, value))
}

fn once<T>(name: &'static str, place: &mut Option<T>, value: T, rightly_marked: bool) -> Result<(), ReadError> {
    match place.replace(value) {
        None if rightly_marked => Ok(()),
        _ => Err(ReadError::Extension(name)),
    }
}

fn number(value: &[u8]) -> Result<u64, ReadError> {
    let mut reader = Reader::new(value);
    let octets = reader.integer()?;
    reader.finish()?;
    let magnitude = match octets {
        [0x80..=0xff, ..] => return Err(ReadError::Number),
        [0, rest @ ..] => rest,
        all => all,
    };
    if magnitude.len() > 8 {
        return Err(ReadError::Number);
    }
    Ok(magnitude.iter().fold(0, |number, octet| number << 8 | u64::from(*octet)))
}

/// CRLDistributionPoints with one point that is one URI and nothing else.
fn one_uri(value: &[u8]) -> Result<&str, ReadError> {
    let mut points = der::outer(value, tag::SEQUENCE)?;
    let point = points.nested(tag::SEQUENCE)?;
    points.finish()?;
    full_name(point)
}

/// IssuingDistributionPoint with one URI, or one kind of certificates, or both (CRL-25); nothing else.
fn distribution_point(value: &[u8]) -> Result<(Option<&str>, Option<Kind>), ReadError> {
    let mut fields = der::outer(value, tag::SEQUENCE)?;
    let uri = fields.optional(tag::explicit(0))?.map(|name| uri(Reader::new(name))).transpose()?;
    let mut only = None;
    for kind in Kind::ALL {
        match fields.optional(tag::implicit(kind.flag()))? {
            None => {}
            Some([0xff]) if only.is_none() => only = Some(kind),
            Some(_) => return Err(der::Error::Value.into()),
        }
    }
    fields.finish()?;
    if uri.is_none() && only.is_none() { Err(der::Error::Value.into()) } else { Ok((uri, only)) }
}

/// AuthorityInfoAccessSyntax with one description: caIssuers by URI (CRL-29).
fn ca_issuers(value: &[u8]) -> Result<&str, ReadError> {
    let mut all = der::outer(value, tag::SEQUENCE)?;
    let mut description = all.nested(tag::SEQUENCE)?;
    all.finish()?;
    if description.element(tag::OID)?.raw != oid::CA_ISSUERS {
        return Err(der::Error::Value.into());
    }
    let uri = description.value(tag::implicit(6))?;
    description.finish()?;
    Ok(str::from_utf8(uri).map_err(|_| der::Error::Value)?)
}

/// The field distributionPoint, with one URI, and nothing after it.
fn full_name(mut point: Reader<'_>) -> Result<&str, ReadError> {
    let name = point.nested(tag::explicit(0))?;
    point.finish()?;
    uri(name)
}

/// The CHOICE fullName, with one URI.
fn uri(mut name: Reader<'_>) -> Result<&str, ReadError> {
    let mut full = name.nested(tag::explicit(0))?;
    name.finish()?;
    let uri = full.value(tag::implicit(6))?;
    full.finish()?;
    Ok(str::from_utf8(uri).map_err(|_| der::Error::Value)?)
}

/// A `Time` in the form that its year demands (CRL-05).
fn time(reader: &mut Reader<'_>) -> Result<Time, der::Error> {
    let start = reader.rest().len();
    let time = Time::read(reader)?;
    let len = start.saturating_sub(reader.rest().len());
    if time.put_len() == len { Ok(time) } else { Err(der::Error::Value) }
}

/// What an entry says of its serial.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Word {
    /// It is revoked.
    Revoked(Revocation),
    /// It is no longer listed, since the moment given (removeFromCRL).
    Removed(Time),
}

/// One entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry<'a> {
    /// Of which certificate.
    pub serial: Serial,
    /// What is said of it.
    pub word: Word,
    /// The entry in DER.
    pub raw: &'a [u8],
}

/// The entries of a list; ends after the first error.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: Reader<'a>,
    is_delta: bool,
}

impl<'a> Entries<'a> {
    /// Passes over the next entry if it consists of just these bytes, without reading it again.
    pub(super) fn pass_over(&mut self, entry: &[u8]) -> bool {
        let rest = self.rest.rest().strip_prefix(entry);
        if let Some(rest) = rest {
            self.rest = Reader::new(rest);
        }
        rest.is_some()
    }

    /// Passes over the next entry here and in `other`, a list that has been read, if it is the same in both,
    /// byte for byte; returns it. Entries have a length of one octet.
    pub(super) fn pass_same(&mut self, other: &mut Entries<'_>) -> Option<&'a [u8]> {
        let rest = self.rest.rest();
        let [tag::SEQUENCE, len @ 0..0x80, ..] = rest else { return None };
        let (entry, after) = rest.split_at_checked(2 + usize::from(*len))?;
        if !other.pass_over(entry) {
            return None;
        }
        self.rest = Reader::new(after);
        Some(entry)
    }
}

/// The serial of an entry that is known to be one.
pub(super) fn serial(entry: &[u8]) -> Result<Serial, ReadError> {
    let mut fields = der::outer(entry, tag::SEQUENCE)?;
    Ok(Serial::from_content(fields.integer()?)?)
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        if let Some((entry, after)) = usual(self.rest.rest()) {
            self.rest = Reader::new(after);
            return Some(Ok(entry));
        }
        let entry = self.rest.element(tag::SEQUENCE).map_err(ReadError::from).and_then(|element| {
            let (serial, word) = entry(Reader::new(element.value), self.is_delta)?;
            Ok(Entry { serial, word, raw: element.raw })
        });
        if entry.is_err() {
            self.rest = Reader::new(&[]);
        }
        Some(entry)
    }
}

/// The entry that stands first in `bytes`, and what follows it, if it is of the usual shape: a UTCTime, then no
/// extension or a reason alone. All that this takes [`entry`] takes as well, and reads the same, in twice the
/// time (`benches/crl.rs`); a test compares the two.
fn usual(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    /// What stands before the reason's code.
    const REASON: &[u8] = &[0x30, 12, 0x30, 10, 6, 3, 0x55, 0x1d, 0x15, 4, 3, tag::ENUMERATED, 1];
    let [tag::SEQUENCE, len @ 0..0x80, ..] = bytes else { return None };
    let (raw, after) = bytes.split_at_checked(2 + usize::from(*len))?;
    let [_, _, tag::INTEGER, len, fields @ ..] = raw else { return None };
    let (serial, fields) = fields.split_at_checked(usize::from(*len))?;
    let [tag::UTC_TIME, 13, fields @ ..] = fields else { return None };
    let (at, extensions) = fields.split_at_checked(13)?;
    let reason = match extensions.strip_prefix(REASON) {
        Some([code]) => Reason::from_code(*code).filter(|reason| *reason != Reason::Unspecified)?,
        None if extensions.is_empty() => Reason::Unspecified,
        _ => return None,
    };
    let revocation = Revocation { at: Time::from_utc_time(at)?, reason, invalidity_date: None };
    let serial = Serial::from_content(serial).ok()?;
    Some((Entry { serial, word: Word::Revoked(revocation), raw }, after))
}

/// Reads one entry of a complete list.
pub(super) fn listed(entry: &[u8]) -> Result<(Serial, Revocation), ReadError> {
    match self::entry(der::outer(entry, tag::SEQUENCE)?, false)? {
        (serial, Word::Revoked(revocation)) => Ok((serial, revocation)),
        (serial, Word::Removed(_)) => Err(ReadError::Reason(serial, REMOVE_FROM_CRL)),
    }
}

fn entry(mut fields: Reader<'_>, in_delta: bool) -> Result<(Serial, Word), ReadError> {
    let serial = Serial::from_content(fields.integer()?)?;
    let at = time(&mut fields)?;
    let (mut code, mut invalidity_date) = (None, None);
    if let Some(extensions) = fields.optional(tag::SEQUENCE)? {
        if extensions.is_empty() {
            return Err(der::Error::Value.into());
        }
        let mut all = Reader::new(extensions);
        while !all.is_empty() {
            let (oid, critical, value) = extension(&mut all)?;
            match (oid, value) {
                (oid::REASON, [tag::ENUMERATED, 1, reason]) => once("reasonCode", &mut code, *reason, !critical)?,
                (oid::REASON, _) => return Err(der::Error::Value.into()),
                (oid::INVALIDITY_DATE, value) => {
                    let mut date = Reader::new(value);
                    let text = date.value(tag::GENERALIZED_TIME)?;
                    date.finish()?;
                    let since = Time::from_generalized(text).ok_or(der::Error::Value)?;
                    once("invalidityDate", &mut invalidity_date, since, !critical)?;
                }
                (unknown, _) if critical => return Err(ReadError::Critical(unknown.to_vec())),
                _ => {}
            }
        }
    }
    fields.finish()?;
    let reason = match code {
        None => Reason::Unspecified,
        Some(REMOVE_FROM_CRL) if in_delta => return Ok((serial, Word::Removed(at))),
        // CRL-41: "unspecified" is expressed by leaving the reason out.
        Some(code) => Reason::from_code(code)
            .filter(|reason| *reason != Reason::Unspecified)
            .ok_or(ReadError::Reason(serial, code))?,
    };
    Ok((serial, Word::Revoked(Revocation { at, reason, invalidity_date })))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::as_conversions, clippy::indexing_slicing)]
    use super::*;
    use crate::crl::encode::{Head, lay, seal};
    use crate::crl::entries::{put_removed, put_revoked};

    const ALGORITHM: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

    fn head(base: Option<u64>) -> Head<'static> {
        Head {
            algorithm: ALGORITHM,
            issuer: &[0x30, 0x00],
            authority_key: &[1, 2, 3],
            this_update: Time::from_unix(1_795_327_200),
            next_update: Time::from_unix(2_600_000_000),
            number: 1_795_327_201,
            base,
            freshest: Some("http://crl.example/crl/demo-delta.crl"),
            distribution: base.map(|_| "http://crl.example/crl/demo/shard-3.crl"),
            only: base.map(|_| Kind::User),
            expired_since: base.map(|_| Time::from_unix(1_700_000_000)),
            next_publish: base.map(|_| Time::from_unix(1_795_348_800)),
            ca_issuers: base.map(|_| "http://crl.example/ca/demo.cer"),
        }
    }

    fn list(head: &Head<'_>, entries: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::new();
        lay(&mut buffer, head, std::iter::once(entries));
        let whole = seal(&mut buffer, head, &[9; 70]);
        buffer[whole].to_vec()
    }

    fn serial(n: u8) -> Serial {
        Serial::from_content(&[n]).unwrap()
    }

    fn revocation(code: u8) -> Revocation {
        let reason = Reason::from_code(code).unwrap();
        Revocation { at: Time::from_unix(1_700_000_000), reason, invalidity_date: Some(Time::from_unix(-5)) }
    }

    /// `bytes` with the one place that reads `old` made to read `new`, of the same length.
    fn patched(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        let places: Vec<usize> = (0..out.len()).filter(|at| out[*at..].starts_with(old)).collect();
        assert_eq!((places.len(), old.len()), (1, new.len()), "{old:02x?}");
        out[places[0]..places[0] + new.len()].copy_from_slice(new);
        out
    }

    fn entries(bytes: &[u8]) -> Result<Vec<(Serial, Word)>, ReadError> {
        List::read(bytes)?.entries().map(|entry| entry.map(|entry| (entry.serial, entry.word))).collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let mut body = Vec::new();
        put_revoked(&mut body, &serial(1), &revocation(0));
        put_revoked(&mut body, &serial(2), &Revocation { invalidity_date: None, ..revocation(6) });
        let words = vec![
            (serial(1), Word::Revoked(revocation(0))),
            (serial(2), Word::Revoked(Revocation { invalidity_date: None, ..revocation(6) })),
        ];
        for base in [None, Some(7)] {
            let bytes = list(&head(base), &body);
            let read = List::read(&bytes).unwrap();
            assert_eq!((read.number, read.base), (1_795_327_201, base));
            assert_eq!((read.this_update, read.next_update), (head(None).this_update, head(None).next_update));
            assert_eq!((read.issuer, read.algorithm, read.authority_key), (&[0x30, 0][..], ALGORITHM, &[1, 2, 3][..]));
            assert_eq!(read.signature, [9; 70]);
            assert_eq!(read.freshest, head(None).freshest.filter(|_| base.is_none()));
            let more = head(base);
            assert_eq!((read.distribution, read.ca_issuers), (more.distribution, more.ca_issuers));
            assert_eq!(read.only, more.only);
            assert_eq!((read.expired_since, read.next_publish), (more.expired_since, more.next_publish));
            assert_eq!(entries(&bytes).unwrap(), words);
        }
        assert_eq!(entries(&list(&head(None), &[])).unwrap(), []);
    }

    #[test]
    fn entries_of_the_usual_shape_are_read_as_all_others_are() {
        let mut bodies = Vec::new();
        for code in [0, 1, 4, 6, 10] {
            for at in [-5, 1_700_000_000, 2_524_607_999, 2_524_608_000] {
                let revocation = Revocation { at: Time::from_unix(at), invalidity_date: None, ..revocation(code) };
                for content in [&[1][..], &[0, 0x80], &[0x4a; 16], &[0x4a; 20]] {
                    let mut body = Vec::new();
                    put_revoked(&mut body, &Serial::from_content(content).unwrap(), &revocation);
                    bodies.push(body);
                }
            }
        }
        let (mut taken, mut refused) = (0, 0);
        for body in bodies {
            // Whole, and with any octet changed.
            let broken = (0..body.len()).flat_map(|at| {
                [0x00, 0x01, 0x7f, 0x80, 0xff].map(|octet| {
                    let mut broken = body.clone();
                    broken[at] = octet;
                    broken
                })
            });
            for bytes in std::iter::once(body.clone()).chain(broken) {
                let read = der::outer(&bytes, tag::SEQUENCE).map_err(ReadError::from);
                let read = read.and_then(|fields| entry(fields, false));
                match usual(&bytes) {
                    Some((usual, after)) => {
                        assert_eq!((read, after), (Ok((usual.serial, usual.word)), &[][..]), "{bytes:02x?}");
                        taken += 1;
                    }
                    None => refused += 1,
                }
            }
        }
        assert!(taken > 1_000 && refused > 1_000, "{taken} {refused}");
    }

    #[test]
    fn crl_66_removals_stand_in_deltas_only() {
        let mut body = Vec::new();
        put_removed(&mut body, &serial(3), Time::from_unix(1_700_000_000));
        let removed = vec![(serial(3), Word::Removed(Time::from_unix(1_700_000_000)))];
        assert_eq!(entries(&list(&head(Some(7)), &body)), Ok(removed));
        assert_eq!(entries(&list(&head(None), &body)), Err(ReadError::Reason(serial(3), 8)));
    }

    #[test]
    fn crl_41_reasons_that_must_not_stand_are_refused() {
        for code in [0, 7, 11] {
            let mut body = Vec::new();
            put_revoked(&mut body, &serial(3), &revocation(1));
            let body = patched(&body, &[0x0a, 1, 1], &[0x0a, 1, code]);
            assert_eq!(entries(&list(&head(None), &body)), Err(ReadError::Reason(serial(3), code)));
        }
    }

    #[test]
    fn lists_that_break_the_profile_are_refused() {
        let good = list(&head(None), &[]);
        let delta = list(&head(Some(7)), &[]);
        let value = ReadError::Der(der::Error::Value);
        type Case<'a> = (&'a [u8], &'a [u8], &'a [u8], ReadError);
        let name = ReadError::Der(der::Error::Tag { expected: 0x86, found: Some(0x82) });
        let point = |octets: &[u8]| {
            let head = Head { only: Some(Kind::Ca), ..head(None) };
            patched(&list(&head, &[]), &[0x30, 3, 0x82, 1, 0xff], octets)
        };
        // CRL-25: not both kinds, no FALSE (a default), no other flag, not nothing.
        assert_eq!(List::read(&point(&[0x30, 3, 0x82, 1, 0xff])).unwrap().only, Some(Kind::Ca));
        for octets in [[0x30, 3, 0x82, 1, 0], [0x30, 3, 0x84, 1, 0xff], [0x30, 3, 0x85, 1, 0xff]] {
            assert!(List::read(&point(&octets)).is_err(), "{octets:02x?}");
        }
        assert!(distribution_point(&[0x30, 6, 0x81, 1, 0xff, 0x82, 1, 0xff]).is_err());
        assert!(distribution_point(&[0x30, 0]).is_err());
        let cases: [Case<'_>; 8] = [
            (&good, &[2, 1, 1, 0x30], &[2, 1, 0, 0x30], ReadError::Version),
            (&good, &[2, 1, 1, 0x30, 0x0a, 6, 8, 0x2a], &[2, 1, 1, 0x30, 0x0a, 6, 8, 0x2b], ReadError::Algorithm),
            // CRL-05: 2052 as UTCTime cannot be said, and 2026 as GeneralizedTime must not be.
            (&good, b"\x18\x0f2052", b"\x18\x0f2026", value.clone()),
            (&good, &[0x55, 0x1d, 0x14], &[0x55, 0x1d, 0x77], ReadError::Missing("cRLNumber")),
            (&good, &[0x55, 0x1d, 0x23], &[0x55, 0x1d, 0x77], ReadError::Missing("authorityKeyIdentifier")),
            // CRL-88.
            (&delta, &[0x55, 0x1d, 0x1b], &[0x55, 0x1d, 0x12], ReadError::Critical(vec![6, 3, 0x55, 0x1d, 0x12])),
            // CRL-71: a URI, and no other kind of name.
            (&delta, b"\x86\x27http://crl.example/crl/demo/", b"\x82\x27http://crl.example/crl/demo/", name),
            (&good, &[2, 4, 0x6b], &[2, 4, 0xeb], ReadError::Number),
        ];
        for (bytes, old, new, error) in cases {
            assert_eq!(List::read(&patched(bytes, old, new)).unwrap_err(), error, "{old:02x?}");
        }
        assert_eq!(List::read(&[&good[..], &[0]].concat()).unwrap_err(), ReadError::Der(der::Error::Trailing));
        for len in 0..good.len() {
            assert!(List::read(&good[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn crl_04_48_empty_sequences_are_refused() {
        let with = |revoked: &[u8]| {
            let head = head(None);
            let mut buffer = Vec::new();
            let tbs = lay(&mut buffer, &head, std::iter::empty()).tbs;
            let tbs = buffer[tbs].to_vec();
            let mut fields = der::outer(&tbs, tag::SEQUENCE).unwrap();
            let content = fields.rest();
            for _ in 0..5 {
                fields.any().unwrap();
            }
            let split = content.len() - fields.rest().len();
            let (front, back) = content.split_at(split);
            let tbs = der::element(tag::SEQUENCE, &[front, revoked, back]);
            der::element(tag::SEQUENCE, &[&tbs, ALGORITHM, &[3, 2, 0, 9]])
        };
        assert_eq!(List::read(&with(&[0x30, 0])).unwrap_err(), ReadError::Der(der::Error::Value));
        let bare = b"\x30\x12\x02\x01\x05\x17\x0d261122060000Z";
        assert!(entries(&with(&der::element(tag::SEQUENCE, &[bare]))).is_ok());
        let empty = b"\x30\x14\x02\x01\x05\x17\x0d261122060000Z\x30\x00";
        let bytes = with(&der::element(tag::SEQUENCE, &[empty]));
        assert_eq!(entries(&bytes).unwrap_err(), ReadError::Der(der::Error::Value));
    }
}
