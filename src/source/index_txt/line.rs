//! One line of index.txt: six fields between tabs, as `openssl ca` reads and writes them.
//!
//! status (V, R or E), notAfter, revocation (`date[,reason[,argument]]`), serial in hex, file name, subject.
//! Dates are UTCTime, or GeneralizedTime from 2050 on. Invariant: a line that says R and names a serial is a
//! revocation, whatever else in it cannot be read; what that was is told in [`Line::doubt`].

use crate::pki::{Reason, Revocation, Serial, Status, Time};

/// What a line says.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Line<'a> {
    /// The serial as it is written, which is also the name of the certificate's file.
    pub(super) hex: &'a str,
    pub(super) serial: Serial,
    pub(super) not_after: Time,
    pub(super) status: Status,
    /// What of a revocation could not be read, so that something else stands in its place.
    pub(super) doubt: Option<String>,
}

/// A line that cannot be understood.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Refused {
    /// Whose it is, where that much can be read.
    pub(super) serial: Option<Serial>,
    pub(super) why: String,
}

/// Reads a line without its end; `None` for a comment or an empty one. `written_at` stands in for the date of a
/// revocation that has none.
pub(super) fn parse(line: &str, written_at: Time) -> Result<Option<Line<'_>>, Refused> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let fields = fields(line);
    let &[status, not_after, revocation, hex, _file, _subject] = fields.as_slice() else {
        let why = format!("{} fields where six are expected", fields.len());
        return Err(Refused { serial: None, why });
    };
    let serial = serial(hex).map_err(|why| Refused { serial: None, why })?;
    let refused = |why| Err(Refused { serial: Some(serial), why });
    let not_after_read = time(not_after);
    let (status, mut doubt) = match status {
        // E is a V that `openssl ca -updatedb` found to be past its notAfter.
        "V" | "E" => (Status::Good, None),
        "R" => {
            let (revocation, doubt) = revoked(revocation, written_at);
            (Status::Revoked(revocation), doubt)
        }
        other => return refused(format!("status {other:?} is none of V, R, E")),
    };
    let not_after = match not_after_read {
        Some(time) => time,
        None if status == Status::Good => return refused(format!("notAfter {not_after:?} is no time")),
        None => {
            doubt = Some(format!("notAfter {not_after:?} is no time: it is taken for never"));
            Time::MAX
        }
    };
    Ok(Some(Line { hex, serial, not_after, status, doubt }))
}

/// A tab behind a backslash belongs to the field.
fn fields(line: &str) -> Vec<&str> {
    let (mut fields, mut begin, mut before) = (Vec::with_capacity(6), 0, ' ');
    for (at, character) in line.char_indices() {
        if character == '\t' && before != '\\' {
            fields.extend(line.get(begin..at));
            begin = at + 1;
        }
        before = character;
    }
    fields.extend(line.get(begin..));
    fields
}

fn serial(hex: &str) -> Result<Serial, String> {
    let digits = hex.strip_prefix('-').unwrap_or(hex);
    if digits.is_empty() || !digits.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return Err(format!("serial {hex:?} is no hex number"));
    }
    hex.parse().map_err(|error| format!("serial {hex}: {error}"))
}

fn time(text: &str) -> Option<Time> {
    Time::from_utc_time(text.as_bytes()).or_else(|| Time::from_generalized(text.as_bytes()))
}

/// `date[,reason[,argument]]`; a revocation in any case.
fn revoked(text: &str, written_at: Time) -> (Revocation, Option<String>) {
    let mut parts = text.splitn(3, ',');
    let (date, word, argument) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let (reason, invalidity_date, doubt) = match word.unwrap_or("unspecified") {
        // With the OID of what to do about it, which is no more to be published (RFC 5280 has dropped it).
        "holdInstruction" => (Reason::CertificateHold, None, None),
        "keyTime" => since(Reason::KeyCompromise, argument),
        "CAkeyTime" => since(Reason::CaCompromise, argument),
        name => match name.parse() {
            Ok(reason) => (reason, None, None),
            Err(_) => (Reason::Unspecified, None, Some(format!("reason {name:?} is unknown: it is taken for none"))),
        },
    };
    match time(date) {
        Some(at) => (Revocation { at, reason, invalidity_date }, doubt),
        None => {
            let doubt = format!("revocation date {date:?} is no time: it is taken for when the file was written");
            (Revocation { at: written_at, reason, invalidity_date }, Some(doubt))
        }
    }
}

