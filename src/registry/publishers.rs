//! Which node publishes an issuer's CRLs: one at a time, so that two with state stores of their own do not give
//! one number to two lists (promise 5).
//!
//! A node is known by its state store, and a row is its own until it has not been renewed for [`LAPSE`]. Times
//! are the database's, so nobody's clock but one counts.

use super::error::forbids;
use super::{Record, Registry, RegistryError, Session, Value};
use crate::pki::{IssuerName, Time};
use std::collections::HashMap;
use std::time::Duration;

/// Whoever has not been heard of for so long publishes no more.
pub const LAPSE: Duration = Duration::from_secs(600);
/// How old the last word of whoever publishes may become before it is renewed.
const RENEWAL: Duration = Duration::from_secs(60);

/// A process that would publish.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// The identity of the state store in which it keeps numbers and lists.
    pub store: String,
    /// What tells it from any other process, also from one with a copy of that store; empty for none yet.
    pub process: String,
    /// Where it runs, for people.
    pub host: String,
}

/// Whose an issuer's lists are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Publisher {
    /// The node's that asked.
    Us {
        /// How long ago that was last written down.
        age: Duration,
        /// No list that anybody else made of it has a higher number.
        floor: u64,
    },
    /// Another's.
    Other {
        /// Where it runs.
        host: String,
        /// When it last said so.
        renewed_at: Time,
        /// Whether it works with a copy of our state store.
        copy: bool,
    },
    /// Nobody can say, since we may not write here; in words.
    Unknown(String),
}

/// A SELECT of whole rows, with what comes after FROM.
macro_rules! select {
    ($tail:literal) => {
        concat!("SELECT issuer, store, process, host, number, renewed_at FROM jarchy.publishers ", $tail)
    };
}

/// A row of `publishers`.
struct Row {
    node: Node,
    number: u64,
    renewed_at: Time,
}

impl Row {
    /// Whose the lists are for `node`; `None` if they can be had.
    fn judge(&self, node: &Node, now: Time, anew: bool) -> Option<Publisher> {
        let (age, copy) = (now.since(self.renewed_at), self.node.store == node.store);
        if copy && self.node.process == node.process {
            return Some(Publisher::Us { age, floor: 0 });
        }
        if age > LAPSE || (copy && (anew || self.node.process.is_empty())) {
            return None;
        }
        Some(Publisher::Other { host: self.node.host.clone(), renewed_at: self.renewed_at, copy })
    }

    /// Above all numbers that have been given out: at most one a second.
    fn highest(&self, now: Time) -> u64 {
        self.number.saturating_add(now.since(self.renewed_at).as_secs())
    }
}

/// What a node wants of one issuer's lists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// The issuer.
    pub issuer: IssuerName,
    /// The highest number that the node has given out.
    pub number: u64,
    /// This process has not had them yet: whoever had them with the same store is of the past.
    pub anew: bool,
}

