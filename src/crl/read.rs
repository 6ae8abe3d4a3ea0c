//! Reading a list back as a stranger would: strictly, and as a stream.
//!
//! Goes in: the bytes of a CRL (RFC 5280 5.1). Comes out: what its head says, the parts that a signature
//! check needs, and its entries one after another, all borrowed. It shares nothing with the writer but
//! the object identifiers, because it is there to find the writer's mistakes (promise 6).
//!
//! Not accepted: version 1, a list without nextUpdate, number or authority key identifier (CRL-01), an
//! empty revokedCertificates (CRL-04), times in the wrong form (CRL-05), numbers above 64 bits, indirect
//! and partitioned lists, and any other critical extension (CRL-88).
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use super::encode::{REMOVE_FROM_CRL, oid};
use crate::der::{self, Reader, tag};
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
    let mut point = points.nested(tag::SEQUENCE)?;
    points.finish()?;
    let mut name = point.nested(tag::explicit(0))?;
    point.finish()?;
    let mut full = name.nested(tag::explicit(0))?;
    name.finish()?;
    let uri = full.value(tag::implicit(6))?;
    full.finish()?;
    Ok(str::from_utf8(uri).map_err(|_| der::Error::Value)?)
}

/// A `Time` in the form that its year demands (CRL-05).
fn time(reader: &mut Reader<'_>) -> Result<Time, der::Error> {
    let element = reader.any()?;
    let time = match element.tag {
        // As Time::from_utc_time, without its allocation: a list has a million of these.
        tag::UTC_TIME if element.value.len() == 13 => {
            let mut text = [0; 15];
            let (century, rest) = text.split_at_mut(2);
            century.copy_from_slice(if element.value.first() >= Some(&b'5') { b"19" } else { b"20" });
            rest.copy_from_slice(element.value);
            Time::from_generalized(&text)
        }
        tag::GENERALIZED_TIME => Time::from_generalized(element.value),
        _ => None,
    };
    time.filter(|time| time.put_len() == element.raw.len()).ok_or(der::Error::Value)
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

impl Entries<'_> {
    /// Passes over the next entry if it consists of just these bytes, without reading it again.
    pub(super) fn pass_over(&mut self, entry: &[u8]) -> bool {
        let rest = self.rest.rest().strip_prefix(entry);
        if let Some(rest) = rest {
            self.rest = Reader::new(rest);
        }
        rest.is_some()
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
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
