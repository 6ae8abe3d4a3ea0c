//! Answers become the DER of an OCSPResponse (RFC 6960 4.2), and, for clients, back again.
//!
//! Goes in: the CertID as it was asked, a status, times; a [`Template`] holds what all answers of one
//! signer share. Comes out: the bytes to sign, and the whole response. Lengths are added up first, so each
//! response is written once, front to back, into one buffer.
//!
//! Invariants: what is signed is what is sent; defaults are left out (OCSP-01); no extension is critical
//! (OCSP-71).

use crate::der::{self, Error, Reader, tag};
use crate::pki::list::oid::INVALIDITY_DATE;
use crate::pki::{Certificate, HashAlgorithm, Reason, Revocation, Time};

/// The responses that carry nothing but an error: constant, unsigned (OCSP-27).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// Not the syntax of OCSP, or over the limits (OCSP-21).
    MalformedRequest = 1,
    /// This responder is at odds with itself (OCSP-22).
    InternalError = 2,
    /// Temporarily unable (OCSP-23).
    TryLater = 3,
    /// Only signed requests are answered (OCSP-25).
    SigRequired = 5,
    /// Not authorized to answer for this certificate (OCSP-26, OCSP-29).
    Unauthorized = 6,
}

impl Failure {
    /// The whole response.
    #[must_use]
    pub const fn der(self) -> &'static [u8] {
        match self {
            Self::MalformedRequest => &[tag::SEQUENCE, 3, tag::ENUMERATED, 1, 1],
            Self::InternalError => &[tag::SEQUENCE, 3, tag::ENUMERATED, 1, 2],
            Self::TryLater => &[tag::SEQUENCE, 3, tag::ENUMERATED, 1, 3],
            Self::SigRequired => &[tag::SEQUENCE, 3, tag::ENUMERATED, 1, 5],
            Self::Unauthorized => &[tag::SEQUENCE, 3, tag::ENUMERATED, 1, 6],
        }
    }
}

/// CertStatus of a SingleResponse.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CertStatus {
    /// Issued, and not revoked.
    Good,
    /// Revoked, or on hold.
    Revoked(Revocation),
    /// Not known here.
    Unknown,
}

/// One SingleResponse.
#[derive(Clone, Copy, Debug)]
pub struct Single<'a> {
    /// The CertID, byte for byte as it was asked (promise 11).
    pub cert_id: &'a [u8],
    /// What is said of it.
    pub status: CertStatus,
    /// When that was known to be right.
    pub this_update: Time,
    /// By when newer information will be there.
    pub next_update: Time,
    /// The singleExtensions, one DER after another; empty for none.
    pub extensions: &'a [u8],
}

/// What differs from answer to answer, signature aside.
#[derive(Clone, Copy, Debug)]
pub struct ResponseData<'a> {
    /// When the answer was signed.
    pub produced_at: Time,
    /// One for each CertID.
    pub singles: &'a [Single<'a>],
    /// The responseExtensions, one DER after another; empty for none.
    pub extensions: &'a [u8],
}

/// How a response names its signer (OCSP-12).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ResponderId {
    /// By the hash of its key, as new responders must.
    #[default]
    ByKey,
    /// By its name, for old clients that know no better.
    ByName,
}

/// What all answers of one signer share.
#[derive(Clone, Debug)]
pub struct Template {
    /// DER of the ResponderID.
    responder_id: Vec<u8>,
    /// DER of the AlgorithmIdentifier.
    algorithm: &'static [u8],
    /// DER of `certs`, with its tag, or nothing.
    certs: Vec<u8>,
}

