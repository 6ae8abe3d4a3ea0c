//! What a request's path asks for, read from the raw path: nothing merges `//`, resolves dots or decodes
//! early, because base64 contains `/` and `+` (HTTP-04).
//!
//! Goes in: the path as it stood in the request line. Comes out: a [`Route`]. Invariant: percent-escapes
//! are decoded exactly once (HTTP-06), and every spelling of a request decodes to the same bytes
//! (SEC-10).

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use std::str::FromStr;

/// What a path asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Route<'a> {
    /// The page that says what is served.
    Index,
    /// OCSP: for one issuer, or for all; with what follows in the path, which may be empty.
    Ocsp(Option<&'a str>, &'a [u8]),
    /// The current complete CRL of an issuer.
    Complete(&'a str),
    /// The current delta CRL of an issuer.
    Delta(&'a str),
    /// The current complete CRL of an issuer, as PEM.
    CompletePem(&'a str),
    /// The current delta CRL of an issuer, as PEM.
    DeltaPem(&'a str),
    /// A complete CRL of an issuer by its number.
    Numbered(&'a str, u64),
    /// The current CRL of one shard of an issuer.
    Shard(&'a str, usize),
    /// A CRL of one shard of an issuer by its number.
    ShardNumbered(&'a str, usize, u64),
    /// The certificate of an issuer.
    Certificate(&'a str),
    /// Nothing of ours.
    Unknown,
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
    if let Some(stem) = rest.strip_suffix(".crl.pem") {
        return Some(stem.strip_suffix("-delta").map_or(Route::CompletePem(stem), Route::DeltaPem));
    }
    let stem = rest.strip_suffix(".crl")?;
    if let Some((issuer, rest)) = stem.split_once('/') {
        let Some(shard) = rest.strip_prefix("shard-") else { return Some(Route::Numbered(issuer, plain(rest)?)) };
        return Some(match shard.split_once('/') {
            None => Route::Shard(issuer, plain(shard)?),
            Some((shard, number)) => Route::ShardNumbered(issuer, plain(shard)?, plain(number)?),
        });
    }
    // Issuer names have no hyphen.
    Some(stem.strip_suffix("-delta").map_or(Route::Complete(stem), Route::Delta))
}

/// A number in its one spelling: caches in front should see one address for it.
fn plain<T: FromStr>(number: &str) -> Option<T> {
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
            ("/crl/demo.crl", Route::Complete("demo")),
            ("/crl/demo-delta.crl", Route::Delta("demo")),
            ("/crl/demo/17.crl", Route::Numbered("demo", 17)),
            ("/crl/demo/shard-0.crl", Route::Shard("demo", 0)),
            ("/crl/demo/shard-31.crl", Route::Shard("demo", 31)),
            ("/crl/demo/shard-031.crl", Route::Unknown),
            ("/crl/demo/shard-3/17.crl", Route::ShardNumbered("demo", 3, 17)),
            ("/crl/demo/017.crl", Route::Unknown),
            ("/crl/demo/+17.crl", Route::Unknown),
            ("/crl/demo/.crl", Route::Unknown),
            ("/crl/demo/99999999999999999999.crl", Route::Unknown),
            ("/crl/demo/1/2.crl", Route::Unknown),
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
