//! What a request's path asks for, read from the raw path: nothing merges `//`, resolves dots or decodes
//! early, because base64 contains `/` and `+` (HTTP-04).
//!
//! Goes in: the path as it stood in the request line. Comes out: a [`Route`]. Invariant: percent-escapes
//! are decoded exactly once (HTTP-06), and every spelling of a request decodes to the same bytes
//! (SEC-10).

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// What a path asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Route<'a> {
    /// The page that says what is served.
    Index,
    /// OCSP: for one issuer, or for all; with what follows in the path, which may be empty.
    Ocsp(Option<&'a str>, &'a [u8]),
    /// A CRL.
    List(List<'a>),
    /// The certificate of an issuer.
    Certificate(&'a str),
    /// Nothing of ours.
    Unknown,
}

/// Which CRL a path asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct List<'a> {
    pub(super) issuer: &'a str,
    /// A part of the issuer's certificates, as `shard-3` or `user`; `None` for all of them.
    pub(super) part: Option<&'a str>,
    pub(super) which: Which,
    /// As PEM.
    pub(super) is_text: bool,
}

/// One of the lists of a scope.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Which {
    /// The current complete one.
    Complete,
    /// The current delta.
    Delta,
    /// A complete one by its number.
    Numbered(u64),
}

/// Finds the route of `path`; `is_issuer` tells which names are configured.
pub(super) fn route(path: &str, is_issuer: impl Fn(&str) -> bool) -> Route<'_> {
    if path == "/" {
        Route::Index
    } else if let Some(rest) = path.strip_prefix("/ocsp") {
        ocsp(rest, is_issuer)
    } else if let Some(rest) = path.strip_prefix("/crl/") {
        list(rest).unwrap_or(Route::Unknown)
    } else {
        let issuer = path.strip_prefix("/ca/").and_then(|rest| rest.strip_suffix(".cer"));
        issuer.map_or(Route::Unknown, Route::Certificate)
    }
}

/// `rest` is what follows `/ocsp`. The first segment is an issuer only if such a one is configured;
/// names cannot be taken for base64 of a request, which begins with `M` (0x30 is SEQUENCE).
fn ocsp(rest: &str, is_issuer: impl Fn(&str) -> bool) -> Route<'_> {
    if !rest.is_empty() && !rest.starts_with('/') {
        return Route::Unknown;
    }
    let rest = rest.trim_start_matches('/');
    let (first, after) = rest.split_once('/').unwrap_or((rest, ""));
    if is_issuer(first) { Route::Ocsp(Some(first), after.as_bytes()) } else { Route::Ocsp(None, rest.as_bytes()) }
}

fn list(rest: &str) -> Option<Route<'_>> {
    let (rest, is_text) = rest.strip_suffix(".pem").map_or((rest, false), |rest| (rest, true));
    let stem = rest.strip_suffix(".crl")?;
    let list = |issuer, part, which| Some(Route::List(List { issuer, part, which, is_text }));
    let Some((issuer, rest)) = stem.split_once('/') else {
        // Issuer names have no hyphen.
        return match stem.strip_suffix("-delta") {
            None => list(stem, None, Which::Complete),
            Some(issuer) => list(issuer, None, Which::Delta),
        };
    };
    match rest.split_once('/') {
        Some((part, number)) => list(issuer, Some(part), Which::Numbered(plain(number)?)),
        // No part has a name that begins with a digit.
        None if rest.starts_with(|first: char| first.is_ascii_digit()) => {
            list(issuer, None, Which::Numbered(plain(rest)?))
        }
        None => list(issuer, Some(rest), Which::Complete),
    }
}

/// A number in its one spelling: caches in front should see one address for it.
fn plain(number: &str) -> Option<u64> {
    let canonical = (number == "0" || !number.starts_with('0')) && number.bytes().all(|digit| digit.is_ascii_digit());
    if canonical { number.parse().ok() } else { None }
}

/// Decodes the base64 tail of a `GET` (HTTP-05): `/`, `+` and `=` as they are or escaped, in either hex
/// case; a space for a plus; the URL alphabet; padding left out; slashes in front. `None` for anything
/// else, and for nothing.
pub(super) fn decode_tail(tail: &[u8]) -> Option<Vec<u8>> {
    let (mut text, mut out) = (Vec::new(), Vec::new());
    decode_tail_into(tail, &mut text, &mut out)?;
    Some(out)
}

/// The same into `out`, by way of `text`: for those who keep both.
pub(super) fn decode_tail_into(tail: &[u8], text: &mut Vec<u8>, out: &mut Vec<u8>) -> Option<()> {
    unescape(tail, text)?;
    out.clear();
    // DER begins with 0x30, so base64 of it never with a slash: those in front come from an address that
    // ends in one.
    let start = text.iter().position(|byte| *byte != b'/')?;
    let text = text.get(start..)?;
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    STANDARD_NO_PAD.decode_vec(text.get(..text.len() - padding)?, out).ok()?;
    (!out.is_empty()).then_some(())
}

