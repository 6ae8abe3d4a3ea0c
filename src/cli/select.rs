//! What the commands on the issuance database share: which certificate is meant, who wants the change,
//! and times as people write them.

use crate::pki::{Certificate, Clock, Issuer, IssuerName, Serial, SystemClock, Time};
use crate::registry::{Audit, Entry, Registry, RegistryError};
use crate::sign::verify::{self, VerifyError};
use ::der::Decode;
use anyhow::{Context, bail, ensure};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use std::path::Path;
use std::time::Duration;

/// Clocks of people's machines may run ahead of ours by so much.
const SKEW: Duration = Duration::from_secs(300);

/// Said when neither a certificate nor a holder was given.
pub(super) const WHICH: &str = "which certificate? Give its serial, its file, or --holder";

/// Whose certificate is meant, where a serial alone does not tell.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct IssuerChoice {
    /// The issuer, needed only where several have issued the serial
    #[arg(long, value_name = "NAME")]
    pub(super) issuer: Option<IssuerName>,
}

/// Who wants a change.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Audited {
    /// Who wants it [default: who called sudo, else this user's name]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
    /// When the request came in, if not just now: 2026-11-22T06:17:54Z or 2026-11-22
    #[arg(long, value_name = "TIME", value_parser = past)]
    received: Option<Time>,
}

impl Audited {
    /// Both, with what holds where nothing was said.
    pub(super) fn audit(&self) -> anyhow::Result<Audit> {
        let actor = self.by.clone().unwrap_or_else(login);
        ensure!(!actor.trim().is_empty(), "--by needs the name of whoever wants the change");
        Ok(Audit { actor, received_at: self.received.unwrap_or_else(|| SystemClock.now()) })
    }
}

/// Who runs this: who called sudo, else the name of the process's user, as far as this machine knows it.
fn login() -> String {
    let sudo = std::env::var("SUDO_USER").ok();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name(sudo, &users, rustix::process::getuid().as_raw())
}

/// Out of `users`, which is as /etc/passwd, unless it is known from `sudo`.
fn name(sudo: Option<String>, users: &str, uid: u32) -> String {
    let by_number = |line: &str| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    };
    let named = sudo.filter(|name| !name.is_empty()).or_else(|| users.lines().find_map(by_number));
    named.unwrap_or_else(|| format!("uid {uid}"))
}

/// Reads RFC 3339 or a date, which is its first second in UTC.
pub(super) fn time(text: &str) -> Result<Time, String> {
    let date = || text.parse::<Date>().and_then(|date| date.to_zoned(TimeZone::UTC)).map(|start| start.timestamp());
    // A date is asked first: a timestamp without an offset must not pass for one.
    let read = if text.len() == "2026-11-22".len() { date() } else { text.parse::<Timestamp>() };
    read.map(|at| Time::from_unix(at.as_second())).map_err(|_| {
        format!("{text:?} is no time: write 2026-11-22T06:17:54Z, 2026-11-22T08:17:54+02:00 or 2026-11-22")
    })
}

/// Reads a time that has passed; one within the skew of clocks becomes now.
pub(super) fn past(text: &str) -> Result<Time, String> {
    let (at, now) = (time(text)?, SystemClock.now());
    if at > now + SKEW {
        return Err(format!("{at} lies ahead (it is {now} now): leave the option out for now"));
    }
    Ok(at.min(now))
}

/// The certificate that `text`, a serial or a file, stands for.
pub(super) async fn find(registry: &Registry, text: &str, choice: &IssuerChoice) -> anyhow::Result<Entry> {
    let path = Path::new(text);
    match text.parse::<Serial>() {
        Ok(serial) => Ok(registry.find(&serial, choice.issuer.as_ref()).await?),
        Err(_) if path.exists() => find_file(registry, path, choice).await,
        Err(error) => bail!("{error}; and there is no file of that name"),
    }
}

async fn find_file(registry: &Registry, path: &Path, choice: &IssuerChoice) -> anyhow::Result<Entry> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let certificate = Certificate::from_file_bytes(&bytes).with_context(|| path.display().to_string())?;
    let issuers = registry.issuers().await?;
    let issuer = issuer_of(&issuers, &certificate).with_context(|| path.display().to_string())?;
    if let Some(chosen) = choice.issuer.as_ref().filter(|chosen| **chosen != issuer.name) {
        bail!("{} was issued by {}, not by {chosen}", path.display(), issuer.name);
    }
    let (issuer, serial) = (issuer.name.clone(), certificate.serial());
    let entry = registry.get(&issuer, &serial).await?;
    let unknown = || RegistryError::Unknown { issuer: Some(issuer), serial, place: registry.place().to_owned() };
    Ok(entry.ok_or_else(unknown)?)
}

/// The registered CA that issued `certificate`: its name is the issuer's, its key the one that the
/// authorityKeyIdentifier names, and the signature is that key's.
pub(super) fn issuer_of<'a>(issuers: &'a [Issuer], certificate: &Certificate) -> anyhow::Result<&'a Issuer> {
    let stranger = || {
        let names: Vec<_> = issuers.iter().map(|issuer| issuer.name.as_str()).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let by = x509_cert::name::Name::from_der(certificate.issuer()).map(|name| name.to_string()).unwrap_or_default();
        anyhow::anyhow!("issued by \"{by}\", which is no issuer of this database (known: {known})")
    };
    let mut forged = false;
    for issuer in issuers.iter().filter(|issuer| issuer.certificate.subject() == certificate.issuer()) {
        let named =
            certificate.authority_key_identifier.as_ref().map(|key| *key == issuer.certificate.key_identifier());
        if named == Some(false) {
            continue;
        }
        match verify::issued_by(certificate, &issuer.certificate) {
            Ok(()) => return Ok(issuer),
            // An algorithm that cannot be checked here: the name of the key decides.
            Err(VerifyError::Unsupported) if named == Some(true) => return Ok(issuer),
            Err(_) => forged = true,
        }
    }
    if forged {
        bail!("names an issuer of this database, but that CA's key did not sign it");
    }
    Err(stranger())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for text in
            ["2026-11-22T06:17:54Z", "2026-11-22T08:17:54+02:00", "2026-11-22 06:17:54Z", "2026-11-22T06:17:54.9Z"]
        {
            assert_eq!(time(text).unwrap().to_string(), "2026-11-22T06:17:54Z", "{text}");
        }
        assert_eq!(time("2026-11-22").unwrap().to_string(), "2026-11-22T00:00:00Z");
        for text in ["", "yesterday", "2026-11-22T06:17:54", "2026-02-30", "22.11.2026", "1795330067", "2026-11-2é"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn who_says_nothing_is_who_called_sudo_or_the_user_of_the_process() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\nbroken\nca:x:1000:1000::/srv:/bin/sh\n";
        assert_eq!(name(Some("ann".to_owned()), users, 0), "ann");
        assert_eq!(name(Some(String::new()), users, 0), "root");
        assert_eq!(name(None, users, 1000), "ca");
        assert_eq!(name(None, users, 4711), "uid 4711");
    }

    #[test]
    fn a_time_just_ahead_is_now_and_a_later_one_is_refused() {
        let now = SystemClock.now();
        assert!(past(&(now + SKEW / 2).to_string()).unwrap() <= SystemClock.now());
        let refused = past(&(now + SKEW * 2).to_string()).unwrap_err();
        assert!(refused.contains("lies ahead"), "{refused}");
    }
}
