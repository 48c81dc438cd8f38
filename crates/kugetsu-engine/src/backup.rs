//! The archives of `backup`: a tar compressed with zstd, of plain files alone. Its last file, `manifest.json`, lists the
//! others with their sizes and digests.
//!
//! An archive may come from anywhere, so nothing of it is believed. [`read`] takes only names that a backup has, plain
//! files, and sizes as the manifest says; nothing is written before the whole archive has been read once.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Component, Path};

use kugetsu_api::{BACKUP_FORMAT, BackupFile, BackupManifest};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, EntryType, Header};

/// The name of the manifest.
const MANIFEST: &str = "manifest.json";
/// The name of opencode's database.
pub(crate) const OPENCODE: &str = "opencode.db";
/// What the names of the home's files begin with.
pub(crate) const HOME: &str = "home/";
/// The largest manifest, in bytes: about a million files.
const MAX_MANIFEST: u64 = 256 << 20;
/// The longest name, in bytes; also the longest path of the system.
const MAX_NAME: u64 = 4096;
/// The level of zstd. Most of the content is compressed already.
const LEVEL: i32 = 3;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    /// It is not an archive, or parts of it are missing or changed.
    #[error("{0}")]
    Damaged(String),
    /// A newer version wrote it.
    #[error("it has format {found}, and this kugetsu reads up to {BACKUP_FORMAT}")]
    Newer {
        /// The format.
        found: u32,
    },
    /// The system's error.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for BackupError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(_) => Self::Io(error),
            // Of zstd or tar.
            None => damaged(error.to_string()),
        }
    }
}

fn damaged(why: impl Into<String>) -> BackupError {
    BackupError::Damaged(why.into())
}

/// Writes an archive.
pub(crate) struct Writer<W: Write> {
    tar: Builder<zstd::Encoder<'static, W>>,
    files: Vec<BackupFile>,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> io::Result<Self> {
        let mut zstd = zstd::Encoder::new(out, LEVEL)?;
        zstd.include_checksum(true)?;
        Ok(Self {
            tar: Builder::new(zstd),
            files: Vec::new(),
        })
    }

    /// The files that were added.
    pub(crate) fn files(&self) -> &[BackupFile] {
        &self.files
    }

    /// Adds a file of exactly this size.
    pub(crate) fn add(&mut self, name: &str, from: impl Read, size: u64, modified: u64) -> io::Result<()> {
        let mut from = Hashed {
            inner: from.take(size),
            hash: Sha256::new(),
        };
        self.tar
            .append_data(&mut header(size, modified), name, &mut from)?;
        if from.inner.limit() > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{name} became smaller while it was read"),
            ));
        }
        self.files.push(BackupFile {
            path: name.to_owned(),
            size,
            sha256: hex::encode(from.hash.finalize()),
        });
        Ok(())
    }

    /// Takes files out of the backup. They stay in the archive without belonging to it.
    pub(crate) fn withdraw(&mut self, is_out: impl Fn(&str) -> bool) {
        self.files.retain(|file| !is_out(&file.path));
    }

    /// Writes the manifest and the end of the archive.
    pub(crate) fn finish(
        self,
        opencode: Option<String>,
        time: jiff::Timestamp,
    ) -> io::Result<(W, BackupManifest)> {
        let Self { mut tar, files } = self;
        let manifest = BackupManifest {
            format: BACKUP_FORMAT,
            kugetsu: env!("CARGO_PKG_VERSION").to_owned(),
            time,
            opencode,
            files,
        };
        let bytes = serde_json::to_vec(&manifest)?;
        let modified = u64::try_from(time.as_second()).unwrap_or(0);
        tar.append_data(&mut header(bytes.len() as u64, modified), MANIFEST, &*bytes)?;
        Ok((tar.into_inner()?.finish()?, manifest))
    }
}

fn header(size: u64, modified: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    header.set_size(size);
    header.set_mtime(modified);
    header
}

/// Hashes what is read.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        self.hash.update(&out[..count]);
        Ok(count)
    }
}

