//! The encoding of the store's files, and the size limit of a record.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::ser::Formatter;

use super::StoreError;

/// The size limit of a record in bytes. Applies to writing and to reading, in the store and in the trash.
pub(crate) const MAX_RECORD: u64 = 4 << 20;

/// Encodes a value as indented JSON that ends with a newline.
pub(crate) fn encode<T: Serialize>(value: &T, path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut bytes = kugetsu_api::json::to_vec_pretty(value).map_err(not_encoded(path))?;
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

/// Encodes a record. Fails if the record exceeds the limit that every reader applies.
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

/// Encodes a record with each field on one line, including everything in the field. The record fits on a screen, and a
/// reader of ten thousand records does not spend a quarter of its time on indentation.
pub fn record_text<T: Serialize>(record: &T) -> serde_json::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, FieldPerLine::default());
    record.serialize(&mut writer)?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[derive(Default)]
struct FieldPerLine {
    /// The number of open objects.
    depth: usize,
}

impl Formatter for FieldPerLine {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> std::io::Result<()> {
        kugetsu_api::json::write_decimal(writer, value)
    }

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
