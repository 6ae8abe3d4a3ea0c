//! Makes the folder of a demo: a CA with keys, what it issued and revoked, and a config that serves it.
//!
//! Goes in: a folder and the address that will be listened on, which stands in every certificate. Comes
//! out: the folder, complete. It is made under another name beside its place and renamed at the end, so
//! that a half-made one cannot be found there.

use crate::cli::init::{DATABASE, Template, write_new};
use crate::config;
use crate::der::{self, tag};
use crate::pki::{Certificate, Clock, Reason, Revocation, Serial, Status, SystemClock, Time};
use crate::registry::{Audit, Medium, NewCertificate, Registry};
use anyhow::{Context, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// What URLs and the database call the demo's CA.
pub(super) const ISSUER: &str = "demo";
/// Certificates in the database, the named ones included.
pub(super) const ISSUED: usize = 10_000;

const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// Among the unnamed, one in so many is revoked: with 10,000, 98 of them, twelve for each reason.
const ONE_REVOKED_IN: usize = 102;
/// id-ad-ocsp and id-ad-caIssuers in DER (RFC 5280 4.2.2.1).
const AD_OCSP: &[u8] = &[tag::OID, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 1];
const AD_CA_ISSUERS: &[u8] = &[tag::OID, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 2];
/// authorityInfoAccess, id-pkix-ocsp-nocheck, id-kp-documentSigning (RFC 9336).
const AUTHORITY_INFO_ACCESS: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 1, 1];
const OCSP_NOCHECK: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 48, 1, 5];
const DOCUMENT_SIGNING: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 36];

/// A certificate that gets a file of its own.
struct Named {
    file: &'static str,
    /// From notBefore to notAfter.
    validity: (Time, Time),
    status: Status,
    renews: Option<Serial>,
    /// Whether the database knows it.
    issued: bool,
}

/// The URL under which `addr` is reached from this machine, without a slash at its end.
pub(super) fn base_url(addr: SocketAddr) -> String {
    let mut reached = addr;
    if addr.ip().is_unspecified() {
        let loopback = if addr.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        reached.set_ip(loopback);
    }
    format!("http://{reached}")
}

