//! The daemon: its life, its places, its tasks, and its API over HTTP.

mod access;
mod api;
mod clients;
mod life;
mod load;
mod money;
mod page;
mod places;
mod prometheus;
mod proxies;
mod tasks;
mod traces;

use std::path::PathBuf;

use kugetsu_testing::{FakeScript, Output, Step, World};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::support::daemon::{create_token, status, submit, task, wait_for_state};
use crate::support::kit::{self, text};

/// A world with a daemon, whose fake opencode hangs on the prompt `hang`.
fn world() -> World {
    world_with(&[])
}

/// [`world`] with flags of the daemon.
fn world_with(flags: &[&str]) -> World {
    let world = kit::scripted_world(&FakeScript::default().on("hang", [Step::Hang]));
    world.start_daemon_with(flags);
    world
}

fn socket(world: &World) -> PathBuf {
    world.kugetsu_home().join("run/daemon.sock")
}

/// Whether the fake opencode has got this prompt.
fn has_got(world: &World, prompt: &str) -> bool {
    kit::fake_prompts(world).iter().any(|got| got == prompt)
}

/// An answer of the API.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    #[track_caller]
    fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    /// Checks an error document, and returns it.
    #[track_caller]
    fn problem(&self, status: u16, code: &str) -> Value {
        self.expect(status);
        assert_eq!(
            self.headers["content-type"], "application/problem+json",
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem:#}");
        assert_eq!(problem["status"], status, "{problem:#}");
        problem
    }
}

/// A request to the API, over the socket or to the address at which the daemon listens.
struct Request<'a> {
    base: String,
    socket: Option<PathBuf>,
    method: Method,
    path: &'a str,
    headers: Vec<(&'a str, String)>,
    body: Option<String>,
}

impl<'a> Request<'a> {
    fn over_socket(world: &World, method: Method, path: &'a str) -> Self {
        Self {
            base: "http://kugetsu".to_owned(),
            socket: Some(socket(world)),
            method,
            path,
            headers: Vec::new(),
            body: None,
        }
    }

    fn over_http(world: &World, method: Method, path: &'a str) -> Self {
        Self {
            base: text(&status(world)["listen"]),
            socket: None,
            method,
            path,
            headers: Vec::new(),
            body: None,
        }
    }

    fn header(mut self, name: &'a str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn json(mut self, body: &Value) -> Self {
        self.body = Some(body.to_string());
        self.header("content-type", "application/json")
    }

    fn body(mut self, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self
    }

    #[track_caller]
    fn send(self) -> Answer {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut client = reqwest::Client::builder().no_proxy().timeout(kit::SOON);
            if let Some(socket) = &self.socket {
                client = client.unix_socket(socket.as_path());
            }
            let url = format!("{}{}", self.base, self.path);
            let mut request = client.build().unwrap().request(self.method, url);
            for (name, value) in self.headers {
                request = request.header(name, value);
            }
            if let Some(body) = self.body {
                request = request.body(body);
            }
            let response = request.send().await.unwrap();
            Answer {
                status: response.status(),
                headers: response.headers().clone(),
                body: response.text().await.unwrap(),
            }
        })
    }
}

#[track_caller]
fn expect_error(output: &Output, status: i32, code: &str) {
    output.expect_status(status);
    assert_eq!(output.json()["error"]["code"], code, "{output}");
}
