//! Revocations that were answered or listed, and what became of them (promise 12).

use super::{State, StateError, insert};
use crate::pki::{IssuerName, Reason, Revocation, Serial, Time};
use sqlx::sqlite::SqliteRow;
use sqlx::{Executor, SqliteConnection};
use std::collections::BTreeSet;

/// A revocation that was seen, with what is needed to answer and to list it without the database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen {
    /// notBefore of the certificate.
    pub not_before: Time,
    /// notAfter of the certificate.
    pub not_after: Time,
    /// The revocation or hold.
    pub revocation: Revocation,
    /// When this node learned of it; see `index::Record::since`.
    pub learned: Time,
}

impl State {
    /// The revocations of `issuer` that were recorded and not released since.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn revocations(&self, issuer: &IssuerName) -> Result<Vec<(Serial, Seen)>, StateError> {
        let rows = sqlx::query(
            "SELECT serial, not_before, not_after, revoked_at, reason, invalidity_date, learned \
             FROM revocations WHERE issuer = ? ORDER BY serial",
        );
        let rows = rows.bind(issuer.as_str()).fetch_all(&self.0.pool).await.map_err(self.sql())?;
        rows.iter().map(|row| self.seen(row)).collect()
    }

    fn seen(&self, row: &SqliteRow) -> Result<(Serial, Seen), StateError> {
        let serial = self.serial("revocations", row)?;
        let code: i64 = self.get(row, 4)?;
        let reason = u8::try_from(code).ok().and_then(Reason::from_code);
        let reason = reason.ok_or_else(|| self.damaged("revocations", format!("reason {code} at serial {serial}")))?;
        let seen = Seen {
            not_before: self.time(row, 1)?,
            not_after: self.time(row, 2)?,
            revocation: Revocation {
                at: self.time(row, 3)?,
                reason,
                invalidity_date: self.get::<Option<i64>>(row, 5)?.map(Time::from_unix),
            },
            learned: self.time(row, 6)?,
        };
        Ok((serial, seen))
    }

    /// Records revocations before anyone is told of them; `None` records that a hold was lifted. Of
    /// several for one serial the last counts.
    ///
    /// # Errors
    /// If they could not be written; then none was.
    pub async fn record(&self, issuer: &IssuerName, batch: &[(Serial, Option<Seen>)]) -> Result<(), StateError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut transaction = self.begin().await?;
        self.record_in(&mut transaction, issuer.as_str(), batch).await.map_err(self.sql())?;
        transaction.commit().await.map_err(self.sql())
    }

    async fn record_in(
        &self,
        connection: &mut SqliteConnection,
        issuer: &str,
        batch: &[(Serial, Option<Seen>)],
    ) -> Result<(), sqlx::Error> {
        let any = sqlx::query("SELECT 1 FROM releases WHERE issuer = ? LIMIT 1").bind(issuer);
        let mut any_released = any.fetch_optional(&mut *connection).await?.is_some();
        // Runs of the same kind, so that the last word on a serial is also the last that is written.
        for run in batch.chunk_by(|(_, a), (_, b)| a.is_some() == b.is_some()) {
            let mut revoked: Vec<(Serial, Seen)> =
                run.iter().filter_map(|(serial, seen)| Some((*serial, (*seen)?))).collect();
            // In the order of the table: a million at random places would touch every page many times. The
            // sort is stable, so the last of several still counts.
            revoked.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
            if revoked.is_empty() {
                any_released = true;
                for (serial, _) in run {
                    each(connection, "DELETE FROM revocations WHERE issuer = ? AND serial = ?", issuer, serial).await?;
                    each(connection, "INSERT OR REPLACE INTO releases VALUES (?, ?)", issuer, serial).await?;
                }
                continue;
            }
            if any_released {
                for (serial, _) in &revoked {
                    each(connection, "DELETE FROM releases WHERE issuer = ? AND serial = ?", issuer, serial).await?;
                }
            }
            insert(
                connection,
                "INSERT OR REPLACE INTO revocations VALUES ",
                7,
                issuer,
                &revoked,
                |query, (serial, seen)| {
                    query
                        .bind(serial.as_bytes().to_vec())
                        .bind(seen.not_before.unix())
                        .bind(seen.not_after.unix())
                        .bind(seen.revocation.at.unix())
                        .bind(i64::from(seen.revocation.reason.code()))
                        .bind(seen.revocation.invalidity_date.map(Time::unix))
                        .bind(seen.learned.unix())
                },
            )
            .await?;
        }
        Ok(())
    }

    /// Serials of `issuer` of which a release from hold was the last that was recorded.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn released(&self, issuer: &IssuerName) -> Result<BTreeSet<Serial>, StateError> {
        let rows = sqlx::query("SELECT serial FROM releases WHERE issuer = ?").bind(issuer.as_str());
        let rows = rows.fetch_all(&self.0.pool).await.map_err(self.sql())?;
        rows.iter().map(|row| self.serial("releases", row)).collect()
    }

    /// Certificates of `issuer` that the database lost and an operator let go of: when, and whether it stays revoked.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn dropped(&self, issuer: &IssuerName) -> Result<Vec<(Serial, Time, bool)>, StateError> {
        let rows = sqlx::query("SELECT serial, at, kept FROM dropped WHERE issuer = ?").bind(issuer.as_str());
        let rows = rows.fetch_all(&self.0.pool).await.map_err(self.sql())?;
        rows.iter().map(|row| Ok((self.serial("dropped", row)?, self.time(row, 1)?, self.get(row, 2)?))).collect()
    }

    /// Writes down that `actor` let go of certificates which the database lost, each with whether it stays
    /// revoked.
    ///
    /// # Errors
    /// If it could not be written; then nothing was.
    pub async fn drop_lost(
        &self,
        issuer: &IssuerName,
        lost: &[(Serial, bool)],
        actor: &str,
        now: Time,
    ) -> Result<(), StateError> {
        let kept = lost.iter().filter(|(_, kept)| *kept).count();
        let what = format!(
            "{issuer}: let go of {} certificates that the database has lost; {kept} of them stay revoked",
            lost.len()
        );
        let mut transaction = self.begin().await?;
        for (serial, kept) in lost {
            let row = sqlx::query("INSERT OR REPLACE INTO dropped VALUES (?, ?, ?, ?)").bind(issuer.as_str());
            let row = row.bind(serial.as_bytes()).bind(now.unix()).bind(*kept);
            row.execute(&mut *transaction).await.map_err(self.sql())?;
        }
        self.decide(&mut transaction, now, actor, &what).await?;
        transaction.commit().await.map_err(self.sql())
    }
}

async fn each(
    connection: &mut SqliteConnection,
    sql: &'static str,
    issuer: &str,
    serial: &Serial,
) -> Result<(), sqlx::Error> {
    connection.execute(sqlx::query(sql).bind(issuer).bind(serial.as_bytes())).await.map(drop)
}
