//! A server that creates and forks sessions but runs no turns: the part of opencode that `run` does not offer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use serde_json::{Value, json};

use crate::Failure;
use crate::store::Store;

/// Serves until it is killed.
pub(crate) fn sessions(store: &Store) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("opencode server listening on http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    for stream in listener.incoming() {
        // A client that disconnects during a request is not an error of the server.
        let _ = answer(store, stream?);
    }
    Ok(())
}

fn answer(store: &Store, mut stream: TcpStream) -> Result<(), Failure> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, answer) = match request.split_whitespace().take(2).collect::<Vec<_>>()[..] {
        ["GET", "/global/health"] => ("200 OK", json!({ "healthy": true, "version": store.version() })),
        ["POST", "/session"] => {
            let asked: Value = serde_json::from_slice(&body)?;
            let title = asked["title"].as_str().unwrap_or("New session");
            let rules = asked.get("permission").map(Value::to_string);
            let id = store.create_with(title, rules.as_deref())?;
            ("200 OK", json!({ "id": id, "title": title }))
        }
        ["POST", path] if fork_of(path).is_some_and(|id| store.has(id).unwrap_or(false)) => {
            let id = store.fork(fork_of(path).unwrap_or_default())?;
            ("200 OK", json!({ "id": id }))
        }
        _ => (
            "501 Not Implemented",
            json!({ "message": "the fake opencode only makes and forks sessions" }),
        ),
    };
    let answer = answer.to_string();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    )?;
    Ok(())
}

/// The session that `/session/ID/fork` names.
fn fork_of(path: &str) -> Option<&str> {
    path.strip_prefix("/session/")?.strip_suffix("/fork")
}
