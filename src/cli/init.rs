//! `jarchy init`: a config file and an empty issuance database, a file or on a server, for a CA that exists.
//!
//! Goes in: the CA's certificate and the keys that will sign. Comes out: a folder that `jarchy serve` can
//! be pointed at. What serving would refuse is refused here already, and nothing that exists is changed.

mod template;

pub(super) use template::Template;

use crate::config::{self, Config};
use crate::db::Place;
use crate::ocsp::{DelegateError, authority};
use crate::pki::{Certificate, Clock, IssuerName, SystemClock};
use crate::registry::Registry;
use crate::sign::Signer;
use anyhow::{Context, bail, ensure};
use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What the issuance database is called beside the config.
pub(super) const DATABASE: &str = "issuance.db";

/// Make a config file and an empty issuance database for a CA.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  jarchy init --dir jarchy --issuer main --ca-cert ca.pem \\
    --ocsp-cert ocsp.pem --ocsp-key ocsp.key --ca-key ca.key --public-url http://status.example.org

  jarchy init --dir /var/lib/jarchy --issuer root --ca-cert root.pem --ca-key root.key --crl-only

  jarchy init --dir /etc/jarchy --data-dir /var/lib/jarchy --issuer main --ca-cert ca.pem --ca-key ca.key \\
    --database postgres://jarchy@db.example.org/jarchy --database-password-file db-password

With a delegate only (--ocsp-cert, --ocsp-key) Jarchy answers OCSP; with the CA's key it also makes CRLs.")]
pub struct Init {
    /// Folder for the config file and the databases; made if it is not there
    #[arg(long)]
    dir: PathBuf,
    /// Folder for the databases, where they are kept apart from the config; made if it is not there
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// What URLs and the database call the CA: a-z, 0-9 and _
    #[arg(long, value_name = "NAME")]
    issuer: IssuerName,
    /// The CA's certificate, PEM or DER
    #[arg(long, value_name = "FILE")]
    ca_cert: PathBuf,
    /// The CA's key: signs CRLs, and OCSP responses where there is no delegate
    #[arg(long, value_name = "FILE")]
    ca_key: Option<PathBuf>,
    /// The certificate of a delegate for OCSP
    #[arg(long, value_name = "FILE", requires = "ocsp_key")]
    ocsp_cert: Option<PathBuf>,
    /// The delegate's key
    #[arg(long, value_name = "FILE", requires = "ocsp_cert")]
    ocsp_key: Option<PathBuf>,
    /// Only publish CRLs, as for a CA that may not sign OCSP responses and has no delegate
    #[arg(long, requires = "ca_key", conflicts_with = "ocsp_cert")]
    crl_only: bool,
    /// A database on a server, instead of an SQLite file: postgres://user@host/database or mysql://…
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// A file with the password for it, readable by its owner only
    #[arg(long, value_name = "FILE", requires = "database")]
    database_password_file: Option<PathBuf>,
    /// Who vouches for that server's certificate, PEM [default: the CAs that browsers trust]
    #[arg(long, value_name = "FILE", requires = "database")]
    database_ca: Option<PathBuf>,
    /// Where relying parties will connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT", value_parser = crate::config::address)]
    listen: Option<SocketAddr>,
    /// The http:// URL under which relying parties reach it
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
}