/// A GeneralizedTime with tag and length.
const TIME_LEN: usize = 17;
/// id-pkix-ocsp-basic.
const BASIC: &[u8] = &[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
/// id-pkix-ocsp-nonce.
pub(super) const NONCE: &[u8] = &[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2];

/// id-pkix-ocsp-crl.
const CRL_ID: &[u8] = &[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 3];
/// id-pkix-ocsp-archive-cutoff.
const ARCHIVE_CUTOFF: &[u8] = &[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 6];
/// id-pkix-ocsp-extended-revoke.
const EXTENDED_REVOKE: &[u8] = &[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 9];
/// certHash of Common PKI (ALG-34).
const CERT_HASH: &[u8] = &[6, 5, 0x2b, 0x24, 8, 3, 0x0d];

/// The nonce extension around the content of its extnValue (OCSP-60).
#[must_use]
pub fn nonce_extension(value: &[u8]) -> Vec<u8> {
    der::element(tag::SEQUENCE, &[NONCE, &der::element(tag::OCTET_STRING, &[value])])
}

/// archiveCutoff: status is known of certificates that expired at or after `cutoff` (OCSP-74).
#[must_use]
pub fn archive_cutoff_extension(cutoff: Time) -> Vec<u8> {
    let value = der::element(tag::GENERALIZED_TIME, &[&cutoff.generalized()]);
    der::extension(ARCHIVE_CUTOFF, false, &value)
}

/// certHash: the certificate with this SHA-256 is the one that is spoken of (CH-01).
#[must_use]
pub fn cert_hash_extension(sha256: &[u8; 32]) -> Vec<u8> {
    // ALG-02: parameters are absent where we write.
    let algorithm = der::element(tag::SEQUENCE, &[HashAlgorithm::Sha256.oid()]);
    let value = der::element(tag::SEQUENCE, &[&algorithm, &der::element(tag::OCTET_STRING, &[sha256])]);
    der::extension(CERT_HASH, false, &value)
}

/// CrlID with the URL of the list that shows the revocation too (OCSP-72).
#[must_use]
pub fn crl_id_extension(url: &str) -> Vec<u8> {
    const IA5_STRING: u8 = 0x16;
    let url = der::element(tag::explicit(0), &[&der::element(IA5_STRING, &[url.as_bytes()])]);
    der::extension(CRL_ID, false, &der::element(tag::SEQUENCE, &[&url]))
}

/// extended-revoke: this responder says revoked of what was never issued (OCSP-80).
#[must_use]
pub fn extended_revoke_extension() -> Vec<u8> {
    der::extension(EXTENDED_REVOKE, false, &[tag::NULL, 0])
}

/// invalidityDate of the CRL entry, as RFC 6960 4.4.5 lets it stand here (OCSP-76).
#[must_use]
pub fn invalidity_date_extension(date: Time) -> Vec<u8> {
    der::extension(INVALIDITY_DATE, false, &der::element(tag::GENERALIZED_TIME, &[&date.generalized()]))
}

impl Template {
    /// For answers that `signer` signs with `algorithm`. `include_certificate` is for delegates: when the
    /// CA signs itself, everyone has its certificate (OCSP-52).
    #[must_use]
    pub fn new(
        signer: &Certificate,
        algorithm: &'static [u8],
        responder_id: ResponderId,
        include_certificate: bool,
    ) -> Self {
        let responder_id = match responder_id {
            // OCSP-11: always SHA-1 of the key bits.
            ResponderId::ByKey => {
                let key_hash = HashAlgorithm::Sha1.digest(signer.key_bits());
                der::element(tag::explicit(2), &[&der::element(tag::OCTET_STRING, &[key_hash.as_ref()])])
            }
            ResponderId::ByName => der::element(tag::explicit(1), &[signer.subject()]),
        };
        let certs = if include_certificate {
            der::element(tag::explicit(0), &[&der::element(tag::SEQUENCE, &[signer.der()])])
        } else {
            Vec::new()
        };
        Self { responder_id, algorithm, certs }
    }

    /// The DER of ResponseData: what the signature covers (OCSP-57).
    #[must_use]
    pub fn to_be_signed(&self, data: &ResponseData<'_>) -> Vec<u8> {
        let sizes = Sizes::of(self, data);
        let mut out = Vec::with_capacity(der::element_len(sizes.data));
        self.put_data(&mut out, data, &sizes);
        out
    }

    /// The whole OCSPResponse.
    #[must_use]
    pub fn respond(&self, data: &ResponseData<'_>, signature: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.put_response(&mut out, data, signature);
        out
    }

    /// Appends the whole OCSPResponse.
    pub fn put_response(&self, out: &mut Vec<u8>, data: &ResponseData<'_>, signature: &[u8]) {
        let sizes = Sizes::of(self, data);
        let basic = der::element_len(sizes.data)
            + self.algorithm.len()
            + der::element_len(signature.len() + 1)
            + self.certs.len();
        let response_bytes = BASIC.len() + der::element_len(der::element_len(basic));
        let whole = 3 + der::element_len(der::element_len(response_bytes));
        out.reserve(der::element_len(whole));
        der::put_header(out, tag::SEQUENCE, whole);
        out.extend_from_slice(&[tag::ENUMERATED, 1, 0]);
        der::put_header(out, tag::explicit(0), der::element_len(response_bytes));
        der::put_header(out, tag::SEQUENCE, response_bytes);
        out.extend_from_slice(BASIC);
        der::put_header(out, tag::OCTET_STRING, der::element_len(basic));
        der::put_header(out, tag::SEQUENCE, basic);
        self.put_data(out, data, &sizes);
        out.extend_from_slice(self.algorithm);
        der::put_header(out, tag::BIT_STRING, signature.len() + 1);
        out.push(0);
        out.extend_from_slice(signature);
        out.extend_from_slice(&self.certs);
    }

    fn put_data(&self, out: &mut Vec<u8>, data: &ResponseData<'_>, sizes: &Sizes) {
        der::put_header(out, tag::SEQUENCE, sizes.data);
        out.extend_from_slice(&self.responder_id);
        der::put(out, tag::GENERALIZED_TIME, &data.produced_at.generalized());
        der::put_header(out, tag::SEQUENCE, sizes.singles);
        for single in data.singles {
            single.put(out);
        }
        put_extensions(out, data.extensions);
    }
}

/// Octets of `[1] EXPLICIT Extensions`, which is left out when it would be empty.
const fn extensions_len(extensions: &[u8]) -> usize {
    match extensions.len() {
        0 => 0,
        len => der::element_len(der::element_len(len)),
    }
}

fn put_extensions(out: &mut Vec<u8>, extensions: &[u8]) {
    if !extensions.is_empty() {
        der::put_header(out, tag::explicit(1), der::element_len(extensions.len()));
        der::put(out, tag::SEQUENCE, extensions);
    }
}

/// Content lengths of the nested parts of a ResponseData.
struct Sizes {
    singles: usize,
    data: usize,
}

impl Sizes {
    fn of(template: &Template, data: &ResponseData<'_>) -> Self {
        let singles = data.singles.iter().map(|single| der::element_len(single.content_len())).sum();
        let extensions = extensions_len(data.extensions);
        Self { singles, data: template.responder_id.len() + TIME_LEN + der::element_len(singles) + extensions }
    }
}

impl Single<'_> {
    fn content_len(&self) -> usize {
        let times = TIME_LEN + der::element_len(TIME_LEN);
        self.cert_id.len() + self.status.len() + times + extensions_len(self.extensions)
    }

    fn put(&self, out: &mut Vec<u8>) {
        der::put_header(out, tag::SEQUENCE, self.content_len());
        out.extend_from_slice(self.cert_id);
        self.status.put(out);
        der::put(out, tag::GENERALIZED_TIME, &self.this_update.generalized());
        der::put_header(out, tag::explicit(0), TIME_LEN);
        der::put(out, tag::GENERALIZED_TIME, &self.next_update.generalized());
        put_extensions(out, self.extensions);
    }
}

