//! No character that a terminal obeys or hides reaches one, whoever wrote it: a model, a tool, an issue, a repository, or
//! another host.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::support::kit::{SOON, fake_world, record, record_path, run, start};
use crate::support::terminal::Terminal;
use kugetsu_testing::{FakeScript, ForgeServer, ScriptedIssue, Step, World, kugetsu_binary};
use serde_json::{Value, json};

/// The word beside the characters, which shows that a command has printed the text.
const WORD: &str = "evilword";

/// C0 without tab and line feed, DEL and C1, the bidirectional controls, and characters without a shape.
fn obeyed() -> Vec<char> {
    let c0 = ('\0'..='\u{1f}').filter(|character| !['\t', '\n'].contains(character));
    let others = [
        '\u{61c}', '\u{200b}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{feff}',
    ]
    .into_iter()
    .chain('\u{202a}'..='\u{202e}')
    .chain('\u{2060}'..='\u{2069}')
    .chain('\u{fff9}'..='\u{fffb}')
    .chain(['\u{e0001}', '\u{e0041}', '\u{e007f}']);
    c0.chain('\u{7f}'..='\u{9f}').chain(others).collect()
}

/// The word, a link (OSC 8), a text for the clipboard (OSC 52), and every character alone. It is short, because some
/// commands show only the beginning of a text.
fn evil() -> String {
    let each: String = obeyed().into_iter().collect();
    format!("{WORD}\u{1b}]8;;http://e\u{7}\u{1b}]52;c;ZQ==\u{1b}\\{each}")
}

/// How the beginning of that text is shown.
const SHOWN: &str = "evilword^[]8;;http://e^G";

/// What of this output a terminal obeys, apart from what kugetsu itself writes: colours, and the removal of its status
/// line.
fn disobedient(output: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = output;
    let obeyed = obeyed();
    while let Some(at) = rest.find(|character| obeyed.contains(&character)) {
        let (_, sequence) = rest.split_at(at);
        let own = sequence.strip_prefix("\u{1b}[").and_then(|after| {
            let end = after.find(|character: char| !character.is_ascii_digit() && character != ';')?;
            after[end..]
                .starts_with(['m', 'K', 'A'])
                .then(|| &after[end + 1..])
        });
        // A line end, or the way back to the beginning of the status line.
        let line = sequence
            .strip_prefix('\r')
            .filter(|after| after.trim_start_matches('\r').starts_with(['\n', '\u{1b}']));
        rest = own.or(line).unwrap_or_else(|| {
            found.push(sequence.chars().take(12).collect());
            &sequence[sequence.chars().next().map_or(0, char::len_utf8)..]
        });
    }
    found
}

/// A terminal on which this shell script waits for Enter. The file gets every byte that the terminal gets after it.
fn recorded<'a>(world: &'a World, script: &str, file: &Path) -> Terminal<'a> {
    let terminal = Terminal::start(world, &format!("read go; {script}; echo its end; exec sleep 600"));
    terminal.copy_to(file);
    terminal.press(&["Enter"]);
    terminal
}

/// What a recorded terminal has got, as soon as this text is in it. The screen may show it differently.
#[track_caller]
fn written(world: &World, file: &Path, text: &str) -> String {
    let read = || std::fs::read(file).unwrap_or_default();
    world.wait_until(&format!("{text:?} on the terminal"), SOON, || {
        String::from_utf8_lossy(&read()).contains(text)
    });
    let bytes = read();
    // A byte that is not UTF-8 may be a control character of 8 bits.
    String::from_utf8(bytes)
        .unwrap_or_else(|error| panic!("a terminal got bytes that are not UTF-8: {error}"))
}

