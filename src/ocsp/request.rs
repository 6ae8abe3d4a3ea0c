//! Bytes from a client become a borrowed view of an OCSPRequest (RFC 6960 4.1), or nothing.
//!
//! Invariants: reading allocates nothing and its cost is bounded by [`Limits`] (SEC-02); every part that is
//! handed on stands byte for byte as it came (promise 11).
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use crate::der::{self, Error, Reader, tag};
use crate::pki::HashAlgorithm;
use crate::pki::issuer::IssuerHashes;

/// How much a request may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// CertIDs in one request; each costs a lookup and about 100 octets of the answer (SEC-04).
    pub cert_ids: usize,
    /// Extensions in one list of them.
    pub extensions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cert_ids: 20, extensions: 16 }
    }
}

/// A well-formed request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Content of requestList; every element of it has been read once.
    list: &'a [u8],
    /// Number of CertIDs, at least one.
    pub count: usize,
    /// Content of the nonce extension's extnValue, to be sent back as it is (OCSP-64).
    pub nonce: Option<&'a [u8]>,
    /// Content of the list of preferred signature algorithms, in the client's order (OCSP-78).
    preferred: &'a [u8],
    /// The signature, of which only the form has been looked at (OCSP-17).
    pub signature: Option<Signature<'a>>,
}

/// The signature of a request (RFC 6960 4.1.1); whoever needs it checks it.
#[derive(Clone, Copy, Debug)]
pub struct Signature<'a> {
    /// What it covers: the whole element tbsRequest (OCSP-16).
    pub signed: &'a [u8],
    /// Its AlgorithmIdentifier.
    pub algorithm: &'a [u8],
    /// Its octets.
    pub value: &'a [u8],
    /// The certificates that came along, one DER after another, unread.
    pub certificates: &'a [u8],
}

/// A CertID (RFC 6960 4.1.1), with its parts still where they stood in the request.
#[derive(Clone, Copy, Debug)]
pub struct CertId<'a> {
    /// The whole element.
    pub raw: &'a [u8],
    /// The AlgorithmIdentifier, with or without its NULL (OCSP-06).
    pub algorithm: &'a [u8],
    /// The algorithm, if it is one that is known here.
    pub hash: Option<HashAlgorithm>,
    /// issuerNameHash.
    pub name_hash: &'a [u8],
    /// issuerKeyHash.
    pub key_hash: &'a [u8],
    /// Content octets of the serial number, in their shortest form: 1 to 20, or 21 with a leading zero (SEC-17).
    pub serial: &'a [u8],
}

/// OBJECT IDENTIFIERs of request extensions, in DER (ALG-31).
mod oid {
    pub(super) use super::super::response::NONCE;
    pub(super) const ACCEPTABLE_RESPONSES: &[u8] = &[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 4];
    pub(super) const PREFERRED_ALGORITHMS: &[u8] = &[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 8];
}

/// Reads an OCSPRequest.
///
/// # Errors
/// Whatever is wrong; the answer is malformedRequest in any case (OCSP-21).
pub fn parse(bytes: &[u8], limits: Limits) -> Result<Request<'_>, Error> {
    let mut outer = der::outer(bytes, tag::SEQUENCE)?;
    let whole = outer.element(tag::SEQUENCE)?;
    let signature = match outer.optional(tag::explicit(0))? {
        Some(explicit) => Some(read_signature(explicit, whole.raw)?),
        None => None,
    };
    outer.finish()?;
    let mut tbs = Reader::new(whole.value);

    // OCSP-18: v1 may be spelled out; there is no other version.
    if let Some(version) = tbs.optional(tag::explicit(0))?
        && version != [tag::INTEGER, 1, 0]
    {
        return Err(Error::Value);
    }
    tbs.optional(tag::explicit(1))?;
    let list = tbs.value(tag::SEQUENCE)?;
    let Extensions { nonce, preferred } = match tbs.optional(tag::explicit(2))? {
        Some(extensions) => read_extensions(extensions, limits, true)?,
        None => Extensions::default(),
    };
    tbs.finish()?;

    let mut count = 0;
    let mut requests = Reader::new(list);
    while !requests.is_empty() {
        read_single(&mut requests, limits)?;
        count += 1;
        if count > limits.cert_ids {
            return Err(Error::Value);
        }
    }
    if count == 0 {
        return Err(Error::Value);
    }
    Ok(Request { list, count, nonce, preferred, signature })
}

