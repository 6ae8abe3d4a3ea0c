//! What other people's validators say of our lists, in every stage of a certificate's life.
//!
//! One life is lived in this process under a clock that is set by hand, and its lists are written down: a
//! certificate that is issued, put on hold, released, and revoked for good; and one that is revoked, ends,
//! is carried by one more regular list, and goes. Then each validator judges both by every list, and where
//! it knows deltas, by every complete list together with every later delta.

use crate::harness::{Said, contains, openssl, run, text};
use jarchy::crl::{
    Division, Kind, Part, Parts, Published, Publisher, PublisherConfig, Share, Shelf, part_url, shard_of,
};
use jarchy::health::Health;
use jarchy::index::{Index, Record};
use jarchy::metrics::Metrics;
use jarchy::pki::{
    Certificate, Clock, ClockGuard, Issuer, ManualClock, Reason, Revocation, Serial, Status, SystemClock, Time,
};
use jarchy::sign::Signer;
use jarchy::state::State;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tempfile::TempDir;

/// Distance of the regular slots.
const SLOT: Duration = Duration::from_secs(60);
const SHARD_URL: &str = "http://crl.example/{issuer}/{n}.crl";
/// One address for certificates of either kind.
const ONE_URL: &str = "http://crl.example/life.crl";

/// What a list says of a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Word {
    Unlisted,
    Hold,
    Revoked,
}

impl Word {
    /// As Python's cryptography names it.
    fn python(self) -> &'static str {
        match self {
            Self::Unlisted => "good",
            Self::Hold => "certificateHold",
            Self::Revoked => "keyCompromise",
        }
    }

    /// As Java names it.
    fn java(self) -> &'static str {
        match self {
            Self::Unlisted => "good",
            Self::Hold => "revoked CERTIFICATE_HOLD",
            Self::Revoked => "revoked KEY_COMPROMISE",
        }
    }
}

/// One revision of the lists.
struct Stage {
    name: &'static str,
    at: Time,
    complete: PathBuf,
    delta: Option<PathBuf>,
    /// Of the certificate that goes on, and of the one that ends.
    lasting: Word,
    ending: Word,
}

struct Life {
    dir: TempDir,
    stages: Vec<Stage>,
}

impl Life {
    fn file(&self, name: &str) -> String {
        text(&self.dir.path().join(name)).to_owned()
    }

    /// A list as PEM, which every version of OpenSSL and GnuTLS reads.
    fn pem(&self, der: &Path) -> PathBuf {
        der.with_extension("pem")
    }
}

/// The life, lived once for all tests.
fn life() -> &'static Life {
    static LIFE: OnceLock<Life> = OnceLock::new();
    LIFE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live())
    })
}

/// A CA and the two certificates that it issued.
struct House {
    dir: TempDir,
    ca: Certificate,
    start: Time,
    index: Arc<Index>,
    clock: Arc<ManualClock>,
    shelf: Arc<Shelf>,
    lasting: (Serial, Time),
    ending: (Serial, Time),
}

impl House {
    /// With a division, the certificates name the list of their part; by kind `ending` is a CA's, and both
    /// name the same list, so that nothing but its flag tells whom it is for.
    fn new(division: Option<Division>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemClock.now();
        // All stages lie in the past, so that validators without a clock of their own choice can judge too.
        let start = Time::from_unix(now.unix() - now.unix().rem_euclid(60)) - SLOT * 3;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Validators' CA");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        params.not_before = epoch + (start - SLOT).since(Time::default());
        params.not_after = epoch + (now + SLOT * 60 * 24 * 365).since(Time::default());
        let certificate = params.self_signed(&key).unwrap();
        fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        let ca = Certificate::from_der(certificate.der()).unwrap();
        let mut file = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
        file.write_all(key.serialize_pem().as_bytes()).unwrap();
        file.persist(dir.path().join("ca.key")).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        let issue = |name: &str, number: u8, until: Time| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let content = [&[number][..], &[0xe5; 15]].concat();
            params.serial_number = Some(rcgen::SerialNumber::from_slice(&content));
            params.not_before = epoch + (start - SLOT).since(Time::default());
            params.not_after = epoch + until.since(Time::default());
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            params.use_authority_key_identifier_extension = true;
            let serial = Serial::from_content(&content).unwrap();
            let url = match division {
                None => None,
                Some(Division::Shards(shards)) => {
                    Some(part_url(SHARD_URL, "", &"life".parse().unwrap(), &shard_of(&serial, shards)))
                }
                Some(Division::Kinds) => Some(ONE_URL.to_owned()),
            };
            let names = url.into_iter().map(|url| rcgen::CrlDistributionPoint { uris: vec![url] });
            params.crl_distribution_points = names.collect();
            if division == Some(Division::Kinds) && name == "ending" {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
                params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
                params.extended_key_usages.clear();
                params.subject_alt_names.clear();
            }
            let certificate = params.signed_by(&key, &issuer).unwrap();
            fs::write(dir.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(dir.path().join(format!("{name}.der")), certificate.der()).unwrap();
            (serial, until)
        };
        let lasting = issue("lasting", 0x11, now + SLOT * 60 * 24 * 90);
        let ending = issue("ending", 0x22, start + SLOT / 2);
        Self {
            ca,
            start,
            index: Arc::new(Index::new()),
            clock: Arc::new(ManualClock::new(start)),
            shelf: Arc::new(Shelf::new()),
            lasting,
            ending,
            dir,
        }
    }