/// Makes `dir`, which must be missing or empty, for a server that listens on `addr`.
///
/// # Errors
/// If something else is in the folder, or it cannot be written.
pub async fn make(dir: &Path, addr: SocketAddr) -> anyhow::Result<()> {
    let dir = std::path::absolute(dir)?;
    let occupied = std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(
        !occupied,
        "{} is there, is not empty and holds no {}: choose another --dir, or empty it",
        dir.display(),
        config::FILE_NAME
    );
    let parent = dir.parent().context("the root of the file system cannot hold a demo")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let half_made = tempfile::Builder::new()
        .prefix(".jarchy-demo-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(parent)
        .with_context(|| format!("cannot make a folder in {}", parent.display()))?;
    fill(half_made.path(), addr).await?;
    std::fs::rename(half_made.path(), &dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // It has moved: there is nothing left to clean up.
    let _ = half_made.keep();
    Ok(())
}

async fn fill(dir: &Path, addr: SocketAddr) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let centre = Centre::new(addr, now)?;
    write_new(&dir.join("ca.pem"), centre.certificate.pem().as_bytes(), 0o644)?;
    write_key(&dir.join("ca.key"), centre.issuer.key())?;
    centre.write_delegate(dir, now)?;

    let mut rows = centre.unnamed(now)?;
    let renewed = rows.first().context("there are unnamed certificates")?.serial;
    for (at, named) in all_named(now, renewed).into_iter().enumerate() {
        let row = centre.write_named(dir, at, &named)?;
        if named.issued {
            rows.push(row);
        }
    }
    let ca = Certificate::from_der(centre.certificate.der())?;
    write_database(&dir.join(DATABASE), &ca, &rows, now).await?;

    let template = Template {
        title: "The demo of Jarchy. Its CA is for trying things out: trust it with nothing.".to_owned(),
        listen: Some(addr),
        admin: false,
        public_url: Some(base_url(addr)),
        issuer: ISSUER.parse()?,
        certificate: "ca.pem".to_owned(),
        crl_only: false,
        delegate: Some(("ocsp.pem".to_owned(), "ocsp.key".to_owned())),
        ca_key: Some("ca.key".to_owned()),
        database: None,
        database_file: None,
        state: None,
        database_password_file: None,
        database_ca: None,
    };
    write_new(&dir.join(config::FILE_NAME), template.to_string().as_bytes(), 0o644)
}

/// Each of them shows another answer; `renewed` is the serial that the renewal follows.
fn all_named(now: Time, renewed: Serial) -> [Named; 7] {
    let revoked = |at, reason| Status::Revoked(Revocation { at, reason, invalidity_date: None });
    let current = (now - DAY * 30, now + DAY * 335);
    let one = |file, validity, status| Named { file, validity, status, renews: None, issued: true };
    let stolen = Revocation { at: now - DAY * 3, reason: Reason::KeyCompromise, invalidity_date: Some(now - DAY * 5) };
    [
        one("good", current, Status::Good),
        one("revoked-key-compromise", current, Status::Revoked(stolen)),
        one("on-hold", current, revoked(now - DAY, Reason::CertificateHold)),
        Named { renews: Some(renewed), ..one("renewal", (now + DAY * 7, now + DAY * 7 + YEAR), Status::Good) },
        one("expired", (now - DAY * 30 - YEAR, now - DAY * 30), Status::Good),
        one(
            "expired-revoked",
            (now - DAY * 40 - YEAR, now - DAY * 40),
            revoked(now - DAY * 200, Reason::CessationOfOperation),
        ),
        Named { issued: false, ..one("not-issued", current, Status::Good) },
    ]
}

/// The demo's CA.
struct Centre {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    random: SystemRandom,
    /// AIA, whole, as it stands in every certificate that it issues.
    access: Vec<u8>,
    crl_url: String,
}

impl Centre {
    fn new(addr: SocketAddr, now: Time) -> anyhow::Result<Self> {
        let (url, random, key) = (base_url(addr), SystemRandom::new(), KeyPair::generate()?);
        let mut params = params(&random, "Jarchy Demo Certification Centre", (now - YEAR * 3, now + YEAR * 17))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let description = |method: &[u8], path: &str| {
            let location = der::element(tag::implicit(6), &[url.as_bytes(), path.as_bytes()]);
            der::element(tag::SEQUENCE, &[method, &location])
        };
        let (ocsp, ca) = (description(AD_OCSP, "/ocsp"), description(AD_CA_ISSUERS, &format!("/ca/{ISSUER}.cer")));
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
            random,
            access: der::element(tag::SEQUENCE, &[&ocsp, &ca]),
            crl_url: format!("{url}/crl/{ISSUER}.crl"),
        })
    }

    /// The delegate that signs OCSP responses (RFC 6960 4.2.2.2). With nocheck and short of AIA and CRLDP,
    /// nobody asks about it: in earnest its life would be weeks.
    fn write_delegate(&self, dir: &Path, now: Time) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let mut params = params(&self.random, "Jarchy Demo OCSP", (now - DAY, now + YEAR * 5))?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        params.custom_extensions = vec![CustomExtension::from_oid_content(OCSP_NOCHECK, vec![tag::NULL, 0])];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        write_new(&dir.join("ocsp.pem"), certificate.pem().as_bytes(), 0o644)?;
        write_key(&dir.join("ocsp.key"), &key)
    }

    /// What all certificates that it issues to holders have in common.
    fn holder_params(&self, subject: &str, validity: (Time, Time)) -> anyhow::Result<CertificateParams> {
        let mut params = params(&self.random, subject, validity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(DOCUMENT_SIGNING.to_vec())];
        params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![self.crl_url.clone()] }];
        params.custom_extensions = vec![CustomExtension::from_oid_content(AUTHORITY_INFO_ACCESS, self.access.clone())];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    /// The many, issued evenly over the last eleven months and all to one key. The first is about to expire.
    fn unnamed(&self, now: Time) -> anyhow::Result<Vec<NewCertificate>> {
        let count = ISSUED - all_named(now, Serial::from_content(&[1])?).iter().filter(|named| named.issued).count();
        let (key, mut rows) = (KeyPair::generate()?, Vec::with_capacity(ISSUED));
        let mut reasons = Reason::ALL.into_iter().filter(|reason| *reason != Reason::CertificateHold).cycle();
        for at in 0..count {
            let age = if at == 0 { DAY * 355 } else { DAY * 330 * u32::try_from(at)? / u32::try_from(count)? };
            let not_before = now - age;
            let reason = if at % ONE_REVOKED_IN == ONE_REVOKED_IN / 2 { reasons.next() } else { None };
            let status = reason.map_or(Status::Good, |reason| Status::Revoked(revocation(reason, not_before, age)));
            rows.push(self.unnamed_one(at, (not_before, not_before + YEAR), status, &key)?);
        }
        Ok(rows)
    }

    fn unnamed_one(
        &self,
        at: usize,
        validity: (Time, Time),
        status: Status,
        key: &KeyPair,
    ) -> anyhow::Result<NewCertificate> {
        let (holder, medium) = holder(at);
        let params = self.holder_params(&format!("{holder} {}", medium.name()), validity)?;
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(NewCertificate {
            holder: Some(holder),
            medium: Some(medium),
            ..row(&params, &certificate, validity, status)?
        })
    }

    /// Writes a certificate and its key, which TLS servers, clients and browsers can be tried with too.
    fn write_named(&self, dir: &Path, at: usize, named: &Named) -> anyhow::Result<NewCertificate> {
        let key = KeyPair::generate()?;
        let mut params = self.holder_params(&format!("Jarchy demo: {}", named.file), named.validity)?;
        params.subject_alt_names = vec![rcgen::SanType::DnsName("localhost".try_into()?)];
        params.extended_key_usages.extend([ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]);
        let certificate = params.signed_by(&key, &self.issuer)?;
        write_new(&dir.join(format!("{}.pem", named.file)), certificate.pem().as_bytes(), 0o644)?;
        write_key(&dir.join(format!("{}.key", named.file)), &key)?;
        // The renewal belongs to the holder of what it renews, the first of the unnamed.
        let (holder, medium) = holder(if named.renews.is_some() { 0 } else { ISSUED + at });
        let made = row(&params, &certificate, named.validity, named.status)?;
        Ok(NewCertificate { holder: Some(holder), medium: Some(medium), renews: named.renews, ..made })
    }
}

