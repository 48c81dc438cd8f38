//! Reading and writing records.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::encoding::{MAX_RECORD, record_bytes};
use super::layout::Slot;
use super::{Lease, RecordKey, Store, StoreError, trash};
use crate::fsx;
use kugetsu_api::{Address, BaseRecord, RepoRef, SCHEMA, SessionRecord, SessionSummary};

/// A record, or a part of its fields.
pub(crate) trait Record: DeserializeOwned + Send {
    fn schema(&self) -> u32;
    fn owner(&self) -> Owner<'_>;

    /// Reads the record from the text of its file.
    fn from_text(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    fn key(&self) -> RecordKey {
        match self.owner() {
            Owner::Base(repo) => repo.into(),
            Owner::Session(address) => address.into(),
        }
    }

    /// Whether the record belongs into this slot of the repository.
    fn belongs(&self, repo: &RepoRef, slot: &Slot) -> bool {
        match self.owner() {
            Owner::Base(own) => own == repo && *slot == Slot::Base,
            Owner::Session(own) => own.repo() == repo && slot.is_of(own),
        }
    }
}

/// The owner of a record: a borrowed [`RecordKey`].
pub(crate) enum Owner<'a> {
    Base(&'a RepoRef),
    Session(&'a Address),
}

impl Record for SessionRecord {
    fn schema(&self) -> u32 {
        self.schema
    }

    fn owner(&self) -> Owner<'_> {
        Owner::Session(&self.address)
    }
}

impl Record for SessionSummary {
    fn schema(&self) -> u32 {
        self.schema
    }

    fn owner(&self) -> Owner<'_> {
        Owner::Session(&self.address)
    }

    /// A listing passes on the fields that the summary ignores, and one bad record must not break the listing for its
    /// reader. serde_json does not check ignored fields for unpaired surrogates or for their depth. So a text that may
    /// contain them, which kugetsu never writes, is parsed in full, and so is a text whose fields cannot be passed on
    /// unchanged.
    fn from_text(text: &str) -> serde_json::Result<Self> {
        let summary: Self = serde_json::from_str(text)?;
        let escapes = memchr::memmem::find(text.as_bytes(), b"\\u").is_some();
        let deep = || {
            memchr::memchr2_iter(b'[', b'{', text.as_bytes())
                .nth(100)
                .is_some()
        };
        if escapes || deep() || !summary.passes_on() {
            serde_json::from_str::<Map<String, Value>>(text)?;
        }
        Ok(summary)
    }
}

impl Record for BaseRecord {
    fn schema(&self) -> u32 {
        self.schema
    }

    fn owner(&self) -> Owner<'_> {
        Owner::Base(&self.repo)
    }
}

/// The only field that every schema contains.
#[derive(Deserialize)]
pub(crate) struct Probe {
    pub(crate) schema: u32,
}

/// Parses a record's bytes. Of a record with a newer schema, reads the fields that this version knows.
pub(crate) fn parse<R: Record>(path: &Path, bytes: &[u8]) -> Result<R, StoreError> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(StoreError::broken(path, "it is not UTF-8".to_owned()));
    };
    if !is_object(text) {
        return Err(StoreError::broken(path, "it is not a JSON object".to_owned()));
    }
    match R::from_text(text) {
        Ok(record) => Ok(record),
        Err(error) => match serde_json::from_str::<Probe>(text) {
            Ok(Probe { schema }) if schema > SCHEMA => Err(StoreError::Newer {
                path: path.to_owned(),
                found: schema,
                known: SCHEMA,
            }),
            _ => Err(StoreError::broken(path, error.to_string())),
        },
    }
}

/// Whether the JSON is an object. serde also accepts an array of a record's values in order.
pub(crate) fn is_object(json: &str) -> bool {
    json.trim_ascii_start().starts_with('{')
}

/// Like [`parse`], but the record must belong to this key.
pub(crate) fn parse_as<R: Record>(path: &Path, bytes: &[u8], key: &RecordKey) -> Result<R, StoreError> {
    let record: R = parse(path, bytes)?;
    let named = record.key();
    if named == *key {
        Ok(record)
    } else {
        Err(StoreError::broken(
            path,
            format!("it is in the place of {key}, but names {named}"),
        ))
    }
}

impl Store {
    /// The record of a session. Takes no lock and writes nothing.
    pub fn session_record(&self, address: &Address) -> Result<Option<SessionRecord>, StoreError> {
        self.read_record(&address.into())
    }

    /// The record of a repository's base session.
    pub fn base(&self, repo: &RepoRef) -> Result<Option<BaseRecord>, StoreError> {
        self.read_record(&repo.into())
    }

    fn read_record<R: Record>(&self, key: &RecordKey) -> Result<Option<R>, StoreError> {
        let path = self.record_path(key);
        fsx::refuse_symlinks(&self.home, &path)?;
        match fsx::read_bounded(&path, MAX_RECORD) {
            Ok(bytes) => parse_as(&path, &bytes, key).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the record of a session, and adds it to the index if it is missing there. Never replaces a file of a
    /// newer schema, or one that cannot be parsed.
    pub fn save_session(&self, lease: &Lease, record: &SessionRecord) -> Result<(), StoreError> {
        self.save(lease, record)
    }

    /// Writes the record of a base, like [`Store::save_session`].
    pub fn save_base(&self, lease: &Lease, record: &BaseRecord) -> Result<(), StoreError> {
        self.save(lease, record)
    }

    fn save<R: Record + Serialize>(&self, lease: &Lease, record: &R) -> Result<(), StoreError> {
        let key = record.key();
        lease.covers(self, &key)?;
        let path = self.record_path(&key);
        if record.schema() > SCHEMA {
            return Err(StoreError::Newer {
                path,
                found: record.schema(),
                known: SCHEMA,
            });
        }
        self.make_folder_of(&path)?;
        match fsx::read_bounded(&path, MAX_RECORD) {
            Ok(bytes) => {
                let old: R = parse_as(&path, &bytes, &key)?;
                if old.schema() > SCHEMA {
                    return Err(StoreError::Newer {
                        path,
                        found: old.schema(),
                        known: SCHEMA,
                    });
                }
            }
            Err(error) if error.is_not_found() => trash::finish_leftover(self, &key)?,
            Err(error) => return Err(error.into()),
        }
        fsx::write_atomic(&path, &record_bytes(record, &path)?)?;
        super::points::RECORD_SAVED.pass();
        self.add_to_index(&key)
    }
}
