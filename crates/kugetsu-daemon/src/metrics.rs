//! What the daemon counts, for Prometheus. No metric has anything of a message or an answer, and no label has values
//! without a bound.

use std::sync::Arc;

use jiff::Timestamp;
use kugetsu_api::{DaemonStatus, ServerState, TurnEnd};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

type Labels<const N: usize> = [(&'static str, String); N];

/// The counters. Gauges are read when they are asked for.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    turns: Family<Labels<1>, Counter>,
    turn_seconds: Histogram,
    first_output_seconds: Histogram,
    wait_seconds: Histogram,
    tokens: Family<Labels<1>, Counter>,
    cost: Counter<f64, std::sync::atomic::AtomicU64>,
    restarts: Counter,
    http: Family<Labels<3>, Counter>,
    tasks: Family<Labels<1>, Gauge>,
    oldest: Gauge,
    running: Gauge,
    places: Gauge,
    waiting: Gauge,
    servers: Family<Labels<1>, Gauge>,
    server_starts: Family<Labels<1>, Counter>,
    spent_today: Gauge<f64, std::sync::atomic::AtomicU64>,
}

/// A format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricsFormat {
    /// That of Prometheus, which every tool reads.
    Text,
    /// That of OpenMetrics, which Prometheus asks for.
    OpenMetrics,
}

impl MetricsFormat {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// From a tenth of a second to a day.
fn durations() -> Histogram {
    Histogram::new([
        0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0,
        86400.0,
    ])
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("kugetsu");
        macro_rules! metric {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        macro_rules! seconds {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register_with_unit($name, $help, Unit::Seconds, metric.clone());
                metric
            }};
        }
        let turns = metric!("turns", "Turns that have ended, by verdict", Family::default());
        let turn_seconds = seconds!("turn", "How long turns took", durations());
        let first_output_seconds = seconds!(
            "time_to_first_token",
            "From a turn's prompt to the first text, reasoning or tool call of the model",
            durations()
        );
        let wait_seconds = seconds!("queue_wait", "How long tasks waited for their turn", durations());
        let tokens = metric!(
            "tokens",
            "Tokens of turns that have ended, by kind",
            Family::default()
        );
        let cost = metric!(
            "cost_usd",
            "What turns that have ended have cost, in US dollars",
            Counter::default()
        );
        let restarts = metric!(
            "opencode_restarts",
            "How often opencode was started again in a turn",
            Counter::default()
        );
        let http = metric!(
            "http_requests",
            "Requests to the API, by route, method and status",
            Family::default()
        );
        let tasks = metric!("tasks", "Tasks that have not ended, by state", Family::default());
        let oldest = seconds!(
            "oldest_task_age",
            "How long the oldest queued task has waited",
            Gauge::default()
        );
        let running = metric!("turns_running", "Turns that run", Gauge::default());
        let places = metric!("turns_max", "How many turns may run at once", Gauge::default());
        let waiting = metric!(
            "commands_waiting",
            "Commands that wait for a place",
            Gauge::default()
        );
        let servers = metric!("servers", "Warm opencode servers, by state", Family::default());
        let server_starts = metric!(
            "server_starts",
            "Turns that began with a warm server, and servers that were started, since the daemon started",
            Family::default()
        );
        let spent_today = metric!(
            "spent_today_usd",
            "What turns have cost today, by budget_timezone, in US dollars",
            Gauge::default()
        );
        Self {
            registry: Arc::new(registry),
            turns,
            turn_seconds,
            first_output_seconds,
            wait_seconds,
            tokens,
            cost,
            restarts,
            http,
            tasks,
            oldest,
            running,
            places,
            waiting,
            servers,
            server_starts,
            spent_today,
        }
    }

    /// Counts a turn that has ended.
    pub(crate) fn turn(&self, turn: &TurnEnd) {
        self.turns
            .get_or_create(&[("verdict", turn.verdict.to_string())])
            .inc();
        self.turn_seconds.observe(turn.seconds);
        if let Some(seconds) = turn.first_output_seconds {
            self.first_output_seconds.observe(seconds);
        }
        if turn.cost_usd.is_finite() && turn.cost_usd > 0.0 {
            self.cost.inc_by(turn.cost_usd);
        }
        self.restarts.inc_by(u64::from(turn.restarts));
        let tokens = turn.tokens;
        for (kind, count) in [
            ("input", tokens.input),
            ("output", tokens.output),
            ("reasoning", tokens.reasoning),
            ("cache_read", tokens.cache_read),
            ("cache_write", tokens.cache_write),
        ] {
            self.tokens
                .get_or_create(&[("kind", kind.to_owned())])
                .inc_by(count);
        }
    }

    /// Counts how long a task waited.
    pub(crate) fn waited(&self, since: Timestamp, now: Timestamp) {
        self.wait_seconds
            .observe(now.duration_since(since).as_secs_f64().max(0.0));
    }

    /// Counts a request. `route` is the pattern of the path, not the path.
    pub(crate) fn request(&self, route: &str, method: &str, status: u16) {
        let labels = [
            ("route", route.to_owned()),
            ("method", method.to_owned()),
            ("status", status.to_string()),
        ];
        self.http.get_or_create(&labels).inc();
    }

    /// Everything.
    pub(crate) fn text(&self, status: &DaemonStatus, now: Timestamp, format: MetricsFormat) -> String {
        let queue = status.queue;
        for (state, count) in [
            ("queued", queue.queued),
            ("running", queue.running),
            ("parked", queue.parked),
        ] {
            let gauge = self.tasks.get_or_create(&[("state", state.to_owned())]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let age = queue
            .oldest
            .map_or(0, |oldest| now.duration_since(oldest).as_secs().max(0));
        self.oldest.set(age);
        self.running.set(i64::from(status.running));
        self.places.set(i64::from(status.max_concurrent));
        self.waiting.set(i64::from(status.waiting));
        for (name, state) in [
            ("starting", ServerState::Starting),
            ("idle", ServerState::Idle),
            ("lent", ServerState::Lent),
            ("ending", ServerState::Ending),
        ] {
            let count = status
                .servers
                .iter()
                .filter(|server| server.state == state)
                .count();
            let gauge = self.servers.get_or_create(&[("state", name.to_owned())]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for (name, count) in [
            ("cold", status.pool.cold_starts),
            ("warm", status.pool.warm_starts),
        ] {
            let counter = self.server_starts.get_or_create(&[("kind", name.to_owned())]);
            counter.inner().store(count, std::sync::atomic::Ordering::Relaxed);
        }
        self.spent_today.set(status.budget.spent_usd);
        let mut written = String::new();
        // Writing into memory does not fail.
        let _ = match format {
            MetricsFormat::Text => prometheus_text::encode(&mut written, &self.registry),
            MetricsFormat::OpenMetrics => text::encode(&mut written, &self.registry),
        };
        written
    }
}
