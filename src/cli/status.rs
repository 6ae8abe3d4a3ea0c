//! `jarchy status`: what the issuance database says of a certificate, with its events.
//!
//! Asks the database, not a server: `jarchy query` does the latter.

use super::select::{self, IssuerChoice};
use crate::pki::{Reason, Status as PkiStatus, Time};
use crate::registry::{Entry, Event, Medium, Registry};
use anyhow::bail;
use serde_json::{Value, json};
use std::io::Write;

/// Show what the issuance database says of a certificate, or of all that a holder has.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  jarchy status 0A1B2C\n  jarchy status good.pem --json\n  jarchy status --holder EMP-1042"
)]
pub struct Status {
    /// Serial number (0A1B, 0a:1b, 0x0a1b, dec:2587) or file of the certificate
    #[arg(value_name = "SERIAL|CERT.PEM", conflicts_with = "holder")]
    certificate: Option<String>,
    /// All certificates of this holder
    #[arg(long, value_name = "REF")]
    holder: Option<String>,
    #[command(flatten)]
    issuer: IssuerChoice,
    /// As JSON: one object for a certificate, an array for a holder
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Runs the command.
    ///
    /// # Errors
    /// If the certificate or holder is unknown.
    pub async fn run(self, registry: &Registry, out: &mut dyn Write) -> anyhow::Result<()> {
        let entries = match (&self.certificate, &self.holder) {
            (Some(certificate), _) => vec![select::find(registry, certificate, &self.issuer).await?],
            (None, Some(holder)) => registry.of_holder(holder, self.issuer.issuer.as_ref()).await?,
            (None, None) => bail!(select::WHICH),
        };
        let mut objects = Vec::new();
        for (position, entry) in entries.iter().enumerate() {
            let events = registry.events(&entry.issuer, &entry.serial).await?;
            if self.json {
                objects.push(object(entry, &events));
            } else {
                if position > 0 {
                    writeln!(out)?;
                }
                print(entry, &events, out)?;
            }
        }
        match (self.json, objects.pop()) {
            (true, Some(one)) if self.holder.is_none() => writeln!(out, "{one:#}")?,
            (true, last) => writeln!(out, "{:#}", objects.into_iter().chain(last).collect::<Value>())?,
            (false, _) => {}
        }
        Ok(())
    }
}

fn print(entry: &Entry, events: &[Event], out: &mut dyn Write) -> std::io::Result<()> {
    let mut line = |name: &str, value: String| writeln!(out, "{name:<9} {value}");
    line("serial", entry.serial.to_string())?;
    line("issuer", entry.issuer.to_string())?;
    line("status", status_text(&entry.status))?;
    line("valid", format!("{} to {}", entry.not_before, entry.not_after))?;
    line("sha256", entry.sha256.map_or_else(|| "not known: a precertificate so far".to_owned(), |hash| hex(&hash)))?;
    for (name, value) in [
        ("holder", entry.holder.clone()),
        ("medium", entry.medium.map(|medium| medium.name().to_owned())),
        ("renews", entry.renews.map(|serial| serial.to_string())),
        ("shard", entry.shard.map(|shard| shard.to_string())),
        ("kind", entry.ca.filter(|ca| *ca).map(|_| "certificate of a CA".to_owned())),
    ] {
        if let Some(value) = value {
            line(name, value)?;
        }
    }
    writeln!(out, "events")?;
    for event in events {
        writeln!(out, "  {} {:<7}{}", event.recorded_at, event.kind, event_text(event))?;
    }
    Ok(())
}

fn status_text(status: &PkiStatus) -> String {
    let Some(revocation) = status.revocation() else { return "good".to_owned() };
    let word = if status.is_hold() { "on hold" } else { "revoked" };
    let since = revocation.invalidity_date.map_or_else(String::new, |since| format!(", invalid since {since}"));
    format!("{word} since {}, reason {}{since}", revocation.at, revocation.reason)
}

fn event_text(event: &Event) -> String {
    let mut parts = Vec::new();
    if let Some(actor) = &event.actor {
        parts.push(format!("by {actor}"));
    }
    if let Some(received) = event.received_at.filter(|received| *received != event.recorded_at) {
        parts.push(format!("received {received}"));
    }
    if event.effective_at != event.recorded_at {
        parts.push(format!("effective {}", event.effective_at));
    }
    for (field, old, new) in &event.changed {
        let (old, new) = (value_text(field, old), value_text(field, new));
        parts.push(if old == "none" { format!("{field} {new}") } else { format!("{field} {old} -> {new}") });
    }
    if parts.is_empty() { String::new() } else { format!(" {}", parts.join(", ")) }
}

/// A value of an event's JSON as people read it.
fn value_text(field: &str, value: &Value) -> String {
    match (field, value, value.as_i64()) {
        (_, Value::Null, _) => "none".to_owned(),
        ("revoked_at" | "invalidity_date", _, Some(seconds)) => Time::from_unix(seconds).to_string(),
        ("reason", _, Some(code)) => match u8::try_from(code).ok().and_then(Reason::from_code) {
            Some(reason) => reason.to_string(),
            None => code.to_string(),
        },
        (_, Value::String(text), _) => text.clone(),
        _ => value.to_string(),
    }
}

fn object(entry: &Entry, events: &[Event]) -> Value {
    let text = |time: Time| time.to_string();
    let revocation = entry.status.revocation();
    let changed = |event: &Event| -> Value {
        let both = |old: &Value, new: &Value, field: &str| json!({ "before": value_json(field, old), "after": value_json(field, new) });
        event.changed.iter().map(|(field, old, new)| (field.clone(), both(old, new, field))).collect()
    };
    json!({
        "issuer": entry.issuer.as_str(),
        "serial": entry.serial.to_string(),
        "status": if revocation.is_some() { "revoked" } else { "good" },
        "on_hold": entry.status.is_hold(),
        "revoked_at": revocation.map(|revocation| text(revocation.at)),
        "reason": revocation.map(|revocation| revocation.reason.name()),
        "invalidity_date": revocation.and_then(|revocation| revocation.invalidity_date).map(text),
        "not_before": text(entry.not_before),
        "not_after": text(entry.not_after),
        "sha256": entry.sha256.map(|hash| hex(&hash)),
        "holder": entry.holder,
        "medium": entry.medium.map(Medium::name),
        "renews": entry.renews.map(|serial| serial.to_string()),
        "shard": entry.shard,
        "ca": entry.ca,
        "released_at": entry.released_at.map(text),
        "changed_at": text(entry.changed_at),
        "events": events.iter().map(|event| json!({
            "kind": event.kind,
            "actor": event.actor,
            "received_at": event.received_at.map(text),
            "effective_at": text(event.effective_at),
            "recorded_at": text(event.recorded_at),
            "changed": changed(event),
        })).collect::<Vec<_>>(),
    })
}

/// Times and reasons as the rest of the object spells them.
fn value_json(field: &str, value: &Value) -> Value {
    match field {
        "revoked_at" | "invalidity_date" | "reason" if !value.is_null() => value_text(field, value).into(),
        _ => value.clone(),
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