/// Runs each command on one terminal, which gets `kugetsu` in the place of `{}`. Returns each with what it has written.
fn on_terminal(world: &World, kugetsu: &str, commands: &[&str]) -> Vec<(String, String)> {
    let script: Vec<_> = commands
        .iter()
        .zip(0..)
        .map(|(command, number)| format!("echo '==={number}==='; {}", command.replace("{}", kugetsu)))
        .collect();
    let copy = world.root().join("on-terminal");
    let _ = std::fs::remove_file(&copy);
    let _terminal = recorded(world, &script.join("; "), &copy);
    let all = written(world, &copy, "its end");
    let outputs = commands.iter().zip(0..).map(|(command, number)| {
        let (_, output) = all
            .split_once(&format!("==={number}==="))
            .unwrap_or_else(|| panic!("{command}: {all}"));
        let output = output.split("===").next().unwrap_or_default();
        ((*command).to_owned(), output.to_owned())
    });
    outputs.collect()
}

/// Checks that each output shows the text, and that the terminal obeyed nothing of it.
#[track_caller]
fn all_harmless(outputs: Vec<(String, String)>) {
    let mut problems = Vec::new();
    for (command, output) in outputs {
        assert!(
            output.contains(WORD),
            "{command} does not show the text:\n{output}"
        );
        let found = disobedient(&output);
        if !found.is_empty() {
            problems.push(format!("{command}: {found:?}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn nothing_from_a_model_a_tool_an_issue_or_a_host_is_obeyed() {
    let evil = evil();
    let world = fake_world();
    let file = |name: &str| world.root().join(name);
    let forge = ForgeServer::start();
    forge.github("shoko/kugetsu", 14, &ScriptedIssue::new(&evil, &evil, &[&evil]));
    let settings = format!("[forges.\"github.com\"]\napi_url = \"{}\"\n", forge.url());
    std::fs::write(world.kugetsu_home().join("config.toml"), settings).unwrap();
    // Another host, which says the same on both of its streams.
    let bytes = [evil.as_bytes(), b"\x9b2J\x9d0;t\x9c\xff\xe2\x80\n"].concat();
    std::fs::write(file("evil"), bytes).unwrap();
    std::fs::write(file("evil-word"), &evil).unwrap();
    std::fs::create_dir(file("bin")).unwrap();
    let ssh = format!(
        "#!/bin/sh\ncat '{0}'; cat '{0}' >&2; exit 1\n",
        file("evil").display()
    );
    std::fs::write(file("bin/ssh"), ssh).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(file("bin/ssh"), mode).unwrap();

    let event = |kind: &str, part: Value| Step::Event {
        kind: kind.to_owned(),
        part,
    };
    let time = json!({"start": 1, "end": 2});
    let text = |id: &str| {
        event(
            "text",
            json!({"type": "text", "id": id, "text": evil, "time": time}),
        )
    };
    let tool = |call: &str, mut state: Value| {
        state["input"] = json!({"command": evil, "description": evil});
        state["time"] = time.clone();
        event(
            "tool_use",
            json!({"type": "tool", "id": call, "callID": call, "tool": "bash", "state": state}),
        )
    };
    let tools = |call: &str| {
        [
            tool(
                &format!("{call}1"),
                json!({"status": "completed", "title": evil, "output": evil, "metadata": {}}),
            ),
            tool(&format!("{call}2"), json!({"status": "error", "error": evil})),
            tool(&format!("{call}3"), json!({"status": "running", "title": evil})),
        ]
    };
    let mut steps = vec![Step::step_start(), text("prt_1")];
    steps.extend(tools("a"));
    steps.push(Step::Meet(file("here"), file("go-on")));
    steps.push(text("prt_2"));
    steps.extend(tools("b"));
    steps.push(Step::Error {
        name: "APIError".to_owned(),
        message: evil.clone(),
    });
    world.fake(&FakeScript::steps(steps));

    let kugetsu = format!(
        "PATH='{}':\"$PATH\" '{}'",
        file("bin").display(),
        kugetsu_binary().display()
    );
    let _live = recorded(
        &world,
        &format!("{kugetsu} start 14 --with-issue --transport run"),
        &file("live"),
    );
    // The status line names the running tool.
    written(&world, &file("live"), &format!("bash: {WORD}"));
    let followers = [
        ("watch", "running for"),
        ("wait 14", WORD),
        ("logs 14 -f", WORD),
        ("logs 14 -f --plain", WORD),
        ("logs 14 -f --json", WORD),
    ];
    let followers: Vec<_> = (0..)
        .zip(followers)
        .map(|(number, (words, begun))| {
            let copy = file(&format!("follower-{number}"));
            let terminal = recorded(&world, &format!("{kugetsu} {words}"), &copy);
            written(&world, &copy, begun);
            (words, terminal, copy)
        })
        .collect();
    std::fs::write(file("go-on"), "").unwrap();
    let mut outputs = vec![("start".to_owned(), written(&world, &file("live"), "its end"))];
    for (words, _, copy) in &followers {
        outputs.push(((*words).to_owned(), written(&world, copy, "its end")));
    }
    // An issue's title is clean before it is stored; another program may have written the record.
    let mut changed = record(&world, "14").expect("a record");
    changed["issue_title"] = evil.clone().into();
    changed["pending"] = json!([
        {
            "request": "per_1", "turn": changed["last"]["turn"], "asked": "2026-01-01T00:00:00Z", "kind": "permission",
            "detail": {"permission": evil, "patterns": [evil]},
        },
        {
            "request": "que_1", "turn": changed["last"]["turn"], "asked": "2026-01-01T00:00:00Z", "kind": "question",
            "detail": [{"question": evil, "header": evil, "options": [evil], "multiple": false}],
        },
    ]);
    std::fs::write(record_path(&world, "14"), changed.to_string()).unwrap();
    std::fs::write(record_path(&world, "15"), format!("{{\"{evil}\": ")).unwrap();
    let after = [
        "{} list",
        "{} list --json",
        "{} list --fields ref,issue_title",
        "{} show 14",
        "{} show 14 --turns",
        "{} show 14 --json",
        "{} query",
        "{} pending",
        "{} pending --json",
        "{} logs 14",
        "{} logs 14 --plain",
        "{} logs 14 --answer",
        "{} logs 14 --json",
        "{} issue 14",
        "{} issue 14 --json",
        "{} --host other show 14",
        "{} --host other logs 14 -f",
        "{} --host other logs 14 --raw",
        // Errors quote arguments.
        "{} show \"$(cat evil-word)\"",
        "{} list \"--$(cat evil-word)\"",
        "{} list --fields \"$(cat evil-word)\" --json",
        "{} config set \"$(cat evil-word)\" 1",
        "{} start 14/other hello --agent \"$(cat evil-word)\"",
    ];
    let outputs_after = on_terminal(
        &world,
        &kugetsu,
        &after
            .map(|command| command.replace("evil-word", &format!("'{}'", file("evil-word").display())))
            .each_ref()
            .map(String::as_str),
    );
    for (command, output) in &outputs_after {
        let whole = output.replace("\r\n", "");
        let json = ["--json", "query"].iter().any(|word| command.contains(word));
        let quotes = command.contains("cat");
        assert!(json || quotes || whole.contains(SHOWN), "{command}: {output}");
    }
    outputs.extend(outputs_after);
    all_harmless(outputs);
    // JSON has the same value on a terminal, and a pipe gets the bytes as they are.
    assert_eq!(run(&world, ["show", "14", "--json"]).json()["issue_title"], evil);
    assert!(run(&world, ["logs", "14", "--answer"]).stdout().contains(&evil));
}

#[test]
fn nothing_from_a_repository_is_obeyed() {
    let world = fake_world();
    let repo = world.repo();
    // git compares a file with a NUL as a whole.
    let text = evil().replace('\0', "");
    let name = std::ffi::OsStr::from_bytes(b"evilword\x1b[2J\x9b1m\xe2\x80\xae.txt");
    std::fs::write(repo.join(name), format!("{text}\n\u{1b}[31mred\rover\n")).unwrap();
    start(&world, "14", "hello");
    std::fs::write(
        repo.join("evilword-new.txt"),
        [text.as_bytes(), b"\x9b2J\xff\n\x1b[8mhidden\r\n"].concat(),
    )
    .unwrap();
    world.fake(&FakeScript::steps([
        Step::step_start(),
        Step::Shell(format!(
            "printf '{WORD}\\033[2J\\2332J' > \"$(printf '{WORD}\\033]0;t\\007.txt')\""
        )),
        Step::Answer("done".to_owned()),
    ]));
    let kugetsu = format!("'{}'", kugetsu_binary().display());
    let outputs = on_terminal(
        &world,
        &kugetsu,
        &[
            "{} continue 14 hello --transport run",
            "{} show 14",
            "{} show 14 --json",
            "PAGER=cat {} diff 14",
            "PAGER=cat {} diff 14 --stat",
            "GIT_PAGER=cat PAGER=false {} diff 14 --name-only",
            "{} diff 14 --json",
        ],
    );
    let diff = &outputs[3].1;
    assert!(
        diff.contains("^[[8mhidden^M") && diff.contains("<9B>2J"),
        "{diff}"
    );
    assert!(diff.contains("\u{1b}[32m+"), "the colours are git's: {diff}");
    all_harmless(outputs);
    let piped = run(&world, ["diff", "14"]).stdout();
    assert!(piped.contains("\u{1b}[8mhidden\r\n"), "{piped:?}");
}

#[test]
fn nothing_from_a_hook_or_a_broken_file_is_obeyed() {
    let world = fake_world();
    start(&world, "14", "hello");
    let evil = format!("printf '{WORD}\\033]0;t\\007\\2332J\\n'");
    let settings = format!(
        "hook_after_turn = {:?}\n",
        format!("{evil}; {evil} >&2; exit 3 # \u{1b}[2J")
    );
    std::fs::write(world.kugetsu_home().join("config.toml"), settings).unwrap();
    let kugetsu = format!("'{}'", kugetsu_binary().display());
    let outputs = on_terminal(
        &world,
        &kugetsu,
        &[
            "{} continue 14 hello --transport run; echo evilword",
            "{} config; echo evilword",
        ],
    );
    all_harmless(outputs);
    let broken = "\"evilword\\u001b]0;t\\u0007\\u009b2J\\u202e\" = 1\n";
    std::fs::write(world.kugetsu_home().join("config.toml"), broken).unwrap();
    all_harmless(on_terminal(
        &world,
        &kugetsu,
        &["{} list", "{} doctor", "{} config"],
    ));
}

#[test]
fn raw_output_reaches_a_terminal_only_if_a_person_agrees() {
    let world = fake_world();
    world.fake(&FakeScript::steps([
        Step::Raw(format!("{WORD}\u{1b}[35m\u{9b}35m\n")),
        Step::Answer("done".to_owned()),
    ]));
    start(&world, "14", "hello");
    let kugetsu = format!("'{}'", kugetsu_binary().display());
    let raw = run(&world, ["logs", "14", "--raw"]).expect_status(0).stdout();
    assert!(raw.contains("evilword\u{1b}[35m\u{9b}35m\n"), "{raw:?}");
    for (words, keys, status) in [
        ("", Some("n"), 1),
        ("", Some(""), 1),
        ("", Some("y"), 0),
        ("-y", None, 0),
        ("< /dev/null", None, 2),
        ("--json < /dev/null", None, 2),
    ] {
        let copy = world.root().join("raw");
        let _ = std::fs::remove_file(&copy);
        let script = format!("{kugetsu} logs 14 --raw {words}; echo \"its status\" $?");
        let terminal = recorded(&world, &script, &copy);
        if let Some(keys) = keys {
            terminal.wait_for("?");
            terminal.press(&[keys, "Enter"]);
        }
        let output = written(&world, &copy, "its end");
        assert!(
            output.contains(&format!("its status {status}")),
            "{words} {keys:?}: {output}"
        );
        assert_eq!(
            output.contains("evilword\u{1b}[35m"),
            status == 0,
            "{words} {keys:?}: {output}"
        );
        if status != 0 {
            assert_eq!(disobedient(&output), [] as [String; 0], "{words} {keys:?}");
            assert!(output.contains("| less"), "the way out is told: {output}");
        }
    }
}
