//! Anybody's CRL, read as far as it can be read, for those who look at lists and do not make them.
//!
//! Goes in: the bytes of a CRL of any CA. Comes out: what its head says, and its entries one after
//! another, borrowed, so that a list of any length costs its own bytes and no more. A version 1, a missing
//! nextUpdate, indirect lists and unknown extensions are read too, and it is for the caller to judge them.
//! Delta rules and distribution points: RFC 5280 5.2.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use super::{Reason, Serial, Time, serial::SerialError};
use crate::der::{self, Reader, tag};
use std::fmt;
use std::str;
use thiserror::Error;

/// Object identifiers of lists and their entries, in DER (ALG-33, CRL-25, CRL-29..31, CRL-40..45).
pub mod oid {
    #![allow(missing_docs)]
    pub const CRL_NUMBER: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x14];
    pub const REASON: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x15];
    pub const INVALIDITY_DATE: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x18];
    pub const DELTA_INDICATOR: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x1b];
    pub const AUTHORITY_KEY: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x23];
    pub const DISTRIBUTION: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x1c];
    pub const CERTIFICATE_ISSUER: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x1d];
    pub const FRESHEST: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x2e];
    pub const EXPIRED: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x3c];
    /// id-pe-authorityInfoAccess, and below it id-ad-caIssuers.
    pub const ACCESS: &[u8] = &[0x06, 8, 0x2b, 6, 1, 5, 5, 7, 1, 1];
    pub const CA_ISSUERS: &[u8] = &[0x06, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 2];
    /// Microsoft's Next CRL Publish, 1.3.6.1.4.1.311.21.4.
    pub const NEXT_PUBLISH: &[u8] = &[0x06, 9, 0x2b, 6, 1, 4, 1, 0x82, 0x37, 0x15, 4];
}

/// uniformResourceIdentifier of a GeneralName.
const URI: u8 = tag::implicit(6);

/// Why bytes cannot be read as a CRL at all.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum ForeignError {
    /// Not the DER of a CRL.
    #[error("not the DER of a CRL: {0}")]
    Der(#[from] der::Error),
    /// A serial number that is none.
    #[error("serial number: {0}")]
    Serial(#[from] SerialError),
    /// A CRL number that is none.
    #[error("CRL number: {0}")]
    Number(SerialError),
}

/// A CRL number: up to 20 octets (CRL-21), where Jarchy's own have 8.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Number(Serial);

impl Number {
    /// As Jarchy counts; `None` for one beyond 64 bits or below zero.
    #[must_use]
    pub fn as_u64(self) -> Option<u64> {
        let octets = self.0.as_bytes();
        let magnitude = match octets {
            [0x80..=0xff, ..] => return None,
            [0, rest @ ..] => rest,
            all => all,
        };
        let value = magnitude.iter().fold(0_u64, |number, octet| (number << 8) | u64::from(*octet));
        (magnitude.len() <= 8).then_some(value)
    }
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        // Eight octets always fit.
        Self(Serial::from_magnitude(&number.to_be_bytes()).unwrap_or(ZERO.0))
    }
}

/// Decimal as far as 64 bits reach, hex beyond.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_u64() {
            Some(number) => write!(f, "{number}"),
            None => write!(f, "0x{}", self.0),
        }
    }
}

/// One extension of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extension<'a> {
    /// The object identifier in DER.
    pub oid: &'a [u8],
    /// Whether who does not know it must not use the list (CRL-88).
    pub critical: bool,
    /// Its value.
    pub value: &'a [u8],
}

impl Extension<'_> {
    /// Whether [`List`] says what stands in it.
    #[must_use]
    pub fn is_known(&self) -> bool {
        [
            oid::AUTHORITY_KEY,
            oid::CRL_NUMBER,
            oid::DELTA_INDICATOR,
            oid::FRESHEST,
            oid::DISTRIBUTION,
            oid::ACCESS,
            oid::EXPIRED,
            oid::NEXT_PUBLISH,
        ]
        .contains(&self.oid)
    }

    /// The object identifier as people write it.
    #[must_use]
    pub fn name(&self) -> String {
        dotted(self.oid)
    }
}

