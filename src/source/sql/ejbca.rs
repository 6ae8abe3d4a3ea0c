//! What EJBCA's database at hand has: the columns of its version, and its CAs.
//!
//! Goes in: the settings, and a connection. Comes out: the [`Table`] to read, and what an operator should know of it.
//! Which tables and columns there are is asked of the database's own catalogue, as far as the user may read them.

use super::link::{Dialect, Link};
use super::presets::{self, Ejbca, EjbcaCa, INVALIDITY_DATE, NOT_BEFORE, hex, quoted};
use super::table::{Cells, Table};
use crate::pki::Certificate;
use crate::source::SourceError;
use ring::digest;
use std::collections::{HashMap, HashSet};

const CERTIFICATES: &str = "CertificateData";
/// CAs that are named when another was asked for.
const NAMED: usize = 20;

/// Before the database was looked into: no row is of the CA.
pub(super) fn unseen(settings: &Ejbca) -> Table {
    presets::ejbca(settings, "1 = 0", |_, _| false)
}

/// The table to read for `ca`, and remarks on it.
pub(super) async fn look(
    link: &mut Link,
    settings: &Ejbca,
    dialect: Dialect,
    ca: &Certificate,
) -> Result<(Table, Vec<String>), SourceError> {
    let by_name = matches!(settings.ca, EjbcaCa::Name(_));
    let tables = [
        (CERTIFICATES, true),
        ("Base64CertData", settings.certificates),
        ("NoConflictCertificateData", settings.no_conflict),
        ("CAData", by_name),
    ];
    let mut columns: HashMap<&str, HashSet<String>> = HashMap::new();
    for (table, _) in tables.into_iter().filter(|(_, needed)| *needed) {
        let found = link.all(columns_of(table, dialect)).await?;
        if found.is_empty() {
            let hint = "is this EJBCA's database, and may the user SELECT there?";
            return Err(link.refused(&format!("there is no table {table} that this user may read; {hint}")));
        }
        columns.insert(table, found.into_iter().flatten().flatten().collect());
    }
    let has = |table: &str, column: &str| columns.get(table).is_some_and(|has| has.contains(&column.to_lowercase()));
    let (ours, which) = ours(link, settings, dialect, ca).await?;
    let versions = [NOT_BEFORE, INVALIDITY_DATE].map(|column| match has(CERTIFICATES, column) {
        true => format!("{column} is read"),
        false => format!("this version of EJBCA has no {column}"),
    });
    Ok((presets::ejbca(settings, &ours, has), vec![format!("rows of {CERTIFICATES} {which}; {}", versions.join(", "))]))
}

/// Names of the columns that may be read, in lower case.
fn columns_of(table: &str, dialect: Dialect) -> String {
    match dialect {
        Dialect::Postgres => format!(
            "SELECT lower(attname::text) FROM pg_attribute WHERE attrelid = to_regclass('{}') AND attnum > 0 \
             AND NOT attisdropped AND has_column_privilege(attrelid, attnum, 'SELECT')",
            table.to_lowercase()
        ),
        Dialect::MariaDb | Dialect::Sqlite => format!(
            "SELECT CONVERT(lower(column_name) USING utf8mb4) FROM information_schema.columns \
             WHERE table_schema = DATABASE() AND table_name = '{table}' AND privileges LIKE '%select%'"
        ),
    }
}

/// The condition for rows of the CA, and the same in words.
async fn ours(
    link: &mut Link,
    settings: &Ejbca,
    dialect: Dialect,
    ca: &Certificate,
) -> Result<(String, String), SourceError> {
    let fingerprint = hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, ca.der()).as_ref());
    let by_dn = |dn: &str| format!("c.issuerDN = {}", quoted(dn, dialect));
    Ok(match &settings.ca {
        EjbcaCa::Certificate => (
            format!("c.cAFingerprint = '{fingerprint}'"),
            format!("with cAFingerprint {fingerprint}, as of `certificate`"),
        ),
        EjbcaCa::IssuerDn(dn) => (by_dn(dn), format!("with issuerDN {dn:?}")),
        EjbcaCa::Name(name) => {
            let text = |column: &str| dialect.text(column, false);
            let cas = format!("SELECT {}, {}, {} FROM CAData q", text("name"), text("subjectDN"), text("cAId"));
            let cas = link.all(format!("{cas} ORDER BY q.name")).await?;
            let own =
                format!("SELECT {} FROM {CERTIFICATES} q WHERE q.fingerprint = '{fingerprint}'", text("subjectDN"));
            let own = link.all(own).await?.into_iter().flatten().flatten().next();
            let (dn, id) = named(&cas, name, own.as_deref()).map_err(|why| link.refused(&why))?;
            (by_dn(dn), format!("with issuerDN {dn:?}, which is CA {name:?} (cAId {id})"))
        }
    })
}

/// DN and id of the CA that EJBCA calls `name`, among name, DN and id of each; `own` is the DN of the CA's certificate
/// as EJBCA writes it, where it has that certificate.
fn named<'a>(cas: &'a [Cells], name: &str, own: Option<&str>) -> Result<(&'a str, &'a str), String> {
    let cell = |ca: &'a Cells, at: usize| ca.get(at).and_then(Option::as_deref).unwrap_or_default();
    let listed = |cas: Vec<&'a Cells>| {
        let more = if cas.len() > NAMED { format!(", and {} more", cas.len() - NAMED) } else { String::new() };
        let names = cas.iter().take(NAMED).map(|ca| format!("{:?} ({})", cell(ca, 0), cell(ca, 1)));
        names.collect::<Vec<_>>().join(", ") + &more
    };
    let Some(found) = cas.iter().find(|ca| cell(ca, 0) == name) else {
        return Err(if cas.is_empty() {
            format!(
                "`ca_name` is {name:?}, and CAData is empty, as for a VA: leave `ca_name` out, or write `issuer_dn`"
            )
        } else {
            format!("EJBCA has no CA {name:?} (`ca_name`); it has: {}", listed(cas.iter().collect()))
        });
    };
    let dn = cell(found, 1);
    match own {
        Some(own) if own != dn => {
            let rights: Vec<&Cells> = cas.iter().filter(|ca| cell(ca, 1) == own).collect();
            let hint = if rights.is_empty() { "no CA there".to_owned() } else { listed(rights) };
            Err(format!(
                "EJBCA's CA {name:?} (`ca_name`) is {dn}, but `certificate` is that of {own}: {hint} has this name; put one \
                 of both right, or write `issuer_dn`"
            ))
        }
        _ if dn.is_empty() => Err(format!("EJBCA's CA {name:?} has no subjectDN yet: write `issuer_dn`")),
        _ => Ok((dn, cell(found, 2))),
    }
}
