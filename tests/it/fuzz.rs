//! The corpora of the fuzz targets, replayed, and seeded mutations of valid requests: no bytes get anything
//! but a well-formed OCSPResponse (promise 10).

#[path = "../fuzz/properties.rs"]
mod properties;

use jarchy::ocsp::request::{Limits, encode, encode_cert_id, parse};
use jarchy::pki::HashAlgorithm;
use std::fs;
use std::path::Path;

/// Runs `property` on every file of a corpus, and on what the fuzzers found to be of note.
fn replay(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in fs::read_dir(folder).unwrap() {
        property(&fs::read(entry.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed >= 10, "{target}: {replayed}");
}

#[test]
fn sec_30_the_corpus_of_ocsp_requests_is_answered_well() {
    replay("ocsp_request", properties::ocsp_request);
}

#[test]
fn sec_30_the_corpus_of_paths_is_read_well() {
    replay("http_get_path", properties::http_get_path);
}

/// A sequence that depends on the seed alone.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
    }

    fn octets(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}

fn rounds(few: usize, many: usize) -> usize {
    if std::env::var_os("JARCHY_LONG").is_some() { many } else { few }
}

const SEED: u64 = 20_261_122;

#[test]
fn parse_of_encode_gives_back_what_went_in() {
    println!("seed {SEED}");
    let mut random = Random(SEED);
    for _ in 0..rounds(5_000, 1_000_000) {
        let hash = HashAlgorithm::ALL[random.below(HashAlgorithm::ALL.len())];
        let hashes = jarchy::pki::issuer::IssuerHashes {
            algorithm: hash,
            name: random.octets(hash.len()),
            key: random.octets(hash.len()),
        };
        let len = 1 + random.below(20);
        let mut serial = random.octets(len);
        // Minimal, as DER wants it.
        serial[0] = 1 + serial[0] % 0x7f;
        let nonce = (random.below(2) == 0).then(|| random.below(128) + 1).map(|len| random.octets(len));
        let cert_id = encode_cert_id(&hashes, &serial);
        let bytes = encode(&cert_id, nonce.as_deref());
        let request = parse(&bytes, Limits::default()).unwrap();
        let id = request.cert_ids().next().unwrap();
        assert_eq!((request.count, id.raw, id.serial, id.hash), (1, &cert_id[..], &serial[..], Some(hash)));
        assert_eq!((id.name_hash, id.key_hash), (&hashes.name[..], &hashes.key[..]));
        // The nonce is kept with the OCTET STRING around it.
        assert_eq!(request.nonce.is_some(), nonce.is_some());
        assert!(nonce.is_none_or(|nonce| request.nonce.is_some_and(|kept| kept.ends_with(&nonce))));
    }
}

#[test]
fn any_mutation_of_a_valid_request_gets_a_well_formed_response() {
    println!("seed {SEED}");
    let mut random = Random(SEED);
    let seeds = properties::seeds();
    for _ in 0..rounds(4_000, 1_000_000) {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
                1 if !bytes.is_empty() => bytes[at] = random.octets(1)[0],
                2 => bytes.truncate(at),
                3 => {
                    let len = random.below(9);
                    let octets = random.octets(len);
                    bytes.splice(at..at, octets);
                }
                4 if !bytes.is_empty() => {
                    let end = (at + random.below(40)).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => {
                    let other = &seeds[random.below(seeds.len())];
                    let from = random.below(other.len());
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
            }
        }
        properties::ocsp_request(&bytes);
    }
}

#[test]
#[ignore = "writes into the sources: run it when the seeds change"]
fn write_the_seeds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/ocsp_request");
    for (number, seed) in properties::seeds().iter().enumerate() {
        fs::write(folder.join(format!("seed-{number:02}")), seed).unwrap();
    }
}