impl Init {
    /// Runs the command.
    ///
    /// # Errors
    /// If a certificate or key would not serve, or something is there already.
    pub async fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let ca = check(&self, out)?;
        let folders = std::iter::once(&self.dir).chain(&self.data_dir);
        let new: Vec<&PathBuf> = folders.filter(|folder| !folder.exists()).collect();
        let mut made = new.iter().try_for_each(|folder| {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))
        });
        if made.is_ok() {
            made = self.make(&ca, out).await;
        }
        if made.is_err() {
            // Only if they are empty; that one cannot go is not what matters then.
            new.iter().rev().for_each(|folder| _ = std::fs::remove_dir(folder));
        }
        made
    }

    /// Where the databases are kept.
    fn data(&self) -> &Path {
        self.data_dir.as_deref().unwrap_or(&self.dir)
    }

    async fn make(&self, ca: &Certificate, out: &mut dyn Write) -> anyhow::Result<()> {
        let file = self.dir.join(config::FILE_NAME);
        let local = self.database.is_none().then(|| self.data().join(DATABASE));
        for existing in [Some(&file), local.as_ref()].into_iter().flatten() {
            let there = existing.try_exists().with_context(|| format!("cannot look at {}", existing.display()))?;
            ensure!(
                !there,
                "{} exists already; nothing was changed: choose another --dir, or move it away",
                existing.display()
            );
        }

        let text = template(self)?.to_string();
        // Tried before anything is left behind.
        let config = Config::from_text(&text, &file).context("these options do not make a config")?;
        let place = &config.database.place;
        make_database(place, &self.issuer, ca).await?;
        let has_password = matches!(place, Place::Server(server) if server.has_password());
        write_new(&file, text.as_bytes(), if has_password { 0o600 } else { 0o644 })?;
        self.report(&file, place, out)
    }

    fn report(&self, file: &Path, database: &Place, out: &mut dyn Write) -> anyhow::Result<()> {
        let shown = super::shell_word(file);
        writeln!(out, "made {} and {database}", file.display())?;
        if self.ca_key.is_none() {
            writeln!(out, "without --ca-key there will be OCSP and no CRLs")?;
        }
        if self.crl_only {
            writeln!(out, "with --crl-only OCSP requests about its certificates are unauthorized")?;
        }
        writeln!(out, "next:\n  jarchy add --config {shown} FOLDER-OF-CERTIFICATES\n  jarchy serve --config {shown}")?;
        Ok(())
    }
}

/// Makes a file whole, or not at all; on a server the database may be there already, with other issuers.
async fn make_database(place: &Place, issuer: &IssuerName, ca: &Certificate) -> anyhow::Result<()> {
    let registry = Registry::create(place).await?;
    let added = registry.add_issuer(issuer, ca).await;
    registry.close().await;
    if let (Err(_), Place::File(path)) = (&added, place) {
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(added?)
}

/// Writes a file that must not be there yet.
pub(super) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads what will be needed as serving will, and says to `out` what clients may object to.
fn check(init: &Init, out: &mut dyn Write) -> anyhow::Result<Certificate> {
    let ca = certificate(&init.ca_cert)?;
    let ca_file = init.ca_cert.display();
    ensure!(ca.is_ca, "{ca_file}: the certificate of \"{}\" is not a CA's (basicConstraints)", ca.subject_text());
    if let Some(key) = &init.ca_key {
        Signer::from_file(key, &ca)?;
        ensure!(
            ca.may_sign_crls(),
            "{ca_file}: the CA's key usage lacks cRLSign: leave --ca-key out, or use another CA"
        );
    }
    match (&init.ocsp_cert, &init.ocsp_key) {
        (Some(file), Some(key)) => {
            let own = certificate(file)?;
            authority::check(&own, Some(&ca), SystemClock.now()).with_context(|| file.display().to_string())?;
            Signer::from_file(key, &own)?;
            if !own.ocsp_nocheck {
                writeln!(out, "{}: {}", file.display(), authority::WITHOUT_NOCHECK)?;
            }
        }
        _ if init.crl_only => {}
        _ if init.ca_key.is_none() => bail!(
            "no key to sign with: give --ocsp-cert and --ocsp-key of a delegate to answer OCSP, --ca-key to make CRLs, \
             or all three"
        ),
        _ => match authority::check(&ca, None, SystemClock.now()) {
            Err(DelegateError::Expired { not_before, not_after, .. }) => {
                bail!("{ca_file}: the CA's certificate is valid from {not_before} to {not_after}, not now")
            }
            checked => checked.with_context(|| {
                format!(
                    "{ca_file} cannot sign OCSP responses itself: give --ocsp-cert and --ocsp-key of a delegate, or \
                     --crl-only to publish CRLs and answer no OCSP"
                )
            })?,
        },
    }
    Ok(ca)
}

fn certificate(path: &Path) -> anyhow::Result<Certificate> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Certificate::from_file_bytes(&bytes).with_context(|| path.display().to_string())
}

