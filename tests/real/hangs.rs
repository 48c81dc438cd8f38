//! Every known cause of a hang in opencode, as a table. Each turn ends by itself within its limit, with the expected
//! verdict and exit status, and leaves no process running. Its session continues once the cause is removed. Both
//! transports, both real versions.
//!
//! Each row is measured into a file; `cargo xtask test` prints the rows, and `docs/hangs.md` shows them.

use std::time::Instant;

use crate::support::case::{Case, SOON};
use kugetsu_testing::{Gate, HangRow, MODELS, Output, Reply, Running, Signal, Stdin, Version};
use serde_json::json;

/// A cause of a hang, its limits, and the expected end of the turn.
struct Row {
    name: &'static str,
    cause: Cause,
    /// The flag or setting that limits the turn.
    limit: [&'static str; 2],
    /// The verdict, the exit status, and part of the reason, on 1.3.2 and on 1.18.33.
    ends: [End; 2],
}

type End = (&'static str, i32, &'static str);

enum Cause {
    /// kugetsu's own stdin is a pipe that never ends.
    OpenStdin,
    /// The model gives these replies for ever.
    Model(fn(&Case) -> Vec<Reply>),
    /// A rule sets this permission to `ask`, and the model wants to write outside the project.
    Ask(&'static str),
    /// No configuration names a model.
    NoModel,
    /// Another program holds the write lock of opencode's database since before the command.
    DatabaseLocked,
    /// A tool that ignores SIGTERM, with a child that does too and has left every process group.
    StubbornTool,
    /// opencode gets SIGSTOP while the model thinks.
    Stopped,
    /// Another opencode starts in the same repository at the same time.
    SecondOpencode,
}

/// The same end on both versions.
const fn both(verdict: &'static str, status: i32, reason: &'static str) -> [End; 2] {
    [(verdict, status, reason), (verdict, status, reason)]
}

const TABLE: [Row; 12] = [
    Row {
        name: "open stdin",
        cause: Cause::OpenStdin,
        limit: ["--timeout", "2m"],
        ends: both("completed", 0, ""),
    },
    Row {
        name: "a question in a fork",
        cause: Cause::Model(question),
        limit: ["--timeout", "2m"],
        ends: both("completed", 0, ""),
    },
    Row {
        name: "a permission that is `ask`",
        cause: Cause::Ask("external_directory"),
        limit: ["--timeout", "2m"],
        ends: both("failed", 1, "external_directory"),
    },
    Row {
        name: "429 without end",
        cause: Cause::Model(|_| vec![Reply::status(429, "come back later")]),
        limit: ["--max-quota-wait", "3s"],
        ends: both("quota", 75, "come back later"),
    },
    Row {
        name: "500 without end",
        cause: Cause::Model(|_| vec![Reply::status(500, "out of order")]),
        limit: ["--max-quota-wait", "3s"],
        ends: both("quota", 75, "out of order"),
    },
    Row {
        name: "a stream cut short without end",
        cause: Cause::Model(|_| {
            vec![Reply::CutShort {
                text: "half an ".to_owned(),
            }]
        }),
        limit: ["--max-steps-without-progress", "3"],
        ends: both("looping", 1, "3 steps"),
    },
    Row {
        name: "a model that never answers",
        cause: Cause::Model(|_| vec![Reply::Hang]),
        limit: ["--stall-timeout", "3s"],
        ends: both("stalled", 1, "3s"),
    },
    Row {
        name: "no model configured",
        cause: Cause::NoModel,
        limit: ["--max-quota-wait", "1s"],
        // Both versions choose a default model, which is unreachable without a network; 1.18.33 retries.
        ends: [("failed", 1, "onnect"), ("quota", 75, "onnect")],
    },
    Row {
        name: "a locked database",
        cause: Cause::DatabaseLocked,
        limit: ["database_timeout", "2s"],
        ends: both("-", 75, "was locked"),
    },
    Row {
        name: "a tool that ignores SIGTERM",
        cause: Cause::StubbornTool,
        limit: ["--timeout", "50s"],
        ends: both("timeout", 1, "50s"),
    },
    Row {
        name: "opencode stopped with SIGSTOP",
        cause: Cause::Stopped,
        limit: ["--stall-timeout", "50s"],
        ends: both("stalled", 1, "50s"),
    },
    Row {
        name: "a second opencode in the same repository",
        cause: Cause::SecondOpencode,
        limit: ["--timeout", "2m"],
        ends: both("completed", 0, ""),
    },
];

fn question(_: &Case) -> Vec<Reply> {
    let question = json!({"questions": [{
        "question": "Which one?", "header": "Which", "options": [{"label": "A", "description": "a"}],
    }]});
    vec![Reply::tool("question", question), Reply::text("went on")]
}

/// A turn held up by one row of the table.
struct Held<'a> {
    case: &'a Case,
    row: &'a Row,
    place: usize,
    issue: String,
    prompt: String,
}

impl<'a> Held<'a> {
    fn new(case: &'a Case, place: usize) -> Self {
        let row = &TABLE[place];
        Self {
            case,
            row,
            place,
            issue: format!("#{}", place + 1),
            prompt: format!("hang by {}", row.name),
        }
    }