/// Decodes percent-escapes, and makes the one alphabet of the other.
fn unescape(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.clear();
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => hex(*rest.next()?)? << 4 | hex(*rest.next()?)?,
            other => *other,
        };
        out.push(match byte {
            b' ' | b'-' => b'+',
            b'_' => b'/',
            other => other,
        });
    }
    Some(())
}

fn hex(digit: u8) -> Option<u8> {
    u8::try_from(char::from(digit).to_digit(16)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_routes() {
        let list = |part, which, is_text| Route::List(List { issuer: "demo", part, which, is_text });
        for (path, expected) in [
            ("/", Route::Index),
            ("//", Route::Unknown),
            ("/ocsp", Route::Ocsp(None, b"")),
            ("/ocsp/", Route::Ocsp(None, b"")),
            ("/ocsp/demo", Route::Ocsp(Some("demo"), b"")),
            ("/ocsp/demo/", Route::Ocsp(Some("demo"), b"")),
            ("/ocsp/demo//MA==", Route::Ocsp(Some("demo"), b"/MA==")),
            ("/ocsp//demo/MA/+%2f", Route::Ocsp(Some("demo"), b"MA/+%2f")),
            ("/ocsp/MA//AA", Route::Ocsp(None, b"MA//AA")),
            ("/ocsp//MA//AA", Route::Ocsp(None, b"MA//AA")),
            ("/ocsp/other/MA", Route::Ocsp(None, b"other/MA")),
            ("/ocsp/../crl/demo.crl", Route::Ocsp(None, b"../crl/demo.crl")),
            ("/ocspx", Route::Unknown),
            ("/crl/demo.crl", list(None, Which::Complete, false)),
            ("/crl/demo.crl.pem", list(None, Which::Complete, true)),
            ("/crl/demo-delta.crl", list(None, Which::Delta, false)),
            ("/crl/demo-delta.crl.pem", list(None, Which::Delta, true)),
            ("/crl/demo/17.crl", list(None, Which::Numbered(17), false)),
            ("/crl/demo/17.crl.pem", list(None, Which::Numbered(17), true)),
            ("/crl/demo/shard-0.crl", list(Some("shard-0"), Which::Complete, false)),
            ("/crl/demo/user.crl.pem", list(Some("user"), Which::Complete, true)),
            ("/crl/demo/shard-3/17.crl", list(Some("shard-3"), Which::Numbered(17), false)),
            ("/crl/demo/ca/17.crl.pem", list(Some("ca"), Which::Numbered(17), true)),
            ("/crl/demo/017.crl", Route::Unknown),
            ("/crl/demo/ca/+17.crl", Route::Unknown),
            ("/crl/demo/99999999999999999999.crl", Route::Unknown),
            ("/crl/demo.crl.txt", Route::Unknown),
            ("/crl/demo/1/2/3.crl", Route::Unknown),
            ("/crl/demo", Route::Unknown),
            ("/ca/demo.cer", Route::Certificate("demo")),
            ("/ca/demo.crt", Route::Unknown),
            ("/favicon.ico", Route::Unknown),
            ("*", Route::Unknown),
        ] {
            assert_eq!(route(path, |name| name == "demo"), expected, "{path}");
        }
    }

    #[test]
    fn http_04_to_06_every_spelling_that_clients_make_decodes_to_the_same_request() {
        // Base64 with slashes, a plus and one pad.
        let request = [0x30, 0x0a, 0xfb, 0xef, 0xff, 0x3f, 0xfb, 0xff];
        for tail in [
            "MAr77/8/+/8=",
            "MAr77/8/+/8",
            "/MAr77/8/+/8=",
            "//MAr77/8/+/8=",
            "%2FMAr77/8/+/8=",
            "MAr77%2F8%2F%2B%2F8%3D",
            "MAr77%2f8%2f%2b%2f8%3d",
            "MAr77/8/ /8=",
            "MAr77/8/%20/8=",
            "MAr77_8_-_8=",
            "MAr77_8_-_8",
            "MAr77_8/%2b%2f8",
            "%4dAr77/8/+/8%3D",
            "MAr77/8/+/8==",
        ] {
            assert_eq!(decode_tail(tail.as_bytes()).as_deref(), Some(&request[..]), "{tail}");
        }
    }

    #[test]
    fn http_05_anything_else_is_refused() {
        for tail in [
            "",
            "/",
            "===",
            "=",
            "M",
            "MAr77/8/+/8===",
            "MAr7=7/8/+/8",
            "MAr77%252F8/+/8=",
            "MAr77%2",
            "MAr77%",
            "MAr77%zz",
            "MAr77%+f",
            "MAr77\u{e9}",
            "MAr7\n7",
            "MAr7%0A7",
            "MAr77/8/+/9",
            "MA.",
            "MA?",
        ] {
            assert_eq!(decode_tail(tail.as_bytes()), None, "{tail}");
        }
    }
}