fn template(init: &Init) -> anyhow::Result<Template> {
    let path = |file: &PathBuf| as_written(&init.dir, file);
    let data = |name: &str| init.data_dir.as_ref().map(|data| path(&data.join(name))).transpose();
    let delegate = init.ocsp_cert.as_ref().zip(init.ocsp_key.as_ref());
    Ok(Template {
        title: format!("Configuration of Jarchy for the CA \"{}\".", init.issuer),
        listen: init.listen,
        admin: true,
        public_url: init.public_url.clone(),
        issuer: init.issuer.clone(),
        certificate: path(&init.ca_cert)?,
        crl_only: init.crl_only,
        delegate: delegate.map(|(certificate, key)| anyhow::Ok((path(certificate)?, path(key)?))).transpose()?,
        ca_key: init.ca_key.as_ref().map(path).transpose()?,
        database: init.database.clone(),
        database_file: if init.database.is_none() { data(DATABASE)? } else { None },
        state: data(config::STATE_NAME)?,
        database_password_file: init.database_password_file.as_ref().map(path).transpose()?,
        database_ca: init.database_ca.as_ref().map(path).transpose()?,
    })
}

/// `file` as it is written in the config in `dir`: relative if it lies in it, else absolute.
fn as_written(dir: &Path, file: &Path) -> anyhow::Result<String> {
    let absolute = std::path::absolute(file)?;
    // Folders are resolved, the file is not: it may be a link that an operator moves to the next key.
    let (folder, name) = (absolute.parent().unwrap_or(&absolute), absolute.file_name().unwrap_or_default());
    let inside = folder.canonicalize()?.strip_prefix(dir.canonicalize()?).map(|folder| folder.join(name));
    let written = inside.unwrap_or_else(|_| absolute.clone());
    let text = written.to_str().with_context(|| format!("{} is not UTF-8, as a config must be", written.display()))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::OcspSigner;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    /// A folder with the test CA's files, the keys as only their owner may read them, and options for `init`.
    fn case() -> (TempDir, Init) {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pki")).unwrap() {
            let file = entry.unwrap().path();
            if file.is_file() {
                let copy = dir.path().join(file.file_name().unwrap());
                fs::copy(&file, &copy).unwrap();
                fs::set_permissions(copy, Permissions::from_mode(0o600)).unwrap();
            }
        }
        let file = |name: &str| dir.path().join(name);
        let init = Init {
            dir: file("jarchy"),
            issuer: "main".parse().unwrap(),
            ca_cert: file("ca-p256.pem"),
            ca_key: Some(file("ca-p256.key")),
            ocsp_cert: Some(file("ocsp-p256.pem")),
            ocsp_key: Some(file("ocsp-p256.key")),
            data_dir: None,
            crl_only: false,
            database: None,
            database_password_file: None,
            database_ca: None,
            listen: Some("127.0.0.1:4711".parse().unwrap()),
            public_url: None,
        };
        (dir, init)
    }

    async fn refusal(init: &Init) -> String {
        let refused = format!("{:#}", init.clone().run(&mut Vec::new()).await.unwrap_err());
        assert!(!init.dir.join(config::FILE_NAME).exists(), "{refused}");
        refused
    }

    #[tokio::test]
    async fn a_config_and_an_empty_database_are_made_once() {
        let (dir, mut init) = case();
        fs::create_dir(&init.dir).unwrap();
        fs::rename(dir.path().join("ocsp-p256.key"), init.dir.join("ocsp.key")).unwrap();
        init.ocsp_key = Some(init.dir.join("../jarchy/ocsp.key"));
        let mut said = Vec::new();
        init.clone().run(&mut said).await.unwrap();
        assert!(String::from_utf8(said).unwrap().contains("jarchy serve --config "));

        let file = init.dir.join(config::FILE_NAME);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("\nkey = \"ocsp.key\"\n"), "{text}");
        let config = Config::load(&file).unwrap();
        let main = config.issuer("main").unwrap();
        assert_eq!(main.certificate, init.ca_cert);
        let (certificate, key) = (init.ocsp_cert.clone().unwrap(), init.dir.join("ocsp.key"));
        assert_eq!(main.ocsp.signers, [OcspSigner::Delegate { certificate, key }]);
        assert_eq!(main.crl.as_ref().map(|crl| &crl.key), init.ca_key.as_ref());
        assert_eq!(config.server.listen.port(), 4711);
        let registry = Registry::open(&config.database.place).await.unwrap();
        let issuers = registry.issuers().await.unwrap();
        assert_eq!(issuers.first().map(|issuer| issuer.name.as_str()), Some("main"));
        registry.close().await;

        let again = init.clone().run(&mut Vec::new()).await.unwrap_err().to_string();
        assert!(again.contains("exists already; nothing was changed"), "{again}");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }

    #[tokio::test]
    async fn what_serving_would_refuse_is_refused_and_nothing_is_left() {
        let (dir, init) = case();
        let file = |name: &str| Some(dir.path().join(name));
        for (delegate, says) in [
            ("ocsp-no-eku.pem", "lacks the extended key usage OCSPSigning"),
            ("ocsp-expired.pem", "to 2021-01-01T00:00:00Z, not now"),
            ("ocsp-other-ca.pem", "was not issued by"),
            ("ocsp-p384.key", "ocsp-p384.key"),
            ("nothing.pem", "nothing.pem"),
        ] {
            let refused = refusal(&Init { ocsp_cert: file(delegate), ..init.clone() }).await;
            assert!(refused.contains(says), "{delegate}: {refused}");
        }
        let other_key = Init { ca_key: file("ca-p384.key"), ..init.clone() };
        assert!(refusal(&other_key).await.contains("does not belong to the certificate"));
        let no_key = Init { ca_key: None, ocsp_cert: None, ocsp_key: None, ..init.clone() };
        assert!(refusal(&no_key).await.contains("no key to sign with: give --ocsp-cert"));
        let no_ca = Init { ca_cert: dir.path().join("ocsp-p256.pem"), ca_key: None, ..init.clone() };
        assert!(refusal(&no_ca).await.contains("is not a CA's"));
        let no_lists = Init { ca_cert: dir.path().join("ca-no-crl.pem"), ..init.clone() };
        assert!(refusal(&no_lists).await.contains("lacks cRLSign"));
        let bad_url = Init { public_url: Some("status.example.org".to_owned()), ..init.clone() };
        assert!(refusal(&bad_url).await.contains("cannot stand in a CRL"));
        assert!(!init.dir.exists());
    }

    #[tokio::test]
    async fn databases_are_kept_apart_from_the_config_where_that_is_wished() {
        let (dir, init) = case();
        let data = dir.path().join("var/lib");
        let apart = Init { data_dir: Some(data.clone()), ..init };
        let refused = refusal(&Init { public_url: Some("status.example.org".to_owned()), ..apart.clone() }).await;
        assert!(!apart.dir.exists() && !data.exists(), "{refused}");
        apart.clone().run(&mut Vec::new()).await.unwrap();
        let config = Config::load(&apart.dir.join(config::FILE_NAME)).unwrap();
        assert!(matches!(&config.database.place, Place::File(file) if *file == data.join(DATABASE)));
        assert_eq!(config.state.path, data.join(config::STATE_NAME));
        Registry::open(&config.database.place).await.unwrap().close().await;
        let beside: Vec<_> = fs::read_dir(&apart.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(beside, [config::FILE_NAME]);
    }

    #[tokio::test]
    async fn a_database_that_is_there_is_not_touched() {
        let (_dir, init) = case();
        fs::create_dir(&init.dir).unwrap();
        fs::write(init.dir.join(DATABASE), "mine").unwrap();
        assert!(refusal(&init).await.contains("exists already"));
        assert_eq!(fs::read(init.dir.join(DATABASE)).unwrap(), b"mine");
    }

    #[test]
    fn a_database_on_a_server_is_made_and_a_foreign_one_left() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for server in crate::servers::Engine::ALL.into_iter().filter_map(crate::servers::Server::shared) {
            let database = server.database();
            let (dir, mut init) = case();
            init.database = Some(database.url());
            let mut said = Vec::new();
            runtime.block_on(init.clone().run(&mut said)).unwrap();
            let said = String::from_utf8(said).unwrap();
            assert!(said.contains(&format!("/{}\n", database.name)), "{said}");
            let config = Config::load(&init.dir.join(config::FILE_NAME)).unwrap();
            let issuers = runtime
                .block_on(async { Registry::open(&config.database.place).await.unwrap().issuers().await.unwrap() });
            assert_eq!(issuers.first().map(|issuer| issuer.name.as_str()), Some("main"));
            assert!(!init.dir.join(DATABASE).exists());

            // A second node, and another CA by the same name.
            init.dir = dir.path().join("second");
            runtime.block_on(init.clone().run(&mut Vec::new())).unwrap();
            let other = Init {
                dir: dir.path().join("third"),
                ca_cert: dir.path().join("ca-p384.pem"),
                ca_key: Some(dir.path().join("ca-p384.key")),
                ocsp_cert: None,
                ocsp_key: None,
                ..init
            };
            let refused = runtime.block_on(refusal(&other));
            assert!(refused.contains("registered with another CA certificate"), "{refused}");
        }
    }
}
