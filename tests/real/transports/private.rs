//! The server of a turn is private: it listens only on loopback and requires a password.

use std::collections::HashSet;
use std::path::Path;

use kugetsu_testing::{Gate, Reply, on_both_versions};

use crate::support::case::SOON;

/// The addresses on which a process listens, as in `/proc/net/tcp`.
fn listens_on(pid: u32) -> Vec<String> {
    let process = Path::new("/proc").join(pid.to_string());
    let sockets: HashSet<String> = std::fs::read_dir(process.join("fd"))
        .unwrap()
        .flatten()
        .filter_map(|file| {
            std::fs::read_link(file.path())
                .ok()?
                .into_os_string()
                .into_string()
                .ok()
        })
        .filter_map(|to| Some(to.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let tables = ["net/tcp", "net/tcp6"].map(|table| std::fs::read_to_string(process.join(table)).unwrap());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // 0A means LISTEN; the tenth field is the socket's inode.
            (fields[3] == "0A" && sockets.contains(fields[9])).then(|| fields[1].to_owned())
        })
        .collect()
}

/// A variable of a process's environment.
fn variable(pid: u32, name: &str) -> Option<String> {
    let all = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    let mut pairs = all.split('\0').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}

/// The status of `GET path`, with this password if given.
fn status(port: u16, path: &str, password: Option<&str>) -> u16 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(format!("http://127.0.0.1:{port}{path}"));
        if let Some(password) = password {
            request = request.basic_auth("opencode", Some(password));
        }
        request.send().await.unwrap().status().as_u16()
    })
}

on_both_versions! {
    fn the_server_is_private(world: &World) {
        world.make_base();
        let gate = Gate::new();
        world.model.on("wait here", vec![Reply::text("done").behind(&gate)]);
        let turn = world.spawn(["start", "1", "wait here", "--transport", "serve"]);
        gate.wait_arrived(SOON);

        let processes = world.processes();
        let addresses: Vec<(u32, String)> = processes
            .iter()
            .flat_map(|process| listens_on(process.pid).into_iter().map(|address| (process.pid, address)))
            .collect();
        let [(server, address)] = &addresses[..] else {
            panic!("one socket listens, and not {addresses:?} of {processes:#?}")
        };
        let (host, port) = address.split_once(':').unwrap();
        assert_eq!(host, "0100007F", "127.0.0.1");
        let port = u16::from_str_radix(port, 16).unwrap();

        let password = variable(*server, "OPENCODE_SERVER_PASSWORD").expect("a password");
        assert!(password.len() >= 32, "a password that can be guessed: {} characters", password.len());
        for path in ["/session", "/event", "/global/health", "/doc"] {
            assert_eq!(status(port, path, None), 401, "{path}");
            assert_eq!(status(port, path, Some("wrong")), 401, "{path}");
        }
        assert_eq!(status(port, "/session", Some(&password)), 200);
        // The password appears neither in the process list nor later in the store.
        assert!(processes.iter().all(|process| !process.command.contains(&password)), "{processes:#?}");
        gate.open();
        let turn = turn.wait(SOON);
        turn.expect_status(0);
        let mut folders = vec![world.kugetsu_home()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    let bytes = std::fs::read(entry.path()).unwrap();
                    let found = String::from_utf8_lossy(&bytes).contains(&password);
                    assert!(!found, "the password is in {}", entry.path().display());
                }
            }
        }
        world.wait_nothing_left(SOON);
    }
}