impl CertStatus {
    const fn len(&self) -> usize {
        match self {
            Self::Good | Self::Unknown => 2,
            Self::Revoked(Revocation { reason: Reason::Unspecified, .. }) => 2 + TIME_LEN,
            Self::Revoked(_) => 2 + TIME_LEN + 5,
        }
    }

    /// OCSP-02.
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Good => out.extend_from_slice(&[tag::implicit(0), 0]),
            Self::Unknown => out.extend_from_slice(&[tag::implicit(2), 0]),
            Self::Revoked(revocation) => {
                der::put_header(out, tag::explicit(1), self.len() - 2);
                der::put(out, tag::GENERALIZED_TIME, &revocation.at.generalized());
                if revocation.reason != Reason::Unspecified {
                    let code = revocation.reason.code();
                    out.extend_from_slice(&[tag::explicit(0), 3, tag::ENUMERATED, 1, code]);
                }
            }
        }
    }
}

/// What a client reads out of an OCSPResponse.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// responseStatus other than successful.
    Failure(u8),
    /// A BasicOCSPResponse.
    Basic(Basic<'a>),
}

/// The parts of a BasicOCSPResponse.
#[derive(Debug)]
pub struct Basic<'a> {
    /// What the signature covers.
    pub data: &'a [u8],
    /// The ResponderID, with its tag.
    pub responder_id: &'a [u8],
    /// producedAt.
    pub produced_at: Time,
    /// The SingleResponses in their order.
    pub singles: Vec<Single<'a>>,
    /// Content of the nonce's extnValue.
    pub nonce: Option<&'a [u8]>,
    /// The AlgorithmIdentifier of the signature.
    pub algorithm: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
    /// The certificates that came along, in DER.
    pub certificates: Vec<&'a [u8]>,
}