impl Registry {
    /// Claims lists for `node`, or renews the claims, unless they are another's; the answers come in the order of
    /// `claims`.
    ///
    /// # Errors
    /// If the database refuses or cannot be reached.
    pub async fn claim_lists(&self, node: &Node, claims: &[Claim]) -> Result<Vec<Publisher>, RegistryError> {
        let (known, now) = match self.publishers().await {
            Err(RegistryError::Sql(error)) if forbids(&error) => {
                return Ok(vec![Publisher::Unknown(error.to_string()); claims.len()]);
            }
            read => read?,
        };
        let mut answers = Vec::with_capacity(claims.len());
        for claim in claims {
            let answer = match known.get(claim.issuer.as_str()).and_then(|row| row.judge(node, now, claim.anew)) {
                Some(Publisher::Us { age, .. }) if age >= RENEWAL => self.claim(node, claim).await?,
                Some(answer) => answer,
                None => self.claim(node, claim).await?,
            };
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Who publishes, by issuer, and the database's time.
    async fn publishers(&self) -> Result<(HashMap<String, Row>, Time), RegistryError> {
        let mut session = self.pool.read().await?;
        let rows = session.select(select!(""), []).await?;
        let row = |record: &Record| Ok((record.text("issuer")?.unwrap_or_default(), read(record)?));
        let known = rows.iter().map(row).collect::<Result<_, sqlx::Error>>()?;
        Ok((known, session.now().await?))
    }

    async fn claim(&self, node: &Node, claim: &Claim) -> Result<Publisher, RegistryError> {
        match self.try_claim(node, claim).await {
            Err(RegistryError::Sql(error)) if forbids(&error) => Ok(Publisher::Unknown(error.to_string())),
            claimed => claimed,
        }
    }

    async fn try_claim(&self, node: &Node, claim: &Claim) -> Result<Publisher, RegistryError> {
        let mut session = self.pool.write().await?;
        let (known, now) = (row(&mut session, &claim.issuer).await?, session.now().await?);
        if let Some(other @ Publisher::Other { .. }) = known.as_ref().and_then(|row| row.judge(node, now, claim.anew)) {
            return Ok(other);
        }
        let before = known.filter(|row| row.node != *node);
        let floor = before.map_or(0, |row| row.highest(now));
        write(&mut session, &claim.issuer, node, claim.number.max(floor), now).await?;
        session.commit().await?;
        Ok(Publisher::Us { age: Duration::ZERO, floor })
    }

    /// An operator's word: the lists of `issuer` are for the node of `node`'s state store to make, whoever made
    /// them. Says where another did.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn take_lists(&self, issuer: &IssuerName, node: &Node) -> Result<Option<String>, RegistryError> {
        self.write(async |session| {
            let (known, now) = (row(session, issuer).await?, session.now().await?);
            let Some(other) = known.filter(|row| row.node.store != node.store) else { return Ok(None) };
            // It may make some more until it notices.
            let number = other.highest(now + RENEWAL);
            write(session, issuer, node, number, now).await?;
            Ok(Some(other.node.host))
        })
        .await
    }
}

async fn row(session: &mut Session, issuer: &IssuerName) -> Result<Option<Row>, RegistryError> {
    let rows = session.select_to_change(select!("WHERE issuer = ?"), [issuer.as_str().into()]).await?;
    Ok(rows.first().map(read).transpose()?)
}

fn read(record: &Record) -> Result<Row, sqlx::Error> {
    let text = |column| record.text(column).map(Option::unwrap_or_default);
    let integer = |column| record.integer(column).map(Option::unwrap_or_default);
    Ok(Row {
        node: Node { store: text("store")?, process: text("process")?, host: text("host")? },
        number: u64::try_from(integer("number")?).unwrap_or(0),
        renewed_at: Time::from_unix(integer("renewed_at")?),
    })
}

async fn write(
    session: &mut Session,
    issuer: &IssuerName,
    node: &Node,
    number: u64,
    now: Time,
) -> Result<(), RegistryError> {
    let number = Value::Integer(Some(i64::try_from(number).unwrap_or(i64::MAX)));
    let Node { store, process, host } = node;
    let values = || {
        let texts = [store, process, host].map(|text| text.as_str().into());
        texts.into_iter().chain([number.clone(), now.into(), issuer.as_str().into()])
    };
    let update =
        "UPDATE jarchy.publishers SET store = ?, process = ?, host = ?, number = ?, renewed_at = ? WHERE issuer = ?";
    if session.execute(update, values()).await? == 0 {
        let insert = "INSERT INTO jarchy.publishers(store, process, host, number, renewed_at, issuer) \
                      VALUES (?, ?, ?, ?, ?, ?)";
        session.execute(insert, values()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::registry::testing::{Case, on_each_database};

    on_each_database! {
        one_node_at_a_time_has_the_lists
        an_operators_word_and_ten_minutes_of_silence_hand_them_over
        a_copy_of_a_store_is_another_node
    }

    fn node(store: &str, process: &str) -> Node {
        Node { store: store.to_owned(), process: process.to_owned(), host: format!("host of {store}") }
    }

    async fn asked(case: &Case, node: &Node, number: u64, anew: bool) -> Publisher {
        let registry = Registry::open(&case.place).await.unwrap();
        let claim = Claim { issuer: "demo".parse().unwrap(), number, anew };
        let claimed = registry.claim_lists(node, &[claim]).await.unwrap();
        registry.close().await;
        claimed.into_iter().next().unwrap()
    }

    fn is_ours(publisher: &Publisher) -> bool {
        matches!(publisher, Publisher::Us { .. })
    }

    async fn one_node_at_a_time_has_the_lists(mut case: Case) {
        let (first, second) = (node("a", "1"), node("b", "1"));
        assert_eq!(asked(&case, &first, 7, true).await, Publisher::Us { age: Duration::ZERO, floor: 0 });
        let Publisher::Other { host, copy, .. } = asked(&case, &second, 9, true).await else { panic!("both") };
        assert_eq!((host.as_str(), copy), ("host of a", false));
        // Not every look is written down.
        case.execute("UPDATE publishers SET renewed_at = renewed_at - 30").await.unwrap();
        assert!(matches!(asked(&case, &first, 8, false).await, Publisher::Us { age, .. } if age.as_secs() >= 30));
        assert_eq!(case.number("SELECT number FROM publishers").await, 7);
        case.execute("UPDATE publishers SET renewed_at = renewed_at - 30").await.unwrap();
        assert_eq!(asked(&case, &first, 8, false).await, Publisher::Us { age: Duration::ZERO, floor: 0 });
        assert_eq!(case.number("SELECT number FROM publishers").await, 8);
        // A restart is no other node.
        assert!(is_ours(&asked(&case, &node("a", "2"), 8, true).await));
    }

    async fn an_operators_word_and_ten_minutes_of_silence_hand_them_over(mut case: Case) {
        let (first, second, issuer) = (node("a", "1"), node("b", "1"), "demo".parse().unwrap());
        assert!(is_ours(&asked(&case, &first, 5_000, true).await));
        let registry = Registry::open(&case.place).await.unwrap();
        let operator = Node { process: String::new(), ..second.clone() };
        assert_eq!(registry.take_lists(&issuer, &operator).await.unwrap().as_deref(), Some("host of a"));
        assert_eq!(registry.take_lists(&issuer, &operator).await.unwrap(), None);
        assert!(!is_ours(&asked(&case, &first, 5_001, false).await));
        let Publisher::Us { floor, .. } = asked(&case, &second, 9, false).await else { panic!("not taken over") };
        assert!((5_060..5_100).contains(&floor), "{floor}: above what the first may have made meanwhile");
        assert!(is_ours(&asked(&case, &second, 9, false).await));

        case.execute("UPDATE publishers SET renewed_at = renewed_at - 590").await.unwrap();
        assert!(!is_ours(&asked(&case, &first, 5_001, false).await), "too early");
        case.execute("UPDATE publishers SET renewed_at = renewed_at - 15").await.unwrap();
        let Publisher::Us { floor, .. } = asked(&case, &first, 5_001, false).await else { panic!("not taken over") };
        assert!(floor >= 5_060 + 605, "{floor}");
        registry.close().await;
    }

    async fn a_copy_of_a_store_is_another_node(case: Case) {
        let (first, copy) = (node("a", "1"), node("a", "2"));
        assert!(is_ours(&asked(&case, &first, 7, true).await));
        assert!(is_ours(&asked(&case, &copy, 7, true).await), "it may as well be a restart");
        let seen = asked(&case, &first, 7, false).await;
        assert!(matches!(seen, Publisher::Other { copy: true, .. }), "{seen:?}");
        assert!(is_ours(&asked(&case, &copy, 7, false).await));
    }

    #[tokio::test]
    async fn where_nothing_may_be_written_nobody_knows() {
        for engine in crate::servers::Engine::ALL {
            let Some(mut case) = Case::server(engine).await else { continue };
            let (name, user) = (case.name().to_owned(), case.name().replace("jarchy", "looker"));
            let rights = match engine {
                crate::servers::Engine::Postgres => format!(
                    "CREATE ROLE {user} LOGIN; GRANT USAGE ON SCHEMA jarchy TO {user};
                     GRANT SELECT ON ALL TABLES IN SCHEMA jarchy TO {user}"
                ),
                crate::servers::Engine::MariaDb => {
                    format!("CREATE USER '{user}'@'127.0.0.1'; GRANT SELECT ON {name}.* TO '{user}'@'127.0.0.1'")
                }
            };
            case.execute_as_is(&rights).await.unwrap();
            let registry = Registry::open(&case.place_of(&user)).await.unwrap();
            let claim = [Claim { issuer: "demo".parse().unwrap(), number: 7, anew: true }];
            let claimed = registry.claim_lists(&node("a", "1"), &claim).await.unwrap();
            assert!(matches!(&claimed[..], [Publisher::Unknown(why)] if why.contains("publishers")), "{claimed:?}");
            // That another publishes it can read all the same.
            assert!(is_ours(&asked(&case, &node("b", "1"), 9, true).await));
            let claimed = registry.claim_lists(&node("a", "1"), &claim).await.unwrap();
            assert!(matches!(claimed[..], [Publisher::Other { .. }]), "{claimed:?}");
            registry.close().await;
        }
    }
}
