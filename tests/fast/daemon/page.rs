//! The page in a real Chromium.

use kugetsu_testing::{FakeScript, Step, World};
use serde_json::{Value, json};

use super::{create_token, has_got, status, submit, task, wait_for_state, world_with};
use crate::support::browser::{Browsing, CONTROL, DOWN, END, ENTER, ESCAPE, SHIFT, TAB, Tab};
use crate::support::kit::{self, SOON, fake_prompts, record, record_path, run, text};

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// The address of the page.
fn page(world: &World) -> String {
    format!("{}/", text(&status(world)["listen"]))
}

/// The hash of the view of a session.
fn session_hash(issue: &str) -> String {
    format!("#/session/github.com%2Fshoko%2Fkugetsu%23{issue}")
}

/// Runs a task of an issue to its end.
#[track_caller]
fn finished(world: &World, issue: &str, prompt: &str) -> String {
    let id = submit(world, &[issue, prompt]);
    wait_for_state(world, &id, "ended");
    id
}

/// Starts a task of an issue that hangs.
#[track_caller]
fn hanging(world: &World, issue: &str) -> String {
    let prompt = format!("hang {issue}");
    let id = submit(world, &[issue, &prompt]);
    world.wait_until("the task runs", SOON, || has_got(world, &prompt));
    id
}

#[track_caller]
fn change(world: &World, issue: &str, change: impl FnOnce(&mut Value)) {
    let mut changed = record(world, issue).expect("a record");
    change(&mut changed);
    std::fs::write(record_path(world, issue), changed.to_string()).unwrap();
}

/// Makes a turn that has ended one that a request has blocked, which the fake opencode does not have.
#[track_caller]
fn block(world: &World, issue: &str, kind: &str, detail: &Value) {
    change(world, issue, |record| {
        record["last"]["verdict"] = "blocked".into();
        record["pending"] = json!([{
            "request": format!("req_{issue}"), "turn": record["last"]["turn"], "asked": "2026-01-01T00:00:00Z",
            "kind": kind, "detail": detail,
        }]);
    });
}

fn colour() -> Value {
    json!([{"header": "Colour", "question": "Which colour?", "options": ["red", "green"], "multiple": false}])
}

fn push() -> Value {
    json!({"permission": "bash", "patterns": ["git push *"]})
}

/// Waits until a column of the board has so many rows.
#[track_caller]
fn until_column(tab: &Tab, column: &str, count: usize) {
    tab.until(&format!(
        "document.querySelector('#column-{column} .count').textContent === '{count}'"
    ));
    // The rows are drawn in the next frame.
    tab.until(&format!(
        "document.querySelectorAll('#list-{column} [role=option]:not([hidden])').length >= {}",
        count.min(1)
    ));
}