/// Every company holds a certificate on a token and one in the cloud.
fn holder(at: usize) -> (String, Medium) {
    (format!("company-{:04}", at / 2 + 1), if at.is_multiple_of(2) { Medium::Token } else { Medium::Cloud })
}

/// A revocation in the middle of a certificate's life so far.
fn revocation(reason: Reason, not_before: Time, age: Duration) -> Revocation {
    let at = not_before + age / 2;
    let leaked = matches!(reason, Reason::KeyCompromise | Reason::CaCompromise | Reason::AaCompromise);
    Revocation { at, reason, invalidity_date: leaked.then(|| not_before + age / 3) }
}

fn params(random: &SystemRandom, name: &str, (from, until): (Time, Time)) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Jarchy Demo");
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&random_serial(random)?));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + from.since(Time::default());
    params.not_after = epoch + until.since(Time::default());
    Ok(params)
}

/// 16 random octets that are the shortest form of a number greater than zero.
fn random_serial(random: &SystemRandom) -> anyhow::Result<[u8; 16]> {
    let mut serial = [0; 16];
    while serial[0] == 0 {
        random.fill(&mut serial).ok().context("the system gives no random numbers")?;
        serial[0] &= 0x7f;
    }
    Ok(serial)
}

fn row(
    params: &CertificateParams,
    certificate: &rcgen::Certificate,
    validity: (Time, Time),
    status: Status,
) -> anyhow::Result<NewCertificate> {
    let serial = params.serial_number.as_ref().context("every certificate has a serial number")?.to_bytes();
    Ok(NewCertificate {
        issuer: ISSUER.parse()?,
        serial: Serial::from_content(&serial)?,
        not_before: validity.0,
        not_after: validity.1,
        sha256: Some(crate::pki::hash::sha256(certificate.der())),
        holder: None,
        medium: None,
        renews: None,
        shard: None,
        ca: Some(matches!(params.is_ca, IsCa::Ca(_))),
        status,
    })
}

fn write_key(path: &Path, key: &KeyPair) -> anyhow::Result<()> {
    write_new(path, key.serialize_pem().as_bytes(), 0o600)
}

