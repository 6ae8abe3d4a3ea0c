//! How an issuer's lists are made.

use std::time::Duration;

/// What becomes of the entries of certificates that have ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeepExpired {
    /// They go once a regular list carried them (promise 7).
    #[default]
    No,
    /// They stay for this long, and the list says since when (expiredCertsOnCRL).
    For(Duration),
    /// They stay, and the list says since when.
    Forever,
}

/// Which lists of the past can be had as a whole; numbers and hashes of all are kept in any case.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum History {
    /// The complete ones that deltas build on, which by default are those that are valid still.
    #[default]
    Valid,
    /// All, for this long.
    For(Duration),
    /// All.
    All,
}

/// How an issuer's lists are made. All but the last three in whole seconds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublisherConfig {
    /// Distance of the regular slots, at each of which a complete list is due. Default 6 h.
    pub interval: Duration,
    /// nextUpdate − thisUpdate of a complete list; longer than `interval`. Default 48 h.
    pub lifetime: Duration,
    /// nextUpdate − thisUpdate of a delta; longer than `interval`. Default 12 h.
    pub delta_lifetime: Duration,
    /// How old a complete list may be for the delta to build on it. Default: `lifetime`.
    pub delta_window: Duration,
    /// No list is made once the index has been out of touch with the database for longer, except to tell
    /// a revocation. Default 60 s.
    pub max_staleness: Duration,
    /// Quiet after a change before it is published. Default 200 ms.
    pub debounce: Duration,
    /// The longest that a change waits for quiet; above 100,000 entries four times the cost of a build, if
    /// that is longer. Default 800 ms.
    pub max_delay: Duration,
    /// Bytes that the older complete lists of the window may add to the state store. Default 1 GiB.
    pub history_bytes: u64,
    /// What becomes of lists that deltas no longer build on.
    pub history: History,
    /// Where the public listener is found from outside, as `http://crl.example`; complete lists then point
    /// at `<public_url>/crl/<issuer>-delta.crl` (freshestCRL). Default: none.
    pub public_url: Option<String>,
    /// Whether there are deltas. Default: there are. A part does without (CRL-68).
    pub deltas: bool,
    /// The template of the parts' URLs, see [`super::part_url`].
    pub part_url: String,
    /// What becomes of the entries of certificates that have ended.
    pub keep_expired: KeepExpired,
    /// Whether lists say when the next regular one comes (CRL-31). Default: they do not.
    pub next_publish: bool,
    /// Where lists say that the CA's certificate is found (CRL-29). Default: they do not.
    pub ca_issuers: Option<String>,
    /// Whether nothing is issued any more: once all certificates have ended or are revoked, a last list
    /// without an end is published, and none after it (ETSI-07). Default: no.
    pub last: bool,
}

/// Where shards are found if nothing else is said.
pub const SHARD_URL: &str = "{public_url}/crl/{issuer}/shard-{n}.crl";
/// Where the lists of users' and of CAs' certificates are found if nothing else is said.
pub const KIND_URL: &str = "{public_url}/crl/{issuer}/{n}.crl";

impl Default for PublisherConfig {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3_600);
        Self {
            interval: 6 * HOUR,
            lifetime: 48 * HOUR,
            delta_lifetime: 12 * HOUR,
            delta_window: 48 * HOUR,
            max_staleness: Duration::from_secs(60),
            debounce: Duration::from_millis(200),
            max_delay: Duration::from_millis(800),
            history_bytes: 1 << 30,
            history: History::Valid,
            public_url: None,
            deltas: true,
            part_url: SHARD_URL.to_owned(),
            keep_expired: KeepExpired::No,
            next_publish: false,
            ca_issuers: None,
            last: false,
        }
    }
}