impl<'a> Request<'a> {
    /// The CertIDs in their order.
    pub fn cert_ids(&self) -> impl Iterator<Item = CertId<'a>> {
        let mut requests = Reader::new(self.list);
        // They were all read by `parse`, so none is missing here.
        std::iter::from_fn(move || {
            let mut single = requests.nested(tag::SEQUENCE).ok()?;
            CertId::read(&mut single).ok()
        })
    }

    /// DER of the AlgorithmIdentifiers in which the client would like the answer signed, best first.
    pub fn preferred_algorithms(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut list = Reader::new(self.preferred);
        std::iter::from_fn(move || {
            let mut preference = list.nested(tag::SEQUENCE).ok()?;
            preference.element(tag::SEQUENCE).ok().map(|algorithm| algorithm.raw)
        })
    }
}

/// What is taken from the extensions of the whole request.
#[derive(Default)]
struct Extensions<'a> {
    nonce: Option<&'a [u8]>,
    preferred: &'a [u8],
}

fn read_signature<'a>(explicit: &'a [u8], signed: &'a [u8]) -> Result<Signature<'a>, Error> {
    let mut fields = der::outer(explicit, tag::SEQUENCE)?;
    let algorithm = fields.element(tag::SEQUENCE)?.raw;
    let [0, value @ ..] = fields.value(tag::BIT_STRING)? else { return Err(Error::Value) };
    let certificates = match fields.optional(tag::explicit(0))? {
        Some(explicit) => der::outer(explicit, tag::SEQUENCE)?.rest(),
        None => &[],
    };
    fields.finish()?;
    Ok(Signature { signed, algorithm, value, certificates })
}

fn read_single(requests: &mut Reader<'_>, limits: Limits) -> Result<(), Error> {
    let mut single = requests.nested(tag::SEQUENCE)?;
    CertId::read(&mut single)?;
    if let Some(extensions) = single.optional(tag::explicit(0))? {
        read_extensions(extensions, limits, false)?;
    }
    single.finish()
}

impl<'a> CertId<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let element = reader.element(tag::SEQUENCE)?;
        let mut fields = Reader::new(element.value);
        let algorithm = fields.element(tag::SEQUENCE)?;
        let name_hash = fields.value(tag::OCTET_STRING)?;
        let key_hash = fields.value(tag::OCTET_STRING)?;
        let serial = fields.integer()?;
        fields.finish()?;

        let mut parts = Reader::new(algorithm.value);
        let hash = HashAlgorithm::from_oid(parts.element(tag::OID)?.raw);
        if let Some(hash) = hash {
            // OCSP-06: NULL and absent are both in use; nothing else belongs to a hash.
            if parts.optional(tag::NULL)?.is_some_and(|null| !null.is_empty()) {
                return Err(Error::Value);
            }
            parts.finish()?;
            // ALG-41: lengths come from the algorithm.
            if name_hash.len() != hash.len() || key_hash.len() != hash.len() {
                return Err(Error::Value);
            }
        }
        let too_long = match serial {
            [0, rest @ ..] => rest.len() > 20,
            all => all.len() > 20,
        };
        if too_long {
            return Err(Error::Value);
        }
        Ok(Self { raw: element.raw, algorithm: algorithm.raw, hash, name_hash, key_hash, serial })
    }
}

/// Whether two CertIDs name the same certificate by the same hash: for clients, as some responders write the
/// parameters of the algorithm in their own way (OCSP-06).
#[must_use]
pub fn is_same_certificate(one: &[u8], other: &[u8]) -> bool {
    let parts = |der| {
        let id = CertId::read(&mut Reader::new(der)).ok()?;
        Some((id.hash?, id.name_hash, id.key_hash, id.serial))
    };
    one == other || parts(one).is_some_and(|one| Some(one) == parts(other))
}

/// Reads a list of extensions. `whole` is for the list that belongs to the whole request; only there do
/// nonce and preferences stand.
fn read_extensions(extensions: &[u8], limits: Limits, whole: bool) -> Result<Extensions<'_>, Error> {
    let mut list = der::outer(extensions, tag::SEQUENCE)?;
    let mut found = Extensions::default();
    let mut count = 0;
    while !list.is_empty() {
        let mut extension = list.nested(tag::SEQUENCE)?;
        let oid = extension.element(tag::OID)?.raw;
        let critical = extension.default_false()?;
        let value = extension.value(tag::OCTET_STRING)?;
        extension.finish()?;
        count += 1;
        if count > limits.extensions {
            return Err(Error::Value);
        }
        match oid {
            oid::NONCE if whole && found.nonce.is_none() && nonce_len_allowed(value) => found.nonce = Some(value),
            oid::NONCE if whole => return Err(Error::Value),
            oid::PREFERRED_ALGORITHMS if whole => found.preferred = der::outer(value, tag::SEQUENCE)?.rest(),
            // Basic responses are all that there is, and every client understands them (OCSP-73).
            oid::ACCEPTABLE_RESPONSES if whole => {}
            // OCSP-70: what is critical and unknown must not be passed over in silence.
            _ if critical => return Err(Error::Value),
            _ => {}
        }
    }
    Ok(found)
}