async fn write_database(path: &Path, ca: &Certificate, rows: &[NewCertificate], now: Time) -> anyhow::Result<()> {
    let registry = Registry::create(path).await?;
    registry.add_issuer(&ISSUER.parse()?, ca).await?;
    let audit = Audit { actor: "jarchy demo".to_owned(), received_at: now };
    for added in registry.add(rows, &audit).await? {
        added?;
    }
    // The folder is renamed next: SQLite must have let go of it.
    registry.close().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Config, OcspSigner};
    use crate::ocsp::authority;
    use crate::sign::{Signer, verify};
    use crate::{db, registry};
    use std::collections::HashMap;

    fn certificate(dir: &Path, name: &str) -> Certificate {
        Certificate::from_file_bytes(&std::fs::read(dir.join(name)).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_demo_holds_what_it_promises() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("to/demo");
        make(&dir, "127.0.0.1:4711".parse().unwrap()).await.unwrap();
        let now = SystemClock.now();
        let ca = certificate(&dir, "ca.pem");

        let config = Config::load(&dir.join("jarchy.toml")).unwrap();
        assert_eq!(config.server.listen.port(), 4711);
        let issuer = config.issuer(ISSUER).unwrap();
        Signer::from_file(&issuer.crl.as_ref().unwrap().key, &ca).unwrap();
        let [OcspSigner::Delegate { key, .. }] = &issuer.ocsp.signers[..] else { panic!("a delegate answers") };
        let delegate = certificate(&dir, "ocsp.pem");
        Signer::from_file(key, &delegate).unwrap();
        authority::check(&delegate, Some(&ca), now).unwrap();
        assert!(delegate.ocsp_nocheck && ca.may_sign_crls());

        let registry = Registry::open(&config.database.place).await.unwrap();
        let name = ISSUER.parse().unwrap();
        let mut found = Vec::new();
        for file in ["good", "revoked-key-compromise", "on-hold", "renewal", "expired", "expired-revoked", "not-issued"]
        {
            let named = certificate(&dir, &format!("{file}.pem"));
            verify::issued_by(&named, &ca).unwrap();
            Signer::from_file(&dir.join(format!("{file}.key")), &named).unwrap();
            let entry = registry.get(&name, &named.serial()).await.unwrap();
            if let Some(entry) = &entry {
                assert_eq!(entry.sha256, Some(named.sha256()), "{file}");
                assert_eq!((entry.not_before, entry.not_after), (named.not_before(), named.not_after()), "{file}");
            }
            let reason = entry.as_ref().map(|entry| entry.status.revocation().map(|revocation| revocation.reason));
            found.push((file, reason, now < named.not_before(), named.not_after() < now));
        }
        let expected = [
            ("good", Some(None), false, false),
            ("revoked-key-compromise", Some(Some(Reason::KeyCompromise)), false, false),
            ("on-hold", Some(Some(Reason::CertificateHold)), false, false),
            ("renewal", Some(None), true, false),
            ("expired", Some(None), false, true),
            ("expired-revoked", Some(Some(Reason::CessationOfOperation)), false, true),
            ("not-issued", None, false, false),
        ];
        assert_eq!(found, expected);

        let renewal = registry.get(&name, &certificate(&dir, "renewal.pem").serial()).await.unwrap().unwrap();
        let holders = registry.of_holder(&renewal.holder.unwrap(), None).await.unwrap();
        assert!(holders.iter().any(|entry| Some(entry.serial) == renewal.renews));
        let pool = db::open(&dir.join(DATABASE), &registry::KIND, db::Mode::ReadOnly).await.unwrap();
        let rows: Vec<(String, Option<u8>)> =
            sqlx::query_as("SELECT hex(serial), reason FROM certificates").fetch_all(&pool).await.unwrap();
        assert_eq!(rows.len(), ISSUED);
        let mut reasons = HashMap::new();
        for reason in rows.iter().filter_map(|(_, reason)| *reason) {
            *reasons.entry(reason).or_insert(0) += 1;
        }
        let revoked: usize = reasons.values().sum();
        assert!(reasons.len() == Reason::ALL.len() && (90..=110).contains(&revoked), "{reasons:?}");
        assert_eq!(reasons.get(&Reason::CertificateHold.code()), Some(&1));
        assert!(rows.iter().all(|(serial, _)| serial.len() == 32 && !serial.starts_with("00")));
        registry.close().await;

        let left: Vec<_> = std::fs::read_dir(dir.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        for entry in std::fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            let key = entry.path().extension().is_some_and(|extension| extension == "key");
            assert!(!key || mode == 0o600, "{:?} {mode:o}", entry.path());
        }
        let mode = std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o700, 0o700);
    }

    #[tokio::test]
    async fn what_lies_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mine"), "x").unwrap();
        let refused = make(dir.path(), "127.0.0.1:4711".parse().unwrap()).await.unwrap_err().to_string();
        assert!(refused.contains("is not empty"), "{refused}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
