//! Who may use the API: the owner over the socket and over loopback, and everybody else with a token.

use reqwest::{Method, Response};
use serde_json::json;

use super::{Request, create_token, expect_error, has_got, socket, status, submit, task, world_with};
use crate::support::daemon::certificate;
use crate::support::kit::{self, run, text};
use kugetsu_testing::World;

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

#[test]
fn a_web_site_cannot_use_the_owners_access() {
    let world = world_with(&LISTEN);
    let base = text(&status(&world)["listen"]);
    let get = || Request::over_http(&world, Method::GET, "/v1/tasks");
    get().send().expect(200);
    get().header("origin", &base).send().expect(200);
    // DNS rebinding, another site, a sandboxed frame.
    get()
        .header("host", "evil.example")
        .send()
        .problem(403, "access-denied");
    get()
        .header("origin", "https://evil.example")
        .send()
        .problem(403, "access-denied");
    get()
        .header("origin", "null")
        .send()
        .problem(403, "access-denied");
    // What a form can send without asking is not JSON.
    let task = json!({"prompt": "x", "ref": "1"}).to_string();
    let post = || Request::over_http(&world, Method::POST, "/v1/tasks");
    post()
        .header("content-type", "text/plain")
        .body(&task)
        .send()
        .problem(415, "usage");
    post().body(&task).send().problem(415, "usage");
    // Health tells nothing, and is for everybody.
    Request::over_http(&world, Method::GET, "/healthz")
        .header("host", "evil.example")
        .send()
        .expect(200);
    // Places and servers are for commands on this machine.
    let slots = Request::over_http(&world, Method::POST, "/v1/slots")
        .json(&json!({}))
        .send();
    slots.problem(404, "not-found");
    assert!(socket(&world).exists());
}

/// Follows a task that runs on, does something, and waits until the stream has ended, although the task has not.
fn until_stream_ends(world: &World, access: (&'static str, &str), act: impl FnOnce()) {
    let hanging = submit(world, &["7", "hang"]);
    world.wait_until("the task runs", kit::SOON, || has_got(world, "hang"));
    let path = format!("/v1/tasks/{hanging}/events");
    let stream = std::thread::scope(|scope| {
        let stream = Request::over_http(world, Method::GET, &path).header(access.0, access.1);
        let reading = scope.spawn(|| stream.send());
        let opened = r#"http_requests_total{route="/v1/tasks/{task}/events",method="GET",status="200"} 1"#;
        world.wait_until("the stream is open", kit::SOON, || {
            let metrics = Request::over_socket(world, Method::GET, "/metrics").send();
            metrics.body.contains(opened)
        });
        act();
        reading.join().unwrap()
    });
    stream.expect(200);
    assert!(
        !stream.body.contains("\"verdict\""),
        "the task has ended: {}",
        stream.body
    );
    assert_eq!(task(world, &hanging)["state"], "running");
}

#[test]
fn a_token_allows_what_it_says_until_it_is_revoked() {
    let world = world_with(&LISTEN);
    submit(&world, &["1", "a task"]);
    let reader = create_token(&world, &["reader", "--scope", "read"]);
    let submitter = create_token(&world, &["submitter"]);
    let elsewhere = create_token(&world, &["elsewhere", "--repo", "other/repo"]);
    let ruler = create_token(&world, &["ruler", "--scope", "admin"]);
    let kept = std::fs::read_to_string(world.kugetsu_home().join("tokens.json")).unwrap();
    assert!(!kept.contains(&reader[8..]), "{kept}");
    let asked = |method: Method, path: &'static str, token: &str| {
        let request = Request::over_http(&world, method.clone(), path);
        let request = request.header("authorization", &format!("Bearer {token}"));
        if method == Method::POST {
            request
                .json(&json!({"prompt": "hello", "ref": "github.com/shoko/kugetsu#2"}))
                .send()
        } else {
            request.send()
        }
    };
    asked(Method::GET, "/v1/tasks", &reader).expect(200);
    asked(Method::POST, "/v1/tasks", &reader).problem(403, "access-denied");
    asked(Method::POST, "/v1/tasks", &submitter).expect(202);
    asked(Method::POST, "/v1/stop", &submitter).problem(403, "access-denied");
    asked(Method::GET, "/v1/tasks", &elsewhere).problem(403, "access-denied");
    asked(Method::POST, "/v1/tasks", &elsewhere).problem(403, "access-denied");
    let sessions = asked(Method::GET, "/v1/sessions", &elsewhere);
    assert_eq!(sessions.expect(200).json()["sessions"], json!([]));
    for path in ["/v1/query", "/v1/status"] {
        asked(Method::GET, path, &elsewhere).problem(403, "access-denied");
    }
    asked(Method::GET, "/v1/tasks", "kugetsu_0").problem(401, "access-denied");
    // A wrong token is not made good by where it comes from.
    assert_eq!(
        asked(Method::GET, "/v1/tasks", "").headers["www-authenticate"],
        "Bearer"
    );
    let bearer = format!("Bearer {reader}");
    until_stream_ends(&world, ("authorization", &bearer), || {
        run(&world, ["daemon", "token", "revoke", "reader"]).expect_status(0);
    });
    asked(Method::GET, "/v1/tasks", &reader).problem(401, "access-denied");
    expect_error(
        &run(&world, ["daemon", "token", "revoke", "reader", "--json"]),
        66,
        "not-found",
    );
    let list = run(&world, ["daemon", "token", "list", "--json"]).json();
    assert_eq!(list["tokens"].as_array().unwrap().len(), 3, "{list:#}");
    assert!(!list.to_string().contains("sha256"), "{list:#}");
    run(&world, ["daemon", "token", "list"]).expect_status(0);
    // No token is in the log.
    let log = std::fs::read_to_string(world.kugetsu_home().join("run/daemon.log")).unwrap();
    assert!(
        ![reader, submitter, ruler]
            .iter()
            .any(|token| log.contains(&token[8..])),
        "{log}"
    );
}

