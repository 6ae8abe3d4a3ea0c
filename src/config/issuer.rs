//! `[[issuer]]`, `[issuer.ocsp]` and `[issuer.crl]`: what the profile decides, what it lets be changed, and what
//! contradicts itself.

use super::check::Check;
use super::{
    Crl, Destination, Diagnostic, HOUR, Hold, Issuer, Ocsp, OcspSigner, Profile, SECOND, ShardBy, Shards, file,
};
use crate::crl::{self, History, KeepExpired};
use crate::pki::{IssuerName, Reason, Revocation, Time};
use humantime_serde::re::humantime::{format_duration, parse_duration};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// Each shard costs files, signatures and a health report of its own.
const MOST_SHARDS: u32 = 4_096;

impl Check<'_> {
    pub(super) fn unique_names(&mut self, issuers: &[Spanned<file::Issuer>]) {
        let mut seen = HashMap::new();
        for name in issuers.iter().map(|issuer| &issuer.get_ref().name) {
            let line = Diagnostic::new(self.text, name.span(), String::new(), None).line;
            if let Some(first) = seen.insert(name.get_ref().as_str(), line) {
                let message = format!("an issuer called \"{}\" already stands in line {first}", name.get_ref());
                self.at(name.span(), message, "give each issuer its own name: it tells their URLs apart");
            }
        }
    }

    pub(super) fn issuer(&mut self, issuer: Spanned<file::Issuer>) -> Option<Issuer> {
        let span = issuer.span();
        let file::Issuer {
            name,
            certificate,
            profile,
            hold,
            ca_revoked_at,
            ca_revoked_reason,
            end_of_life,
            source,
            ocsp,
            crl,
        } = issuer.into_inner();
        let parsed = name.get_ref().parse::<IssuerName>();
        if let Err(error) = &parsed {
            self.at(name.span(), error.to_string(), "the name stands in URLs, such as /crl/<name>.crl");
        }
        let policy = profile.policy();
        if let Some(hold) = &hold
            && policy.hold == Hold::Refused
            && *hold.get_ref() == Hold::Allowed
        {
            let message = format!("profile {profile} does not allow certificates on hold");
            self.at(hold.span(), message, "leave `hold` out, or choose another profile");
        }
        if let Some(end) = end_of_life.as_ref().filter(|end| *end.get_ref() && !policy.end_of_life) {
            let message = format!("profile {profile} knows no answers that never lapse");
            self.at(end.span(), message, "leave `end_of_life` out, or choose the profile etsi or national");
        }
        let ca_revoked = self.ca_revoked(ca_revoked_at, ca_revoked_reason);
        if let Some(source) = &source {
            self.beside_source(source, ocsp.not_issued.as_ref(), crl.as_ref().map(|crl| crl.key.span()));
        }
        // What is wrong with a source was noted; without one the rest is checked all the same.
        let source = source.and_then(|source| self.source(source.into_inner()));
        let crl = crl.map(|crl| self.crl(crl, profile));
        let signers = self.signers(&ocsp, crl.as_ref(), span);
        let ocsp = self.ocsp(ocsp, profile, signers);
        Some(Issuer {
            name: parsed.ok()?,
            certificate: self.path(certificate),
            profile,
            hold: hold.map_or(policy.hold, Spanned::into_inner),
            ca_revoked,
            end_of_life: end_of_life.is_some_and(Spanned::into_inner),
            source,
            ocsp: ocsp?,
            crl,
        })
    }

    /// OCSP-37.
    fn ca_revoked(&mut self, at: file::Setting<String>, reason: file::Setting<String>) -> Option<Revocation> {
        let Some(at) = at else {
            if let Some(reason) = reason {
                self.at(
                    reason.span(),
                    "a reason, but no time",
                    "add `ca_revoked_at`, or leave `ca_revoked_reason` out",
                );
            }
            return None;
        };
        let time = Time::from_rfc3339(at.get_ref());
        if time.is_none() {
            let message = format!("{:?} is not a time", at.get_ref());
            self.at(at.span(), message, "write it in UTC, like \"2026-11-22T06:17:54Z\"");
        }
        let reason = match reason.as_ref().map(|reason| (reason.span(), reason.get_ref().parse::<Reason>())) {
            None => Reason::CaCompromise,
            Some((_, Ok(reason))) => reason,
            Some((span, Err(error))) => {
                self.at(span, error.to_string(), "the usual one is cACompromise");
                return None;
            }
        };
        Some(Revocation { at: time?, reason, invalidity_date: None })
    }

    /// Who signs OCSP responses: the delegates, or else the CA with the key that it signs CRLs with.
    fn signers(&mut self, ocsp: &file::Ocsp, crl: Option<&Crl>, issuer: Range<usize>) -> Option<Vec<OcspSigner>> {
        if let Some(off) = ocsp.enabled.as_ref().filter(|enabled| !enabled.get_ref()) {
            return self.no_signers(ocsp, crl, off.span());
        }
        let mut signers: Vec<_> = self.first_signer(ocsp).into_iter().collect();
        signers.extend(ocsp.delegates.iter().map(|delegate| OcspSigner::Delegate {
            certificate: self.folder.join(&delegate.certificate),
            key: self.folder.join(&delegate.key),
        }));
        if let (Some(certificate), None) = (&ocsp.certificate, &ocsp.key) {
            let help = "add `key = \"…\"` to [issuer.ocsp]; or leave `certificate` out and the CA's own key signs";
            self.at(certificate.span(), "an OCSP certificate is named, but not its key", help);
            return None;
        }
        if signers.is_empty() {
            signers.extend(crl.map(|crl| OcspSigner::Ca { key: crl.key.clone() }));
        }
        if signers.is_empty() {
            let help = "give [issuer.ocsp] `certificate` and `key` of a delegate, or [issuer.crl] the `key` of the CA, \
                        which then signs CRLs and, unless [issuer.ocsp] says `enabled = false`, OCSP responses";
            self.at(issuer, "this issuer has no key to sign with", help);
            return None;
        }
        Some(signers)
    }

    /// Of an issuer that publishes CRLs and answers nothing.
    fn no_signers(&mut self, ocsp: &file::Ocsp, crl: Option<&Crl>, off: Range<usize>) -> Option<Vec<OcspSigner>> {
        if crl.is_none() {
            let help = "add [issuer.crl] with the `key` of the CA, or leave `enabled` out";
            self.at(off, "this issuer neither answers OCSP nor publishes CRLs", help);
            return None;
        }
        if ocsp.certificate.is_some() || ocsp.key.is_some() || !ocsp.delegates.is_empty() {
            let help = "leave `certificate`, `key` and the delegates out, or `enabled`";
            self.at(off, "a key for OCSP responses is named, and there are to be none", help);
            return None;
        }
        Some(Vec::new())
    }

    /// The one that [issuer.ocsp] itself names.
    fn first_signer(&self, ocsp: &file::Ocsp) -> Option<OcspSigner> {
        let key = self.folder.join(ocsp.key.as_ref()?.get_ref());
        Some(match &ocsp.certificate {
            Some(certificate) => OcspSigner::Delegate { certificate: self.folder.join(certificate.get_ref()), key },
            None => OcspSigner::Ca { key },
        })
    }

    fn ocsp(&mut self, ocsp: file::Ocsp, profile: Profile, signers: Option<Vec<OcspSigner>>) -> Option<Ocsp> {
        let policy = profile.policy();
        let (shortest, longest) = policy.ocsp_lifetime_limits;
        let lifetime = self.seconds(ocsp.lifetime, policy.ocsp_lifetime, shortest, longest);
        // A cache must have to come back before half the lifetime is over, when the answer is renewed.
        let longest = Duration::from_secs(lifetime.as_secs() / 2);
        let max_age = self.seconds(ocsp.max_age, policy.max_age.min(longest), Duration::ZERO, longest);
        let max_age_uncertain =
            self.seconds(ocsp.max_age_uncertain, policy.max_age_uncertain.min(longest), Duration::ZERO, longest);
        let live_rate = ocsp.live_rate.unwrap_or(1_000);
        let per_client = ocsp.live_rate_per_client.as_ref();
        if let Some(setting) = per_client.filter(|setting| *setting.get_ref() > live_rate) {
            let message = format!("one client cannot have more than all clients, which is {live_rate} a second");
            self.at(setting.span(), message, "choose at most `live_rate`, or raise that too");
        }
        let live_rate_per_client = per_client.map_or_else(|| live_rate.div_ceil(10), |setting| *setting.get_ref());
        let requestors = self.requestors(ocsp.require_signed, ocsp.trusted_requestors);
        let retention = ocsp.retention.and_then(|retention| self.retention(&retention));
        Some(Ocsp {
            signers: signers?,
            lifetime,
            max_age,
            max_age_uncertain,
            not_issued: ocsp.not_issued.map_or(policy.not_issued, Spanned::into_inner),
            nonce: ocsp.nonce,
            live_rate,
            live_rate_per_client,
            presign: ocsp.presign,
            presign_rate: ocsp.presign_rate.or_else(|| NonZeroU32::new(2_000)).unwrap_or(NonZeroU32::MIN),
            not_yet_valid: ocsp.not_yet_valid,
            responder_id: ocsp.responder_id,
            retention,
            archive_cutoff: ocsp.archive_cutoff.unwrap_or(policy.archive_cutoff),
            cert_hash: ocsp.cert_hash.unwrap_or(policy.cert_hash),
            invalidity_date: ocsp.invalidity_date.unwrap_or(policy.invalidity_date),
            crl_id: ocsp.crl_id.is_some_and(Spanned::into_inner),
            requestors,
        })
    }

    /// Whose signed requests are answered; `None` where they need not be signed.
    fn requestors(
        &mut self,
        require_signed: file::Setting<bool>,
        trusted: file::Setting<Vec<PathBuf>>,
    ) -> Option<Vec<PathBuf>> {
        let required = require_signed.as_ref().is_some_and(|required| *required.get_ref());
        let span = trusted.as_ref().map(Spanned::span);
        let files = trusted.map(Spanned::into_inner).unwrap_or_default();
        match (required, span, require_signed) {
            (true, _, Some(required)) if files.is_empty() => {
                let help = "name files with the certificates of those who may ask, or of their CA: \
                            trusted_requestors = [\"requestors.pem\"]";
                self.at(required.span(), "only signed requests are answered, but nobody's signature is trusted", help);
                None
            }
            (false, Some(span), _) => {
                let help = "add `require_signed = true`, or leave `trusted_requestors` out";
                self.at(span, "requests need not be signed, so nobody's signature is looked at", help);
                None
            }
            (true, ..) => Some(files.into_iter().map(|file| self.path(file)).collect()),
            (false, ..) => None,
        }
    }

    /// A time, or `None` for the word "forever" (and for what is wrong, which is then noted).
    fn retention(&mut self, setting: &Spanned<String>) -> Option<Duration> {
        let text = setting.get_ref();
        if text == "forever" {
            return None;
        }
        let parsed = parse_duration(text);
        let whole = parsed.ok().filter(|retention| retention.subsec_nanos() == 0);
        if whole.is_none() {
            let message = format!("{text:?} is no time to keep something");
            self.at(setting.span(), message, "write \"forever\", or a number and a unit: \"10years\", \"90d\"");
        }
        whole
    }

    fn crl(&mut self, crl: file::Crl, profile: Profile) -> Crl {
        let policy = profile.policy();
        let shards = self.shards(&crl);
        let expired = [("no", KeepExpired::No), ("forever", KeepExpired::Forever)];
        let keep_expired = self.time_or(crl.keep_expired.as_ref(), expired, KeepExpired::For);
        let history = [("valid", History::Valid), ("all", History::All)];
        let history = self.time_or(crl.history.as_ref(), history, History::For);
        if let Some(url) = &crl.ca_issuers {
            self.http_url(url, url.get_ref());
        }
        if let Some(last) = crl.last.as_ref().filter(|last| *last.get_ref())
            && !matches!(profile, Profile::Etsi | Profile::National)
        {
            // ETSI-24: others forbid a list that has no end (BR-06).
            let help = "leave `last` out, or choose the profile etsi or national";
            self.at(last.span(), format!("profile {profile} knows no last list without an end"), help);
        }
        let lifetime_span = crl.lifetime.as_ref().or(crl.interval.as_ref()).map(Spanned::span).unwrap_or_default();
        let delta_span = crl.delta_lifetime.as_ref().map(Spanned::span);
        let interval = self.seconds(crl.interval, policy.crl_interval, 60 * SECOND, policy.crl_interval_limit);
        let lifetime = self.seconds(crl.lifetime, policy.crl_lifetime, 60 * SECOND, policy.crl_lifetime_limit);
        if lifetime <= interval {
            let message = format!(
                "a list that lives {} would lapse before the next one, which comes every {}",
                format_duration(lifetime),
                format_duration(interval)
            );
            self.at(lifetime_span, message, "make `lifetime` longer than `interval`, better twice as long");
        }
        let default = interval.saturating_mul(2).min(lifetime);
        let delta_lifetime = self.seconds(crl.delta_lifetime, default, SECOND, policy.crl_lifetime_limit);
        if let Some(span) = delta_span.filter(|_| delta_lifetime <= interval || delta_lifetime > lifetime) {
            let message = format!("a delta cannot live {}", format_duration(delta_lifetime));
            let help = format!(
                "choose more than `interval`, {}, and at most `lifetime`, {}",
                format_duration(interval),
                format_duration(lifetime)
            );
            self.at(span, message, help);
        }
        let debounce = crl.debounce.as_ref().map(Spanned::span);
        let max_delay = crl.max_delay.as_ref().map(Spanned::span);
        let quiet = self.duration(crl.debounce, Duration::from_millis(200), Duration::ZERO, HOUR);
        let wait = max_delay.clone().map(|_| self.duration(crl.max_delay, HOUR, Duration::ZERO, 24 * HOUR));
        let (latest, span) = (wait.unwrap_or(Duration::from_millis(800)), max_delay.or(debounce).unwrap_or_default());
        if quiet > latest {
            let message = format!(
                "waiting for {} of quiet, but no longer than {}",
                format_duration(quiet),
                format_duration(latest)
            );
            self.at(span, message, "make `max_delay` at least as long as `debounce`");
        }
        Crl {
            key: self.path(crl.key.into_inner()),
            interval,
            lifetime,
            delta_lifetime,
            delta_window: self.seconds(crl.delta_window, lifetime, 60 * SECOND, policy.crl_lifetime_limit),
            debounce: quiet,
            max_delay: wait,
            max_age: self.seconds(crl.max_age, policy.max_age, Duration::ZERO, HOUR),
            publish: self.destinations(crl.publish),
            shards,
            keep_expired,
            history,
            next_publish: crl.next_publish,
            ca_issuers: crl.ca_issuers.map(Spanned::into_inner),
            last: crl.last.is_some_and(Spanned::into_inner),
        }
    }

    fn shards(&mut self, crl: &file::Crl) -> Option<Shards> {
        let by = crl.shard_by.as_ref().map_or_else(ShardBy::default, |by| *by.get_ref());
        let by_kind = crl.shard_by.as_ref().filter(|_| by == ShardBy::Kind).map(|by| (by.span(), 2));
        let (span, wanted) = crl.shards.as_ref().map(|shards| (shards.span(), *shards.get_ref())).or(by_kind)?;
        let count = NonZeroU32::new(wanted).filter(|count| count.get() <= MOST_SHARDS);
        if count.is_none() {
            let help =
                format!("choose from 1 to {MOST_SHARDS}, and so many that none gets more than 100,000 certificates");
            self.at(span.clone(), format!("{wanted} shards cannot be made"), help);
        }
        if by == ShardBy::Kind && wanted != 2 {
            let help = "leave `shards` out: by kind there is one list for users' certificates and one for those of CAs";
            self.at(span.clone(), format!("{wanted} shards cannot be made by kind"), help);
        }
        let usual = if by == ShardBy::Kind { crl::KIND_URL } else { crl::SHARD_URL };
        let url = crl.shard_url.as_ref().map_or(usual, |url| url.get_ref().as_str()).to_owned();
        if url.contains("{public_url}") && !self.has_public_url {
            let help = "set server.public_url; or write the whole address: shard_url = \"http://crl.example.org/{issuer}/{n}.crl\"";
            let span = crl.shard_url.as_ref().map_or(span, Spanned::span);
            self.at(span, "the URL of a shard stands in it and in certificates, and is not known", help);
        }
        if let Some(written) = &crl.shard_url {
            let filled = url.replace("{public_url}", "http://example").replace("{issuer}", "ca").replace("{n}", "0");
            if filled.contains(['{', '}']) || !url.contains("{n}") {
                let help = "use {public_url}, {issuer} and {n}, which must stand in it: the number of the shard, or \
                            user or ca";
                self.at(written.span(), format!("{url:?} is no template for the shards' URLs"), help);
            } else {
                self.http_url(written, &filled);
            }
        }
        Some(Shards { count: count?, by, url, unsharded: crl.unsharded })
    }

    fn destinations(&mut self, written: Vec<file::Publish>) -> Vec<Destination> {
        let mut destinations: Vec<Destination> = Vec::new();
        for file::Publish { directory } in written {
            let (span, path) = (directory.span(), self.path(directory.into_inner()));
            if destinations.iter().any(|other| other.directory == path) {
                self.at(span, format!("the lists go to {} already", path.display()), "leave one of the two out");
            }
            destinations.push(Destination { directory: path });
        }
        destinations
    }
}