/// Whether an archive may have a file of this name. `kept` says it of a path below the home.
fn may_be_in(name: &str, kept: impl Fn(&Path) -> bool) -> bool {
    let Some(below) = name.strip_prefix(HOME) else {
        return name == OPENCODE;
    };
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let path = Path::new(below);
    // Compared again, because `components` leaves out `.` and doubled slashes.
    let normal: std::path::PathBuf = path.components().collect();
    !below.contains('\0')
        && path.components().all(is_plain)
        && normal.as_os_str() == path.as_os_str()
        && kept(path)
}

/// Reads a whole archive and checks everything: names, kinds of files, sizes and digests. Writes nothing.
pub(crate) fn verify(
    archive: &mut (impl Read + Seek),
    kept: impl Fn(&Path) -> bool,
) -> Result<BackupManifest, BackupError> {
    let mut found = HashMap::new();
    let mut manifest: Option<BackupManifest> = None;
    each(archive, |name, size, content| {
        if manifest.is_some() {
            return Err(damaged("it goes on after its manifest"));
        }
        if name == MANIFEST {
            manifest = Some(read_manifest(size, content)?);
            return Ok(());
        }
        if !may_be_in(name, &kept) {
            return Err(damaged(format!("`{name}` is not the name of a file of a backup")));
        }
        let mut content = Hashed {
            inner: content,
            hash: Sha256::new(),
        };
        io::copy(&mut content, &mut io::sink())?;
        let digest = hex::encode(content.hash.finalize());
        match found.insert(name.to_owned(), (size, digest)) {
            Some(_) => Err(damaged(format!("it has `{name}` twice"))),
            None => Ok(()),
        }
    })?;
    let manifest = manifest.ok_or_else(|| damaged("it has no manifest, so a part of it is missing"))?;
    for file in &manifest.files {
        match found.remove(&file.path) {
            None => return Err(damaged(format!("it lacks `{}`", file.path))),
            Some((size, digest)) if size != file.size || digest != file.sha256 => {
                return Err(damaged(format!("`{}` is not as it was in the backup", file.path)));
            }
            Some(_) => {}
        }
    }
    Ok(manifest)
}

fn read_manifest(size: u64, content: &mut dyn Read) -> Result<BackupManifest, BackupError> {
    /// What every format has.
    #[derive(serde::Deserialize)]
    struct AnyFormat {
        format: u32,
    }
    if size > MAX_MANIFEST {
        return Err(damaged("its manifest is too large"));
    }
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes)?;
    let wrong = |error: serde_json::Error| damaged(format!("its manifest cannot be read: {error}"));
    let AnyFormat { format } = serde_json::from_slice(&bytes).map_err(wrong)?;
    if format > BACKUP_FORMAT {
        return Err(BackupError::Newer { found: format });
    }
    serde_json::from_slice(&bytes).map_err(wrong)
}

/// Gives each file of the manifest to `place`, with its content. Fails if one is not as [`verify`] saw it.
pub(crate) fn unpack(
    archive: &mut (impl Read + Seek),
    manifest: &BackupManifest,
    mut place: impl FnMut(&str, &mut dyn Read) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let mut left: HashMap<&str, &BackupFile> = manifest
        .files
        .iter()
        .map(|file| (file.path.as_str(), file))
        .collect();
    each(archive, |name, size, content| {
        let Some(file) = left.remove(name) else {
            return Ok(());
        };
        let mut content = Hashed {
            inner: content,
            hash: Sha256::new(),
        };
        place(name, &mut content)?;
        if size != file.size || hex::encode(content.hash.finalize()) != file.sha256 {
            return Err(damaged("it changed while it was read"));
        }
        Ok(())
    })?;
    match left.keys().next() {
        Some(name) => Err(damaged(format!("it lost `{name}` while it was read"))),
        None => Ok(()),
    }
}