/// What a client sees of an OCSPResponse at a glance.
#[derive(Clone, Copy, Debug)]
pub enum Glance<'a> {
    /// responseStatus other than successful.
    Failure(u8),
    /// A BasicOCSPResponse.
    Basic {
        /// The first SingleResponse that was looked for, if there is one.
        single: Option<Single<'a>>,
        /// Content of the nonce's extnValue.
        nonce: Option<&'a [u8]>,
    },
}

/// Reads an OCSPResponse.
///
/// # Errors
/// Whatever is not as RFC 6960 4.2.1 has it, a missing nextUpdate (OCSP-41) and an unknown critical
/// extension included.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Error> {
    let (mut singles, mut certificates) = (Vec::new(), Vec::new());
    Ok(match read(bytes, |single| singles.push(single), |der| certificates.push(der))? {
        Err(status) => Parsed::Failure(status),
        Ok(Outline { data, responder_id, produced_at, nonce, algorithm, signature }) => {
            Parsed::Basic(Basic { data, responder_id, produced_at, singles, nonce, algorithm, signature, certificates })
        }
    })
}

/// Reads an OCSPResponse as strictly as [`parse`] does, without allocating, and keeps the first SingleResponse
/// whose CertID `is_meant` is true of.
///
/// # Errors
/// As [`parse`].
pub fn glance<'a>(bytes: &'a [u8], is_meant: impl Fn(&[u8]) -> bool) -> Result<Glance<'a>, Error> {
    let mut meant = None;
    let keep = |single: Single<'a>| {
        if meant.is_none() && is_meant(single.cert_id) {
            meant = Some(single);
        }
    };
    Ok(match read(bytes, keep, |_| {})? {
        Err(status) => Glance::Failure(status),
        Ok(outline) => Glance::Basic { single: meant, nonce: outline.nonce },
    })
}

/// A BasicOCSPResponse without its lists.
struct Outline<'a> {
    data: &'a [u8],
    responder_id: &'a [u8],
    produced_at: Time,
    nonce: Option<&'a [u8]>,
    algorithm: &'a [u8],
    signature: &'a [u8],
}

/// Shows every SingleResponse and certificate on the way. The inner error is a responseStatus other than successful.
fn read<'a>(
    bytes: &'a [u8],
    single: impl FnMut(Single<'a>),
    certificate: impl FnMut(&'a [u8]),
) -> Result<Result<Outline<'a>, u8>, Error> {
    let mut response = der::outer(bytes, tag::SEQUENCE)?;
    let &[status] = response.value(tag::ENUMERATED)? else { return Err(Error::Value) };
    if status != 0 {
        response.finish()?;
        return Ok(Err(status));
    }
    let mut explicit = response.nested(tag::explicit(0))?;
    response.finish()?;
    let mut response_bytes = explicit.nested(tag::SEQUENCE)?;
    explicit.finish()?;
    if response_bytes.element(tag::OID)?.raw != BASIC {
        return Err(Error::Value);
    }
    let basic = response_bytes.value(tag::OCTET_STRING)?;
    response_bytes.finish()?;
    read_basic(basic, single, certificate).map(Ok)
}