/// issuingDistributionPoint (CRL-25): what part of the CA's certificates a list is about.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Distribution<'a> {
    /// The URIs under which it is found.
    pub uris: Vec<&'a str>,
    /// Only certificates of users.
    pub only_users: bool,
    /// Only certificates of CAs.
    pub only_cas: bool,
    /// Only attribute certificates.
    pub only_attributes: bool,
    /// Only some reasons: another list has the others.
    pub only_some_reasons: bool,
    /// Entries may be other CAs' (CRL-46).
    pub indirect: bool,
}

/// A list, borrowed from its bytes.
#[derive(Clone, Debug)]
pub struct List<'a> {
    /// What the signature covers.
    pub tbs: &'a [u8],
    /// DER of the AlgorithmIdentifier beside the signature.
    pub algorithm: &'a [u8],
    /// DER of the AlgorithmIdentifier that is signed.
    pub signed_algorithm: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
    /// 1 or 2; what else is there is shown as it is.
    pub version: u8,
    /// DER of the issuer's Name.
    pub issuer: &'a [u8],
    /// thisUpdate.
    pub this_update: Time,
    /// nextUpdate.
    pub next_update: Option<Time>,
    /// CRLNumber.
    pub number: Option<Number>,
    /// BaseCRLNumber of a delta.
    pub base: Option<Number>,
    /// keyIdentifier of authorityKeyIdentifier.
    pub authority_key: Option<&'a [u8]>,
    /// issuingDistributionPoint.
    pub distribution: Option<Distribution<'a>>,
    /// The same in DER, for comparing scopes.
    pub scope: Option<&'a [u8]>,
    /// URIs of freshestCRL.
    pub freshest: Vec<&'a str>,
    /// URIs of caIssuers in authorityInfoAccess.
    pub ca_issuers: Vec<&'a str>,
    /// expiredCertsOnCRL: from when on expired certificates stay listed.
    pub expired_since: Option<Time>,
    /// Microsoft's Next CRL Publish.
    pub next_publish: Option<Time>,
    /// All extensions as they stand.
    pub extensions: Vec<Extension<'a>>,
    entries: &'a [u8],
}

const ZERO: Number = Number(Serial::ZERO);

impl<'a> List<'a> {
    /// Reads the head of the list in `bytes`, which hold nothing else. Nothing is checked.
    ///
    /// # Errors
    /// [`ForeignError`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, ForeignError> {
        let mut outer = der::outer(bytes, tag::SEQUENCE)?;
        let tbs = outer.element(tag::SEQUENCE)?;
        let algorithm = outer.element(tag::SEQUENCE)?.raw;
        let [0, signature @ ..] = outer.value(tag::BIT_STRING)? else {
            return Err(der::Error::Value.into());
        };
        outer.finish()?;

