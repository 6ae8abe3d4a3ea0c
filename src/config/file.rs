//! The shapes of `jarchy.toml`: one struct per table, every setting optional where it has a default.
//!
//! Only what serde can see is checked here: names, types, spellings. Each value keeps its place in the
//! text, so that what is wrong between two settings can be shown where it stands.

use super::profile::{Hold, Nonce, NotIssued, NotYetValid, Presign, Profile, ResponderId, ShardBy};
use super::source::{Absent, Kind};
use crate::source::sql::{PositionAs, SerialAs, TimesAs};
use crate::telemetry::Format;
use humantime_serde::Serde;
use serde::Deserialize;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use toml::Spanned;

/// A value and where it stands, if it was written at all.
pub(super) type Setting<T> = Option<Spanned<T>>;
/// A time like `200ms`, `90s` or `6h`.
pub(super) type Duration = Serde<std::time::Duration>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) server: Server,
    #[serde(default)]
    pub(super) log: Log,
    #[serde(default)]
    pub(super) database: Database,
    #[serde(default)]
    pub(super) state: State,
    #[serde(default, rename = "issuer")]
    pub(super) issuers: Vec<Spanned<Issuer>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    pub(super) listen: Setting<String>,
    pub(super) admin: Setting<String>,
    pub(super) public_url: Setting<String>,
    pub(super) threads: Option<NonZeroUsize>,
    pub(super) grace: Setting<Duration>,
    pub(super) drain: Setting<Duration>,
    #[serde(default)]
    pub(super) trusted_proxies: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) limits: Limits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) max_connections: Option<NonZeroUsize>,
    pub(super) max_connections_per_address: Option<NonZeroUsize>,
    pub(super) header_timeout: Setting<Duration>,
    pub(super) idle_timeout: Setting<Duration>,
    pub(super) body_timeout: Setting<Duration>,
    pub(super) write_timeout: Setting<Duration>,
    pub(super) ocsp_cache_mib: Option<NonZeroUsize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) format: Option<Format>,
    pub(super) level: Setting<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Database {
    pub(super) path: Setting<PathBuf>,
    pub(super) url: Setting<String>,
    pub(super) password_file: Setting<PathBuf>,
    pub(super) tls: Setting<Encryption>,
    pub(super) ca_certificate: Setting<PathBuf>,
    pub(super) client_certificate: Setting<PathBuf>,
    pub(super) client_key: Setting<PathBuf>,
    pub(super) poll: Setting<Duration>,
    pub(super) max_staleness: Setting<Duration>,
    pub(super) reconcile: Setting<Duration>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encryption {
    Verify,
    Off,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) path: Option<PathBuf>,
    pub(super) snapshot_interval: Setting<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Issuer {
    pub(super) name: Spanned<String>,
    pub(super) certificate: PathBuf,
    #[serde(default)]
    pub(super) profile: Profile,
    pub(super) hold: Option<Spanned<Hold>>,
    pub(super) ca_revoked_at: Setting<String>,
    pub(super) ca_revoked_reason: Setting<String>,
    pub(super) end_of_life: Setting<bool>,
    pub(super) source: Setting<Source>,
    #[serde(default)]
    pub(super) ocsp: Ocsp,
    pub(super) crl: Option<Crl>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    pub(super) kind: Spanned<Kind>,
    pub(super) path: Setting<PathBuf>,
    pub(super) certificates: Setting<PathBuf>,
    pub(super) url: Setting<String>,
    pub(super) delta: Setting<String>,
    pub(super) poll: Setting<Duration>,
    pub(super) absent: Setting<Absent>,
    pub(super) password_file: Setting<PathBuf>,
    pub(super) tls: Setting<Encryption>,
    pub(super) ca_certificate: Setting<PathBuf>,
    pub(super) client_certificate: Setting<PathBuf>,
    pub(super) client_key: Setting<PathBuf>,
    pub(super) commit_grace: Setting<Duration>,
    pub(super) only_revoked: Setting<bool>,
    pub(super) ca_name: Setting<String>,
    pub(super) issuer_dn: Setting<String>,
    pub(super) hashes: Setting<bool>,
    pub(super) no_conflict: Setting<bool>,
    pub(super) snapshot: Setting<String>,
    pub(super) changes: Setting<String>,
    pub(super) columns: Setting<Columns>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Columns {
    pub(super) serial: Setting<String>,
    pub(super) serial_as: Option<SerialAs>,
    pub(super) not_before: Setting<String>,
    pub(super) not_after: Setting<String>,
    pub(super) status: Setting<String>,
    #[serde(default)]
    pub(super) good: Vec<String>,
    #[serde(default)]
    pub(super) revoked: Vec<String>,
    pub(super) revoked_at: Setting<String>,
    pub(super) reason: Setting<String>,
    pub(super) invalidity_date: Setting<String>,
    pub(super) changed_at: Setting<String>,
    pub(super) released_at: Setting<String>,
    pub(super) certificate: Setting<String>,
    pub(super) times_as: Option<TimesAs>,
    pub(super) position: Setting<String>,
    pub(super) position_as: Option<PositionAs>,
    pub(super) overlap: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ocsp {
    pub(super) enabled: Setting<bool>,
    pub(super) certificate: Setting<PathBuf>,
    pub(super) key: Setting<PathBuf>,
    pub(super) lifetime: Setting<Duration>,
    pub(super) max_age: Setting<Duration>,
    pub(super) max_age_uncertain: Setting<Duration>,
    pub(super) not_issued: Setting<NotIssued>,
    #[serde(default)]
    pub(super) nonce: Nonce,
    pub(super) live_rate: Option<u32>,
    pub(super) live_rate_per_client: Setting<u32>,
    #[serde(default)]
    pub(super) presign: Presign,
    pub(super) presign_rate: Option<NonZeroU32>,
    pub(super) require_signed: Setting<bool>,
    pub(super) trusted_requestors: Setting<Vec<PathBuf>>,
    #[serde(default)]
    pub(super) not_yet_valid: NotYetValid,
    #[serde(default)]
    pub(super) responder_id: ResponderId,
    pub(super) retention: Setting<String>,
    pub(super) archive_cutoff: Option<bool>,
    pub(super) cert_hash: Option<bool>,
    pub(super) invalidity_date: Option<bool>,
    pub(super) crl_id: Setting<bool>,
    #[serde(default, rename = "delegate")]
    pub(super) delegates: Vec<Delegate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delegate {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Crl {
    pub(super) key: Spanned<PathBuf>,
    pub(super) interval: Setting<Duration>,
    pub(super) lifetime: Setting<Duration>,
    pub(super) delta_lifetime: Setting<Duration>,
    pub(super) delta_window: Setting<Duration>,
    pub(super) debounce: Setting<Duration>,
    pub(super) max_delay: Setting<Duration>,
    pub(super) max_age: Setting<Duration>,
    #[serde(default)]
    pub(super) publish: Vec<Publish>,
    pub(super) shards: Setting<u32>,
    pub(super) shard_by: Setting<ShardBy>,
    pub(super) shard_url: Setting<String>,
    #[serde(default)]
    pub(super) unsharded: bool,
    pub(super) keep_expired: Setting<String>,
    pub(super) history: Setting<String>,
    #[serde(default)]
    pub(super) next_publish: bool,
    pub(super) ca_issuers: Setting<String>,
    pub(super) last: Setting<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Publish {
    pub(super) directory: Spanned<PathBuf>,
}
