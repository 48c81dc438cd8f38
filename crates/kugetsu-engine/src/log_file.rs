//! Logs of turns that may be compressed, with zstd.
//!
//! A compressed log has the name of the log with `.zst` appended. It can be read while it grows: each piece is readable
//! as soon as it is written. Unlike gzip, zstd looks back far enough to find a tool's whole output so far, which opencode
//! repeats in each of its events.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};
use zstd::stream::write::Encoder;

use crate::fsx::{self, FsError};

/// The ending of a compressed log.
pub(crate) const ENDING: &str = ".zst";
/// The fastest level: most of the gain comes from repetitions, which every level finds.
const LEVEL: i32 = 1;
/// How far back a log may look, as a power of two, and so what a reader needs in memory: more than [`LEVEL`] uses.
const WINDOW: u32 = 23;
/// What ends a log that has reached its limit.
const CUT: &[u8] = b"\n[the rest is not kept: log_max_bytes]\n";

/// The compressed form's path of a log.
pub fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ENDING);
    name.into()
}

/// Whether there is a log, in either form.
pub fn exists(path: &Path) -> bool {
    path.exists() || compressed(path).exists()
}

/// Reads a log in either form. At the end of what has been written it reads 0 bytes, and more once there is more.
pub struct LogReader {
    file: File,
    /// None for a log that is not compressed.
    unpacking: Option<Unpacking>,
}

struct Unpacking {
    decoder: Decoder<'static>,
    input: Vec<u8>,
    used: usize,
    /// Whether the decoder may hold more output.
    more: bool,
}

impl LogReader {
    /// Opens the log whose uncompressed form has this path.
    pub fn open(path: &Path) -> io::Result<Self> {
        match File::open(path) {
            Ok(file) => Ok(Self {
                file,
                unpacking: None,
            }),
            // If both forms exist, the compression was interrupted, and the uncompressed form is still whole.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::open_compressed(&compressed(path)),
            Err(error) => Err(error),
        }
    }

    fn open_compressed(path: &Path) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW))?;
        Ok(Self {
            file: File::open(path)?,
            unpacking: Some(Unpacking {
                decoder,
                input: Vec::new(),
                used: 0,
                more: false,
            }),
        })
    }
}

impl Read for LogReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.unpacking {
            None => self.file.read(out),
            Some(unpacking) => unpacking.read(&self.file, out),
        }
    }
}

impl Unpacking {
    fn read(&mut self, mut file: &File, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if self.used == self.input.len() && !self.more {
                self.input.resize(32 * 1024, 0);
                let read = file.read(&mut self.input);
                self.input.truncate(*read.as_ref().unwrap_or(&0));
                self.used = 0;
                if read? == 0 {
                    return Ok(0);
                }
            }
            let mut input = InBuffer::around(&self.input[self.used..]);
            let mut output = OutBuffer::around(&mut *out);
            let remaining = self.decoder.run(&mut input, &mut output)?;
            let (taken, given) = (input.pos(), output.pos());
            self.used += taken;
            self.more = given == out.len();
            if remaining == 0 {
                // The end of a frame. A turn that started opencode again has several.
                self.decoder.reinit()?;
                self.more = false;
            }
            if given > 0 {
                return Ok(given);
            }
        }
    }
}

/// Counts what a file has taken.
struct Counted {
    file: File,
    length: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a compressed log that grows. Failed writes are ignored: the log is a convenience, and no turn fails because of
/// it.
pub(crate) struct LogWriter {
    /// None once a write has failed, or the limit is reached.
    encoder: Option<Encoder<'static, Counted>>,
    max: u64,
}

impl LogWriter {
    /// Opens the compressed form of the log with this path, to append to it. Blocks.
    pub(crate) fn append(path: &Path, max: Option<u64>) -> Result<Self, FsError> {
        let path = compressed(path);
        let max = max.unwrap_or(u64::MAX);
        match path.metadata().map_or(0, |metadata| metadata.len()) {
            0 => {}
            // An earlier writer has reached the limit.
            length if length > max => return Ok(Self { encoder: None, max }),
            _ => mend(&path)?,
        }
        let file = fsx::create_append(&path)?;
        let failed = |source| FsError::Io {
            action: "write",
            path: path.clone(),
            source,
        };
        let length = file.metadata().map_err(failed)?.len();
        let encoder = Encoder::new(Counted { file, length }, LEVEL).map_err(failed)?;
        Ok(Self {
            encoder: Some(encoder),
            max,
        })
    }

    /// Writes the pieces, readable at once.
    pub(crate) fn write(&mut self, pieces: &[&[u8]]) {
        let Some(encoder) = &mut self.encoder else { return };
        let before = encoder.get_ref().length;
        if before > self.max {
            let _ = encoder.write_all(CUT);
            self.finish();
            return;
        }
        let written = pieces
            .iter()
            .try_for_each(|piece| encoder.write_all(piece))
            .and_then(|()| encoder.flush());
        if written.is_err() {
            // What follows a half-written piece could not be read.
            let _ = encoder.get_ref().file.set_len(before);
            self.encoder = None;
        }
    }