    fn record(&self, not_after: Time, reason: Option<Reason>) -> Record {
        let since = self.clock.now();
        let revoked = |reason| Status::Revoked(Revocation { at: since, reason, invalidity_date: None });
        Record {
            not_before: self.start - SLOT,
            not_after,
            status: reason.map_or(Status::Good, revoked),
            since,
            sha256: None,
        }
    }

    async fn publisher(&self) -> Publisher {
        let state = State::open(&self.dir.path().join("state.db")).await.unwrap();
        self.publisher_of(Share::whole(Arc::clone(&self.index)), SHARD_URL, &self.shelf, state)
    }

    fn publisher_of(&self, share: Share, url: &str, shelf: &Arc<Shelf>, state: State) -> Publisher {
        let key = self.dir.path().join("ca.key");
        let parts = Parts {
            issuer: Issuer { name: "life".parse().unwrap(), certificate: self.ca.clone() },
            signer: Arc::new(Signer::from_file(&key, &self.ca).unwrap()),
            share,
            state,
            clock: Arc::new(ClockGuard::new(Arc::clone(&self.clock) as Arc<dyn Clock>)),
            shelf: Arc::clone(shelf),
            outlets: Vec::new(),
            health: Health::new(),
            metrics: Metrics::new(),
        };
        let config = PublisherConfig {
            interval: SLOT,
            debounce: Duration::ZERO,
            public_url: Some("http://crl.example".to_owned()),
            part_url: url.to_owned(),
            ..PublisherConfig::default()
        };
        Publisher::new(config, parts).unwrap()
    }