#[test]
fn nothing_is_inaccessible_in_either_colour_scheme_at_any_width() {
    let browsing = Browsing::new();
    let failing = Step::Error {
        name: "APIError".into(),
        message: "no credit".into(),
    };
    let tool = Step::Event {
        kind: "tool_use".to_owned(),
        part: json!({"type": "tool", "tool": "bash", "callID": "call_1", "state": {
            "status": "completed", "input": {"command": "ls"}, "output": "a file", "title": "List the files",
        }}),
    };
    let script = FakeScript::default()
        .on("hang", [tool, Step::Hang])
        .on("fail", [failing]);
    let world = kit::scripted_world(&script);
    world.start_daemon_with(&LISTEN);
    for (issue, prompt) in [("1", "hello"), ("2", "fail"), ("3", "hello"), ("4", "hello")] {
        finished(&world, issue, prompt);
    }
    block(&world, "3", "question", &colour());
    block(&world, "4", "permission", &push());
    hanging(&world, "5");
    submit(&world, &["5", "waits"]);
    let tab = browsing.tab(&page(&world));
    until_column(&tab, "needs", 2);
    let mut found = Vec::new();
    let mut look = |view: &str| {
        for scheme in ["dark", "light"] {
            tab.scheme(scheme);
            for (width, height) in [(1440, 900), (900, 700), (380, 740)] {
                tab.wide(width, height);
                // The page and its observers have seen the new size.
                tab.script(
                    "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));",
                );
                let here = format!("{view}, {scheme}, {width}");
                found.extend(
                    tab.inaccessible()
                        .into_iter()
                        .map(|what| format!("{here}: {what}")),
                );
                if tab.value("document.documentElement.scrollWidth > innerWidth") == json!(true) {
                    found.push(format!("{here}: it is wider than the window"));
                }
            }
        }
        tab.wide(1440, 900);
    };
    look("board");
    tab.keys("?");
    tab.until("document.getElementById('keys').open");
    look("keys");
    tab.keys(ESCAPE);
    tab.until("!document.getElementById('keys').open");
    tab.keys("n");
    tab.until("document.getElementById('task').open");
    look("task");
    tab.keys(ESCAPE);
    tab.until("!document.getElementById('task').open");
    tab.keys("i");
    tab.until_says("#inbox", "Which colour?");
    look("inbox");
    tab.keys("p");
    tab.until("!document.getElementById('pool').hidden");
    look("pool");
    tab.go(&format!("{}{}", page(&world), session_hash("5")));
    tab.until("document.querySelector('.ev-tool')");
    look("session");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_board_shows_what_is_in_each_state_and_its_buttons_act() {
    let browsing = Browsing::new();
    let failing = Step::Error {
        name: "APIError".into(),
        message: "no credit".into(),
    };
    let script = FakeScript::default()
        .on("hang", [Step::Hang])
        .on("fail", [failing]);
    let world = kit::scripted_world(&script);
    world.start_daemon_with(&LISTEN);
    for (issue, prompt) in [("1", "hello"), ("2", "fail"), ("3", "hello")] {
        finished(&world, issue, prompt);
    }
    block(&world, "3", "permission", &push());
    let running = hanging(&world, "4");
    let queued = submit(&world, &["4", "after that"]);
    let mut tab = browsing.tab(&page(&world));
    for (column, row) in [
        ("needs", "bash: git push *"),
        ("queued", "after that"),
        ("running", "#4"),
        ("done", "#1"),
        ("failed", "no credit"),
    ] {
        until_column(&tab, column, 1);
        tab.until_says(&format!("#list-{column}"), row);
    }
    tab.until_says("#pulse", "1 queued");

    // A turn that runs is stopped at the second click, since that cannot be undone.
    tab.click("#list-running", "#4");
    tab.click("#session .actions", "Stop");
    assert_eq!(task(&world, &running)["state"], "running");
    tab.click("#session .actions", "Stop the turn?");
    assert_eq!(wait_for_state(&world, &running, "ended")["verdict"], "aborted");
    wait_for_state(&world, &queued, "ended");

    tab.click("#session", "Close");
    tab.click("#list-failed", "#2");
    tab.until_says("#session", "no credit");
    tab.click("#session .actions", "Retry");
    world.wait_until("the session has gone on", SOON, || has_got(&world, "go on"));
    tab.until_says("#session .panel-top", "completed");
    tab.click("#session", "Close");
    until_column(&tab, "failed", 0);

    // A task that waits is cancelled.
    hanging(&world, "5");
    let waiting = submit(&world, &["5", "never"]);
    until_column(&tab, "queued", 1);
    tab.click("#list-queued", "never");
    tab.click("#session li.line:has(.state-queued)", "Cancel");
    tab.click("#session li.line", "Cancel it?");
    assert_eq!(
        wait_for_state(&world, &waiting, "cancelled")["state"],
        "cancelled"
    );
    until_column(&tab, "queued", 0);
    tab.expect_quiet();
}

#[test]
fn the_inbox_answers_what_blocks_a_turn() {
    let browsing = Browsing::new();
    let world = world_with(&LISTEN);
    for issue in ["1", "2"] {
        finished(&world, issue, "hello");
    }
    block(&world, "1", "question", &colour());
    block(&world, "2", "permission", &push());
    let mut tab = browsing.tab(&page(&world));
    tab.until_says("#inbox-count", "2");
    assert_eq!(tab.value("document.title"), "(2) kugetsu");
    tab.click(".nav", "Needs you");
    tab.until_says("#inbox", "Which colour?");
    tab.click("#inbox", "green");
    let told = "You asked: Which colour? The answer: green.\n\ngo on";
    world.wait_until("opencode has got the answer", SOON, || has_got(&world, told));
    tab.until_says("#inbox", "git push *");
    tab.until("!document.getElementById('inbox').innerText.includes('Which colour?')");

    // Without a task that delivers it, the answer waits for the next turn.
    tab.script("document.querySelector('#inbox .ask input[type=checkbox]').click();");
    let before = fake_prompts(&world).len();
    tab.click("#inbox", "Deny");
    world.wait_until("the answer is on record", SOON, || {
        let answer = &record(&world, "2").unwrap()["pending"][0]["answer"];
        answer.to_string().contains("deny")
    });
    tab.until_says("#inbox", "No agent asks anything.");
    assert_eq!(fake_prompts(&world).len(), before);
    tab.expect_quiet();
}

#[test]
fn the_inbox_tries_parked_tasks_again_or_gives_them_up() {
    let browsing = Browsing::new();
    let world = kit::fake_world();
    let closed = world.root().join("closed");
    std::fs::write(&closed, "").unwrap();
    let hook = format!("test ! -e '{}'", closed.display());
    run(&world, ["config", "set", "hook_before_turn", &hook]).expect_status(0);
    world.start_daemon_with(&LISTEN);
    let again = submit(&world, &["1", "try me"]);
    let never = submit(&world, &["2", "forget me"]);
    for id in [&again, &never] {
        wait_for_state(&world, id, "parked");
    }
    let mut tab = browsing.tab(&page(&world));
    tab.until_says("#inbox-count", "2");
    tab.click(".nav", "Needs you");
    tab.until_says("#inbox", "hook_before_turn");
    std::fs::remove_file(&closed).unwrap();
    tab.click("#inbox .card:has(.state-parked):last-child", "Retry");
    assert_eq!(wait_for_state(&world, &again, "ended")["verdict"], "completed");
    tab.until("!document.getElementById('inbox').innerText.includes('try me')");
    tab.click("#inbox .card:has(.state-parked)", "Cancel");
    tab.click("#inbox .card:has(.state-parked)", "Cancel it?");
    wait_for_state(&world, &never, "cancelled");
    tab.until("document.getElementById('inbox-count').hidden");
    assert!(tab.inaccessible().is_empty());
    tab.expect_quiet();
}

#[test]
fn text_comes_while_the_turn_runs() {
    let browsing = Browsing::new();
    let world = kit::fake_world();
    let file = |name: &str| world.root().join(name);
    let says = |text: &str| Step::Event {
        kind: "text".to_owned(),
        part: json!({"type": "text", "id": text, "text": text}),
    };
    world.fake(&FakeScript::default().on(
        "speak",
        [
            says("the first words"),
            Step::Meet(file("arrived-1"), file("go-on-1")),
            says("the second words"),
            Step::Meet(file("arrived-2"), file("go-on-2")),
            Step::Answer("the last words".to_owned()),
        ],
    ));
    world.start_daemon_with(&LISTEN);
    let id = submit(&world, &["1", "speak"]);
    world.wait_until("the turn waits", SOON, || file("arrived-1").exists());
    let mut tab = browsing.tab(&format!("{}{}", page(&world), session_hash("1")));
    tab.until_says("#session .log", "the first words");
    let log = |tab: &Tab| tab.text("#session .log");
    assert!(!log(&tab).contains("the second words"));
    std::fs::write(file("go-on-1"), "").unwrap();
    tab.until_says("#session .log", "the second words");
    assert_eq!(task(&world, &id)["state"], "running");
    assert!(!log(&tab).contains("the last words"));
    std::fs::write(file("go-on-2"), "").unwrap();
    tab.until_says("#session .log", "the last words");
    tab.until_says("#session .log", "completed");
    tab.until_says("#session .panel-top", "completed");
    // One stream, and nothing twice.
    assert_eq!(log(&tab).matches("the first words").count(), 1);
    let streams = tab
        .requests()
        .iter()
        .filter(|url| url.contains("/events"))
        .count();
    assert_eq!(streams, 1);
    tab.expect_quiet();
}

#[test]
fn everything_works_with_keys_alone() {
    let browsing = Browsing::new();
    let world = world_with(&LISTEN);
    for issue in ["1", "2", "3"] {
        finished(&world, issue, "hello");
    }
    block(&world, "3", "question", &colour());
    let mut tab = browsing.tab(&page(&world));
    until_column(&tab, "done", 2);
    let focus = |tab: &Tab, expression: &str| {
        tab.until(&format!("((at) => {expression})(document.activeElement)"));
    };
    // The first stop of the Tab key leads to the content.
    tab.keys(TAB);
    focus(&tab, "at.id === 'skip'");
    tab.keys(ENTER);
    focus(&tab, "at.id === 'main'");

    // The filter, and from there into the list.
    tab.keys("/");
    focus(&tab, "at.id === 'filter-text'");
    tab.keys("kugetsu#2");
    until_column(&tab, "done", 1);
    tab.keys(DOWN);
    focus(&tab, "at.getAttribute('role') === 'listbox'");
    tab.keys(ENTER);
    tab.until_says("#session-name", "#2");
    focus(&tab, "at.id === 'session-name'");
    tab.keys(ESCAPE);
    tab.until("document.getElementById('session').hidden");
    focus(&tab, "at.id === 'list-done'");
    tab.keys(ESCAPE);
    until_column(&tab, "done", 2);

    // From column to column, and down in one.
    tab.keys("h");
    focus(&tab, "at.id === 'list-needs'");
    tab.keys("l");
    focus(&tab, "at.id === 'list-done'");
    tab.keys("j");
    tab.keys("k");
    tab.keys(END);
    tab.until("document.querySelector('#list-done .active').getAttribute('aria-posinset') === '2'");
    tab.until("document.getElementById(document.getElementById('list-done').getAttribute('aria-activedescendant')).classList.contains('active')");

    // A new task.
    tab.keys("n");
    tab.until("document.getElementById('task').open");
    focus(&tab, "at.matches('#task input')");
    tab.keys("shoko/kugetsu#7");
    tab.keys(TAB);
    focus(&tab, "at.matches('#task textarea')");
    tab.keys("typed by hand, b i p");
    tab.chord(CONTROL, ENTER);
    tab.until("!document.getElementById('task').open");
    world.wait_until("the task has come", SOON, || {
        has_got(&world, "typed by hand, b i p")
    });

    // The answer to a question.
    tab.keys("i");
    tab.until_says("#inbox", "Which colour?");
    for _ in 0..20 {
        tab.keys(TAB);
        if tab.value("document.activeElement.innerText") == "red" {
            break;
        }
    }
    focus(&tab, "at.innerText === 'red'");
    tab.chord(SHIFT, TAB);
    focus(&tab, "at.innerText !== 'red'");
    tab.keys(TAB);
    tab.keys(ENTER);
    world.wait_until("opencode has got the answer", SOON, || {
        has_got(&world, "You asked: Which colour? The answer: red.\n\ngo on")
    });
    tab.until_says("#inbox", "No agent asks anything.");

    // The other views, and the list of keys.
    tab.keys("p");
    tab.until("!document.getElementById('pool').hidden");
    tab.keys("?");
    tab.until("document.getElementById('keys').open");
    tab.keys(ESCAPE);
    tab.until("!document.getElementById('keys').open");
    tab.keys("b");
    tab.until("!document.getElementById('board').hidden");
    tab.expect_quiet();
}

#[test]
fn hostile_text_stays_text() {
    let browsing = Browsing::new();
    let evil = "<script>window.evil = 1</script><img src=\"http://evil.example/x\" onerror=\"window.evil = 2\">\
                <style>body { display: none }</style>\u{202e}txt.exe\u{2066}javascript:window.evil=3 ${window.evil=4}\u{1b}[31m"
        .to_owned();
    let long = format!("{evil}{}", "W".repeat(20_000));
    let tool = Step::Event {
        kind: "tool_use".to_owned(),
        part: json!({"type": "tool", "tool": evil, "callID": "call_1", "state": {
            "status": "completed", "input": {evil.clone(): long}, "output": evil, "title": evil,
        }}),
    };
    let script = FakeScript::default()
        .on(
            "fail",
            [
                tool.clone(),
                Step::Error {
                    name: evil.clone(),
                    message: evil.clone(),
                },
            ],
        )
        .on("", [tool, Step::Answer(long.clone())]);
    let world = kit::scripted_world(&script);
    world.start_daemon_with(&LISTEN);
    finished(&world, "1", &evil);
    finished(&world, "2", &format!("fail {evil}"));
    finished(&world, "3", &evil);
    finished(&world, "4", &evil);
    change(&world, "1", |record| record["issue_title"] = long.clone().into());
    change(&world, "2", |record| record["issue_title"] = evil.clone().into());
    block(
        &world,
        "3",
        "question",
        &json!([{"header": evil, "question": long, "options": [evil, "red"], "multiple": false}]),
    );
    block(
        &world,
        "4",
        "permission",
        &json!({"permission": evil, "patterns": [evil, long]}),
    );

    let base = page(&world);
    let mut tab = browsing.tab(&base);
    // What the page is made of, before anything hostile could add to it.
    let sound = |tab: &Tab, view: &str| {
        let state = tab.value(
            "[window.evil ?? null, document.querySelectorAll('script').length, document.images.length,
              document.querySelectorAll('style, iframe, object, embed, base, meta[http-equiv]').length,
              [...document.querySelectorAll('*')].filter((node) => [...node.attributes].some(({ name }) => name.startsWith('on'))).length,
              [...document.links].filter((link) => !/^https?:/.test(link.href)).length,
              document.body.textContent.includes('\\u202e'), document.documentElement.scrollWidth > innerWidth]",
        );
        assert_eq!(state, json!([null, 1, 1, 0, 0, 0, false, false]), "{view}");
    };
    until_column(&tab, "needs", 2);
    tab.until_says("#list-done", "<script>window.evil = 1</script>");
    tab.until_says("#list-done", "⟨U+202E⟩txt.exe");
    for width in [1440, 380] {
        tab.wide(width, 900);
        sound(&tab, "board");
    }
    tab.click(".nav", "Needs you");
    tab.until_says("#inbox", "<style>body");
    for width in [1440, 380] {
        tab.wide(width, 900);
        sound(&tab, "inbox");
    }
    for issue in ["1", "2", "3", "4"] {
        tab.go(&format!("{base}{}", session_hash(issue)));
        tab.until("document.querySelector('.ev-tool')");
        tab.script("for (const one of document.querySelectorAll('details')) one.open = true;");
        tab.until_says("#session .tool-output", "<img src=\"http://evil.example/x\"");
        for width in [1440, 380] {
            tab.wide(width, 900);
            sound(&tab, &format!("session {issue}"));
        }
    }
    tab.until_says("#session", "Allow");
    tab.wide(1440, 900);
    // An address that says it is a session's.
    for hash in [
        "#/session/%3Cimg%20src%3Dx%20onerror%3Dwindow.evil%3D5%3E",
        "#/session/%ff",
        "#/constructor",
        "#/__proto__",
    ] {
        tab.go(&format!("{base}{hash}"));
        tab.until("document.readyState === 'complete' && document.querySelector('#pulse').innerText.includes('places')");
        sound(&tab, hash);
    }
    let requests = tab.requests();
    let elsewhere: Vec<_> = requests.iter().filter(|url| !url.starts_with(&base)).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    // Such a session is neither valid nor found.
    let console = tab.console();
    let refused = |line: &String| line.contains("responded with a status of 40");
    assert!(console.iter().all(refused), "{console:#?}");

    // Markup that got into the page all the same could neither run nor ask for anything.
    tab.script(&format!(
        "window.stopped = [];
         document.addEventListener('securitypolicyviolation', ({{ effectiveDirective }}) => window.stopped.push(effectiveDirective));
         const place = document.createElement('div');
         place.innerHTML = {};
         const script = document.createElement('script');
         script.textContent = 'window.evil = 6';
         document.body.append(place, script);
         fetch('http://evil.example/fetched').catch(() => {{}});",
        json!(evil)
    ));
    for directive in ["script-src-elem", "img-src", "style-src-elem", "connect-src"] {
        tab.until(&format!("window.stopped.includes('{directive}')"));
    }
    assert_eq!(tab.value("window.evil ?? null"), Value::Null);
}