    fn finish(&mut self) {
        if let Some(mut encoder) = self.encoder.take() {
            let before = encoder.get_ref().length;
            if encoder.do_finish().is_err() {
                let _ = encoder.get_ref().file.set_len(before);
            }
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Writes a compressed log again, so that it ends where a writer can go on: a killed writer leaves half a frame.
fn mend(path: &Path) -> Result<(), FsError> {
    let failed = |source| FsError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let reader = LogReader::open_compressed(path).map_err(failed)?;
    compress(UntilDamage(reader), path)?.commit()
}

/// Takes damage for the end of a log.
struct UntilDamage(LogReader);

impl Read for UntilDamage {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out) {
            // An error of zstd has no number of the system.
            Err(error) if error.raw_os_error().is_none() => Ok(0),
            other => other,
        }
    }
}

/// Compresses what a reader has into a file that becomes `to` when it is committed.
pub(crate) fn compress(mut from: impl Read, to: &Path) -> Result<fsx::Staged, FsError> {
    fsx::stage(to, |file| {
        let mut encoder = Encoder::new(io::BufWriter::new(file), LEVEL)?;
        let mut piece = vec![0; 64 * 1024];
        loop {
            match from.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => encoder.write_all(&piece[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        encoder.finish()?.flush()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;

    use super::*;

    fn read_all(path: &Path) -> Vec<u8> {
        let mut all = Vec::new();
        LogReader::open(path).unwrap().read_to_end(&mut all).unwrap();
        all
    }

    /// A tool whose output grows by a line with each event, as opencode reports it.
    fn events(count: usize) -> Vec<String> {
        let mut output = String::new();
        (0..count)
            .map(|number| {
                output.push_str(&format!("line {number} of a chatty tool\\n"));
                format!("{{\"type\":\"message.part.updated\",\"output\":\"{output}\"}}\n")
            })
            .collect()
    }

    #[test]
    fn an_output_that_each_event_repeats_stays_small_and_each_event_is_readable_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turn.raw.log");
        let events = events(1500);
        let mut writer = LogWriter::append(&path, None).unwrap();
        let mut reader = LogReader::open(&path).unwrap();
        for event in &events {
            writer.write(&[event.as_bytes()]);
            let mut read = vec![0; event.len()];
            reader.read_exact(&mut read).unwrap();
            assert!(read == event.as_bytes());
            assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
        }
        let whole: usize = events.iter().map(String::len).sum();
        let kept = compressed(&path).metadata().unwrap().len();
        assert!(whole > 30_000_000 && kept < 1_000_000, "{kept} of {whole} bytes");
    }

    #[test]
    fn a_log_goes_on_after_a_writer_that_ended_or_was_killed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turn.raw.log");
        let mut killed = LogWriter::append(&path, None).unwrap();
        killed.write(&[b"one ", b"two\n"]);
        std::mem::forget(killed);
        assert_eq!(read_all(&path), b"one two\n");
        LogWriter::append(&path, None).unwrap().write(&[b"three\n"]);
        LogWriter::append(&path, None).unwrap().write(&[b"four\n"]);
        assert_eq!(read_all(&path), b"one two\nthree\nfour\n");
    }

    #[test]
    fn a_log_ends_with_a_note_at_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turn.raw.log");
        let mut writer = LogWriter::append(&path, Some(64)).unwrap();
        for number in 0..1000 {
            writer.write(&[format!("{}\n", uuid::Uuid::new_v4()).as_bytes(), &[number as u8]]);
        }
        drop(writer);
        let full = compressed(&path).metadata().unwrap();
        assert!(full.len() < 300);
        assert!(read_all(&path).ends_with(CUT));
        LogWriter::append(&path, Some(64)).unwrap().write(&[b"more\n"]);
        let after = compressed(&path).metadata().unwrap();
        assert_eq!(
            (after.ino(), after.len()),
            (full.ino(), full.len()),
            "a full log is left as it is"
        );
    }

    proptest! {
        #[test]
        fn a_damaged_log_is_read_to_the_damage(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            cut in any::<proptest::sample::Index>(),
            flip in any::<proptest::sample::Index>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("turn.raw.log");
            compress(&*bytes, &compressed(&path)).unwrap().commit().unwrap();
            prop_assert_eq!(&read_all(&path), &bytes);
            let mut packed = fsx::read_bounded(&compressed(&path), 1 << 20).unwrap();
            let at = flip.index(packed.len());
            packed[at] ^= 0x10;
            packed.truncate(cut.index(packed.len()) + 1);
            fsx::write_atomic(&compressed(&path), &packed).unwrap();
            // Whatever is left of it, reading ends.
            let _ = LogReader::open(&path).unwrap().read_to_end(&mut Vec::new());
            // A writer goes on in any case.
            LogWriter::append(&path, None).unwrap().write(&[b"more\n"]);
            prop_assert!(read_all(&path).ends_with(b"more\n"));
        }
    }
}
