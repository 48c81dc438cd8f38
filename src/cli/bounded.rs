//! Input with a limit.

use std::fs::File;
use std::io::{BufRead, Error, ErrorKind, Read};
use std::path::Path;

/// The longest prompt, in bytes. It travels to opencode as one request.
pub(super) const MAX_PROMPT: u64 = 8 << 20;
/// The largest answers file, and the longest reply on stdin, in bytes.
pub(super) const MAX_ANSWERS: u64 = 1 << 20;

/// Reads all of this input. More bytes than `most`, or text that is not UTF-8, is an error of the kind `InvalidData`.
pub(super) fn read_text(mut from: impl Read, most: u64) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    from.by_ref().take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(too_long(most));
    }
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

/// [`read_text`] of a file.
pub(super) fn read_file(path: &Path, most: u64) -> std::io::Result<String> {
    read_text(File::open(path)?, most)
}

/// Reads a line with its end; empty at the end of the input.
pub(super) fn read_line(mut from: impl BufRead, most: u64) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.by_ref().take(most + 1).read_until(b'\n', &mut line)?;
    if line.len() as u64 > most {
        return Err(too_long(most));
    }
    Ok(line)
}

fn too_long(most: u64) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("it has more than {} MiB", most >> 20),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_is_refused() {
        assert_eq!(read_text(&b"1234"[..], 4).unwrap(), "1234");
        assert!(read_text(&b"12345"[..], 4).is_err());
        assert!(read_text(std::io::repeat(b'x'), 1 << 20).is_err());
        assert!(read_text(&b"\xff"[..], 4).is_err());
        let mut lines = &b"one\ntwo"[..];
        let read = [(); 3].map(|()| read_line(&mut lines, 4).unwrap());
        assert_eq!(read, [&b"one\n"[..], b"two", b""]);
        assert!(read_line(&b"longer\n"[..], 4).is_err());
    }
}
