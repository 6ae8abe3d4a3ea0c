//! index.txt.attr, which `openssl ca` keeps beside index.txt: whether a subject may have several valid certificates.
//!
//! Goes in: the path of index.txt. Comes out: what it says, for people; no answer depends on it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// `unique_subject`; `None` where the file is missing or does not say it.
pub(super) fn unique_subject(index: &Path) -> Result<Option<bool>, String> {
    let path = PathBuf::from(format!("{}.attr", index.display()));
    let text = match std::fs::read(&path) {
        Ok(octets) => octets,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    parse(&String::from_utf8_lossy(&text)).map_err(|why| {
        format!("{}, {why}; write `unique_subject = yes` or `no` there: `openssl ca` goes by it", path.display())
    })
}

/// The last word on it, as OpenSSL reads it: a value by its first letter.
fn parse(text: &str) -> Result<Option<bool>, String> {
    let mut unique = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('[') {
            continue;
        }
        let said = |why: &str| format!("line {}: {line:?} {why}", number + 1);
        let (name, value) = line.split_once('=').ok_or_else(|| said("is no `name = value`"))?;
        if name.trim() == "unique_subject" {
            unique = Some(match value.trim().bytes().next() {
                Some(b'y' | b'Y' | b't' | b'T' | b'1') => true,
                Some(b'n' | b'N' | b'f' | b'F' | b'0') => false,
                _ => return Err(said("is neither yes nor no")),
            });
        }
    }
    Ok(unique)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_openssl_ca_and_of_hands() {
        for (text, expected) in [
            ("unique_subject = yes\n", Ok(Some(true))),
            ("unique_subject = no\n", Ok(Some(false))),
            ("# a comment\n\n[ default ]\r\nunique_subject=FALSE # by hand\r\n", Ok(Some(false))),
            ("unique_subject = no\nunique_subject = 1", Ok(Some(true))),
            ("other = 7\n", Ok(None)),
            ("", Ok(None)),
            ("unique_subject\n", Err("line 1: \"unique_subject\" is no `name = value`")),
            ("\nunique_subject = maybe", Err("line 2: \"unique_subject = maybe\" is neither yes nor no")),
            ("unique_subject =\n", Err("line 1: \"unique_subject =\" is neither yes nor no")),
        ] {
            assert_eq!(parse(text), expected.map_err(str::to_owned), "{text:?}");
        }
    }
}