/// OCSP-61: 1 to 128 octets. Clients that put the raw octets where an OCTET STRING belongs are understood too (OCSP-63).
fn nonce_len_allowed(value: &[u8]) -> bool {
    let nested = der::outer(value, tag::OCTET_STRING).map(|inner| inner.rest());
    (1..=128).contains(&nested.unwrap_or(value).len())
}

/// Encodes a request for one certificate, as a client sends it; `nonce` becomes an OCTET STRING of that content.
#[must_use]
pub fn encode(cert_id: &[u8], nonce: Option<&[u8]>) -> Vec<u8> {
    let single = der::element(tag::SEQUENCE, &[cert_id]);
    let list = der::element(tag::SEQUENCE, &[&single]);
    let extensions = nonce.map_or_else(Vec::new, |nonce| {
        let extension = super::response::nonce_extension(&der::element(tag::OCTET_STRING, &[nonce]));
        der::element(tag::explicit(2), &[&der::element(tag::SEQUENCE, &[&extension])])
    });
    let tbs = der::element(tag::SEQUENCE, &[&list, &extensions]);
    der::element(tag::SEQUENCE, &[&tbs])
}

/// Encodes the CertID of a serial under an issuer's hashes, with a NULL parameter, as most clients do (OCSP-06).
#[must_use]
pub fn encode_cert_id(hashes: &IssuerHashes, serial: &[u8]) -> Vec<u8> {
    cert_id_with(hashes, &[tag::NULL, 0], serial)
}