/// A compromise, and since when.
fn since(reason: Reason, argument: Option<&str>) -> (Reason, Option<Time>, Option<String>) {
    let date = argument.and_then(time);
    let doubt = || format!("time of compromise {:?} is no time: it is left out", argument.unwrap_or_default());
    (reason, date, date.is_none().then(doubt))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WRITTEN: Time = Time::from_unix(1_795_000_000);

    fn row(status: &str, not_after: &str, revocation: &str, serial: &str) -> String {
        format!("{status}\t{not_after}\t{revocation}\t{serial}\tunknown\t/CN=x")
    }

    /// What is made of a line, in short.
    fn said(line: &str) -> String {
        let revocation = |status: Status| match status {
            Status::Good => "good".to_owned(),
            Status::Revoked(Revocation { at, reason, invalidity_date }) => {
                let since = invalidity_date.map(|date| format!(" since {date}")).unwrap_or_default();
                format!("{at} {reason}{since}")
            }
        };
        match parse(line, WRITTEN) {
            Ok(Some(Line { serial, not_after, status, doubt, .. })) => {
                let doubt = doubt.map(|doubt| format!(" ({doubt})")).unwrap_or_default();
                format!("{serial} {not_after} {}{doubt}", revocation(status))
            }
            Ok(None) => "nothing".to_owned(),
            Err(Refused { why, .. }) => format!("refused: {why}"),
        }
    }

    #[test]
    fn lines_of_openssl_ca_and_of_hands() {
        let cases = [
            (row("V", "270101000000Z", "", "01"), "01 2027-01-01T00:00:00Z good"),
            (row("E", "200101000000Z", "", "00f12e"), "F12E 2020-01-01T00:00:00Z good"),
            (row("V", "20500101000000Z", "", "0A"), "0A 2050-01-01T00:00:00Z good"),
            (row("V", "491231235959Z", "", "0A"), "0A 2049-12-31T23:59:59Z good"),
            (row("V", "500101000000Z", "", "0A"), "0A 1950-01-01T00:00:00Z good"),
            (row("V", "270101000000Z", "", "-0A"), "-0A 2027-01-01T00:00:00Z good"),
            (
                row("V", "270101000000Z", "", "7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"),
                "7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF 2027-01-01T00:00:00Z good",
            ),
            (
                row("R", "270101000000Z", "261128172029Z", "0B"),
                "0B 2027-01-01T00:00:00Z 2026-11-28T17:20:29Z unspecified",
            ),
            (
                row("R", "270101000000Z", "261128172029Z,keyCompromise", "0B"),
                "0B 2027-01-01T00:00:00Z 2026-11-28T17:20:29Z keyCompromise",
            ),
            (
                row("R", "270101000000Z", "261128172029Z,CACompromise", "0B"),
                "0B 2027-01-01T00:00:00Z 2026-11-28T17:20:29Z cACompromise",
            ),
            (
                row("R", "270101000000Z", "261128172029Z,holdInstruction,1.2.840.10040.2.3", "0B"),
                "0B 2027-01-01T00:00:00Z 2026-11-28T17:20:29Z certificateHold",
            ),
            (
                row("R", "270101000000Z", "261128172029Z,keyTime,20261101000000Z", "0B"),
                "0B 2027-01-01T00:00:00Z 2026-11-28T17:20:29Z keyCompromise since 2026-11-01T00:00:00Z",
            ),
            (
                row("R", "270101000000Z", "20261128172029Z,CAkeyTime,20261101000000Z", "0B"),
                "0B 2027-01-01T00:00:00Z 2026-11-28T17:20:29Z cACompromise since 2026-11-01T00:00:00Z",
            ),
            ("# a comment".to_owned(), "nothing"),
            (String::new(), "nothing"),
            ("V\t270101000000Z\t\t01\ta\\\tb.pem\t/CN=a\\\tb".to_owned(), "01 2027-01-01T00:00:00Z good"),
        ];
        for (line, expected) in cases {
            assert_eq!(said(&line), expected, "{line:?}");
        }
    }

    #[test]
    fn what_is_revoked_stays_revoked_however_it_is_written() {
        let cases = [
            (row("R", "270101000000Z", "", "0B"), "revocation date \"\" is no time"),
            (row("R", "270101000000Z", "yesterday,superseded", "0B"), "superseded (revocation date"),
            (row("R", "270101000000Z", "261128172029Z,stolen", "0B"), "reason \"stolen\" is unknown"),
            (row("R", "270101000000Z", "261128172029Z,removeFromCRL", "0B"), "reason \"removeFromCRL\" is unknown"),
            (
                row("R", "270101000000Z", "261128172029Z,keyTime,soon", "0B"),
                "keyCompromise (time of compromise \"soon\"",
            ),
            (row("R", "270101000000Z", "261128172029Z,keyTime", "0B"), "keyCompromise (time of compromise \"\""),
            (
                row("R", "someday", "261128172029Z", "0B"),
                "0B 9999-12-31T23:59:59Z 2026-11-28T17:20:29Z unspecified (notAfter",
            ),
        ];
        for (line, words) in cases {
            assert!(said(&line).contains(words), "{line:?}: {}", said(&line));
            assert!(matches!(parse(&line, WRITTEN), Ok(Some(Line { status: Status::Revoked(_), .. }))), "{line:?}");
        }
        assert!(said(&row("R", "270101000000Z", "", "0B")).contains(&WRITTEN.to_string()));
    }

    #[test]
    fn what_names_no_certificate_is_refused() {
        let cases = [
            ("V\t270101000000Z\t\t01\tunknown".to_owned(), "5 fields"),
            (format!("{}\tmore", row("V", "270101000000Z", "", "01")), "7 fields"),
            (row("X", "270101000000Z", "", "01"), "status \"X\""),
            (row("v", "270101000000Z", "", "01"), "status \"v\""),
            (row("V", "27010100000", "", "01"), "notAfter"),
            (row("V", "271301000000Z", "", "01"), "notAfter"),
            (row("V", "270101000000+0600", "", "01"), "notAfter"),
            (row("V", "270101000000Z", "", ""), "no hex number"),
            (row("V", "270101000000Z", "", "0x01"), "no hex number"),
            (row("R", "270101000000Z", "261128172029Z", "dec:12"), "no hex number"),
            (row("V", "270101000000Z", "", "7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"), "at most 20 octets"),
        ];
        for (line, words) in cases {
            let said = said(&line);
            assert!(said.starts_with("refused: ") && said.contains(words), "{line:?}: {said}");
        }
    }
}