        let mut fields = Reader::new(tbs.value);
        let version = match fields.optional(tag::INTEGER)? {
            None => 1,
            Some([version]) => version.saturating_add(1),
            Some(_) => u8::MAX,
        };
        let signed_algorithm = fields.element(tag::SEQUENCE)?.raw;
        let issuer = fields.element(tag::SEQUENCE)?.raw;
        let this_update = Time::read(&mut fields)?;
        let is_time = matches!(fields.peek(), Some(tag::UTC_TIME | tag::GENERALIZED_TIME));
        let next_update = if is_time { Some(Time::read(&mut fields)?) } else { None };
        let entries = fields.optional(tag::SEQUENCE)?.unwrap_or_default();
        let mut list = Self {
            tbs: tbs.raw,
            algorithm,
            signed_algorithm,
            signature,
            version,
            issuer,
            this_update,
            next_update,
            number: None,
            base: None,
            authority_key: None,
            distribution: None,
            scope: None,
            freshest: Vec::new(),
            ca_issuers: Vec::new(),
            expired_since: None,
            next_publish: None,
            extensions: Vec::new(),
            entries,
        };
        if let Some(wrapped) = fields.optional(tag::explicit(0))? {
            let mut all = der::outer(wrapped, tag::SEQUENCE)?;
            while !all.is_empty() {
                let extension = extension(&mut all)?;
                list.extensions.push(extension);
                list.take(&extension)?;
            }
        }
        fields.finish()?;
        Ok(list)
    }

    fn take(&mut self, extension: &Extension<'a>) -> Result<(), ForeignError> {
        let value = extension.value;
        match extension.oid {
            oid::CRL_NUMBER => self.number = Some(number(value)?),
            oid::DELTA_INDICATOR => self.base = Some(number(value)?),
            oid::AUTHORITY_KEY => self.authority_key = der::outer(value, tag::SEQUENCE)?.optional(tag::implicit(0))?,
            oid::FRESHEST => self.freshest = points(value)?,
            oid::DISTRIBUTION => {
                self.scope = Some(value);
                self.distribution = Some(distribution(value)?);
            }
            oid::ACCESS => self.ca_issuers = access(value)?,
            oid::EXPIRED => self.expired_since = Some(Time::read(&mut Reader::new(value))?),
            oid::NEXT_PUBLISH => self.next_publish = Some(Time::read(&mut Reader::new(value))?),
            _ => {}
        }
        Ok(())
    }

    /// The entries in the order in which they stand.
    #[must_use]
    pub const fn entries(&self) -> Entries<'a> {
        Entries { rest: Reader::new(self.entries) }
    }

    /// The entries from the one on that stands `octets` before their end, see [`Entries::octets_left`].
    #[must_use]
    pub fn last_entries(&self, octets: usize) -> Entries<'a> {
        let begin = self.entries.len().saturating_sub(octets);
        Entries { rest: Reader::new(self.entries.get(begin..).unwrap_or_default()) }
    }

    /// The issuer's name as people read it.
    #[must_use]
    pub fn issuer_text(&self) -> String {
        use ::der::Decode;
        x509_cert::name::Name::from_der(self.issuer)
            .map_or_else(|_| "a name that cannot be read".to_owned(), |name| name.to_string())
    }
}

/// One entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry<'a> {
    /// Of which certificate.
    pub serial: Serial,
    /// revocationDate.
    pub at: Time,
    /// reasonCode, if there is one.
    pub reason: Option<u8>,
    /// invalidityDate.
    pub invalidity_date: Option<Time>,
    /// Whether it, and those behind it, are of another CA (certificateIssuer).
    pub is_foreign: bool,
    /// The entry in DER.
    pub raw: &'a [u8],
}

/// reasonCode of an entry that takes a serial off the list (CRL-66). It is nobody's reason, so [`Reason`] does not
/// know it.
pub const REMOVE_FROM_CRL: u8 = 8;

/// A reasonCode as people read it.
#[must_use]
pub fn reason_name(code: u8) -> String {
    match (code, Reason::from_code(code)) {
        (_, Some(reason)) => reason.name().to_owned(),
        (REMOVE_FROM_CRL, None) => "removeFromCRL".to_owned(),
        (_, None) => format!("reason {code}"),
    }
}

/// The entries of a list; ends after the first error.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: Reader<'a>,
}

impl Entries<'_> {
    /// How many octets the entries take that are still to come.
    #[must_use]
    pub const fn octets_left(&self) -> usize {
        self.rest.rest().len()
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, ForeignError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = entry(&mut self.rest);
        if entry.is_err() {
            self.rest = Reader::new(&[]);
        }
        Some(entry)
    }
}

