//! The metrics, the dashboard and the alerts, judged by Prometheus itself.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kugetsu_testing::{FakeScript, World};
use serde_json::Value;

use super::{Request, submit, wait_for_state};
use crate::support::kit::{self, SOON, run, text};

/// How many tasks are run while Prometheus watches.
const TURNS: u64 = 3;

/// A file of contrib.
pub(super) fn contrib(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(path)
}

/// Runs `promtool` to its end.
#[track_caller]
fn promtool(arguments: &[&str], stdin: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is needed: apt-get install prometheus");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "promtool {arguments:?}: {said}\n{stdin}");
}

/// A Prometheus that scrapes one address.
struct Prometheus {
    server: Child,
    url: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Prometheus {
    fn start(world: &World, metrics: &str) -> Self {
        let folder = world.root().join("prometheus");
        std::fs::create_dir(&folder).unwrap();
        let rules = contrib("prometheus/kugetsu.rules.yml");
        let config = format!(
            "global: {{scrape_interval: 250ms, evaluation_interval: 250ms}}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{job_name: kugetsu, static_configs: [{{targets: ['{metrics}']}}]}}]\n",
            rules.display()
        );
        std::fs::write(folder.join("prometheus.yml"), config).unwrap();
        // Another program may take the port first.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap().to_string();
            drop(free);
            let log = std::fs::File::create(folder.join("log")).unwrap();
            let server = Command::new("prometheus")
                .current_dir(&folder)
                .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
                .arg(format!("--web.listen-address={address}"))
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .expect("prometheus is needed: apt-get install prometheus");
            let mut this = Self {
                server,
                url: format!("http://{address}"),
            };
            let mut ended = false;
            world.wait_until("Prometheus is ready", SOON, || {
                ended = this.server.try_wait().unwrap().is_some();
                ended || this.get("/-/ready", &[]).is_some()
            });
            if !ended {
                return this;
            }
        }
        let log = std::fs::read_to_string(folder.join("log")).unwrap();
        panic!("Prometheus does not start: {log}");
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let request = client.get(format!("{}{path}", self.url)).query(query);
            let response = request.send().await.ok()?;
            let is_ready = response.status() != 503;
            let text = response.text().await.ok()?;
            is_ready.then_some(text)
        })
    }

    /// The series that an expression has now.
    #[track_caller]
    fn query(&self, expression: &str) -> Vec<Value> {
        let answer = self.get("/api/v1/query", &[("query", expression)]).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {answer:#}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// The sum of an expression's series; 0 if it has none.
    fn sum(&self, expression: &str) -> f64 {
        let series = self.query(&format!("sum({expression})"));
        let value = series
            .first()
            .map_or("0", |series| series["value"][1].as_str().unwrap());
        value.parse().unwrap()
    }

    /// The alerts and their expressions, once each was evaluated.
    fn rules(&self) -> Vec<Value> {
        let answer = self.get("/api/v1/rules", &[]).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let groups = answer["data"]["groups"].as_array().unwrap().clone();
        groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap().clone())
            .collect()
    }
}

/// The expressions of the dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").map(text));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn prometheus_reads_the_metrics_and_every_expression_of_contrib_has_a_value() {
    promtool(
        &[
            "check",
            "rules",
            contrib("prometheus/kugetsu.rules.yml").to_str().unwrap(),
        ],
        "",
    );
    promtool(
        &[
            "test",
            "rules",
            contrib("prometheus/kugetsu.test.yml").to_str().unwrap(),
        ],
        "",
    );
    let world = kit::scripted_world(&FakeScript::default());
    world.start_daemon_in(&[], &["--metrics", "127.0.0.1:0"]);
    let log = std::fs::read_to_string(world.kugetsu_home().join("run/daemon.log")).unwrap();
    let (_, metrics) = log
        .split_once("metrics=\"http://")
        .unwrap_or_else(|| panic!("{log}"));
    let (metrics, _) = metrics.split_once('/').unwrap();
    let prometheus = Prometheus::start(&world, metrics);
    // A rate needs two values, and the first one of a counter with labels is there only when something was counted.
    let one_turn = |n: u64| {
        wait_for_state(&world, &submit(&world, &["1", "hello"]), "ended");
        let turns = || prometheus.sum("kugetsu_turns_total");
        world.wait_until("it was scraped", SOON, || turns() >= n as f64);
    };
    (1..=TURNS).for_each(one_turn);
    run(&world, ["start", "2", "of a command", "--transport", "run"]).expect_status(0);
    world.wait_until("the turn of the command was scraped", SOON, || {
        prometheus.sum("kugetsu_time_to_first_token_seconds_count") >= (TURNS + 1) as f64
    });

    let dashboard = std::fs::read_to_string(contrib("grafana/kugetsu.json")).unwrap();
    let mut found = Vec::new();
    expressions(&serde_json::from_str(&dashboard).unwrap(), &mut found);
    assert!(found.len() > 10, "{found:?}");
    for expression in found {
        assert!(
            !prometheus.query(&expression).is_empty(),
            "{expression} has no value"
        );
    }
    world.wait_until("the rules were evaluated", SOON, || {
        let rules = prometheus.rules();
        !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")
    });
    for rule in prometheus.rules() {
        prometheus.query(rule["query"].as_str().unwrap());
        assert_eq!(rule["state"], "inactive", "{rule:#}");
    }
    let metrics = Request {
        base: format!("http://{metrics}"),
        ..Request::over_socket(&world, reqwest::Method::GET, "/metrics")
    };
    let metrics = Request {
        socket: None,
        ..metrics
    };
    promtool(&["check", "metrics"], &metrics.send().expect(200).body);
}