/// The same with these parameters of the hash algorithm, NULL or nothing.
pub(super) fn cert_id_with(hashes: &IssuerHashes, parameters: &[u8], serial: &[u8]) -> Vec<u8> {
    let algorithm = der::element(tag::SEQUENCE, &[hashes.algorithm.oid(), parameters]);
    let name = der::element(tag::OCTET_STRING, &[&hashes.name]);
    let key = der::element(tag::OCTET_STRING, &[&hashes.key]);
    der::element(tag::SEQUENCE, &[&algorithm, &name, &key, &der::element(tag::INTEGER, &[serial])])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn cert_id(serial: &[u8]) -> Vec<u8> {
        let hashes = IssuerHashes { algorithm: HashAlgorithm::Sha1, name: vec![0xaa; 20], key: vec![0xbb; 20] };
        encode_cert_id(&hashes, serial)
    }

    fn list_of(cert_ids: &[Vec<u8>], extensions: &[u8]) -> Vec<u8> {
        let singles: Vec<_> = cert_ids.iter().map(|id| der::element(tag::SEQUENCE, &[id])).collect();
        let list = der::element(tag::SEQUENCE, &[&singles.concat()]);
        der::element(tag::SEQUENCE, &[&der::element(tag::SEQUENCE, &[&list, extensions])])
    }

    fn refused(bytes: &[u8]) -> bool {
        parse(bytes, Limits::default()).is_err()
    }

    #[test]
    fn ocsp_13_the_annotated_request_is_what_encode_makes_and_parse_reads() {
        let serial = [0x11; 16];
        let bytes = encode(&cert_id(&serial), None);
        assert_eq!(bytes.len(), 83);
        let head = "3051304f304d304b3049300906052b0e03021a05000414";
        assert_eq!(bytes[..23].iter().map(|b| format!("{b:02x}")).collect::<String>(), head);
        let request = parse(&bytes, Limits::default()).unwrap();
        let id = request.cert_ids().next().unwrap();
        assert_eq!((id.hash, id.serial, id.name_hash), (Some(HashAlgorithm::Sha1), &serial[..], &[0xaa; 20][..]));
        assert_eq!(id.raw, cert_id(&serial));
        assert_eq!(request.nonce, None);
    }

    #[test]
    fn ocsp_60_a_nonce_comes_back_as_it_stood() {
        let bytes = encode(&cert_id(&[1]), Some(&[7; 32]));
        let nonce = parse(&bytes, Limits::default()).unwrap().nonce.unwrap();
        assert_eq!(nonce, [&[4, 32][..], &[7; 32]].concat());
    }

    #[test]
    fn ocsp_61_nonces_of_no_or_too_many_octets_are_malformed() {
        for (len, allowed) in [(0, false), (1, true), (16, true), (128, true), (129, false)] {
            let bytes = encode(&cert_id(&[1]), Some(&vec![7; len]));
            assert_eq!(!refused(&bytes), allowed, "{len}");
        }
    }

    #[test]
    fn ocsp_06_null_and_absent_parameters_are_both_read_and_nothing_else() {
        let with_null = cert_id(&[1]);
        let mut absent = with_null.clone();
        assert_eq!(absent[2..4], [0x30, 0x09]);
        absent[3] -= 2;
        absent[1] -= 2;
        absent.drain(11..13);
        let bytes = list_of(&[with_null.clone(), absent.clone()], &[]);
        let ids: Vec<_> = parse(&bytes, Limits::default()).unwrap().cert_ids().map(|id| id.raw.to_vec()).collect();
        assert_eq!(ids, [with_null.clone(), absent.clone()]);
        assert!(is_same_certificate(&with_null, &absent));
        assert!(!is_same_certificate(&with_null, &cert_id(&[2])) && !is_same_certificate(&[], &absent));
        let mut odd = with_null;
        odd[11] = tag::OCTET_STRING;
        assert!(refused(&list_of(&[odd], &[])));
    }

    #[test]
    fn sec_17_and_18_serials_beyond_the_rules_are_malformed() {
        for good in [&[0x00][..], &[0xff], &[0x7f; 20], &[&[0][..], &[0x80; 20]].concat()] {
            assert!(!refused(&encode(&cert_id(good), None)), "{good:02x?}");
        }
        for bad in [&[][..], &[0x00, 0x7f], &[0xff, 0x80], &[0x7f; 21], &[&[0][..], &[0x80; 21]].concat()] {
            assert!(refused(&encode(&cert_id(bad), None)), "{bad:02x?}");
        }
    }

    #[test]
    fn alg_41_a_hash_of_the_wrong_length_is_malformed_and_an_unknown_algorithm_is_not() {
        let hashes = IssuerHashes { algorithm: HashAlgorithm::Sha256, name: vec![1; 20], key: vec![1; 20] };
        assert!(refused(&encode(&encode_cert_id(&hashes, &[1]), None)));
        let mut md5 = cert_id(&[1]);
        md5[10] = 0x1b;
        let bytes = encode(&md5, None);
        assert_eq!(parse(&bytes, Limits::default()).unwrap().cert_ids().next().unwrap().hash, None);
    }

    #[test]
    fn ocsp_70_only_critical_extensions_that_are_unknown_are_refused() {
        let with = |oid: &[u8], critical| {
            let extension = der::extension(oid, critical, &[tag::NULL, 0]);
            list_of(&[cert_id(&[1])], &der::element(tag::explicit(2), &[&der::element(tag::SEQUENCE, &[&extension])]))
        };
        let unknown = [6, 3, 0x55, 0x1d, 0x63];
        assert!(!refused(&with(&unknown, false)));
        assert!(refused(&with(&unknown, true)));
        assert!(!refused(&with(oid::ACCEPTABLE_RESPONSES, true)));
    }

    #[test]
    fn ocsp_78_preferred_algorithms_are_read_in_the_clients_order() {
        let [first, second] = [[0x30, 3, 6, 1, 0x2a], [0x30, 3, 6, 1, 0x2b]];
        let preference = |algorithm: &[u8]| der::element(tag::SEQUENCE, &[algorithm]);
        let value = der::element(tag::SEQUENCE, &[&preference(&first), &preference(&second)]);
        let extension = der::extension(oid::PREFERRED_ALGORITHMS, false, &value);
        let extensions = der::element(tag::explicit(2), &[&der::element(tag::SEQUENCE, &[&extension])]);
        let bytes = list_of(&[cert_id(&[1])], &extensions);
        let request = parse(&bytes, Limits::default()).unwrap();
        assert_eq!(request.preferred_algorithms().collect::<Vec<_>>(), [first, second]);
    }

    #[test]
    fn sec_02_lists_are_bounded_and_never_empty() {
        let ids = vec![cert_id(&[1]); 21];
        assert!(!refused(&list_of(&ids[..20], &[])));
        assert!(refused(&list_of(&ids, &[])));
        assert!(refused(&list_of(&[], &[])));
    }

    #[test]
    fn ocsp_18_version_1_may_be_spelled_out_and_no_other() {
        let list = der::element(tag::SEQUENCE, &[&der::element(tag::SEQUENCE, &[&cert_id(&[1])])]);
        let with = |version: &[u8]| {
            let version = der::element(tag::explicit(0), &[version]);
            der::element(tag::SEQUENCE, &[&der::element(tag::SEQUENCE, &[&version, &list])])
        };
        assert!(!refused(&with(&[2, 1, 0])));
        assert!(refused(&with(&[2, 1, 1])));
    }

    #[test]
    fn every_truncation_and_every_trailing_octet_is_malformed() {
        let bytes = encode(&cert_id(&[0x11; 16]), Some(&[7; 32]));
        for len in 0..bytes.len() {
            assert!(refused(&bytes[..len]), "{len}");
        }
        assert!(refused(&[&bytes[..], &[0]].concat()));
    }
}