fn entry<'a>(rest: &mut Reader<'a>) -> Result<Entry<'a>, ForeignError> {
    let element = rest.element(tag::SEQUENCE)?;
    let mut fields = Reader::new(element.value);
    let serial = Serial::from_content(fields.integer()?)?;
    let at = Time::read(&mut fields)?;
    let mut entry = Entry { serial, at, reason: None, invalidity_date: None, is_foreign: false, raw: element.raw };
    if let Some(extensions) = fields.optional(tag::SEQUENCE)? {
        let mut all = Reader::new(extensions);
        while !all.is_empty() {
            let Extension { oid, value, .. } = extension(&mut all)?;
            match (oid, value) {
                (oid::REASON, [tag::ENUMERATED, 1, reason]) => entry.reason = Some(*reason),
                (oid::REASON, _) => return Err(der::Error::Value.into()),
                (oid::INVALIDITY_DATE, value) => entry.invalidity_date = Some(Time::read(&mut Reader::new(value))?),
                (oid::CERTIFICATE_ISSUER, _) => entry.is_foreign = true,
                _ => {}
            }
        }
    }
    fields.finish()?;
    Ok(entry)
}

fn extension<'a>(all: &mut Reader<'a>) -> Result<Extension<'a>, der::Error> {
    let mut fields = all.nested(tag::SEQUENCE)?;
    let oid = fields.element(tag::OID)?.raw;
    let critical = fields.default_false()?;
    let value = fields.value(tag::OCTET_STRING)?;
    fields.finish()?;
    Ok(Extension { oid, critical, value })
}

fn number(value: &[u8]) -> Result<Number, ForeignError> {
    let mut reader = Reader::new(value);
    let octets = reader.integer()?;
    reader.finish()?;
    Serial::from_content(octets).map(Number).map_err(ForeignError::Number)
}

/// The URIs among GeneralNames.
fn uris<'a>(mut names: Reader<'a>, out: &mut Vec<&'a str>) -> Result<(), der::Error> {
    while !names.is_empty() {
        let name = names.any()?;
        if name.tag == URI {
            out.push(str::from_utf8(name.value).map_err(|_| der::Error::Value)?);
        }
    }
    Ok(())
}

/// The URIs of a DistributionPointName.
fn point_name<'a>(name: &'a [u8], out: &mut Vec<&'a str>) -> Result<(), der::Error> {
    match Reader::new(name).optional(tag::explicit(0))? {
        Some(full) => uris(Reader::new(full), out),
        // nameRelativeToCRLIssuer: nobody uses it.
        None => Ok(()),
    }
}

/// The URIs of CRLDistributionPoints.
fn points(value: &[u8]) -> Result<Vec<&str>, der::Error> {
    let (mut all, mut out) = (der::outer(value, tag::SEQUENCE)?, Vec::new());
    while !all.is_empty() {
        let mut point = all.nested(tag::SEQUENCE)?;
        if let Some(name) = point.optional(tag::explicit(0))? {
            point_name(name, &mut out)?;
        }
    }
    Ok(out)
}

fn distribution(value: &[u8]) -> Result<Distribution<'_>, der::Error> {
    let (mut fields, mut read) = (der::outer(value, tag::SEQUENCE)?, Distribution::default());
    while !fields.is_empty() {
        let field = fields.any()?;
        let is_true = field.value == [0xff];
        match field.tag & 0x1f {
            0 => point_name(field.value, &mut read.uris)?,
            1 => read.only_users = is_true,
            2 => read.only_cas = is_true,
            3 => read.only_some_reasons = true,
            4 => read.indirect = is_true,
            5 => read.only_attributes = is_true,
            _ => return Err(der::Error::Value),
        }
    }
    Ok(read)
}

/// The URIs of caIssuers.
fn access(value: &[u8]) -> Result<Vec<&str>, der::Error> {
    let (mut all, mut out) = (der::outer(value, tag::SEQUENCE)?, Vec::new());
    while !all.is_empty() {
        let mut description = all.nested(tag::SEQUENCE)?;
        if description.element(tag::OID)?.raw == oid::CA_ISSUERS {
            uris(description, &mut out)?;
        }
    }
    Ok(out)
}