#[test]
fn a_token_expires_and_the_list_tells_when_and_when_it_was_used() {
    let world = world_with(&LISTEN);
    let asked = |token: &str| {
        let request = Request::over_http(&world, Method::GET, "/v1/tasks");
        request.header("authorization", &format!("Bearer {token}")).send()
    };
    let kept = create_token(&world, &["kept", "--expires", "30d"]);
    create_token(&world, &["unused"]);
    let short = create_token(&world, &["short", "--expires", "10ms"]);
    asked(&kept).expect(200);
    let mut refused = asked(&short);
    world.wait_until("the token expires", kit::SOON, || {
        refused = asked(&short);
        refused.status != 200
    });
    let problem = refused.problem(401, "access-denied");
    let detail = text(&problem["detail"]);
    assert!(detail.starts_with("the token `short` expired at 20"), "{detail}");
    // The use is written a little later.
    let list = || run(&world, ["daemon", "token", "list", "--json"]).json()["tokens"].clone();
    world.wait_until("the use is on record", kit::SOON, || {
        list()[0]["last_used"].is_string()
    });
    let tokens = list();
    assert!(tokens[0]["expires"].is_string(), "{tokens:#}");
    assert!(
        tokens[1]["last_used"].is_null() && tokens[1]["expires"].is_null(),
        "{tokens:#}"
    );
    assert!(tokens[2]["last_used"].is_null(), "{tokens:#}");
    let table = run(&world, ["daemon", "token", "list"]).stdout();
    let rows: Vec<_> = table.lines().collect();
    assert!(
        rows[1].contains(" UTC") && !rows[1].contains("expired"),
        "{table}"
    );
    assert!(rows[2].matches("never").count() == 2, "{table}");
    assert!(rows[3].ends_with("expired"), "{table}");
    let wrong = ["daemon", "token", "create", "none", "--json", "--expires", "0s"];
    expect_error(&run(&world, wrong), 64, "usage");
}

