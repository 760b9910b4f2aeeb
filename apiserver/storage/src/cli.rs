//! `minik storage`: backup, restore, migrate, check.
//!
//! A store that a server uses is backed up through the server (`kubectl get --raw /minik/backup > FILE`), which reads it
//! at one revision while it goes on; the commands here open the files themselves, so that no server may use them.

use crate::{BackupError, Checked, Embedded, Etcd, EtcdConfig, Export, QUOTA_BYTES, Storage, StorageError};
use clap::{Args, Subcommand};
use minik_component::{Clock, SystemChance, SystemClock};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// By how much a restored store's revision is moved on: more than a cluster writes between a backup and its restore.
const SKIP: u64 = 1_000_000;
/// Records between two lines that say how far it is.
const REPORT: usize = 1000;

/// Flags of `minik storage`.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    #[command(subcommand)]
    #[allow(missing_docs)] // the text would become a flag's help
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Write everything that is stored into one file; of a running server: kubectl get --raw /minik/backup > FILE
    Backup {
        /// The file to write; must not exist
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        #[allow(missing_docs)]
        place: Place,
    },
    /// Make a new store from a backup; what was written since the backup is lost
    Restore {
        /// The backup
        #[arg(long, value_name = "FILE")]
        input: PathBuf,
        /// By how much to move the revision on, so that no client sees one go back
        #[arg(long, value_name = "REVISIONS", default_value_t = SKIP)]
        bump_revision: u64,
        #[command(flatten)]
        #[allow(missing_docs)]
        place: Place,
    },
    /// Move an embedded store into etcd: every object, in the order in which they were written
    Migrate {
        /// The folder of the embedded store, which stays as it is
        #[arg(long, value_name = "FOLDER")]
        data_dir: PathBuf,
        #[command(flatten)]
        #[allow(missing_docs)]
        etcd: EtcdFlags,
    },
    /// Look through an embedded store: checksums, and that every record can be read
    Check {
        /// The folder of the embedded store
        #[arg(long, value_name = "FOLDER")]
        data_dir: PathBuf,
    },
}

/// A store: embedded or etcd.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Place {
    /// The folder of the embedded store
    #[arg(
        long,
        value_name = "FOLDER",
        conflicts_with = "etcd_servers",
        required_unless_present = "etcd_servers"
    )]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub etcd: EtcdFlags,
}

/// Where etcd is; upstream's flags.
#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub struct EtcdFlags {
    /// Addresses of the etcd servers, as https://HOST:PORT, separated by commas
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// The CA of the etcd servers' certificates
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// The certificate to show to etcd
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// The prefix of all keys in etcd
    #[arg(long, value_name = "PREFIX", default_value = "/registry")]
    pub etcd_prefix: String,
}

impl EtcdFlags {
    /// What they mean.
    pub fn config(&self) -> EtcdConfig {
        EtcdConfig {
            servers: self.etcd_servers.clone(),
            ca_file: self.etcd_cafile.clone(),
            identity_files: self.etcd_certfile.clone().zip(self.etcd_keyfile.clone()),
            prefix: self.prefix(),
        }
    }

    /// The prefix of all keys, with a slash at its end.
    pub fn prefix(&self) -> String {
        format!("{}/", self.etcd_prefix.trim_end_matches('/'))
    }

    /// Connects.
    ///
    /// # Errors
    /// etcd's.
    pub async fn connect(&self) -> Result<Etcd, StorageError> {
        Etcd::connect(&self.config(), Arc::new(SystemClock::default()), Arc::new(SystemChance)).await
    }
}

/// Why a command failed. Final, but for a store that does not answer.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The store's.
    #[error(transparent)]
    Store(#[from] StorageError),
    /// The file's.
    #[error("cannot restore {path}")]
    Backup {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: BackupError,
    },
    /// The file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The target is not empty.
    #[error("there are {0} keys in etcd already; only an empty prefix can be filled")]
    NotEmpty(usize),
    /// Something is missing.
    #[error("name the etcd servers with --etcd-servers")]
    NoServers,
}

/// Does what the flags say, and tells how far it is.
///
/// # Errors
/// What could not be done.
pub async fn run(flags: Flags, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    match flags.command {
        Command::Backup { output, place } => {
            let export = place.export().await?;
            let (keys, revision) = (export.records.len(), export.revision);
            write_file(&output, export).map_err(|source| CliError::Write { path: shown(&output), source })?;
            say(out, &format!("{keys} keys at revision {revision} are in {}", output.display()));
        }
        Command::Restore { input, bump_revision, place } => {
            let file = std::fs::File::open(&input).map_err(BackupError::from);
            let export = file.and_then(|file| Export::read(BufReader::new(file)));
            let export = export.map_err(|source| CliError::Backup { path: shown(&input), source })?;
            let keys = export.records.len();
            match place.data_dir {
                Some(folder) => Embedded::restore(&folder, export, bump_revision)?,
                None => fill(&place.etcd, export, bump_revision, out).await?,
            }
            say(out, &format!("{keys} keys are restored"));
        }
        Command::Migrate { data_dir, etcd } => {
            let export = embedded(&data_dir, &etcd.prefix()).await?;
            let keys = export.records.len();
            fill(&etcd, export, 0, out).await?;
            say(out, &format!("{keys} keys are in etcd; start the apiserver with --etcd-servers"));
        }
        Command::Check { data_dir } => {
            let Checked { keys, revision, bytes, stale } =
                Embedded::check(&data_dir, &SystemClock::default())?;
            say(
                out,
                &format!("whole: {keys} keys at revision {revision}, {bytes} bytes, {stale} old revisions"),
            );
        }
    }
    Ok(())
}

impl Place {
    async fn export(&self) -> Result<Export, CliError> {
        let prefix = self.etcd.prefix();
        match &self.data_dir {
            Some(folder) => embedded(folder, &prefix).await,
            None => Ok(self.etcd.connect().await?.export(&prefix).await?),
        }
    }
}

/// Everything in an embedded store that is there and whole: opening alone would make one.
async fn embedded(folder: &Path, prefix: &str) -> Result<Export, CliError> {
    let clock = SystemClock::default();
    Embedded::check(folder, &clock)?;
    Ok(Embedded::open(folder, QUOTA_BYTES, Arc::new(clock))?.export(prefix).await?)
}

/// Fills an empty prefix of etcd.
async fn fill(
    etcd: &EtcdFlags,
    export: Export,
    skip: u64,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    if etcd.etcd_servers.is_empty() {
        return Err(CliError::NoServers);
    }
    let store = etcd.connect().await?;
    let there = store.list(&etcd.prefix()).await?.records.len();
    if there > 0 {
        return Err(CliError::NotEmpty(there));
    }
    let revision = crate::Revision(export.revision.0 + skip);
    say(out, &format!("moving etcd's revision on to {revision}"));
    store.raise(revision).await?;
    let keys = export.records.len();
    let progress = |done: usize| {
        if done.is_multiple_of(REPORT) {
            say(out, &format!("{done} of {keys} keys"));
        }
    };
    Ok(export.copy_to(&store, SystemClock::default().now().as_second(), progress).await?)
}

fn write_file(path: &Path, export: Export) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    // Secrets are in it.
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    for chunk in export.frames() {
        file.write_all(&chunk)?;
    }
    file.sync_all()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn say(out: &mut (dyn Write + Send), line: &str) {
    // Who reads no more need not be told.
    let _ = writeln!(out, "{line}");
}
