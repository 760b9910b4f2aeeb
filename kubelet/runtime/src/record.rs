//! What is remembered of sandboxes and containers in files: enough to answer for them after a restart.
//!
//! The files are caches: what runs is asked of the shims. They are written whole and renamed into place, so a crash
//! leaves the old or the new; they are not synced to the disk, because nothing of what they tell survives a reboot.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minik_cri::v1;
use minik_shim::protocol::{ContainerSpec, Process};
use prost::Message;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// A CRI message in a JSON file.
mod message {
    use super::{Engine, Message, STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<T: Message, S: Serializer>(message: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(message.encode_to_vec()))
    }

    pub fn deserialize<'de, T: Message + Default, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let bytes = STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        T::decode(bytes.as_slice()).map_err(D::Error::custom)
    }
}

/// A sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Its id.
    pub id: String,
    /// What the kubelet asked for.
    #[serde(with = "message")]
    pub config: v1::PodSandboxConfig,
    /// The runtime handler that the kubelet named.
    pub handler: String,
    /// When it was made, in nanoseconds since 1970.
    pub created_at_ns: i64,
    /// The boot of the machine in which it was made.
    pub boot: String,
    /// Its addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// Its pause process.
    pub pause: Option<Process>,
    /// Whether its namespaces are there.
    pub ready: bool,
    /// Whether everything of it has been given back.
    #[serde(default)]
    pub released: bool,
    /// Whether it is being made: one that a crash leaves so was told to nobody, and is taken apart.
    #[serde(default)]
    pub making: bool,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Made and not started.
    Created,
    /// Started.
    Running,
    /// Ended, or could not be started.
    Exited,
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its id.
    pub id: String,
    /// Its sandbox.
    pub sandbox: String,
    /// What the kubelet asked for.
    #[serde(with = "message")]
    pub config: v1::ContainerConfig,
    /// Its image's id.
    pub image_id: String,
    /// Its image, as the kubelet compares it.
    pub image_ref: String,
    /// What the shim starts.
    pub spec: ContainerSpec,
    /// The signal that ends it politely.
    pub stop_signal: i32,
    /// Where it is in its life.
    pub phase: Phase,
    /// When it was made, in nanoseconds since 1970.
    pub created_at_ns: i64,
    /// When it started, or 0.
    pub started_at_ns: i64,
    /// When it ended, or 0.
    pub finished_at_ns: i64,
    /// Its exit code.
    pub exit_code: i32,
    /// Why it ended, in a word.
    pub reason: String,
    /// Why it ended, in a sentence.
    pub message: String,
    /// Its first process.
    pub process: Option<Process>,
    /// The limits that it has now, as CRI says them.
    #[serde(with = "message")]
    pub resources: v1::LinuxContainerResources,
}

/// The files of one kind of record.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Keeps them in `folder`, which is made when absent.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: PathBuf) -> io::Result<Records> {
        std::fs::create_dir_all(&folder)?;
        Ok(Records { folder })
    }

    /// The folder of one record, for what else belongs to it.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// Writes one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, id: &str, record: &impl Serialize) -> io::Result<()> {
        let folder = self.folder(id);
        let bytes = serde_json::to_vec(record)?;
        if let Err(error) = write_whole(&folder, "record.json", &bytes) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            std::fs::create_dir_all(&folder)?;
            write_whole(&folder, "record.json", &bytes)?;
        }
        Ok(())
    }

    /// Removes one and what else is in its folder.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        let removed = std::fs::remove_dir_all(self.folder(id));
        minik_fault::point("record.removed");
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads all; removes what a crash left unfinished.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn read<T: for<'de> Deserialize<'de>>(&self) -> io::Result<Vec<T>> {
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let bytes = std::fs::read(path.join("record.json"));
            match bytes
                .map_err(|error| error.to_string())
                .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
            {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::warn!(path = %path.display(), error, "removing an unreadable record");
                    std::fs::remove_dir_all(&path)?;
                }
            }
        }
        Ok(records)
    }
}

/// Writes a file whole: readers see the old or the new.
///
/// # Errors
/// When it cannot be written.
pub fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!(".{name}.new"));
    if let Err(error) = std::fs::write(&temporary, bytes) {
        // What a full disk has taken of it is of no use to anybody.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    minik_fault::point("file.written");
    std::fs::rename(temporary, folder.join(name))?;
    minik_fault::point("file.renamed");
    Ok(())
}

/// Removes what [`write_whole`] was writing into a folder when its process was killed. A disk that takes no writes keeps it.
pub fn clear_half_written(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") && name.as_encoded_bytes().ends_with(b".new") {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back_and_rubbish_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path().join("sandboxes")).unwrap();
        let config = v1::PodSandboxConfig { hostname: "h".into(), ..Default::default() };
        let record = SandboxRecord {
            id: "one".into(),
            config,
            handler: String::new(),
            created_at_ns: 7,
            boot: "b".into(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            pause: None,
            ready: true,
            released: false,
            making: false,
        };
        records.write("one", &record).unwrap();
        std::fs::create_dir(records.folder("two")).unwrap();
        std::fs::write(records.folder("two").join("record.json"), b"{").unwrap();
        let read: Vec<SandboxRecord> = records.read().unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].config.hostname.as_str(), read[0].created_at_ns), ("h", 7));
        assert!(!records.folder("two").exists());
        records.remove("one").unwrap();
        records.remove("one").unwrap();
        assert!(records.read::<SandboxRecord>().unwrap().is_empty());
    }
}