#[test]
fn five_thousand_sessions_stay_usable() {
    const COUNT: usize = 5_000;
    let browsing = Browsing::new();
    let world = world_with(&LISTEN);
    finished(&world, "1", "hello");
    let one = record(&world, "1").unwrap();
    let folder = world.kugetsu_home().join("sessions/github.com/shoko");
    for number in 2..=COUNT {
        let repo = format!("github.com/shoko/repo{}", number % 20);
        let mut record = one.clone();
        record["ref"] = format!("{repo}#{number}").into();
        record["base"] = repo.into();
        record["session"] = format!("ses_{number:026}").into();
        record["issue_title"] = format!("The issue with the number {number}").into();
        if number % 10 == 0 {
            record["last"]["verdict"] = "failed".into();
            record["last"]["reason"] = "no credit".into();
        }
        let folder = folder.join(format!("repo{}", number % 20));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{number}.json")), record.to_string()).unwrap();
    }
    let mut tab = browsing.tab(&page(&world));
    tab.until("document.querySelector('#column-done .count').textContent === '4,500'");
    tab.until("document.querySelector('#column-failed .count').textContent === '500'");
    let few = |tab: &Tab| {
        let nodes = tab
            .value("document.querySelectorAll('*').length")
            .as_u64()
            .unwrap();
        assert!(nodes < 2_000, "{nodes} elements");
        let rows = tab
            .value("document.querySelectorAll('[role=option]').length")
            .as_u64()
            .unwrap();
        assert!((10..200).contains(&rows), "{rows} rows");
    };
    few(&tab);
    // To the end of the list, in sight and for readers of the screen.
    tab.keys("b");
    tab.click("#list-done", "#");
    tab.keys(ESCAPE);
    tab.until("document.getElementById('session').hidden");
    tab.keys(END);
    tab.until("document.querySelector('#list-done .active')?.getAttribute('aria-posinset') === '4500'");
    assert_eq!(
        tab.value("document.querySelector('#list-done .active').getAttribute('aria-setsize')"),
        "4500"
    );
    few(&tab);
    // A scroll far away shows rows, and no more elements than before.
    tab.script("document.getElementById('list-done').scrollTop = 100000;");
    tab.until(
        "[...document.querySelectorAll('#list-done [role=option]:not([hidden])')].some((row) => {
             const { top, bottom } = row.getBoundingClientRect();
             const box = document.getElementById('list-done').getBoundingClientRect();
             return top >= box.top && bottom <= box.bottom && row.innerText.includes('The issue with the number');
         })",
    );
    few(&tab);
    tab.keys("/");
    tab.until("document.activeElement.id === 'filter-text'");
    tab.keys("number 4321");
    until_column(&tab, "done", 1);
    tab.until_says("#list-done", "The issue with the number 4321");
    until_column(&tab, "failed", 0);
    tab.keys(DOWN);
    tab.keys(ENTER);
    tab.until_says("#session", "The issue with the number 4321");
    tab.expect_quiet();
}

