//! No character that a terminal obeys reaches one, whoever wrote it: a model, a tool, an issue, or another host.

use std::path::Path;

use crate::support::kit::{SOON, fake_world, record, record_path};
use crate::support::terminal::Terminal;
use kugetsu_testing::{FakeScript, ForgeServer, ScriptedIssue, Step, World, kugetsu_binary};
use serde_json::{Value, json};

/// The word beside the characters, which shows that a command has printed the text.
const WORD: &str = "evilword";

/// C0 without tab and line feed, DEL and C1, and the bidirectional controls.
fn obeyed() -> Vec<char> {
    let c0 = ('\0'..='\u{1f}').filter(|character| !['\t', '\n'].contains(character));
    let bidirectional = ['\u{61c}', '\u{200e}', '\u{200f}']
        .into_iter()
        .chain('\u{202a}'..='\u{202e}')
        .chain('\u{2066}'..='\u{2069}');
    c0.chain('\u{7f}'..='\u{9f}').chain(bidirectional).collect()
}

/// The word, a link (OSC 8), a text for the clipboard (OSC 52), and every character alone. It is short, because some
/// commands show only the beginning of a text.
fn evil() -> String {
    let each: String = obeyed().into_iter().collect();
    format!("{WORD}\u{1b}]8;;http://e\u{7}\u{1b}]52;c;ZQ==\u{1b}\\{each}")
}

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
fn written(world: &World, file: &Path, text: &str) -> String {
    let read = || String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned();
    world.wait_until(&format!("{text:?} on the terminal"), SOON, || {
        read().contains(text)
    });
    read()
}

#[test]
fn nothing_from_outside_is_obeyed_by_a_terminal() {
    let evil = evil();
    let world = fake_world();
    let file = |name: &str| world.root().join(name);
    let forge = ForgeServer::start();
    forge.github("shoko/kugetsu", 14, &ScriptedIssue::new(&evil, &evil, &[&evil]));
    let settings = format!("[forges.\"github.com\"]\napi_url = \"{}\"\n", forge.url());
    std::fs::write(world.kugetsu_home().join("config.toml"), settings).unwrap();
    // Another host, which says the same on both of its streams.
    std::fs::write(file("evil"), format!("{evil}\n")).unwrap();
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
    std::fs::write(record_path(&world, "14"), changed.to_string()).unwrap();
    let after = [
        "list",
        "list --json",
        "list --fields ref,issue_title",
        "show 14",
        "show 14 --turns",
        "show 14 --json",
        "logs 14",
        "logs 14 --plain",
        "logs 14 --answer",
        "logs 14 --json",
        "logs 14 --raw",
        "issue 14",
        "issue 14 --json",
        "--host other show 14",
        "--host other logs 14 -f",
    ];
    let script: Vec<_> = after
        .iter()
        .map(|words| format!("echo '==={words}==='; {kugetsu} {words}"))
        .collect();
    let _terminal = recorded(&world, &script.join("; "), &file("after"));
    let all = written(&world, &file("after"), "its end");
    for words in after {
        let (_, output) = all
            .split_once(&format!("==={words}==="))
            .unwrap_or_else(|| panic!("{words}: {all}"));
        let output = output.split("===").next().unwrap_or_default();
        outputs.push((words.to_owned(), output.to_owned()));
    }
    let mut problems = Vec::new();
    for (words, output) in outputs {
        assert!(output.contains(WORD), "{words} does not show the text:\n{output}");
        let found = disobedient(&output);
        if !found.is_empty() {
            problems.push(format!("{words}: {found:?}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
