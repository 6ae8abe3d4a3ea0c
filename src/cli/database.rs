//! `jarchy database`: what the issuance database itself needs now and then.

use super::ConfigFile;
use crate::app;
use clap::{Args, Subcommand};
use humantime_serde::re::humantime::parse_duration;
use std::io::Write;
use std::time::Duration;

/// Look after the issuance database: trim its change log, declare a restore.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jarchy database trim --older-than 7d")]
pub struct DatabaseCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Forget which certificates changed long ago; what happened to them stays
    #[command(after_help = "Example:\n  jarchy database trim --older-than 7d\n\n\
        A server that was away for longer loads everything anew when it comes back. Run it daily.")]
    Trim {
        #[command(flatten)]
        config: ConfigFile,
        /// Changes older than this go, except for the last one
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_duration)]
        older_than: Duration,
    },
    /// Have every server load everything anew, after a backup was put in the place of the database
    #[command(after_help = "Example:\n  jarchy database restored\n\n\
        Servers notice most restores by themselves; this leaves no doubt.")]
    Restored {
        #[command(flatten)]
        config: ConfigFile,
    },
}

impl DatabaseCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// If the config or the database cannot be used.
    pub async fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.action {
            Action::Trim { config, older_than } => {
                let gone = app::open_registry(&config.load()?).await?.trim(older_than).await?;
                writeln!(out, "trimmed {gone} changes")?;
            }
            Action::Restored { config } => {
                let epoch = app::open_registry(&config.load()?).await?.declare_restored().await?;
                writeln!(out, "every server loads everything anew (epoch {epoch})")?;
            }
        }
        Ok(())
    }
}