fn read_basic<'a>(
    bytes: &'a [u8],
    mut single: impl FnMut(Single<'a>),
    mut certificate: impl FnMut(&'a [u8]),
) -> Result<Outline<'a>, Error> {
    let mut basic = der::outer(bytes, tag::SEQUENCE)?;
    let data = basic.element(tag::SEQUENCE)?;
    let algorithm = basic.element(tag::SEQUENCE)?.raw;
    let [0, signature @ ..] = basic.value(tag::BIT_STRING)? else { return Err(Error::Value) };
    if let Some(certs) = basic.optional(tag::explicit(0))? {
        let mut list = der::outer(certs, tag::SEQUENCE)?;
        while !list.is_empty() {
            certificate(list.element(tag::SEQUENCE)?.raw);
        }
    }
    basic.finish()?;

    let mut fields = Reader::new(data.value);
    fields.optional(tag::explicit(0))?;
    let responder_id = fields.any()?.raw;
    let produced_at = generalized(&mut fields)?;
    let mut list = fields.nested(tag::SEQUENCE)?;
    while !list.is_empty() {
        single(parse_single(list.nested(tag::SEQUENCE)?)?);
    }
    let mut nonce = None;
    if let Some(extensions) = fields.optional(tag::explicit(1))? {
        each_extension(extensions, |oid, value| {
            if oid == NONCE {
                nonce = Some(value);
            }
            oid == NONCE
        })?;
    }
    fields.finish()?;
    Ok(Outline { data: data.raw, responder_id, produced_at, nonce, algorithm, signature })
}

