//! What operators decided about numbers and the clock, and a clock that is doubted (promises 5 and 13).

use super::{Scope, State, StateError, stored};
use crate::pki::{IssuerName, Time};
use sqlx::{Row, SqliteConnection};

/// A clock that cannot be right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Doubt {
    /// What it said.
    pub seen: Time,
    /// What it should have said.
    pub expected: Time,
}

impl State {
    /// An operator's word: CRL numbers of `scope` go on above `number`, which was found published.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn adopt(&self, scope: &Scope, number: u64, actor: &str, now: Time) -> Result<(), StateError> {
        let mut transaction = self.begin().await?;
        let query = sqlx::query("UPDATE scopes SET reserved = max(reserved, ?) WHERE scope = ?");
        let query = query.bind(stored(number)).bind(&scope.0);
        query.execute(&mut *transaction).await.map_err(self.sql())?;
        self.decide(&mut transaction, now, actor, &format!("CRL numbers of {scope} go on above {number}")).await?;
        transaction.commit().await.map_err(self.sql())
    }

    /// An operator's word: the lists of `issuer` are made from this store, no longer at `other`.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn took_over(&self, issuer: &IssuerName, other: &str, actor: &str, now: Time) -> Result<(), StateError> {
        let mut transaction = self.begin().await?;
        let what = format!("the CRLs of {issuer} are made here, no longer at {other}");
        self.decide(&mut transaction, now, actor, &what).await?;
        transaction.commit().await.map_err(self.sql())
    }

    /// An operator's word: lists of `scope` that are dated after `now` are void. Their numbers stay used;
    /// the next list is made afresh, with a higher number and its true thisUpdate (promise 13). Returns how
    /// many complete lists that were.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn supersede(&self, scope: &Scope, actor: &str, now: Time) -> Result<u64, StateError> {
        let mut transaction = self.begin().await?;
        let query = sqlx::query(
            "UPDATE lists SET void = 1, kept = 0 WHERE scope = ? AND this_update > ? AND void = 0 RETURNING delta",
        );
        let query = query.bind(&scope.0).bind(now.unix());
        let rows = query.fetch_all(&mut *transaction).await.map_err(self.sql())?;
        let complete = rows.iter().filter(|row| row.try_get::<i64, _>(0).is_ok_and(|delta| delta == 0)).count();
        if complete > 0 {
            // What came before them no longer leads to what comes next.
            for sql in [
                "UPDATE lists SET kept = 0 WHERE scope = ? AND delta = 1",
                "UPDATE scopes SET oldest = reserved + 1 WHERE scope = ?",
                "DELETE FROM journal WHERE scope = ?",
            ] {
                let query = sqlx::query(sql).bind(&scope.0);
                query.execute(&mut *transaction).await.map_err(self.sql())?;
            }
        }
        // Who says so also says that the clock is right now.
        sqlx::query("DELETE FROM clock").execute(&mut *transaction).await.map_err(self.sql())?;
        let what = format!("{complete} CRLs of {scope} that are dated after {now} are void");
        self.decide(&mut transaction, now, actor, &what).await?;
        transaction.commit().await.map_err(self.sql())?;
        Ok(u64::try_from(complete).unwrap_or(u64::MAX))
    }

    pub(super) async fn decide(
        &self,
        connection: &mut SqliteConnection,
        now: Time,
        actor: &str,
        what: &str,
    ) -> Result<(), StateError> {
        let query = sqlx::query("INSERT INTO decisions (at, actor, what) VALUES (?, ?, ?)");
        let query = query.bind(now.unix()).bind(actor).bind(what);
        query.execute(connection).await.map(drop).map_err(self.sql())
    }

    /// An operator's word on the issuance database.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn note(&self, what: &str, actor: &str, now: Time) -> Result<(), StateError> {
        let mut transaction = self.begin().await?;
        self.decide(&mut transaction, now, actor, what).await?;
        transaction.commit().await.map_err(self.sql())
    }

    /// What operators decided: when, who, what; oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn decisions(&self) -> Result<Vec<(Time, String, String)>, StateError> {
        let rows = sqlx::query("SELECT at, actor, what FROM decisions ORDER BY id");
        let rows = rows.fetch_all(&self.0.pool).await.map_err(self.sql())?;
        rows.iter().map(|row| Ok((self.time(row, 0)?, self.get(row, 1)?, self.get(row, 2)?))).collect()
    }

    /// A doubt about the clock that was neither settled by the clock itself nor by an operator.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn clock_doubt(&self) -> Result<Option<Doubt>, StateError> {
        let query = sqlx::query("SELECT seen, expected FROM clock");
        let row = query.fetch_optional(&self.0.pool).await.map_err(self.sql())?;
        row.map(|row| Ok(Doubt { seen: self.time(&row, 0)?, expected: self.time(&row, 1)? })).transpose()
    }

    /// Remembers a doubt about the clock over a restart, or forgets it because the clock is right again.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn set_clock_doubt(&self, doubt: Option<Doubt>) -> Result<(), StateError> {
        let done = match doubt {
            None => sqlx::query("DELETE FROM clock").execute(&self.0.pool).await,
            Some(Doubt { seen, expected }) => {
                let query = sqlx::query("INSERT OR REPLACE INTO clock VALUES (1, ?, ?)");
                query.bind(seen.unix()).bind(expected.unix()).execute(&self.0.pool).await
            }
        };
        done.map(drop).map_err(self.sql())
    }

    /// An operator's word: the clock, which says `now`, is right. Whether there was a doubt.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn confirm_clock(&self, actor: &str, now: Time) -> Result<bool, StateError> {
        let mut transaction = self.begin().await?;
        let gone = sqlx::query("DELETE FROM clock").execute(&mut *transaction).await.map_err(self.sql())?;
        self.decide(&mut transaction, now, actor, &format!("the clock is right when it says {now}")).await?;
        transaction.commit().await.map_err(self.sql())?;
        Ok(gone.rows_affected() > 0)
    }
}