#[test]
fn who_asks_too_often_has_to_wait() {
    let world = world_with(&["--listen", "127.0.0.1:0", "--insecure-behind-proxy"]);
    let base = text(&status(&world)["listen"]);
    let token = create_token(&world, &["eager", "--scope", "read"]);
    let other = create_token(&world, &["other", "--scope", "read"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let client = reqwest::Client::builder().no_proxy().timeout(kit::SOON);
    let client = client.build().unwrap();
    // Until one of the requests is refused.
    let refused_of = |token: &str, address: &str| -> Response {
        let began = std::time::Instant::now();
        loop {
            let asking: Vec<_> = (0..50)
                .map(|_| {
                    let request = client.get(format!("{base}/v1/tasks"));
                    let request = request.header("x-forwarded-for", format!("198.51.100.1, {address}"));
                    runtime.spawn(request.bearer_auth(token).send())
                })
                .collect();
            for asked in asking {
                let answer = runtime.block_on(asked).unwrap().unwrap();
                if answer.status() == 429 {
                    return answer;
                }
            }
            assert!(began.elapsed() < kit::SOON, "nothing is refused");
        }
    };
    let seconds =
        |answer: &Response| -> u64 { answer.headers()["retry-after"].to_str().unwrap().parse().unwrap() };
    let refused = refused_of(&token, "192.0.2.1");
    assert!(seconds(&refused) >= 1, "{refused:?}");
    let problem: serde_json::Value = runtime.block_on(refused.json()).unwrap();
    assert_eq!(problem["code"], "too-many-requests", "{problem:#}");
    assert_eq!(problem["retryable"], true, "{problem:#}");
    // Others, and the owner, are served.
    let asked = |token: &str, address: &str| {
        let request = Request::over_http(&world, Method::GET, "/v1/tasks");
        let request = request.header("x-forwarded-for", address);
        request.header("authorization", &format!("Bearer {token}")).send()
    };
    asked(&other, "192.0.2.1").expect(200);
    status(&world);
    // Wrong tokens are refused sooner, and harm nobody else, not even at the same address.
    let refused = refused_of("kugetsu_0", "192.0.2.2");
    assert!(seconds(&refused) >= 1, "{refused:?}");
    asked("kugetsu_0", "192.0.2.3").problem(401, "access-denied");
    asked(&other, "192.0.2.2").expect(200);
}

#[test]
fn a_command_may_send_more_than_others() {
    let world = world_with(&LISTEN);
    let large = json!({"x": "y".repeat(3 << 20)});
    let asked = Request::over_socket(&world, Method::POST, "/v1/slots").json(&large);
    // It is read, and is not a request for a place.
    asked.send().problem(422, "usage");
}

/// What `daemon open` prints: where the page is, and what opens it.
fn open(world: &World, words: &[&str]) -> (String, String) {
    let words = ["daemon", "open", "--json"]
        .into_iter()
        .chain(words.iter().copied());
    let opened = run(world, words);
    opened.expect_status(0);
    let url = text(&opened.json()["url"]);
    let (page, code) = url.split_once("/#code=").unwrap();
    (page.to_owned(), code.to_owned())
}

#[test]
fn a_link_logs_a_browser_in_once() {
    let world = world_with(&["--listen", "127.0.0.1:0", "--insecure-behind-proxy"]);
    let (page, code) = open(&world, &["--url", "https://kugetsu.example/"]);
    assert_eq!(page, "https://kugetsu.example");
    let post = |path: &'static str, body: &serde_json::Value| {
        Request::over_http(&world, Method::POST, path)
            .header("host", "kugetsu.example")
            .header("origin", "https://kugetsu.example")
            .json(body)
    };
    let log_in = |code: &str| post("/page/login", &json!({ "code": code })).send();
    log_in("0").problem(401, "access-denied");
    Request::over_http(&world, Method::POST, "/page/login")
        .header("origin", "https://evil.example")
        .json(&json!({ "code": code }))
        .send()
        .problem(403, "access-denied");
    let logged_in = log_in(&code);
    logged_in.expect(204);
    log_in(&code).problem(401, "access-denied");
    let cookie = text(&json!(logged_in.headers["set-cookie"].to_str().unwrap()));
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(
        attributes,
        "Max-Age=43200; Path=/; HttpOnly; SameSite=Strict; Secure"
    );
    assert!(pair.starts_with("__Host-kugetsu="), "{pair}");
    let asked = |cookie: &str| {
        let request = Request::over_http(&world, Method::GET, "/v1/status");
        request.header("cookie", cookie).send()
    };
    asked(&format!("other=1; {pair}")).expect(200);
    // The proxy may have a password of its own, but a token that is wrong stays wrong.
    for (authorization, status) in [("Basic bWU6c2VjcmV0", 200), ("Bearer kugetsu_0", 401)] {
        let request = Request::over_http(&world, Method::GET, "/v1/status").header("cookie", pair);
        request
            .header("authorization", authorization)
            .send()
            .expect(status);
    }
    asked("__Host-kugetsu=0").problem(401, "access-denied");
    asked(&pair.replace("__Host-", "")).problem(401, "access-denied");
    // What changes something must come from the page.
    let task = json!({"prompt": "hello", "ref": "github.com/shoko/kugetsu#2"});
    let submitted = |request: Request| request.header("cookie", pair).send();
    submitted(post("/v1/tasks", &task)).expect(202);
    submitted(post("/v1/tasks", &task).header("sec-fetch-site", "cross-site")).problem(403, "access-denied");
    let without_origin = Request::over_http(&world, Method::POST, "/v1/tasks").json(&task);
    submitted(without_origin).problem(403, "access-denied");
    // Places are for commands on this machine, and so are links.
    submitted(post("/v1/slots", &json!({}))).problem(404, "not-found");
    submitted(post("/v1/page-links", &json!({}))).problem(404, "not-found");
    until_stream_ends(&world, ("cookie", pair), || {
        let logged_out = submitted(post("/page/logout", &json!({})));
        logged_out.expect(204);
        let gone = logged_out.headers["set-cookie"].to_str().unwrap();
        assert!(gone.starts_with("__Host-kugetsu=; Max-Age=0;"), "{gone}");
    });
    asked(pair).problem(401, "access-denied");
    let log = std::fs::read_to_string(world.kugetsu_home().join("run/daemon.log")).unwrap();
    let (_, login) = pair.split_once('=').unwrap();
    assert!(!log.contains(&code) && !log.contains(login), "{log}");
}

#[test]
fn a_link_leads_to_where_the_daemon_listens() {
    let world = world_with(&LISTEN);
    let (page, code) = open(&world, &[]);
    assert_eq!(page, text(&status(&world)["listen"]));
    // The owner is known on Linux and needs no cookie.
    let own = Request::over_http(&world, Method::POST, "/page/login").header("origin", &page);
    let logged_in = own.json(&json!({ "code": code })).send();
    logged_in.expect(204);
    assert!(!logged_in.headers.contains_key("set-cookie"), "{logged_in:?}");
    let wrong = ["daemon", "open", "--json", "--url", "kugetsu.example"];
    expect_error(&run(&world, wrong), 64, "usage");
    run(&world, ["daemon", "stop"]).expect_status(0);
    expect_error(&run(&world, ["daemon", "open", "--json"]), 69, "no-daemon");
    world.start_daemon_with(&[]);
    expect_error(&run(&world, ["daemon", "open", "--json"]), 69, "daemon-unusable");
}

#[test]
fn a_person_gets_the_page_in_the_browser() {
    let world = world_with(&LISTEN);
    let bin = world.root().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let (browser, seen) = (bin.join("xdg-open"), world.root().join("seen"));
    let script = format!(
        "#!/bin/sh\necho \"$1\" > {0}.new\ncat \"$1\" >> {0}.new\nmv {0}.new {0}\n",
        seen.display()
    );
    std::fs::write(&browser, script).unwrap();
    std::fs::set_permissions(&browser, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let shell = format!(
        "PATH='{}':$PATH DISPLAY=:0 '{}' daemon open; echo status $?; exec sleep 600",
        bin.display(),
        kugetsu_testing::kugetsu_binary().display()
    );
    let terminal = crate::support::terminal::Terminal::start(&world, &shell);
    terminal.wait_for("status 0");
    world.wait_until("the browser opens", kit::SOON, || seen.exists());
    let seen = std::fs::read_to_string(seen).unwrap();
    let (file, page) = seen.split_once('\n').unwrap();
    // The link itself is no argument.
    assert!(file.ends_with("run/open.html"), "{file}");
    let base = text(&status(&world)["listen"]);
    assert!(page.contains(&format!("url={base}/#code=")), "{page}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_task_asks_for_no_model_or_agent_that_is_not_allowed() {
    let world = kit::fake_world();
    run(&world, ["config", "set", "task_models", "test/*"]).expect_status(0);
    run(&world, ["config", "set", "task_agents", "build"]).expect_status(0);
    world.start_daemon();
    let words = |model: &'static str, agent: &'static str| {
        [
            "submit", "1", "hello", "--json", "--model", model, "--agent", agent,
        ]
    };
    run(&world, words("test/test-model", "build")).expect_status(0);
    run(&world, ["submit", "1", "hello"]).expect_status(0);
    let refused = run(&world, words("other/model", "build"));
    expect_error(&refused, 64, "not-allowed");
    let hints = refused.json()["error"]["hints"].clone();
    assert_eq!(hints[0], "ask for one of: test/*", "{hints}");
    expect_error(&run(&world, words("test/test-model", "plan")), 64, "not-allowed");
    let task = json!({"prompt": "hello", "ref": "github.com/shoko/kugetsu#2", "model": "other/model"});
    Request::over_socket(&world, Method::POST, "/v1/tasks")
        .json(&task)
        .send()
        .problem(422, "not-allowed");
}

#[test]
fn a_proxy_of_the_owner_gives_nobody_the_owners_access() {
    let world = world_with(&LISTEN);
    for header in ["forwarded", "x-forwarded-for", "via"] {
        let request = Request::over_http(&world, Method::GET, "/v1/tasks").header(header, "203.0.113.7");
        request.send().problem(401, "access-denied");
    }
    run(&world, ["daemon", "stop"]).expect_status(0);
    world.start_daemon_with(&["--listen", "127.0.0.1:0", "--insecure-behind-proxy"]);
    Request::over_http(&world, Method::GET, "/v1/tasks")
        .send()
        .problem(401, "access-denied");
    let token = create_token(&world, &["proxied", "--scope", "read"]);
    let request = Request::over_http(&world, Method::GET, "/v1/tasks");
    request
        .header("authorization", &format!("Bearer {token}"))
        .send()
        .expect(200);
}

#[test]
fn the_page_may_do_nothing_but_talk_to_its_daemon() {
    let world = world_with(&LISTEN);
    for path in ["/", "/page/app.js", "/page/style.css"] {
        let answer = Request::over_http(&world, Method::GET, path).send();
        answer.expect(200);
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
    let page = Request::over_http(&world, Method::GET, "/").send().body;
    for foreign in ["http://", "https://", "<style", " style=", " onclick="] {
        assert!(!page.contains(foreign), "{foreign} in\n{page}");
    }
    for path in ["/page/nothing.js", "/page/..%2f..%2fapp.rs"] {
        Request::over_http(&world, Method::GET, path)
            .send()
            .problem(404, "not-found");
    }
}

#[test]
fn an_address_with_a_certificate_has_tls_and_needs_a_token() {
    let world = kit::fake_world();
    let (certificate, key) = certificate(&world, world.root());
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let wrong = [
        "daemon",
        "start",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--tls-cert",
        key,
        "--tls-key",
        key,
    ];
    expect_error(&run(&world, wrong), 69, "daemon-unusable");
    world.start_daemon_with(&[
        "--listen",
        "0.0.0.0:0",
        "--tls-cert",
        certificate,
        "--tls-key",
        key,
    ]);
    let url = text(&status(&world)["listen"]);
    let url = url.replace("0.0.0.0", "127.0.0.1");
    assert!(url.starts_with("https://"), "{url}");
    let token = create_token(&world, &["remote", "--scope", "read"]);
    // As any client of the machine would.
    let ask = |header: Option<&str>| {
        let mut ask = world.command("openssl");
        let address = url.strip_prefix("https://").unwrap();
        ask.args([
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-verify_hostname",
            "localhost",
        ]);
        ask.args(["-CAfile", certificate, "-connect", address]);
        let header = header
            .map(|token| format!("authorization: Bearer {token}\r\n"))
            .unwrap_or_default();
        let request =
            format!("GET /v1/tasks HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{header}\r\n");
        world.finish(ask, kugetsu_testing::Stdin::text(request)).stdout()
    };
    let without = ask(None);
    assert!(without.starts_with("HTTP/1.1 401 "), "{without}");
    let with = ask(Some(&token));
    assert!(with.starts_with("HTTP/1.1 200 "), "{with}");
    // In clear text, nothing.
    let clear = std::net::TcpStream::connect(url.strip_prefix("https://").unwrap());
    let mut clear = clear.unwrap();
    std::io::Write::write_all(&mut clear, b"GET /v1/tasks HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut clear, &mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn other_machines_reach_it_only_behind_a_proxy() {
    let world = kit::fake_world();
    let words = ["daemon", "start", "--detach", "--json", "--listen", "0.0.0.0:0"];
    expect_error(&run(&world, words), 64, "usage");
}
