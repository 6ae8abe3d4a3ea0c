//! Tables of CAs that are known: EJBCA, cfssl, step-ca.
//!
//! Goes in: which CA it is and what the config says of it. Comes out: a [`Table`], as an operator would have to
//! write it. What their columns mean was looked up in the sources of those programs.

use super::{Dialect, Field, PositionAs, SerialAs, Table, TimesAs};
use crate::pki::Certificate;

/// Columns of CertificateData that not every version of EJBCA has.
pub(super) const NOT_BEFORE: &str = "notBefore";
pub(super) const INVALIDITY_DATE: &str = "invalidityDate";

fn columns(named: &[(Field, &str)]) -> Vec<(Field, String)> {
    named.iter().map(|(field, name)| (*field, (*name).to_owned())).collect()
}

/// A text as SQL writes it; MariaDB reads a backslash as the beginning of something.
pub(super) fn quoted(text: &str, dialect: Dialect) -> String {
    let text = text.replace('\'', "''");
    match dialect {
        Dialect::MariaDb => format!("'{}'", text.replace('\\', "\\\\")),
        Dialect::Postgres | Dialect::Sqlite => format!("'{text}'"),
    }
}

pub(super) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// How the rows of one CA are found in EJBCA's tables.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EjbcaCa {
    /// By cAFingerprint, the SHA-1 of the CA's certificate.
    Certificate,
    /// By issuerDN as EJBCA writes it.
    IssuerDn(String),
    /// By the CA's name in EJBCA, for which CAData has the DN.
    Name(String),
}

/// What is said of EJBCA's tables.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ejbca {
    /// Which CA it is.
    pub ca: EjbcaCa,
    /// Whether certificates are kept where hashes are to be had of them: in the row, or in Base64CertData.
    pub certificates: bool,
    /// Whether the publisher writes revoked certificates only.
    pub only_revoked: bool,
    /// Whether there are NoConflictCertificateData: of CAs that keep no certificates ("throw-away").
    pub no_conflict: bool,
}

/// EJBCA's CertificateData.
///
/// status: 40 is revoked, for good or on hold; 30 was a hold in old versions; 60 is archived, which is expired, and
/// revoked too if there is a reason. All others (0 unassigned, 10 inactive, 11 rollover pending, 20 active, 21
/// notified) are good. revocationReason is −1, or 8 after a release, where it is not revoked. Times are
/// milliseconds, −1 for none; serialNumber is decimal. updateTime is when the row was written last, so that a row
/// that is not revoked dates the release of a hold before. NoConflictCertificateData has several rows of one
/// certificate, of which the newest counts. notBefore came with EJBCA 6.6 and invalidityDate with a later version;
/// neither is written anew for what was there before, and a certificate's own notBefore stands in for the one.
///
/// `ours` is the condition for rows `c` of the CA, `has` whether a table has a column.
pub(super) fn ejbca(settings: &Ejbca, ours: &str, has: impl Fn(&str, &str) -> bool) -> Table {
    let revoked = "CASE WHEN c.status IN (30, 40) OR (c.status = 60 AND c.revocationReason NOT IN (-1, 8)) \
                   THEN 'revoked' ELSE 'good' END";
    let (certificate, join) = if settings.certificates {
        ("COALESCE(c.base64Cert, b.base64Cert)", " LEFT JOIN Base64CertData b ON b.fingerprint = c.fingerprint")
    } else {
        ("NULL", "")
    };
    // type 1 is an end entity's, 2 and 8 are CAs'.
    let select = |table: &str, certificate: &str, join: &str, newest: &str| {
        let newer = |column: &str| if has(table, column) { format!("c.{column}") } else { "NULL".to_owned() };
        format!(
            "SELECT c.serialNumber AS serial, {} AS not_before, c.expireDate AS not_after, {revoked} AS status, \
             c.revocationDate AS revoked_at, c.revocationReason AS reason, {} AS invalidity_date, \
             c.updateTime AS changed_at, {certificate} AS certificate FROM {table} c{join} WHERE {ours}{newest}",
            newer(NOT_BEFORE),
            newer(INVALIDITY_DATE)
        )
    };
    let newest = " AND c.updateTime = (SELECT max(n.updateTime) FROM NoConflictCertificateData n \
                  WHERE n.fingerprint = c.fingerprint)";
    let both = |more: &str| {
        let stored = select("CertificateData", certificate, join, more);
        let thrown = format!("{newest}{more}");
        match settings.no_conflict {
            true => format!("{stored} UNION ALL {}", select("NoConflictCertificateData", "c.base64Cert", "", &thrown)),
            false => stored,
        }
    };
    let mut columns = columns(&[
        (Field::Serial, "serial"),
        (Field::NotBefore, "not_before"),
        (Field::NotAfter, "not_after"),
        (Field::Status, "status"),
        (Field::RevokedAt, "revoked_at"),
        (Field::Reason, "reason"),
        (Field::InvalidityDate, "invalidity_date"),
        (Field::ChangedAt, "changed_at"),
        (Field::ReleasedAt, "changed_at"),
        (Field::Position, "changed_at"),
    ]);
    if settings.certificates || settings.no_conflict {
        columns.push((Field::Certificate, "certificate".to_owned()));
    }
    Table {
        snapshot: both(""),
        changes: Some(both(" AND c.updateTime >= {since}")),
        columns,
        serial_as: SerialAs::Decimal,
        times_as: TimesAs::Milliseconds,
        position_as: PositionAs::Time,
        good: vec!["good".to_owned()],
        revoked: vec!["revoked".to_owned()],
        knows_issued: !settings.only_revoked,
    }
}

/// cfssl's certdb: the table `certificates`. authority_key_identifier is lower-case hex, serial_number decimal, both
/// in columns of bytes; status is `good` or `revoked`, without a way back; what is not revoked has a zero date.
#[must_use]
pub fn cfssl(dialect: Dialect, ca: &Certificate) -> Table {
    let key = hex(&ca.key_identifier());
    let ours = match dialect {
        Dialect::Postgres => format!("authority_key_identifier = '{key}'::bytea"),
        Dialect::MariaDb => format!("authority_key_identifier = '{key}'"),
        Dialect::Sqlite => format!("CAST(authority_key_identifier AS TEXT) = '{key}'"),
    };
    let snapshot = format!(
        "SELECT serial_number, expiry, status, revoked_at, reason, pem, created_at, \
         CASE WHEN revoked_at > created_at THEN revoked_at ELSE created_at END AS written \
         FROM certificates WHERE {ours}"
    );
    Table {
        changes: Some(format!("{snapshot} AND (created_at >= {{since}} OR revoked_at >= {{since}})")),
        snapshot,
        columns: columns(&[
            (Field::Serial, "serial_number"),
            (Field::NotAfter, "expiry"),
            (Field::Status, "status"),
            (Field::RevokedAt, "revoked_at"),
            (Field::Reason, "reason"),
            (Field::Certificate, "pem"),
            (Field::ChangedAt, "written"),
            (Field::Position, "written"),
        ]),
        serial_as: SerialAs::Decimal,
        times_as: TimesAs::Timestamp,
        position_as: PositionAs::Time,
        good: vec!["good".to_owned()],
        revoked: vec!["revoked".to_owned()],
        knows_issued: true,
    }
}
