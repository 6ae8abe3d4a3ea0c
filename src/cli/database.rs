//! `jarchy database`: what the issuance database itself needs now and then.

use super::healthcheck::reachable;
use super::{Audited, ConfigFile, client, on_registry};
use crate::config::Config;
use crate::db::{self, DbError, Place};
use crate::pki::{Clock, SystemClock};
use crate::state::State;
use crate::{registry, state};
use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use humantime_serde::re::humantime::parse_duration;
use hyper::{Method, StatusCode, Uri};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A reconcile takes about as long as the first load three times over.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// Look after the issuance database: trim its change log, copy it, declare a restore, compare it, confirm a loss.
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
    /// Copy the issuance database and the state store, each as it is at one moment, while they are in use
    #[command(after_help = "Example:\n  jarchy database backup /srv/backup/2026-11-29\n\n\
        The copies are readable by their owner only. A database on a server is left to that server's own tools.")]
    Backup {
        #[command(flatten)]
        config: ConfigFile,
        /// Where the copies go, under the names of the originals; made if it is not there
        folder: PathBuf,
    },
    /// Have every server load everything anew, after a backup was put in the place of the database
    #[command(after_help = "Example:\n  jarchy database restored\n\n\
        Servers notice most restores by themselves; this leaves no doubt. The state store keeps who said it.")]
    Restored {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        audited: Audited,
    },
    /// Have the running service compare all that it knows with the database, and mend what differs
    #[command(after_help = "Example:\n  jarchy database reconcile\n\n\
        It does so once a day by itself ([database] reconcile). What it mends the feed should not have missed.")]
    Reconcile {
        #[command(flatten)]
        service: Service,
    },
    /// Have the running service let go of certificates that the database has lost
    #[command(after_help = "Example:\n  jarchy database confirm-drop --by boris\n\n\
        Until then they keep their last status. Revoked ones stay revoked even so. Look at the health first:\n\
        it says how many they are. The state store keeps who confirmed it.")]
    ConfirmDrop {
        #[command(flatten)]
        service: Service,
        #[command(flatten)]
        audited: Audited,
    },
}

/// The running service.
#[derive(Args, Debug)]
struct Service {
    #[command(flatten)]
    config: ConfigFile,
    /// The operator's listener, if it is not where the config file says
    #[arg(long, value_name = "ADDR:PORT", value_parser = crate::config::address)]
    admin: Option<SocketAddr>,
}

impl Service {
    /// Gives a command and writes down what each feed counted.
    async fn command(&self, path: &str, body: String, out: &mut dyn Write) -> anyhow::Result<()> {
        let off = "this service has no operator's listener that takes commands: set [server] admin and start it again";
        let admin = reachable(self.admin.or(self.config.load()?.server.admin).context(off)?);
        let url: Uri = format!("http://{admin}").parse()?;
        let (status, said) = client::send_within(PATIENCE, &url, Method::POST, path, body.into_bytes()).await?;
        let said = String::from_utf8_lossy(&said);
        ensure!(status == StatusCode::OK, "{} (HTTP status {})", said.trim_end(), status.as_u16());
        let answer: serde_json::Value = serde_json::from_str(&said).with_context(|| format!("{url} is no Jarchy"))?;
        for feed in answer["feeds"].as_array().into_iter().flatten() {
            let counted = feed.as_object().into_iter().flatten().filter(|(name, _)| *name != "feed");
            let counted: Vec<_> = counted.map(|(name, count)| format!("{name} {count}")).collect();
            writeln!(out, "{}: {}", feed["feed"].as_str().unwrap_or_default(), counted.join(", "))?;
        }
        Ok(())
    }
}

/// Copies what of `config` lies in files. The state store comes second: of what happens in between it then knows more
/// than the issuance database, which takes nothing back.
async fn backup(config: &Config, folder: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let database = match &config.database.place {
        Place::File(path) if config.uses_database() => Some((path, registry::KIND)),
        _ => None,
    };
    for (path, kind) in database.into_iter().chain([(&config.state.path, state::KIND)]) {
        let to = folder.join(path.file_name().unwrap_or_default());
        match db::copy(path, &kind, &to).await {
            // A service that has not run yet.
            Err(DbError::Missing { .. }) if kind.name == state::KIND.name => {}
            copied => {
                copied?;
                writeln!(out, "copied {} to {}", path.display(), to.display())?;
            }
        }
    }
    Ok(())
}

/// Has the state store keep what is about to be done, and for whom.
async fn note(config: &Config, what: &str, audited: &Audited) -> anyhow::Result<()> {
    let (actor, state) = (audited.audit()?.actor, State::open(&config.state.path).await?);
    let noted = state.note(what, &actor, SystemClock.now()).await;
    state.close().await;
    Ok(noted?)
}

impl DatabaseCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// If the config or the database cannot be used.
    pub async fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.action {
            Action::Trim { config, older_than } => {
                let gone = on_registry(&config.load()?, async |on| Ok(on.trim(older_than).await?)).await?;
                writeln!(out, "trimmed {gone} changes")?;
            }
            Action::Backup { config, folder } => backup(&config.load()?, &folder, out).await?,
            Action::Restored { config, audited } => {
                let config = config.load()?;
                note(&config, "the issuance database was restored from a backup", &audited).await?;
                let epoch = on_registry(&config, async |on| Ok(on.declare_restored().await?)).await?;
                writeln!(out, "every server loads everything anew (epoch {epoch})")?;
            }
            Action::Reconcile { service } => service.command("/database/reconcile", String::new(), out).await?,
            Action::ConfirmDrop { service, audited } => {
                service.command("/database/confirm-drop", audited.audit()?.actor, out).await?;
            }
        }
        Ok(())
    }
}
