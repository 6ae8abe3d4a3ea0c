//! What is believed of a row: pure, from the row, what was known before, and the issuer's rules.

use super::Fed;
use crate::index::Record;
use crate::pki::{Reason, Revocation, Status, TOLERANCE, Time};
use crate::source::Row;
use std::sync::Arc;
use std::time::Duration;

/// A good certificate that changed within this time before it is loaded may have been answered otherwise
/// before; its answers are dated from now on. Older ones need no such care: no answer lives so long
/// (BR-09), nor is any aligned to a point so far back.
const RECENT: Duration = Duration::from_secs(11 * 86_400);
/// A revocation dated further ahead than this is worth a warning (life cycle of a status).
const AHEAD: Duration = Duration::from_secs(300);

/// What is to be believed of `row`, when `known` was known before. `as_of` was sampled before it was read, `read_at`
/// after: what was committed in between, in a second that had only just begun, is not dated ahead.
///
/// # Errors
/// Why it is not believed: what was known stays.
pub(super) fn judge(
    row: &Row,
    fed: &Fed,
    known: Option<&Record>,
    as_of: Time,
    read_at: Time,
    loading: bool,
) -> Result<Record, &'static str> {
    let status = match row.status {
        Status::Revoked(mut revocation) => {
            // Of a database whose clock is ahead the commit, too, is dated ahead.
            let committed = row.changed_at.min(read_at);
            if revocation.at > committed {
                if revocation.at > committed + AHEAD {
                    let (issuer, serial) = (Arc::clone(&row.issuer), row.serial);
                    tracing::warn!(%issuer, %serial, at = %revocation.at, "a revocation is dated ahead; it is published now");
                }
                let was = known.and_then(|known| known.status.revocation());
                revocation.at = was.map_or(committed, |was| was.at.min(row.changed_at));
            }
            revocation.reason = published(revocation.reason, fed);
            Status::Revoked(revocation)
        }
        Status::Good => Status::Good,
    };
    // By a clock that was ahead of this one by so much, it was learned no later than now.
    let learned = |known: &Record| if known.since > as_of + TOLERANCE { as_of } else { known.since };
    let since = match known {
        // The index keeps what it knew of an unchanged status.
        Some(known) if known.status == status => known.since,
        Some(known) => {
            if let Status::Revoked(was) = known.status {
                // A hold may be dated back before the release of an earlier one, so the release must also
                // come after this hold was learned; by more than clocks differ it cannot come before.
                let ended = |released: Time| released >= was.at && released + AHEAD >= learned(known);
                if status == Status::Good && !(known.status.is_hold() && row.released_at.is_some_and(ended)) {
                    return Err(
                        "the database says good of a certificate that was revoked, without a recorded release from hold; it stays revoked: \
                         after a restore, have the database say so again (jarchy revoke SERIAL --reason …)",
                    );
                }
                if status.is_hold() && !known.status.is_hold() {
                    return Err(
                        "the database says on hold of a certificate that was revoked for good; it stays revoked: \
                         have the database say so too (jarchy revoke SERIAL --reason …)",
                    );
                }
            }
            // Promise 2: later than any answer about the earlier status can be dated.
            as_of.max(learned(known) + Duration::from_secs(1))
        }
        None if loading && status == Status::Good && row.changed_at + RECENT < as_of => Time::default(),
        None => as_of,
    };
    Ok(Record {
        not_before: row.not_before,
        not_after: row.not_after,
        status,
        since,
        sha256: row.sha256.filter(|_| fed.hashes),
    })
}

/// The reason as the profile lets it be published.
fn published(reason: Reason, fed: &Fed) -> Reason {
    if fed.reasons.contains(&reason) { reason } else { Reason::Unspecified }
}

/// Whether `row` says of `known` nothing but another date of its revocation, which was told with this machine's
/// clock because that of the database is ahead: the date that it bears there had not come yet.
pub(super) fn is_redated(row: &Row, fed: &Fed, known: &Record) -> bool {
    let (Some(is), Some(was)) = (row.status.revocation(), known.status.revocation()) else { return false };
    let same = Revocation { at: was.at, reason: published(is.reason, fed), ..*is } == *was;
    // What changes twice in a second is dated a second later.
    let told_then = was.at + Duration::from_secs(1) >= known.since;
    same && was.at < is.at && told_then && row.released_at.is_none_or(|released| released < was.at)
}
