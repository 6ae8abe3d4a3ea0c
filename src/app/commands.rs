//! What operators want done, as it comes from their listener, handed to those who can do it.

use super::lists::{Desks, publish_now};
use crate::feed::{Desk, Dropped, Reconciled};
use crate::health::Health;
use crate::http::admin::{Command, FeedReport, Refused};
use crate::pki::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How long an operator waits for a feed: a reconcile reads the whole database at half speed.
const FEED_TIME: Duration = Duration::from_secs(3_600);

/// The feeds that take commands, each under the name of its component.
pub(super) type Feeds = Vec<(String, Desk)>;

/// Does what operators want done, each thing for itself. Ends with the last sender, which the listener has.
pub(super) async fn obey(
    mut wanted: mpsc::Receiver<Command>,
    desks: Desks,
    feeds: Feeds,
    clock: Arc<dyn Clock>,
    health: Health,
) {
    while let Some(command) = wanted.recv().await {
        // Who asked may have gone, wherever an answer is sent.
        match command {
            Command::PublishNow { issuer, reply } => {
                let (desk, now, health) = (desks.get(&issuer).cloned(), clock.now(), health.clone());
                tokio::spawn(async move {
                    let answer = match desk {
                        Some(desk) => publish_now(&issuer, desk, now, &health).await,
                        None => Err(Refused::Unknown),
                    };
                    _ = reply.send(answer);
                });
            }
            Command::Reconcile { reply } => {
                tracing::info!("an operator wants a reconcile");
                let asked = ask(&feeds, &health, |desk| async move {
                    let Reconciled { compared, mended, vanished } = desk.reconcile().await?;
                    Some(Ok(vec![("compared", compared), ("mended", mended), ("vanished", vanished)]))
                });
                tokio::spawn(async move { _ = reply.send(asked.await) });
            }
            Command::ConfirmDrop { actor, reply } => {
                let asked = ask(&feeds, &health, |desk| {
                    let actor = actor.clone();
                    async move {
                        let dropped = desk.confirm_drop(actor).await?;
                        let counted = |Dropped { forgotten, kept }| vec![("forgotten", forgotten), ("kept", kept)];
                        Some(dropped.map(counted))
                    }
                });
                tokio::spawn(async move { _ = reply.send(asked.await) });
            }
        }
    }
}

/// What one feed counted, or why it did not; `None` if it has ended.
type Counted = Option<Result<Vec<(&'static str, u64)>, String>>;

/// Asks every feed, all at once.
fn ask<F: Future<Output = Counted> + Send + 'static>(
    feeds: &Feeds,
    health: &Health,
    question: impl Fn(Desk) -> F,
) -> impl Future<Output = Result<Vec<FeedReport>, Refused>> + Send + 'static {
    let mut asked = JoinSet::new();
    for (feed, desk) in feeds {
        let (feed, answer) = (feed.clone(), question(desk.clone()));
        asked.spawn(async move { (feed, tokio::time::timeout(FEED_TIME, answer).await) });
    }
    let health = health.clone();
    async move {
        let mut reports = Vec::new();
        for (feed, answer) in asked.join_all().await {
            let report = health.report().into_iter().find(|report| report.component == feed);
            let reason = || report.and_then(|report| report.reason).unwrap_or_else(|| "it has ended".to_owned());
            match answer.ok().flatten() {
                Some(Ok(counted)) => reports.push(FeedReport { feed, counted }),
                Some(Err(error)) => return Err(Refused::Late(format!("{feed}: {error}"))),
                None => return Err(Refused::Late(format!("{feed}: {}", reason()))),
            }
        }
        reports.sort_by(|a, b| a.feed.cmp(&b.feed));
        Ok(reports)
    }
}