    /// Its command, still running.
    fn begin(&self, stdin: Stdin) -> Running {
        let [limit, value] = self.row.limit;
        let mut words = vec!["start", &self.issue, "--output", "json", "--grace", "1s"];
        words.extend(["--transport", self.case.transport]);
        if limit.starts_with("--") {
            words.extend([limit, value]);
        }
        words.push(&self.prompt);
        let mut command = self.case.kugetsu(words);
        if matches!(self.row.cause, Cause::NoModel) {
            command.env_remove(MODELS);
        }
        if !limit.starts_with("--") {
            command.env(format!("KUGETSU_{}", limit.to_uppercase()), value);
        }
        self.case.start(command, stdin)
    }

    fn model_replies(&self, replies: Vec<Reply>) {
        self.case.model.on(self.prompt.as_str(), replies);
    }

    /// Sets up the cause, waits for the turn's end, and removes the cause.
    fn to_its_end(&self) -> Output {
        let case = self.case;
        match &self.row.cause {
            Cause::OpenStdin => self.begin(Stdin::OpenSilent).wait(SOON),
            Cause::Model(replies) => {
                self.model_replies(replies(case));
                self.begin(Stdin::Null).wait(SOON)
            }
            Cause::Ask(permission) => {
                let rule = format!("{permission}=ask");
                case.to_end(["permit", "--base", &rule], Stdin::Null)
                    .expect_status(0);
                let outside = case.home().join("outside.txt");
                let write = json!({"filePath": outside, "content": "no"});
                self.model_replies(vec![Reply::tool("write", write), Reply::text("went on")]);
                let output = self.begin(Stdin::Null).wait(SOON);
                assert!(!outside.exists(), "{output}");
                output
            }
            Cause::NoModel => {
                let config = case.opencode_config_file();
                let aside = case.root().join("opencode.json");
                std::fs::rename(&config, &aside).expect("a file of the world");
                let before = case.model.turn_requests().len();
                let output = self.begin(Stdin::Null).wait(SOON);
                assert_eq!(case.model.turn_requests().len(), before, "{output}");
                std::fs::rename(&aside, &config).expect("a file of the world");
                output
            }
            Cause::DatabaseLocked => {
                let _lock = case.lock_database();
                self.begin(Stdin::Null).wait(SOON)
            }
            Cause::StubbornTool => {
                self.model_replies(vec![Reply::bash(
                    "setsid sh -c 'trap \"\" TERM INT HUP; touch far; while :; do sleep 1; done' >/dev/null 2>&1 & \
                     trap '' TERM; touch near; sleep 600",
                )]);
                let running = self.begin(Stdin::Null);
                for name in ["far", "near"] {
                    let file = case.repo().join(name);
                    case.wait_until("the tool runs", SOON, || file.exists());
                }
                running.wait(SOON)
            }
            Cause::Stopped => {
                let gate = Gate::new();
                self.model_replies(vec![Reply::text("never").behind(&gate)]);
                let running = self.begin(Stdin::Null);
                gate.wait_arrived(SOON);
                let opencode = case.opencode_of(running.pid()).expect("its opencode runs");
                assert!(case.signal(opencode, Signal::Stop));
                running.wait(SOON)
            }
            Cause::SecondOpencode => {
                let mut second = case.opencode_command(["run", "--format", "json"]);
                second.env("OPENCODE_PERMISSION", r#"{"question":"deny"}"#);
                let second = case.start(second, Stdin::text("the other one"));
                let output = self.begin(Stdin::Null).wait(SOON);
                second.wait(SOON).expect_status(0);
                output
            }
        }
    }

    /// Checks the turn's end against the table, and that the session continues without the cause.
    #[track_caller]
    fn check(&self, seconds: f64, output: &Output, left: usize) {
        let (case, name) = (self.case, self.row.name);
        println!("{name}: {seconds:.1} s");
        let (verdict, status, reason) = self.row.ends[match case.version {
            Version::V1_3_2 => 0,
            Version::V1_18_33 => 1,
        }];
        output.expect_status(status);
        let result = output.json();
        // A turn that could not begin gives an error and no verdict.
        let (ended, why) = if result.get("error").is_some() {
            ("-".to_owned(), output.stderr())
        } else {
            let word = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
            (word("verdict"), word("reason"))
        };
        assert_eq!(ended, verdict, "{output}");
        assert!(why.contains(reason), "the reason lacks {reason:?}\n{output}");

        // A turn that never began has no session, so it starts now. A session keeps the last model that it used.
        let next = format!("what comes after {name}");
        let more: &[&str] = if case.has_session(self.place as u64 + 1) {
            &[]
        } else {
            &["--or-start"]
        };
        let words = [more, &["--model", "scripted/scripted", &next]].concat();
        crate::support::case::expect(&case.turn("continue", &self.issue, &words), 0, "completed", "");
        HangRow {
            place: self.place,
            cause: name.to_owned(),
            opencode: case.version.to_string(),
            transport: case.transport.to_owned(),
            limit: self.row.limit.join(" "),
            seconds,
            verdict: verdict.to_owned(),
            status,
            left,
            continued: true,
        }
        .write();
    }
}

/// Holds turns up concurrently, one for each row, checks their ends, and writes the measurements.
#[track_caller]
fn hang<const N: usize>(case: &Case, names: [&str; N]) {
    let held = names.map(|name| {
        let place = TABLE.iter().position(|row| row.name == name);
        Held::new(case, place.expect("a row of the table"))
    });
    let ended: Vec<(f64, Output)> = std::thread::scope(|scope| {
        let turns = held.each_ref().map(|held| {
            scope.spawn(|| {
                let journal = Instant::now();
                let output = held.to_its_end();
                (journal.elapsed().as_secs_f64(), output)
            })
        });
        turns.map(|turn| turn.join().expect("the turn ends")).into()
    });
    case.wait_nothing_left(SOON);
    let left = case.processes().len();
    for (held, (seconds, output)) in held.iter().zip(ended) {
        held.check(seconds, &output, left);
    }
    case.wait_nothing_left(SOON);
}

// Rows that share a world share its `init`. Rows that would compete for the processor run one after the other.
on_every_combination! {
    fn what_asks(case: &Case) {
        hang(case, ["a question in a fork"]);
        hang(case, ["a permission that is `ask`"]);
        hang(case, ["open stdin"]);
    }

    fn the_provider(case: &Case) {
        hang(case, ["429 without end"]);
        hang(case, ["500 without end"]);
        hang(case, ["a stream cut short without end"]);
        // opencode may still have sent a request that it had begun before it was told to end.
        let asked = case.model.turn_requests_with("hang by a stream").len();
        assert!((3..=6).contains(&asked), "{asked} requests, each of them paid");
        hang(case, ["a model that never answers"]);
        hang(case, ["no model configured"]);
    }

    fn processes(case: &Case) {
        hang(case, ["a tool that ignores SIGTERM", "opencode stopped with SIGSTOP"]);
    }

    fn what_is_shared(case: &Case) {
        hang(case, ["a locked database"]);
        hang(case, ["a second opencode in the same repository"]);
    }
}
