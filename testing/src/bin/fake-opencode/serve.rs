//! The fake's server: as much of opencode's HTTP API as making and forking sessions takes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use crate::Failure;
use crate::store::Store;

/// Serves one request after the other, each on a connection of its own, until it is killed.
pub(crate) fn serve(store: &Store, version: &str) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("opencode server listening on http://{}", listener.local_addr()?);
    for connection in listener.incoming() {
        // A client that goes away in the middle is none of the next one's business.
        let _ = answer(&mut connection?, store, version);
    }
    Ok(())
}

fn answer(connection: &mut TcpStream, store: &Store, version: &str) -> Result<(), Failure> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim_end().to_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let words: Vec<&str> = first.split(' ').collect();
    let path: Vec<&str> = words.get(1).unwrap_or(&"/").split(['/', '?']).skip(1).collect();
    let (status, answer) = match (words.first().copied().unwrap_or_default(), &path[..]) {
        ("GET", ["global", "health", ..]) => ("200 OK", json!({"healthy": true, "version": version})),
        ("POST", ["session"]) => {
            let id = store.create(body["title"].as_str().unwrap_or("New session"))?;
            ("200 OK", json!({"id": id}))
        }
        ("POST", ["session", id, "fork", ..]) if store.has(id)? => ("200 OK", json!({"id": store.fork(id)?})),
        _ => ("404 Not Found", json!({"name": "NotFoundError"})),
    };
    let text = answer.to_string();
    write!(
        connection,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )?;
    Ok(())
}
