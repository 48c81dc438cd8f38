//! A minimal HTTP client that talks to the scripted model as opencode does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kugetsu_testing::ModelServer;
use serde_json::{Value, json};

/// A turn request with these user messages.
pub(crate) fn turn(messages: &[&str]) -> Value {
    let messages: Vec<Value> = messages
        .iter()
        .map(|text| json!({ "role": "user", "content": text }))
        .collect();
    let tool = json!({ "type": "function", "function": { "name": "bash", "parameters": {} } });
    json!({ "model": "scripted", "stream": true, "messages": messages, "tools": [tool] })
}

/// Sends a request and returns the open connection.
pub(crate) fn send(model: &ModelServer, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(model.address()).unwrap();
    // An answer that never ends must fail its test rather than block it.
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    stream
}

/// An answer, possibly incomplete.
pub(crate) struct Answer {
    /// The head and the body as received, including chunk sizes.
    pub(crate) raw: String,
}

impl Answer {
    /// Reads until the answer is complete or the server closes the connection.
    pub(crate) fn read(mut stream: TcpStream) -> Self {
        let mut raw = String::new();
        let mut piece = [0; 4096];
        loop {
            let count = stream.read(&mut piece).unwrap_or(0);
            raw.push_str(std::str::from_utf8(&piece[..count]).unwrap());
            let answer = Self { raw };
            if count == 0 || answer.is_complete() {
                return answer;
            }
            raw = answer.raw;
        }
    }

    /// Whether the body ended properly, rather than only the connection.
    pub(crate) fn is_complete(&self) -> bool {
        let Some((head, body)) = self.raw.split_once("\r\n\r\n") else {
            return false;
        };
        match head.split_once("content-length: ") {
            Some((_, length)) => body.len() == length.lines().next().unwrap().parse::<usize>().unwrap(),
            None => body.ends_with("0\r\n\r\n"),
        }
    }

    /// The body of an answer that is not a stream.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.raw.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// The events of a stream, without its `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let data = self.raw.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    /// The text of a stream.
    pub(crate) fn text(&self) -> String {
        let pieces: Vec<Value> = self
            .events()
            .into_iter()
            .map(|event| event["choices"][0]["delta"]["content"].clone())
            .collect();
        pieces.iter().filter_map(Value::as_str).collect()
    }

    /// The finish reasons of a stream.
    pub(crate) fn finishes(&self) -> Vec<String> {
        let events = self.events();
        let reasons = events
            .iter()
            .filter_map(|event| event["choices"][0]["finish_reason"].as_str());
        reasons.map(str::to_owned).collect()
    }
}

/// Sends a request and reads the whole answer.
pub(crate) fn ask(model: &ModelServer, body: &Value) -> Answer {
    Answer::read(send(model, body))
}
