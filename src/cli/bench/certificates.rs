//! Serial numbers to ask for, out of lists and certificates.

use crate::cli::add::{certificates, contents};
use crate::load::status::Expected;
use crate::pki::{Certificate, Serial};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};

/// Reads a file with one serial number a line, each with the status expected behind it if it is known; empty lines
/// and what follows a # are passed over.
pub(super) fn listed(path: &Path) -> anyhow::Result<Vec<(Serial, Expected)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut serials = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let read = read_line(line).with_context(|| format!("{}:{}", path.display(), number + 1))?;
        serials.extend(read);
    }
    ensure!(!serials.is_empty(), "{} holds no serial number", path.display());
    Ok(serials)
}

fn read_line(line: &str) -> anyhow::Result<Option<(Serial, Expected)>> {
    let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
    let Some(serial) = words.next() else { return Ok(None) };
    let serial = serial.parse()?;
    let expected = words.next().map_or(Ok(Expected::Any), str::parse)?;
    let more = words.next();
    ensure!(more.is_none(), "{:?} is one word too many: a line is `SERIAL [STATUS]`", more.unwrap_or_default());
    Ok(Some((serial, expected)))
}

/// Serial numbers of the certificates in files and folders that `ca` issued; others in folders are passed over.
pub(super) fn serials(paths: &[PathBuf], ca: &Certificate) -> anyhow::Result<Vec<(Serial, Expected)>> {
    let mut serials = Vec::new();
    for path in paths {
        let kind = path.metadata().with_context(|| format!("cannot read {}", path.display()))?;
        let before = serials.len();
        if kind.is_dir() {
            from_folder(path, ca, &mut serials)?;
        } else {
            serials.extend(from_file(path, true, ca)?);
        }
        ensure!(
            serials.len() > before,
            "{} holds no certificate that was issued by {}",
            path.display(),
            ca.subject_text()
        );
    }
    Ok(serials.into_iter().map(|serial| (serial, Expected::Any)).collect())
}

fn from_folder(folder: &Path, ca: &Certificate, serials: &mut Vec<Serial>) -> anyhow::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                serials.extend(from_file(&path, false, ca)?);
            }
        }
    }
    Ok(())
}

fn from_file(path: &Path, named: bool, ca: &Certificate) -> anyhow::Result<Vec<Serial>> {
    let bytes = contents(path, named).with_context(|| format!("cannot read {}", path.display()))?.unwrap_or_default();
    let read = certificates(&bytes).into_iter().filter_map(Result::ok);
    // Nobody asks for the CA's own certificate at its own responder.
    let issued = read.filter(|certificate| certificate.issuer() == ca.subject() && certificate.der() != ca.der());
    Ok(issued.map(|certificate| certificate.serial()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn list(text: &str) -> anyhow::Result<Vec<(Serial, Expected)>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("serials.txt");
        std::fs::write(&file, text).unwrap();
        listed(&file)
    }

    #[test]
    fn lists_are_read_and_bad_lines_are_named_by_their_number() {
        let read = list("# all of them\n0A1B good\n\n0a:1c revoked # why not\n  dec:12  \n").unwrap();
        let expected = [("0A1B", Expected::Good), ("0A1C", Expected::Revoked), ("0C", Expected::Any)];
        assert_eq!(read, expected.map(|(serial, status)| (serial.parse().unwrap(), status)));
        for (text, part) in [
            ("01\nxyz\n", "serials.txt:2"),
            ("01 fine\n", "none of good, revoked"),
            ("01 good 02\n", "one word too many"),
            ("# nothing\n", "holds no serial number"),
        ] {
            let error = format!("{:#}", list(text).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn certificates_of_another_ca_are_not_asked_for() {
        let pki = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pki");
        let ca = |name: &str| Certificate::from_file_bytes(&std::fs::read(pki.join(name)).unwrap()).unwrap();
        let found = serials(std::slice::from_ref(&pki), &ca("ca-p256.pem")).unwrap();
        assert!(!found.is_empty());
        let refused = serials(&[pki.join("ca-p256.pem")], &ca("ca-p256.pem")).unwrap_err().to_string();
        assert!(refused.contains("ca-p256.pem holds no certificate that was issued by"), "{refused}");
    }
}
