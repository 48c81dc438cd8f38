//! A stream of JSON lines.

use std::marker::PhantomData;

use reqwest::Response;
use serde::de::DeserializeOwned;

use super::{ClientError, unreachable};

/// The longest line, in bytes.
const MAX_LINE: usize = 64 << 20;

/// The lines of an answer that may still grow.
#[derive(Debug)]
pub struct Lines<T> {
    response: Response,
    buffer: Vec<u8>,
    /// Up to here, the buffer has no end of a line.
    searched: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T> Lines<T> {
    pub(super) fn new(response: Response) -> Self {
        Self {
            response,
            buffer: Vec::new(),
            searched: 0,
            kind: PhantomData,
        }
    }

    /// The next line, without its end, as it is. `None` at the end of the stream. Cancel-safe.
    pub async fn next_bytes(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            let found = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            if let Some(at) = found {
                let rest = self.buffer.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.searched = 0;
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_LINE {
                return Err(ClientError::Unexpected(format!(
                    "a line of more than {MAX_LINE} bytes"
                )));
            }
            match self.response.chunk().await.map_err(unreachable)? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

impl<T: DeserializeOwned> Lines<T> {
    /// The next line. `None` at the end of the stream. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        let Some(line) = self.next_bytes().await? else {
            return Ok(None);
        };
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|error| ClientError::Unexpected(error.to_string()))
    }
}