/// Calls `visit` with the name, the size and the content of each file. Anything but plain files is an error.
fn each(
    archive: &mut (impl Read + Seek),
    mut visit: impl FnMut(&str, u64, &mut dyn Read) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    archive.rewind()?;
    let unpacked = zstd::Decoder::new(BufReader::new(archive))?;
    let mut tar = Archive::new(unpacked);
    let mut long_name: Option<String> = None;
    // Raw: otherwise, the library reads long names and attributes of any size into memory.
    for entry in tar.entries()?.raw(true) {
        let mut entry = entry?;
        let (kind, size) = (entry.header().entry_type(), entry.size());
        if kind == EntryType::GNULongName {
            if size > MAX_NAME {
                return Err(damaged("it has a name that is too long"));
            }
            let mut name = Vec::new();
            entry.read_to_end(&mut name)?;
            while name.last() == Some(&0) {
                name.pop();
            }
            let name = String::from_utf8(name).map_err(|_| damaged("it has a name that is not UTF-8"))?;
            long_name = Some(name);
            continue;
        }
        let name = match long_name.take() {
            Some(name) => name,
            None => String::from_utf8(entry.header().path_bytes().into_owned())
                .map_err(|_| damaged("it has a name that is not UTF-8"))?,
        };
        if kind != EntryType::Regular {
            return Err(damaged(format!("`{name}` is not a plain file")));
        }
        visit(&name, size, &mut entry)?;
    }
    // Reads to the end, so that the checksum of zstd is compared.
    let mut rest = tar.into_inner();
    io::copy(&mut rest, &mut io::sink())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn kept(path: &Path) -> bool {
        path.starts_with("sessions")
    }

    /// An archive of these files, as `backup` writes it.
    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for (name, content) in files {
            writer.add(name, *content, content.len() as u64, 0).unwrap();
        }
        writer.finish(None, jiff::Timestamp::UNIX_EPOCH).unwrap().0
    }

    /// Verifies and unpacks an archive.
    fn read(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, BackupError> {
        let mut archive = Cursor::new(bytes);
        let manifest = verify(&mut archive, kept)?;
        let mut files = BTreeMap::new();
        unpack(&mut archive, &manifest, |name, content| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            files.insert(name.to_owned(), bytes);
            Ok(())
        })?;
        Ok(files)
    }

    /// What an attacker may write: an entry of any kind and name.
    struct Forged(Builder<Vec<u8>>, Vec<BackupFile>);

    impl Forged {
        fn new() -> Self {
            let this = Self(Builder::new(Vec::new()), Vec::new());
            this.with("home/sessions/base.json", EntryType::Regular, b"{}")
        }

        fn with(mut self, name: &str, kind: EntryType, content: &[u8]) -> Self {
            let mut header = header(content.len() as u64, 0);
            header.set_entry_type(kind);
            // The library refuses such names.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            self.0.append(&header, content).unwrap();
            self.1.push(BackupFile {
                path: name.to_owned(),
                size: content.len() as u64,
                sha256: hex::encode(Sha256::digest(content)),
            });
            self
        }

        /// The archive, whose manifest `change` may change.
        fn end(mut self, change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
            let mut manifest = serde_json::to_value(BackupManifest {
                format: BACKUP_FORMAT,
                kugetsu: "0".to_owned(),
                time: jiff::Timestamp::UNIX_EPOCH,
                opencode: None,
                files: self.1,
            })
            .unwrap();
            change(&mut manifest);
            let bytes = serde_json::to_vec(&manifest).unwrap();
            self.0
                .append_data(&mut header(bytes.len() as u64, 0), MANIFEST, &*bytes)
                .unwrap();
            zstd::encode_all(&*self.0.into_inner().unwrap(), 1).unwrap()
        }
    }

    #[track_caller]
    fn refused(bytes: &[u8], words: &str) {
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let long = format!("home/sessions/{}14.json", "a-group/".repeat(40));
        let large = vec![7; 300_000];
        let files = [
            ("home/sessions/a/1.json", &b"{}"[..]),
            (&long, b"long"),
            (OPENCODE, &large),
            ("home/sessions/empty", b""),
        ];
        let read = read(&archive(&files)).unwrap();
        assert_eq!(read.len(), files.len());
        for (name, content) in files {
            assert!(read[name] == content, "{name}");
        }
    }

    #[test]
    fn what_is_withdrawn_is_not_unpacked() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for name in ["home/sessions/1.json", "home/sessions/2.json"] {
            writer.add(name, &b"{}"[..], 2, 0).unwrap();
        }
        writer.withdraw(|name| name.ends_with("1.json"));
        let (bytes, _) = writer.finish(None, jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(
            read(&bytes).unwrap().keys().collect::<Vec<_>>(),
            ["home/sessions/2.json"]
        );
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        assert!(writer.add("home/sessions/log", &b"short"[..], 6, 0).is_err());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "../x",
            "home/../x",
            "home/sessions/../../x",
            "home/sessions/..",
            "home/sessions/./x",
            "home/sessions//x",
            "home/sessions/x/",
            "/etc/passwd",
            "home//etc/passwd",
            "home/",
            "home/run/daemon.sock",
            "home/hooks",
            "opencode.db/x",
            "elsewhere",
            "",
        ] {
            refused(
                &Forged::new().with(name, EntryType::Regular, b"x").end(|_| {}),
                "is not the name of a file of a backup",
            );
        }
        let mut long = vec![b'a'; 5000];
        long.push(0);
        let long = Forged::new().with("././@LongLink", EntryType::GNULongName, &long);
        refused(&long.end(|_| {}), "too long");
        let elsewhere = Forged::new()
            .with(
                "././@LongLink",
                EntryType::GNULongName,
                b"home/sessions/../../../x\0",
            )
            .with("home/sessions/x", EntryType::Regular, b"x");
        refused(&elsewhere.end(|_| {}), "is not the name of a file of a backup");
    }

    #[test]
    fn only_plain_files_are_taken() {
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Char,
            EntryType::Block,
            EntryType::Fifo,
            EntryType::Directory,
            EntryType::Continuous,
            EntryType::GNUSparse,
            EntryType::GNULongLink,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
        ] {
            let forged = Forged::new().with("home/sessions/x", kind, b"");
            refused(&forged.end(|_| {}), "is not a plain file");
        }
    }

    #[test]
    fn a_manifest_that_does_not_fit_is_refused() {
        let forged = || Forged::new().with("home/sessions/x", EntryType::Regular, b"x");
        assert_eq!(read(&forged().end(|_| {})).unwrap().len(), 2);
        refused(
            &forged().end(|manifest| manifest["files"][1]["sha256"] = "00".into()),
            "not as it was",
        );
        refused(
            &forged().end(|manifest| manifest["files"][1]["size"] = 2.into()),
            "not as it was",
        );
        let another =
            |manifest: &mut serde_json::Value| manifest["files"][1]["path"] = "home/sessions/y".into();
        refused(&forged().end(another), "it lacks");
        let twice = |manifest: &mut serde_json::Value| {
            manifest["files"][0] = manifest["files"][1].clone();
        };
        refused(&forged().end(twice), "it lacks");
        refused(
            &forged()
                .with("home/sessions/x", EntryType::Regular, b"x")
                .end(|_| {}),
            "twice",
        );
        refused(
            &forged().end(|manifest| manifest["files"] = "none".into()),
            "cannot be read",
        );
        // Only the format of a newer archive is known.
        refused(
            &forged().end(|manifest| *manifest = serde_json::json!({"format": BACKUP_FORMAT + 1})),
            "it has format 2",
        );
        let goes_on = Forged::new().with(MANIFEST, EntryType::Regular, br#"{"format":1}"#);
        refused(&goes_on.end(|_| {}), "cannot be read");
        refused(&zstd::encode_all(&b"not a tar"[..], 1).unwrap(), "");
        refused(b"not an archive", "");
        refused(b"", "");
    }

    #[test]
    fn an_archive_that_goes_on_after_its_manifest_is_refused() {
        let first = zstd::decode_all(&*archive(&[("home/sessions/1.json", b"{}")])).unwrap();
        // Without the two empty blocks at the end, tar goes on.
        let end = first.len() - 1024;
        let second = zstd::decode_all(&*archive(&[("home/sessions/2.json", b"{}")])).unwrap();
        let both = zstd::encode_all(&*[&first[..end], &second].concat(), 1).unwrap();
        refused(&both, "goes on after its manifest");
    }

    proptest! {
        #[test]
        fn a_damaged_archive_is_never_read_as_another(
            content in proptest::collection::vec(any::<u8>(), 0..3000),
            at in any::<proptest::sample::Index>(),
            bit in 0..8_u8,
            cut in proptest::bool::ANY,
        ) {
            let whole = archive(&[("home/sessions/1.json", &content), (OPENCODE, b"database")]);
            let expected = read(&whole).unwrap();
            let mut damaged = whole;
            let at = at.index(damaged.len());
            if cut {
                damaged.truncate(at);
            } else {
                damaged[at] ^= 1 << bit;
            }
            if let Ok(read) = read(&damaged) {
                prop_assert_eq!(read, expected);
            }
        }
    }
}
