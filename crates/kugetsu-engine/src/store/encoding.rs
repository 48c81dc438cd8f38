//! How the store's files are encoded, and how large a record may be.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::ser::Formatter;

use super::StoreError;

/// The largest record, in bytes: none is written that is larger, and none is read, from its place or from the trash.
pub(crate) const MAX_RECORD: u64 = 4 << 20;

/// A file's bytes, one line at least, the way a person can read them.
pub(crate) fn encode<T: Serialize>(value: &T, path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(not_encoded(path))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn not_encoded(path: &Path) -> impl FnOnce(serde_json::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Io {
        action: "encode",
        path,
        source: error.into(),
    }
}

/// A record's file; an error where it would be larger than any reader takes.
pub(super) fn record_bytes<T: Serialize>(record: &T, path: &Path) -> Result<Vec<u8>, StoreError> {
    let bytes = record_text(record).map_err(not_encoded(path))?;
    if bytes.len() as u64 > MAX_RECORD {
        return Err(StoreError::RecordTooLarge {
            path: path.to_owned(),
            size: bytes.len() as u64,
            max: MAX_RECORD,
        });
    }
    Ok(bytes)
}

/// A record as its file has it: each of its fields on a line of its own, with all that the field holds. So it fits on
/// a screen, and who reads ten thousand of them does not spend a quarter of the time on indents.
pub fn record_text<T: Serialize>(record: &T) -> serde_json::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, FieldPerLine::default());
    record.serialize(&mut writer)?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[derive(Default)]
struct FieldPerLine {
    /// How many objects are open.
    depth: usize,
}

impl Formatter for FieldPerLine {
    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.depth += 1;
        writer.write_all(b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.depth -= 1;
        writer.write_all(if self.depth == 0 { b"\n}" } else { b"}" })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(match (self.depth, first) {
            (1, true) => b"\n  ",
            (1, false) => b",\n  ",
            (_, true) => b"",
            (_, false) => b",",
        })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(if self.depth == 1 { b": " } else { b":" })
    }
}
