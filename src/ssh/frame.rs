//! The messages from the local kugetsu to the tether on the other host: one byte for the kind, four bytes for the
//! length (big endian), then the content. First come the arguments, then `Run`, then stdin and signals until the
//! connection ends.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// The longest content of a frame, in bytes.
pub const MAX_FRAME: usize = 64 * 1024 * 1024;

/// One message to the tether.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The next argument.
    Argument(OsString),
    /// The next argument: this option, then `=` and the name of a file that holds `content`.
    File {
        /// The option, including `--`.
        option: OsString,
        /// The content of the file.
        content: Vec<u8>,
    },
    /// The arguments are complete: start the command.
    Run,
    /// More of the command's stdin.
    Input(Vec<u8>),
    /// The command's stdin ends.
    EndOfInput,
    /// A signal for the command, by number. The signals that are sent have the same number on every system.
    Signal(u8),
}

/// A frame that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection ended in the middle of a frame, or failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// A kind of frame that this version does not know.
    #[error("the other side speaks another protocol (frame kind {0}); use the same version on both hosts")]
    Unknown(u8),
    /// The content exceeds the longest allowed.
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
}

impl Frame {
    /// Writes the frame; the caller flushes. A content longer than [`MAX_FRAME`] is an error.
    pub fn write(&self, to: &mut impl Write) -> Result<(), FrameError> {
        let (kind, parts): (u8, [&[u8]; 2]) = match self {
            Self::Argument(argument) => (b'A', [argument.as_bytes(), &[]]),
            Self::File { option, content } => {
                let name = option.as_bytes();
                let mut prefixed = Vec::with_capacity(name.len() + 1);
                prefixed.extend_from_slice(name);
                prefixed.push(0);
                return put(to, b'F', [&prefixed, content]);
            }
            Self::Run => (b'R', [&[], &[]]),
            Self::Input(bytes) => (b'D', [bytes, &[]]),
            Self::EndOfInput => (b'E', [&[], &[]]),
            Self::Signal(number) => return put(to, b'S', [&[*number], &[]]),
        };
        put(to, kind, parts)
    }

    /// Reads the next frame; `None` at the end of the connection.
    pub fn read(from: &mut impl Read) -> Result<Option<Self>, FrameError> {
        let mut kind = [0];
        loop {
            match from.read(&mut kind) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        // Not allocated in advance, because the length is only a claim until the bytes arrive.
        let mut content = Vec::new();
        from.take(length as u64).read_to_end(&mut content)?;
        if content.len() < length {
            return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        match kind[0] {
            b'A' => Ok(Some(Self::Argument(OsString::from_vec(content)))),
            b'F' => {
                let cut = content.iter().position(|byte| *byte == 0);
                let cut = cut.ok_or(FrameError::Unknown(b'F'))?;
                let rest = content.split_off(cut + 1);
                content.pop();
                Ok(Some(Self::File {
                    option: OsStr::from_bytes(&content).to_owned(),
                    content: rest,
                }))
            }
            b'R' => Ok(Some(Self::Run)),
            b'D' => Ok(Some(Self::Input(content))),
            b'E' => Ok(Some(Self::EndOfInput)),
            b'S' => match content[..] {
                [number] => Ok(Some(Self::Signal(number))),
                _ => Err(FrameError::Unknown(b'S')),
            },
            other => Err(FrameError::Unknown(other)),
        }
    }
}

fn put(to: &mut impl Write, kind: u8, parts: [&[u8]; 2]) -> Result<(), FrameError> {
    let length = parts[0].len() + parts[1].len();
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    to.write_all(&[kind])?;
    to.write_all(&(length as u32).to_be_bytes())?;
    to.write_all(parts[0])?;
    to.write_all(parts[1])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..64);
        let argument = || proptest::collection::vec(1_u8.., 0..64).prop_map(OsString::from_vec);
        prop_oneof![
            argument().prop_map(Frame::Argument),
            (argument(), bytes()).prop_map(|(option, content)| Frame::File { option, content }),
            Just(Frame::Run),
            bytes().prop_map(Frame::Input),
            Just(Frame::EndOfInput),
            any::<u8>().prop_map(Frame::Signal),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_back_as_they_went(frames in proptest::collection::vec(frame(), 0..12)) {
            let mut bytes = Vec::new();
            for frame in &frames {
                frame.write(&mut bytes).unwrap();
            }
            let mut reader = bytes.as_slice();
            for frame in frames {
                prop_assert_eq!(Frame::read(&mut reader).unwrap(), Some(frame));
            }
            prop_assert_eq!(Frame::read(&mut reader).unwrap(), None);
        }

        #[test]
        fn a_cut_frame_is_an_error_and_never_another_frame(frame in frame(), cut in 1_usize..200) {
            let mut bytes = Vec::new();
            frame.write(&mut bytes).unwrap();
            if cut < bytes.len() {
                prop_assert!(Frame::read(&mut &bytes[..cut]).is_err());
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Frame::read(&mut bytes.as_slice());
        }
    }

    #[test]
    fn a_claimed_length_is_not_believed() {
        assert!(matches!(
            Frame::read(&mut [b'D', 255, 255, 255, 255].as_slice()),
            Err(FrameError::TooLong(_))
        ));
    }
}