fn parse_single(mut fields: Reader<'_>) -> Result<Single<'_>, Error> {
    let cert_id = fields.element(tag::SEQUENCE)?.raw;
    let status = fields.any()?;
    let status = match status.tag {
        0x80 => CertStatus::Good,
        0x82 => CertStatus::Unknown,
        0xa1 => CertStatus::Revoked(parse_revoked(Reader::new(status.value))?),
        _ => return Err(Error::Value),
    };
    let this_update = generalized(&mut fields)?;
    let mut explicit = fields.nested(tag::explicit(0))?;
    let next_update = generalized(&mut explicit)?;
    explicit.finish()?;
    let mut extensions: &[u8] = &[];
    if let Some(found) = fields.optional(tag::explicit(1))? {
        each_extension(found, |_, _| false)?;
        extensions = der::outer(found, tag::SEQUENCE)?.rest();
    }
    fields.finish()?;
    Ok(Single { cert_id, status, this_update, next_update, extensions })
}

fn parse_revoked(mut fields: Reader<'_>) -> Result<Revocation, Error> {
    let at = generalized(&mut fields)?;
    let reason = match fields.optional(tag::explicit(0))? {
        None => Reason::Unspecified,
        Some([tag::ENUMERATED, 1, code]) => Reason::from_code(*code).ok_or(Error::Value)?,
        Some(_) => return Err(Error::Value),
    };
    fields.finish()?;
    Ok(Revocation { at, reason, invalidity_date: None })
}

fn generalized(fields: &mut Reader<'_>) -> Result<Time, Error> {
    Time::from_generalized(fields.value(tag::GENERALIZED_TIME)?).ok_or(Error::Value)
}

/// Shows every extension to `known`; one that is critical and not known is an error.
fn each_extension<'a>(extensions: &'a [u8], mut known: impl FnMut(&'a [u8], &'a [u8]) -> bool) -> Result<(), Error> {
    let mut list = der::outer(extensions, tag::SEQUENCE)?;
    while !list.is_empty() {
        let mut extension = list.nested(tag::SEQUENCE)?;
        let oid = extension.element(tag::OID)?.raw;
        let critical = extension.default_false()?;
        let value = extension.value(tag::OCTET_STRING)?;
        extension.finish()?;
        if !known(oid, value) && critical {
            return Err(Error::Value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn revoked(reason: Reason) -> CertStatus {
        CertStatus::Revoked(Revocation { at: Time::from_unix(1_000_000_000), reason, invalidity_date: None })
    }

    fn status_der(status: CertStatus) -> Vec<u8> {
        let mut out = Vec::new();
        status.put(&mut out);
        assert_eq!(out.len(), status.len());
        out
    }

    #[test]
    fn ocsp_02_status_bytes() {
        assert_eq!(status_der(CertStatus::Good), [0x80, 0]);
        assert_eq!(status_der(CertStatus::Unknown), [0x82, 0]);
        assert_eq!(status_der(revoked(Reason::Unspecified)), b"\xa1\x11\x18\x0f20010909014640Z");
        assert_eq!(
            status_der(revoked(Reason::CertificateHold)),
            b"\xa1\x16\x18\x0f20010909014640Z\xa0\x03\x0a\x01\x06"
        );
    }

    #[test]
    fn ocsp_60_nonce_bytes() {
        let value = der::element(tag::OCTET_STRING, &[&[0xcc; 32]]);
        let expected = [&[0x30, 0x2f, 6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2, 4, 0x22, 4, 0x20][..], &[0xcc; 32]];
        assert_eq!(nonce_extension(&value), expected.concat());
    }

    #[test]
    fn ocsp_72_74_76_80_and_ch_01_extension_bytes() {
        let at = Time::from_unix(1_000_000_000);
        assert_eq!(
            archive_cutoff_extension(at),
            [&[0x30, 0x1e, 6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 6, 4, 0x11, 0x18, 0x0f][..], b"20010909014640Z"]
                .concat()
        );
        assert_eq!(extended_revoke_extension(), [0x30, 0x0f, 6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 9, 4, 2, 5, 0]);
        assert_eq!(
            invalidity_date_extension(at),
            [&[0x30, 0x18, 6, 3, 0x55, 0x1d, 0x18, 4, 0x11, 0x18, 0x0f][..], b"20010909014640Z"].concat()
        );
        let hash = cert_hash_extension(&[9; 32]);
        let head = [0x30, 0x3a, 6, 5, 0x2b, 0x24, 8, 3, 0x0d, 4, 0x31, 0x30, 0x2f, 0x30, 0x0b, 6, 9];
        assert_eq!(hash[..head.len()], head);
        assert_eq!(hash[hash.len() - 34..], [&[4, 32][..], &[9; 32]].concat());
        let id = crl_id_extension("http://a/b");
        let tail = [&[4, 0x10, 0x30, 0x0e, 0xa0, 0x0c, 0x16, 0x0a][..], b"http://a/b"].concat();
        assert_eq!(id[id.len() - tail.len()..], tail);
    }

    #[test]
    fn what_is_rendered_is_read_back_and_the_signed_part_stands_in_it() {
        let template = Template {
            responder_id: [&[0xa2, 0x16, 4, 0x14][..], &[9; 20]].concat(),
            algorithm: &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70],
            certs: Vec::new(),
        };
        let cert_id = super::super::request::encode_cert_id(
            &crate::pki::issuer::IssuerHashes { algorithm: HashAlgorithm::Sha256, name: vec![1; 32], key: vec![2; 32] },
            &[0x7b; 16],
        );
        let extensions = nonce_extension(&[4, 1, 0xee]);
        for status in [CertStatus::Good, CertStatus::Unknown, revoked(Reason::KeyCompromise)] {
            for extensions in [&[][..], &extensions] {
                for signature in [&[5; 64][..], &[5; 256]] {
                    let now = Time::from_unix(1_795_000_000);
                    let single =
                        Single { cert_id: &cert_id, status, this_update: now, next_update: Time::MAX, extensions };
                    let data = ResponseData { produced_at: now, singles: &[single, single], extensions };
                    let whole = template.respond(&data, signature);
                    let Parsed::Basic(basic) = parse(&whole).unwrap() else { panic!("not a basic response") };
                    assert_eq!(basic.data, template.to_be_signed(&data));
                    assert_eq!(basic.singles.len(), 2);
                    assert_eq!(basic.singles[1].status, status);
                    assert_eq!(basic.singles[0].cert_id, cert_id);
                    assert_eq!(basic.singles[1].extensions, extensions);
                    assert_eq!(basic.singles[0].next_update, Time::MAX);
                    assert_eq!((basic.signature, basic.responder_id), (signature, &template.responder_id[..]));
                    assert_eq!(basic.nonce.is_some(), !extensions.is_empty());
                    let seen = |id: &[u8]| match glance(&whole, |found| found == id).unwrap() {
                        Glance::Basic { single, nonce } => {
                            assert_eq!(nonce, basic.nonce);
                            single.map(|single| single.status)
                        }
                        Glance::Failure(code) => panic!("failure {code}"),
                    };
                    assert_eq!((seen(&cert_id), seen(b"another")), (Some(status), None));
                }
            }
        }
    }

    #[test]
    fn ocsp_27_failures_are_five_constant_octets() {
        for failure in [
            Failure::MalformedRequest,
            Failure::InternalError,
            Failure::TryLater,
            Failure::SigRequired,
            Failure::Unauthorized,
        ] {
            let code = failure as u8;
            assert_eq!(failure.der(), [0x30, 3, 0x0a, 1, code]);
            assert!(matches!(parse(failure.der()), Ok(Parsed::Failure(found)) if found == code));
        }
    }
}