#[test]
fn from_another_machine_the_page_asks_for_a_token() {
    let browsing = Browsing::new();
    let world = world_with(&["--listen", "127.0.0.1:0", "--insecure-behind-proxy"]);
    finished(&world, "1", "hello");
    let reader = create_token(&world, &["reader", "--scope", "read"]);
    let admin = create_token(&world, &["admin", "--scope", "admin"]);
    let mut tab = browsing.tab(&page(&world));
    let give = |tab: &Tab, token: &str| {
        tab.until("document.querySelector('#trouble input[type=password]')");
        tab.script("document.querySelector('#trouble input[type=password]').focus();");
        tab.keys(token);
        tab.click("#trouble", "Use the token");
    };
    // Nothing is shown before.
    tab.until("document.querySelector('#trouble input[type=password]')");
    assert!(!tab.text("body").contains("kugetsu#1"));
    assert!(tab.inaccessible().is_empty());
    give(&tab, "kugetsu_wrong");
    tab.until_says("#trouble", "not known");
    give(&tab, &reader);
    until_column(&tab, "done", 1);
    tab.until("document.getElementById('trouble').hidden");
    // The token is in this tab only, and it stays after a reload.
    let kept =
        "[JSON.stringify(localStorage), document.cookie, location.href].join(' ').includes('kugetsu_')";
    assert_eq!(tab.value(kept), json!(false));
    tab.go(&page(&world));
    until_column(&tab, "done", 1);
    // What it does not allow is refused, and the page says so.
    tab.keys("n");
    tab.until("document.getElementById('task').open");
    tab.keys("shoko/kugetsu#2");
    tab.keys(TAB);
    tab.keys("not allowed");
    tab.chord(CONTROL, ENTER);
    tab.until_says("#said", "token");
    tab.keys(ESCAPE);
    assert!(!has_got(&world, "not allowed"));

    // A token that was revoked is asked for anew.
    run(&world, ["daemon", "token", "revoke", "reader"]).expect_status(0);
    give(&tab, &admin);
    tab.until("document.getElementById('trouble').hidden");
    hanging(&world, "3");
    until_column(&tab, "running", 1);
    tab.click("#list-running", "#3");
    tab.click("#session .actions", "Stop");
    tab.click("#session .actions", "Stop the turn?");
    tab.until_says("#session .panel-top", "aborted");
    let console = tab.console();
    assert!(
        console
            .iter()
            .all(|line| line.contains(" 401 ") || line.contains(" 403 ")),
        "{console:#?}"
    );
    let base = page(&world);
    let requests = tab.requests();
    assert!(
        requests
            .iter()
            .all(|url| url.starts_with(&base) && !url.contains("kugetsu_")),
        "{requests:?}"
    );
}
