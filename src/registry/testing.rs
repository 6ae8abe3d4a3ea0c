//! A CA made on the spot, for tests of the issuance database and of the commands on it.
#![allow(clippy::unwrap_used)]

use super::Audit;
use crate::pki::{Certificate, Time};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyPair, SerialNumber, date_time_ymd};

/// A CA with its key.
#[derive(Debug)]
pub(crate) struct TestCa {
    signer: rcgen::Issuer<'static, KeyPair>,
    pub(crate) certificate: Certificate,
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap();
        Self { signer: rcgen::Issuer::new(params, key), certificate }
    }

    /// A certificate that is valid from the start of the one year to the start of the other.
    pub(crate) fn issue(&self, serial: &[u8], years: (i32, i32)) -> Certificate {
        self.issue_with(serial, years, Vec::new())
    }

    pub(crate) fn issue_with(&self, serial: &[u8], years: (i32, i32), extensions: Vec<CustomExtension>) -> Certificate {
        let mut params = named("holder");
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions = extensions;
        let made = params.signed_by(&KeyPair::generate().unwrap(), &self.signer).unwrap();
        Certificate::from_der(made.der()).unwrap()
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

pub(crate) fn pem(certificate: &Certificate) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate.der());
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

pub(crate) fn audit() -> Audit {
    Audit { actor: "tester".to_owned(), received_at: Time::from_unix(1_795_000_000) }
}