    /// Waits for the lists that are dated now, and writes them down.
    async fn stage(&self, name: &'static str, lasting: Word, ending: Word) -> Stage {
        let now = self.clock.now();
        let is_now = |list: &Arc<Published>| list.this_update == now;
        let complete = loop {
            if let Some(list) = self.shelf.complete().filter(is_now) {
                break list;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let write = |kind: &str, list: &Published| {
            let path = self.dir.path().join(format!("{name}-{kind}.crl"));
            fs::write(&path, &list.bytes).unwrap();
            let pem = path.with_extension("pem");
            openssl(&["crl", "-inform", "DER", "-in", text(&path), "-out", text(&pem)]).ok("crl");
            path
        };
        let delta = self.shelf.delta().filter(is_now).map(|delta| write("delta", &delta));
        Stage { name, at: now, complete: write("complete", &complete), delta, lasting, ending }
    }

    /// The clock and the feed go on to so many seconds after the start; then `changes` come.
    fn go(&self, seconds: u64, changes: impl Fn() -> Vec<(Serial, Record)>) {
        let now = self.start + Duration::from_secs(seconds);
        self.clock.set(now);
        // Something else changes too, so that there is always something to tell.
        let other = Serial::from_magnitude(&(0x3300 + seconds).to_be_bytes()).unwrap();
        let other = (other, self.record(Time::MAX, Some(Reason::Superseded)));
        self.index.apply(&[changes(), vec![other]].concat());
        self.index.vouch(now);
    }
}

async fn live() -> Life {
    let house = House::new(None);
    let ((lasting, until), (ending, end)) = (house.lasting, house.ending);
    let of_lasting = |reason| vec![(lasting, house.record(until, reason))];
    house
        .index
        .load(vec![(lasting, house.record(until, None)), (ending, house.record(end, Some(Reason::KeyCompromise)))]);
    house.index.vouch(house.start);
    house.index.set_complete();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let publisher = tokio::spawn(house.publisher().await.run(stopped));

    use Word::{Hold, Revoked, Unlisted};
    let mut stages = vec![house.stage("issued", Unlisted, Revoked).await];
    house.go(10, || of_lasting(Some(Reason::CertificateHold)));
    stages.push(house.stage("hold", Hold, Revoked).await);
    house.go(20, || of_lasting(None));
    stages.push(house.stage("released", Unlisted, Revoked).await);
    house.go(28, || of_lasting(Some(Reason::KeyCompromise)));
    stages.push(house.stage("revoked", Revoked, Revoked).await);
    // The other has ended by now, and stays until a regular list dated after its end has carried it.
    house.go(40, Vec::new);
    stages.push(house.stage("expired", Revoked, Revoked).await);
    house.go(60, Vec::new);
    stages.push(house.stage("carried", Revoked, Revoked).await);
    house.go(120, Vec::new);
    stages.push(house.stage("pruned", Revoked, Unlisted).await);
    stop.send_replace(true);
    publisher.await.unwrap();
    Life { dir: house.dir, stages }
}

/// Whether a program is there; says so aloud if not. Where services are required, the absence of one that is
/// `needed` fails the test.
fn is_there(program: &str, arguments: &[&str]) -> bool {
    let there =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().is_ok_and(|out| out.status.success());
    if !there {
        let required = std::env::var_os("JARCHY_REQUIRE_SERVICES").is_some();
        println!(
            "SKIPPED: {program} {} does not run here: what it says of our lists is not known",
            arguments.join(" ")
        );
        assert!(!required, "{program} {} is needed (JARCHY_REQUIRE_SERVICES)", arguments.join(" "));
    }
    there
}

/// Runs a program with `input`; what it printed, by the name at the beginning of each line.
fn batch(program: &str, arguments: &[&str], input: &str) -> Vec<(String, String)> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let said = child.wait_with_output().unwrap();
    assert!(said.status.success(), "{program}: {}", String::from_utf8_lossy(&said.stderr));
    let out = String::from_utf8(said.stdout).unwrap();
    out.lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, word)| (name.to_owned(), word.to_owned()))
        .collect()
}

