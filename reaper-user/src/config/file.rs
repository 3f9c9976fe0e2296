//! Reading the file, and who may have written it.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use super::{Config, ConfigError, Socket, rules};

/// The largest file that is read.
pub const MAX_BYTES: u64 = 1 << 20;

impl Config {
    /// Reads the text of a file; `path` is only named in errors.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut config: Self =
            toml::from_str(text).map_err(|error| ConfigError::invalid(path.to_owned(), text, &error))?;
        config.rules = rules::check(&std::mem::take(&mut config.written))
            .map_err(|fault| ConfigError::at(path.to_owned(), text, &fault.span, &fault.message))?;
        if let Some(contradiction) = config.contradiction() {
            return Err(ConfigError::at(path.to_owned(), text, &events_span(text), contradiction));
        }
        Ok(config)
    }

    /// What is asked for and cannot be had together.
    #[must_use]
    pub fn contradiction(&self) -> Option<&'static str> {
        (self.kubernetes.events && self.names.cri == Socket::Off).then_some(
            "an Event needs its pod's name, and cri in [names] is \"off\": nobody could tell it. Let one of the two be",
        )
    }

    /// Reads a file, whoever wrote it. For `reaper config check`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let (file, _) = open(path)?;
        Self::parse(path, &read(path, file)?)
    }

    /// Reads a file that only root may have written. For the daemon, which does with root's rights what it says.
    ///
    /// The directories above are not looked at: a Kubernetes ConfigMap is mounted in one with mode 0777.
    pub fn load_trusted(path: &Path) -> Result<Self, ConfigError> {
        let (file, metadata) = open(path)?;
        check_owner(path, &metadata, 0)?;
        Self::parse(path, &read(path, file)?)
    }
}

/// Where `events` in `[kubernetes]` stands.
fn events_span(text: &str) -> std::ops::Range<usize> {
    let table = toml::de::DeTable::parse(text).ok();
    let span = table.and_then(|table| {
        Some(table.get_ref().get("kubernetes")?.get_ref().as_table()?.get("events")?.span())
    });
    span.unwrap_or_default()
}

/// Refuses a file that does not belong to `owner`, or that others may write.
pub fn check_owner(path: &Path, metadata: &Metadata, owner: u32) -> Result<(), ConfigError> {
    if metadata.uid() != owner {
        return Err(ConfigError::Owner { path: path.to_owned(), owner: metadata.uid() });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(ConfigError::Writable { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Opens a regular file; its metadata is that of what was opened, not of what has the name a moment later.
fn open(path: &Path) -> Result<(File, Metadata), ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    // O_NONBLOCK: opening a pipe that nobody writes must not hang.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() {
        Ok((file, metadata))
    } else {
        Err(ConfigError::NotAFile { path: path.to_owned() })
    }
}

fn read(path: &Path, file: File) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))
}