/// An object identifier in dotted decimal.
fn dotted(oid: &[u8]) -> String {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0_u64;
    for octet in oid.get(2..).unwrap_or_default() {
        arc = (arc << 7) | u64::from(octet & 0x7f);
        if octet & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.extend([first, arc - first * 40]);
            } else {
                arcs.push(arc);
            }
            arc = 0;
        }
    }
    arcs.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    /// `base` has up to 20 octets, as other CAs' numbers have.
    fn sample(extensions: &[Vec<u8>]) -> Vec<u8> {
        let algorithm = [0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
        let time = der::element(tag::UTC_TIME, &[b"260102030405Z"]);
        let all: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
        let wrapped = der::element(tag::explicit(0), &[&der::element(tag::SEQUENCE, &all)]);
        let tbs = der::element(tag::SEQUENCE, &[&[2, 1, 1], &algorithm, &[0x30, 0], &time, &wrapped]);
        der::element(tag::SEQUENCE, &[&tbs, &algorithm, &[3, 2, 0, 9]])
    }

    #[test]
    fn what_others_publish_is_read_though_jarchy_would_not() {
        let uri = der::element(URI, &[b"http://crl.example/7.crl"]);
        let name = der::element(tag::explicit(0), &[&der::element(tag::explicit(0), &[&uri])]);
        let idp = der::element(tag::SEQUENCE, &[&name, &[0x81, 1, 0xff], &[0x84, 1, 0xff]]);
        let long = der::element(tag::INTEGER, &[&[0x7f; 20]]);
        let bytes = sample(&[
            der::extension(oid::DISTRIBUTION, true, &idp),
            der::extension(oid::CRL_NUMBER, false, &long),
            der::extension(oid::EXPIRED, false, &der::element(tag::GENERALIZED_TIME, &[b"20200101000000Z"])),
            der::extension(&[6, 3, 0x55, 0x1d, 0x12], true, &[5, 0]),
        ]);
        let list = List::read(&bytes).unwrap();
        assert_eq!((list.version, list.next_update, list.entries().count()), (2, None, 0));
        let distribution = list.distribution.unwrap();
        assert_eq!(distribution.uris, ["http://crl.example/7.crl"]);
        assert!(distribution.only_users && distribution.indirect && !distribution.only_cas);
        assert_eq!(list.number.unwrap().to_string(), format!("0x{}", "7F".repeat(20)));
        assert_eq!(list.expired_since.unwrap().to_string(), "2020-01-01T00:00:00Z");
        assert_eq!(
            list.extensions.iter().filter(|one| !one.is_known()).map(Extension::name).collect::<Vec<_>>(),
            ["2.5.29.18"]
        );
        assert_eq!(Extension { oid: oid::NEXT_PUBLISH, critical: false, value: &[] }.name(), "1.3.6.1.4.1.311.21.4");
    }

    #[test]
    fn numbers_of_any_length_are_compared_as_numbers() {
        let number = |octets: &[u8]| Number(Serial::from_content(octets).unwrap());
        assert_eq!(Number::from(0).as_u64(), Some(0));
        assert_eq!(Number::from(u64::MAX).to_string(), u64::MAX.to_string());
        assert!(number(&[0x7f; 20]) > Number::from(u64::MAX) && Number::from(256) > Number::from(255));
        assert_eq!(number(&[1, 0, 0, 0, 0, 0, 0, 0, 0]).as_u64(), None);
        assert_eq!(number(&[0x80]).as_u64(), None);
    }

    #[test]
    fn half_of_a_list_is_no_list() {
        let bytes = sample(&[]);
        for end in 0..bytes.len() {
            assert!(List::read(&bytes[..end]).is_err(), "{end}");
        }
        assert!(List::read(b"<html>404</html>").is_err());
    }
}
