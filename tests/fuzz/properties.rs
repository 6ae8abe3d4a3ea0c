//! What must hold for any bytes: shared by the fuzz targets and by the tests that replay their corpora.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jarchy::http::ocsp_request_in_path;
use jarchy::index::{Index, Record};
use jarchy::metrics::Metrics;
use jarchy::ocsp::request::{self, Limits, encode, encode_cert_id};
use jarchy::ocsp::response::{self, Parsed};
use jarchy::ocsp::{Authority, Client, Credential, NotIssued, Policy, Responder};
use jarchy::pki::{Certificate, HashAlgorithm, Issuer, ManualClock, Serial, Status, Time};
use jarchy::sign::Signer;
use rcgen::{CertificateParams, DnType, KeyPair, KeyUsagePurpose};
use std::io::Write;
use std::sync::{Arc, LazyLock};

/// A responder that answers for the serials 1 to 3, the third of which is revoked, and signs that it does
/// not know all others.
pub struct Setup {
    responder: Responder,
    pub issuer: Arc<Issuer>,
}

pub static SETUP: LazyLock<Setup> = LazyLock::new(|| {
    // Always the same key, so that the corpora stay valid requests; made for this alone.
    let key = KeyPair::from_pem(include_str!("ca.key")).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "fuzz");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let certificate = Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(key.serialize_pem().as_bytes()).unwrap();
    let signer = Arc::new(Signer::from_file(file.path(), &certificate).unwrap());
    let issuer = Arc::new(Issuer { name: "fuzz".parse().unwrap(), certificate });
    let (now, index) = (Time::from_unix(1_795_000_000), Arc::new(Index::new()));
    let revoked = Status::Revoked(jarchy::pki::Revocation {
        at: now,
        reason: jarchy::pki::Reason::KeyCompromise,
        invalidity_date: None,
    });
    index.load((1..=3).map(|n| (serial(n), record(if n == 3 { revoked } else { Status::Good }))).collect());
    index.vouch(now);
    index.set_complete();
    let credentials = vec![Credential::new(1, signer, None)];
    let policy = Policy { not_issued: NotIssued::Unknown, ..Policy::default() };
    let authority = Authority::new(Arc::clone(&issuer), index, credentials, policy, now).unwrap();
    let clock = Arc::new(ManualClock::new(now));
    let responder = Responder::new(vec![authority], 1 << 20, Limits::default(), clock, Metrics::new());
    Setup { responder, issuer }
});

fn serial(n: u8) -> Serial {
    Serial::from_content(&[n; 16]).unwrap()
}

fn record(status: Status) -> Record {
    let (not_before, not_after) = (Time::default(), Time::MAX);
    Record { not_before, not_after, status, since: Time::default(), sha256: None }
}

/// Valid requests, for a corpus to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for hash in HashAlgorithm::ALL {
        for n in [1, 3, 9] {
            let cert_id = encode_cert_id(&SETUP.issuer.hashes(hash), serial(n).as_bytes());
            all.push(encode(&cert_id, None));
            all.push(encode(&cert_id, Some(&[n; 32])));
        }
    }
    all
}

/// Bytes as an OCSPRequest: what is read stands where it stood, and what is answered is an OCSPResponse.
pub fn ocsp_request(bytes: &[u8]) {
    if let Ok(request) = request::parse(bytes, Limits::default()) {
        assert!((1..=Limits::default().cert_ids).contains(&request.count));
        assert_eq!(request.cert_ids().count(), request.count);
        for cert_id in request.cert_ids() {
            let stands = |part: &[u8]| {
                bytes.as_ptr_range().start <= part.as_ptr() && part.as_ptr_range().end <= bytes.as_ptr_range().end
            };
            assert!(stands(cert_id.raw) && stands(cert_id.serial) && cert_id.serial.len() <= 21);
            // A CertID alone in a request of our own is read as the same.
            let again = encode(cert_id.raw, None);
            let again = request::parse(&again, Limits::default()).unwrap();
            assert_eq!(again.cert_ids().next().map(|id| id.raw), Some(cert_id.raw));
        }
        _ = request.preferred_algorithms().count();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let reply = runtime.block_on(SETUP.responder.answer(Client::LOCAL, None, bytes));
    match response::parse(&reply.body).unwrap() {
        Parsed::Failure(code) => assert!(matches!(code, 1 | 3 | 6), "{code}"),
        Parsed::Basic(basic) => {
            // Promise 11.
            let request = request::parse(bytes, Limits::default()).unwrap();
            let asked: Vec<_> = request.cert_ids().map(|id| id.raw).collect();
            assert_eq!(basic.singles.iter().map(|single| single.cert_id).collect::<Vec<_>>(), asked);
        }
    }
}

/// Bytes as the raw path of a `GET`: whatever decodes is found again in its canonical spelling.
pub fn http_get_path(bytes: &[u8]) {
    let Ok(path) = std::str::from_utf8(bytes) else { return };
    for path in [path.to_owned(), format!("/ocsp/{path}"), format!("/ocsp/ca/{path}")] {
        let Some(request) = ocsp_request_in_path(&path, |name| name == "ca") else { continue };
        assert!(!request.is_empty() && request.len() <= path.len());
        // Base64 that begins with a slash cannot be told from a slash too many.
        if request.first().is_some_and(|octet| octet >> 2 != 0x3f) {
            let canonical = format!("/ocsp/ca/{}", STANDARD.encode(&request));
            assert_eq!(ocsp_request_in_path(&canonical, |name| name == "ca").as_ref(), Some(&request));
            let escaped = canonical.replace('+', "%2B").replace("=", "%3d");
            assert_eq!(ocsp_request_in_path(&escaped, |name| name == "ca"), Some(request));
        }
    }
}