fn interop(name: &str) -> String {
    format!("{}/tests/interop/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What OpenSSL says of a certificate by these lists.
fn by_openssl(life: &Life, stage: &Stage, name: &str, lists: &[&Path]) -> Said {
    let (ca, certificate, time) = (life.file("ca.pem"), life.file(&format!("{name}.pem")), stage.at.unix().to_string());
    let mut arguments = vec!["verify", "-x509_strict", "-crl_check", "-use_deltas", "-extended_crl", "-CAfile", &ca];
    // Whether it has ended is another question than whether it is listed.
    arguments.extend(if name == "ending" { vec!["-no_check_time"] } else { vec!["-attime", &time] });
    let lists: Vec<PathBuf> = lists.iter().map(|list| life.pem(list)).collect();
    for list in &lists {
        arguments.extend(["-CRLfile", text(list)]);
    }
    arguments.push(&certificate);
    openssl(&arguments)
}

fn agrees(said: &Said, word: Word, what: &str) {
    if word == Word::Unlisted {
        assert!(said.status.success(), "{what}: {said:#?}");
    } else {
        assert!(!said.status.success() && said.all().contains("certificate revoked"), "{what}: {said:#?}");
    }
}

#[test]
fn openssl_agrees_in_every_stage_by_complete_lists_and_by_every_delta_over_every_base() {
    let life = life();
    let mut judged = 0;
    for (at, stage) in life.stages.iter().enumerate() {
        for (name, word) in [("lasting", stage.lasting), ("ending", stage.ending)] {
            let said = by_openssl(life, stage, name, &[&stage.complete]);
            agrees(&said, word, &format!("{}: {name}", stage.name));
            let Some(delta) = &stage.delta else { continue };
            for base in &life.stages[..at] {
                let said = by_openssl(life, stage, name, &[&base.complete, delta]);
                // What a base lists stays listed by it: nothing is taken off for having ended (CRL-66).
                let word = if name == "ending" { base.ending } else { word };
                agrees(&said, word, &format!("{} with the delta of {}: {name}", base.name, stage.name));
                judged += 1;
            }
        }
    }
    assert_eq!(judged, 2 * (1..life.stages.len()).sum::<usize>(), "every stage but the first has a delta");
    println!(
        "openssl: {} complete lists and {judged} pairs of a list and a delta judged as they should be",
        life.stages.len() * 2
    );
}

#[test]
fn gnutls_agrees_in_every_stage_by_complete_lists() {
    if !is_there("certtool", &["--version"]) {
        return;
    }
    let life = life();
    let ca = life.file("ca.pem");
    for stage in &life.stages {
        for list in stage.delta.iter().chain([&stage.complete]) {
            let (list, out) = (life.pem(list), life.file("out"));
            let verify = ["--verify-crl", "--load-ca-certificate", &ca, "--infile", text(&list), "--outfile", &out];
            let said = run("certtool", &verify);
            let said = said.all() + &fs::read_to_string(&out).unwrap_or_default();
            contains(&said, "Verified.").unwrap_or_else(|why| panic!("{}: {why}", stage.name));
        }
        let (certificate, list) = (life.file("lasting.pem"), life.pem(&stage.complete));
        let verify = ["--verify", "--load-ca-certificate", &ca, "--load-crl", text(&list), "--infile", &certificate];
        let said = run("certtool", &verify);
        let right = if stage.lasting == Word::Unlisted { "The certificate is trusted" } else { "revoked" };
        contains(&said.all(), right).unwrap_or_else(|why| panic!("{}: {why}", stage.name));
        // The one that has ended is refused for that first; what the list says of it stands in the list.
        let shown = run("certtool", &["--crl-info", "--infile", text(&list)]).ok("crl-info").out.to_lowercase();
        let serial = format!("22{}", "e5".repeat(15));
        assert_eq!(shown.contains(&serial), stage.ending != Word::Unlisted, "{}: {shown}", stage.name);
    }
}

#[test]
fn javas_pkix_agrees_in_every_stage_by_complete_lists() {
    let life = life();
    let program = interop("CertPathCrl.java");
    // The compiler is part of it: a run-time alone cannot run a source file.
    if !is_there("java", &["--list-modules"]) || !is_there("javac", &["-version"]) {
        return;
    }
    let (ca, mut cases, mut expected) = (life.file("ca.pem"), String::new(), Vec::new());
    for stage in &life.stages {
        let certificate = life.file("lasting.pem");
        // A second later: Java asks whether the revocation lies before the time for which it judges.
        let (at, complete) = (stage.at.unix() + 1, text(&stage.complete));
        writeln!(cases, "{}\t{ca}\t{certificate}\t{at}\t{complete}", stage.name).unwrap();
        expected.push((stage.name.to_owned(), stage.lasting.java().to_owned()));
        // The other, while it lives.
        if stage.at < life.stages[4].at {
            writeln!(cases, "{} ending\t{ca}\t{}\t{at}\t{complete}", stage.name, life.file("ending.pem")).unwrap();
            expected.push((format!("{} ending", stage.name), stage.ending.java().to_owned()));
        }
        // A delta beside the complete list changes nothing: Java does not use it.
        if let Some(delta) = &stage.delta {
            writeln!(cases, "{} twins\t{ca}\t{certificate}\t{at}\t{complete}\t{}", stage.name, text(delta)).unwrap();
            expected.push((format!("{} twins", stage.name), stage.lasting.java().to_owned()));
        }
    }
    assert_eq!(batch("java", &[&program], &cases), expected);
}

#[test]
fn pythons_cryptography_reads_every_list_as_it_was_meant() {
    // A Python of one's own may stand before Debian's, which has the package.
    let has_it = |python: &&str| {
        let tried = Command::new(python).args(["-c", "import cryptography"]).output();
        tried.is_ok_and(|out| out.status.success())
    };
    let python = ["python3", "/usr/bin/python3"].into_iter().find(has_it);
    if !is_there(python.unwrap_or("python3"), &["-c", "import cryptography"]) {
        return;
    }
    let life = life();
    let (ca, mut cases, mut expected) = (life.file("ca.pem"), String::new(), Vec::new());
    let lasting = format!("11{}", "e5".repeat(15));
    let ending = format!("22{}", "e5".repeat(15));
    for stage in &life.stages {
        for (serial, word) in [(&lasting, stage.lasting), (&ending, stage.ending)] {
            writeln!(cases, "{} {serial}\t{ca}\t{serial}\t{}", stage.name, text(&stage.complete)).unwrap();
            expected.push((format!("{} {serial}", stage.name), word.python().to_owned()));
        }
        if let Some(delta) = &stage.delta {
            writeln!(cases, "{} delta\t{ca}\t{lasting}\t{}", stage.name, text(delta)).unwrap();
            let word = if stage.lasting == Word::Unlisted { "removeFromCRL" } else { stage.lasting.python() };
            expected.push((format!("{} delta", stage.name), word.to_owned()));
        }
    }
    assert_eq!(batch(python.unwrap_or_default(), &[&interop("crl_check.py")], &cases), expected);
}

/// What rustls-webpki says of a certificate by a list.
fn by_webpki(dir: &Path, name: &str, list: &Path, at: Time) -> Result<(), webpki::Error> {
    use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
    use webpki::{CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptionsBuilder};

    let ca = CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap();
    let anchor = webpki::anchor_from_trusted_cert(&ca).unwrap();
    let certificate = CertificateDer::from_pem_file(dir.join(format!("{name}.pem"))).unwrap();
    let bytes = fs::read(list).unwrap();
    let list = CertRevocationList::from(webpki::BorrowedCertRevocationList::from_der(&bytes)?);
    let lists = [&list];
    let options = RevocationOptionsBuilder::new(&lists).unwrap();
    let options = options.with_expiration_policy(ExpirationPolicy::Enforce).build();
    let time = UnixTime::since_unix_epoch(at.since(Time::default()));
    EndEntityCert::try_from(&certificate)?
        .verify_for_usage(
            &[webpki::ring::ECDSA_P256_SHA256],
            std::slice::from_ref(&anchor),
            &[],
            time,
            KeyUsage::client_auth(),
            Some(options),
            None,
        )
        .map(drop)
}

#[test]
fn rustls_webpki_agrees_in_every_stage_and_refuses_deltas_as_it_says_it_does() {
    use webpki::Error;
    let life = life();
    let judge = |name: &str, list: &Path, at: Time| by_webpki(life.dir.path(), name, list, at);
    for stage in &life.stages {
        let listed = |word| if word == Word::Unlisted { Ok(()) } else { Err(Error::CertRevoked) };
        assert_eq!(judge("lasting", &stage.complete, stage.at), listed(stage.lasting), "{}", stage.name);
        if stage.at < life.stages[4].at {
            assert_eq!(judge("ending", &stage.complete, stage.at), listed(stage.ending), "{}", stage.name);
        }
        if let Some(delta) = &stage.delta {
            assert_eq!(judge("lasting", delta, stage.at), Err(Error::UnsupportedDeltaCrl), "{}", stage.name);
        }
    }
}

/// The lists of two parts: `lasting` is good, `ending` is revoked, each in a part of its own.
async fn divided(division: Division, url: &str) -> (House, [PathBuf; 2]) {
    let house = House::new(Some(division));
    let ((lasting, until), (ending, end)) = (house.lasting, house.ending);
    house.index.keep_shards();
    if division == Division::Kinds {
        assert!(house.index.assign(&[(lasting, 0), (ending, 1)]).is_empty());
    }
    house
        .index
        .load(vec![(lasting, house.record(until, None)), (ending, house.record(end, Some(Reason::KeyCompromise)))]);
    house.index.vouch(house.start);
    house.index.set_complete();
    let state = State::open(&house.dir.path().join("state.db")).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (mut shelves, mut publishers) = (Vec::new(), tokio::task::JoinSet::new());
    for share in Share::divided(Arc::clone(&house.index), division, false) {
        let (shelf, part) = (Arc::new(Shelf::new()), share.part());
        publishers.spawn(house.publisher_of(share, url, &shelf, state.clone()).run(stopped.clone()));
        shelves.push((part, shelf));
    }
    let part_of = |serial: Serial| match division {
        Division::Shards(shards) => Part::Shard(shard_of(&serial, shards)),
        Division::Kinds => Part::Kind(if serial == ending { Kind::Ca } else { Kind::User }),
    };
    assert_ne!(part_of(lasting), part_of(ending), "the two serials were chosen so");
    let mut lists = Vec::new();
    for serial in [lasting, ending] {
        let (_, shelf) = shelves.iter().find(|(part, _)| *part == part_of(serial)).unwrap();
        let list = loop {
            if let Some(list) = shelf.complete() {
                break list;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let path = house.dir.path().join(format!("part-{}.crl", lists.len()));
        fs::write(&path, &list.bytes).unwrap();
        openssl(&["crl", "-inform", "DER", "-in", text(&path), "-out", text(&path.with_extension("pem"))]).ok("crl");
        lists.push(path);
    }
    stop.send_replace(true);
    publishers.join_all().await;
    let [one, two] = lists.try_into().unwrap();
    (house, [one, two])
}

#[test]
fn crl_72_a_shards_list_decides_for_its_own_certificates_and_for_no_others() {
    judged_by_its_own_list_alone(Division::Shards(NonZeroU32::new(16).unwrap()), SHARD_URL);
}

#[test]
fn crl_76_the_list_for_users_decides_for_users_and_that_for_cas_for_cas() {
    judged_by_its_own_list_alone(Division::Kinds, ONE_URL);
}

fn judged_by_its_own_list_alone(division: Division, url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (house, [of_lasting, of_ending]) = runtime.block_on(divided(division, url));
    let (dir, at) = (house.dir.path(), house.start + Duration::from_secs(1));
    let file = |name: &str| text(&dir.join(name)).to_owned();
    let (ca, time) = (file("ca.pem"), at.unix().to_string());

    let by_openssl = |name: &str, list: &Path| {
        let (list, certificate) = (list.with_extension("pem"), file(&format!("{name}.pem")));
        let fixed = ["verify", "-x509_strict", "-crl_check", "-attime", &time, "-CAfile", &ca];
        openssl(&[&fixed[..], &["-CRLfile", text(&list), &certificate]].concat())
    };
    by_openssl("lasting", &of_lasting).ok("lasting by its own list");
    contains(&by_openssl("ending", &of_ending).all(), "certificate revoked").unwrap();
    for (name, list) in [("lasting", &of_ending), ("ending", &of_lasting)] {
        let said = by_openssl(name, list);
        assert!(!said.status.success() && !said.all().contains("certificate revoked"), "{name}: {said:#?}");
        contains(&said.all(), "different CRL scope").unwrap();
    }

    let judge = |name: &str, list: &Path| by_webpki(dir, name, list, at);
    assert_eq!(judge("lasting", &of_lasting), Ok(()));
    assert_eq!(judge("lasting", &of_ending), Err(webpki::Error::UnknownRevocationStatus));
    if division != Division::Kinds {
        // It judges a CA's certificate only in the middle of a path.
        assert_eq!(judge("ending", &of_ending), Err(webpki::Error::CertRevoked));
        assert_eq!(judge("ending", &of_lasting), Err(webpki::Error::UnknownRevocationStatus));
    }

    if is_there("java", &["--list-modules"]) && is_there("javac", &["-version"]) {
        let case = |case: &str, name: &str, list: &Path| {
            format!("{case}\t{ca}\t{}\t{time}\t{}\n", file(&format!("{name}.pem")), text(list))
        };
        let cases = case("good", "lasting", &of_lasting)
            + &case("revoked", "ending", &of_ending)
            + &case("other", "lasting", &of_ending)
            + &case("another", "ending", &of_lasting);
        let said = batch("java", &[&interop("CertPathCrl.java")], &cases);
        let words: Vec<&str> = said.iter().map(|(_, word)| word.as_str()).collect();
        assert_eq!(words[..2], ["good", "revoked KEY_COMPROMISE"], "{said:#?}");
        assert!(words[2..].iter().all(|word| word.starts_with("refused: UNDETERMINED_REVOCATION_STATUS")), "{said:#?}");
    }

    // GnuTLS looks at no issuingDistributionPoint: it must at least find what is revoked.
    if is_there("certtool", &["--version"]) {
        for (name, list, expected) in [("lasting", &of_lasting, true), ("ending", &of_ending, false)] {
            let (list, certificate) = (list.with_extension("pem"), file(&format!("{name}.pem")));
            let verify =
                ["--verify", "--load-ca-certificate", &ca, "--load-crl", text(&list), "--infile", &certificate];
            assert_eq!(run("certtool", &verify).status.success(), expected, "{name}");
        }
    }
}

#[test]
fn jarchys_own_reader_of_others_lists_agrees_with_all_of_them() {
    let life = life();
    let ca = life.file("ca.pem");
    for (at, stage) in life.stages.iter().enumerate() {
        let Some(delta) = &stage.delta else { continue };
        for base in &life.stages[..at] {
            let time = stage.at.to_string();
            let verify = ["crl", "verify", text(delta), "--issuer", &ca, "--base", text(&base.complete), "--at", &time];
            let said = crate::harness::jarchy(&verify).ok(stage.name);
            contains(&said.out, "\nvalid").unwrap();
        }
    }
}
