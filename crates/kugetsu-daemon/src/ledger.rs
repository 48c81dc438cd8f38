//! What turns have cost today, and what they may cost: one file of JSON lines for each day.
//!
//! A turn tells what it has cost so far whenever a step ends, so a budget that several turns share holds while they run:
//! [`Ledger::crossed`] is what each of them watches. Only what is new since the last time becomes a line, so a turn may
//! tell its cost as often as it likes, also to a daemon that was started again.
//!
//! A line is on disk before a turn counts as settled, unless the disk is full, so no restart forgets money that was
//! spent.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use kugetsu_api::{Address, BudgetView, RepoRef};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

/// The folder of the files, below the home.
const FOLDER: &str = kugetsu_engine::home::SPENDING;
/// Of how many days the files are kept. Days without spending have none. The number does not follow the clock, because
/// one that is far ahead for a moment would make all files old.
const KEPT: usize = 90;
/// A difference that is smaller comes from the addition of fractions: no step costs so little.
const NOTHING: f64 = 1e-9;

/// What turns may cost in a day, in US dollars.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Budgets {
    /// All turns together.
    pub(crate) daily: Option<f64>,
    /// The turns of one repository.
    pub(crate) daily_per_repo: Option<f64>,
    /// The turns of one session.
    pub(crate) daily_per_session: Option<f64>,
    /// Where a day begins at midnight.
    pub(crate) zone: TimeZone,
}

/// What a turn has cost since it was last counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    time: Timestamp,
    turn: Uuid,
    #[serde(rename = "ref")]
    address: Address,
    cost_usd: f64,
}

/// A budget that is used up.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UsedUp {
    /// Whose budget, as a phrase.
    pub(crate) whose: String,
    pub(crate) spent: f64,
    pub(crate) budget: f64,
    /// How long until it is full again.
    pub(crate) full_in: Duration,
}

/// The money that was spent. Blocks where it writes.
pub(crate) struct Ledger {
    folder: PathBuf,
    /// Held for a moment only, because the event loop waits for it.
    state: Mutex<State>,
    /// Held while lines are written.
    writing: Mutex<()>,
    /// Changes when money was spent, and when the budgets are others.
    changes: watch::Sender<()>,
}

struct State {
    budgets: Budgets,
    day: Day,
    /// What each turn was counted with in all, and the day of the last time. Those of today and of the day before.
    turns: HashMap<Uuid, (Date, f64)>,
    /// Lines that are not on disk yet, with their days. They share one write with those that come meanwhile.
    unwritten: Vec<(Date, Vec<u8>)>,
}

struct Day {
    date: Date,
    total: f64,
    repos: HashMap<RepoRef, f64>,
    sessions: HashMap<Address, f64>,
}

impl Day {
    fn new(date: Date) -> Self {
        Self {
            date,
            total: 0.0,
            repos: HashMap::new(),
            sessions: HashMap::new(),
        }
    }

    fn add(&mut self, address: &Address, cost_usd: f64) {
        self.total += cost_usd;
        *self.repos.entry(address.repo().clone()).or_default() += cost_usd;
        *self.sessions.entry(address.clone()).or_default() += cost_usd;
    }
}

impl State {
    fn date_of(&self, time: Timestamp) -> Date {
        time.to_zoned(self.budgets.zone.clone()).date()
    }

    /// Begins a new day if it has come. A clock that was set back does not bring an old day back. One that had been far
    /// ahead is corrected: what was spent since counts for the day that it is now.
    fn advance(&mut self, now: Timestamp) {
        let date = self.date_of(now);
        if date > self.day.date {
            self.day = Day::new(date);
            let yesterday = date.saturating_sub(1.day());
            self.turns.retain(|_, (last, _)| *last >= yesterday);
        } else if date < self.day.date.saturating_sub(1.day()) {
            self.day.date = date;
        }
    }

    /// How long it is until midnight.
    fn rest_of_day(&self, now: Timestamp) -> Duration {
        let tomorrow = self.date_of(now).saturating_add(1.day());
        let midnight = tomorrow.to_zoned(self.budgets.zone.clone());
        let rest = midnight.map(|midnight| midnight.timestamp().duration_since(now));
        rest.ok()
            .and_then(|rest| Duration::try_from(rest).ok())
            .unwrap_or_default()
    }

    /// What each budget that counts this session still has, and what was spent of it.
    fn rests(&self, address: &Address) -> impl Iterator<Item = (f64, f64, f64, Whose)> + use<> {
        let day = &self.day;
        let of_repo = day.repos.get(address.repo()).copied().unwrap_or_default();
        let of_session = day.sessions.get(address).copied().unwrap_or_default();
        let budgets = [
            (self.budgets.daily, day.total, Whose::All),
            (self.budgets.daily_per_repo, of_repo, Whose::Repo),
            (self.budgets.daily_per_session, of_session, Whose::Session),
        ];
        budgets.into_iter().filter_map(|(budget, spent, whose)| {
            let budget = budget?;
            // A millionth of a dollar is less than anything costs, and a sum of fractions is longer than that.
            let rest = ((budget - spent) * 1e6).round() / 1e6;
            Some((rest, budget, spent, whose))
        })
    }

    fn used_up(&self, address: &Address, now: Timestamp, is_used_up: impl Fn(f64) -> bool) -> Option<UsedUp> {
        let (_, budget, spent, whose) = self.rests(address).find(|(rest, ..)| is_used_up(*rest))?;
        Some(UsedUp {
            whose: match whose {
                Whose::All => "all turns".to_owned(),
                Whose::Repo => address.repo().to_string(),
                Whose::Session => address.to_string(),
            },
            spent,
            budget,
            full_in: self.rest_of_day(now),
        })
    }
}

enum Whose {
    All,
    Repo,
    Session,
}

impl Ledger {
    /// Reads what was spent today. Removes the oldest files.
    pub(crate) fn open(home: &Path, budgets: Budgets, now: Timestamp) -> std::io::Result<Self> {
        let folder = home.join(FOLDER);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let date = now.to_zoned(budgets.zone.clone()).date();
        let mut state = State {
            budgets,
            day: Day::new(date),
            turns: HashMap::new(),
            unwritten: Vec::new(),
        };
        let yesterday = date.saturating_sub(1.day());
        for day in [yesterday, date] {
            for entry in entries(&file_of(&folder, day))? {
                let counted = state.turns.entry(entry.turn).or_insert((day, 0.0));
                *counted = (day, counted.1 + entry.cost_usd);
                if day == date {
                    state.day.add(&entry.address, entry.cost_usd);
                }
            }
        }
        let days = days(&folder)?;
        // A clock that is far behind makes today the oldest.
        let is_old = |day: &&Date| **day < yesterday || **day > date;
        for old in days.iter().rev().skip(KEPT).filter(is_old) {
            let _ = std::fs::remove_file(file_of(&folder, *old));
        }
        Ok(Self {
            folder,
            state: Mutex::new(state),
            writing: Mutex::default(),
            changes: watch::Sender::new(()),
        })
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn today(&self, now: Timestamp) -> MutexGuard<'_, State> {
        let mut state = self.locked();
        state.advance(now);
        state
    }

    /// Uses other budgets from now on. A lower one also ends turns that run; a turn keeps what it could cost when it began.
    pub(crate) fn set_budgets(&self, budgets: Budgets) {
        self.locked().budgets = budgets;
        self.changes.send_replace(());
    }

    /// Counts what a turn has cost in all so far. It is on disk when this returns without an error; it counts in any
    /// case until the daemon ends. What a turn spends counts for the day on which it is told.
    pub(crate) fn spent(
        &self,
        turn: Uuid,
        address: &Address,
        total_usd: f64,
        now: Timestamp,
    ) -> std::io::Result<()> {
        {
            let mut state = self.today(now);
            let date = state.day.date;
            let counted = state.turns.entry(turn).or_insert((date, 0.0));
            let cost_usd = total_usd - counted.1;
            // Whoever tells nothing new may still have told what could not be written.
            if cost_usd.is_finite() && cost_usd >= NOTHING {
                *counted = (date, total_usd);
                state.day.add(address, cost_usd);
                let entry = Entry {
                    time: now,
                    turn,
                    address: address.clone(),
                    cost_usd,
                };
                let mut line = serde_json::to_vec(&entry)?;
                line.push(b'\n');
                state.unwritten.push((date, line));
                drop(state);
                self.changes.send_replace(());
            }
        }
        self.write()
    }

    /// [`Ledger::spent`] for a turn that was found dead. It is not counted if it never told what it cost: then it may
    /// have run without the daemon.
    pub(crate) fn recovered(
        &self,
        turn: Uuid,
        address: &Address,
        total_usd: f64,
        now: Timestamp,
    ) -> std::io::Result<()> {
        if !self.locked().turns.contains_key(&turn) {
            return Ok(());
        }
        self.spent(turn, address, total_usd, now)
    }

    /// What a turn has cost, as far as it was told lately.
    pub(crate) fn counted(&self, turn: Uuid) -> f64 {
        self.locked().turns.get(&turn).map_or(0.0, |(_, total)| *total)
    }

    /// Writes all lines that wait. Those of an attempt that failed are written by the next one.
    pub(crate) fn write(&self) -> std::io::Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = std::mem::take(&mut self.locked().unwritten);
        let mut rest = lines.as_slice();
        while let Some((date, _)) = rest.first() {
            let of_day = rest.iter().take_while(|(other, _)| other == date).count();
            let (now, later) = rest.split_at(of_day);
            let text: Vec<u8> = now.iter().flat_map(|(_, line)| line).copied().collect();
            if let Err(error) = append(&file_of(&self.folder, *date), text) {
                let mut state = self.locked();
                let meanwhile = std::mem::replace(&mut state.unwritten, rest.to_vec());
                state.unwritten.extend(meanwhile);
                return Err(error);
            }
            rest = later;
        }
        Ok(())
    }

    /// What a turn of this session may still cost today; `None` without a limit. The error names a budget that is used
    /// up.
    pub(crate) fn left(&self, address: &Address, now: Timestamp) -> Result<Option<f64>, UsedUp> {
        let state = self.today(now);
        match state.used_up(address, now, |rest| rest <= 0.0) {
            Some(used_up) => Err(used_up),
            None => Ok(state.rests(address).map(|(rest, ..)| rest).reduce(f64::min)),
        }
    }

    /// Waits until more was spent than a budget that counts this session allows. Returns at once if that is so.
    pub(crate) async fn crossed(&self, address: &Address) -> UsedUp {
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(used_up) = self.is_crossed(address, Timestamp::now()) {
                return used_up;
            }
            // The sender lives as long as this.
            let _ = changes.changed().await;
        }
    }

    /// Whether more was spent than a budget that counts this session allows.
    pub(crate) fn is_crossed(&self, address: &Address, now: Timestamp) -> Option<UsedUp> {
        self.today(now).used_up(address, now, |rest| rest < 0.0)
    }

    /// What was spent today.
    pub(crate) fn view(&self, now: Timestamp) -> BudgetView {
        let state = self.today(now);
        BudgetView {
            day: state.day.date,
            spent_usd: state.day.total,
            daily_usd: state.budgets.daily,
            daily_per_repo_usd: state.budgets.daily_per_repo,
            daily_per_session_usd: state.budgets.daily_per_session,
        }
    }
}

/// The days that have a file, oldest first.
fn days(folder: &Path) -> std::io::Result<Vec<Date>> {
    let names = std::fs::read_dir(folder)?.flatten().map(|file| file.file_name());
    let mut days: Vec<Date> = names
        .filter_map(|name| name.to_str()?.strip_suffix(".jsonl")?.parse().ok())
        .collect();
    days.sort_unstable();
    Ok(days)
}

fn file_of(folder: &Path, date: Date) -> PathBuf {
    folder.join(format!("{date}.jsonl"))
}

/// What is in the file of a day. A line that was cut or damaged by a crash is left out.
fn entries(path: &Path) -> std::io::Result<Vec<Entry>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut entries = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        entries.extend(serde_json::from_slice::<Entry>(&line?).ok());
    }
    Ok(entries)
}

/// Adds whole lines to a file. They are on disk when this returns.
fn append(path: &Path, mut lines: Vec<u8>) -> std::io::Result<()> {
    let mut file = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(crate::place::NOFOLLOW)
        .open(path)?;
    // What a crash or a full disk has cut must not spoil the line after it.
    let length = file.metadata()?.len();
    if length > 0 && !ends_a_line(path, length)? {
        lines.insert(0, b'\n');
    }
    let written = file.write_all(&lines).and_then(|()| file.sync_data());
    if written.is_err() {
        // They are written again, and must not be there twice.
        let _ = file.set_len(length);
    }
    written
}

fn ends_a_line(path: &Path, length: u64) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let mut last = [0];
    File::open(path)?.read_exact_at(&mut last, length - 1)?;
    Ok(last == *b"\n")
}

impl std::fmt::Display for UsedUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the budget of {} for today is used up: {:.4} USD of {} USD",
            self.whose, self.spent, self.budget
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kugetsu_api::RefContext;
    use proptest::prelude::*;

    fn address(text: &str) -> Address {
        Address::parse(text, &RefContext::default()).unwrap()
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn daily(daily: f64) -> Budgets {
        Budgets {
            daily: Some(daily),
            daily_per_repo: None,
            daily_per_session: None,
            zone: TimeZone::UTC,
        }
    }

    fn turn(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn is_near(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    #[test]
    fn money_is_counted_once_by_day_repository_and_session() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (address("a.b/c/d#1"), address("a.b/c/e#1"));
        let now = at("2026-01-01T22:00:00Z");
        let budgets = Budgets {
            daily_per_repo: Some(0.6),
            ..daily(1.0)
        };
        let ledger = Ledger::open(home.path(), budgets.clone(), now).unwrap();
        for total in [0.25, 0.5, 0.5, 0.3, f64::NAN] {
            ledger.spent(turn(1), &one, total, now).unwrap();
        }
        assert_eq!(ledger.left(&one, now), Ok(Some(0.1)));
        assert_eq!(ledger.left(&two, now), Ok(Some(0.5)));
        ledger.spent(turn(2), &two, 0.5, now).unwrap();
        let used_up = ledger.left(&two, now).unwrap_err();
        assert_eq!(used_up.full_in, Duration::from_hours(2));
        assert_eq!(
            ledger.is_crossed(&two, now),
            None,
            "it is not more than the budget"
        );
        // A restart resets nothing, and a line that a crash has cut spoils nothing.
        let file = home.path().join("spending/2026-01-01.jsonl");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.extend_from_slice(b"{\"time\":\"2026-");
        #[expect(clippy::disallowed_methods, reason = "a test damages a file")]
        std::fs::write(&file, bytes).unwrap();
        let again = Ledger::open(home.path(), budgets.clone(), now).unwrap();
        assert!(again.left(&one, now).is_err());
        again.spent(turn(1), &one, 0.75, now).unwrap();
        assert_eq!(
            again.is_crossed(&two, now).map(|used_up| used_up.whose),
            Some("all turns".to_owned())
        );
        let once_more = Ledger::open(home.path(), budgets, now).unwrap();
        assert!(is_near(once_more.view(now).spent_usd, 1.25));
        // The next day begins with nothing spent, and a clock that goes back changes that not.
        let tomorrow = at("2026-01-02T00:00:01Z");
        assert_eq!(once_more.left(&one, tomorrow), Ok(Some(0.6)));
        assert_eq!(once_more.left(&one, now), Ok(Some(0.6)));
    }

    #[test]
    fn a_clock_that_is_far_ahead_removes_no_spending() {
        let home = tempfile::tempdir().unwrap();
        let session = address("a.b/c/d#1");
        let first = at("2026-01-01T12:00:00Z");
        let mut total = 0.0;
        for day in 0..(KEPT as i32 + 5) {
            let now = first + jiff::SignedDuration::from_hours(24 * i64::from(day));
            let ledger = Ledger::open(home.path(), daily(1.0), now).unwrap();
            total += 0.1;
            ledger.spent(turn(1), &session, total, now).unwrap();
        }
        let days = || days(&home.path().join(FOLDER)).unwrap();
        assert_eq!(days().len(), KEPT + 1, "the oldest are removed at a start");
        let kept = days();
        Ledger::open(home.path(), daily(1.0), at("2099-01-01T12:00:00Z")).unwrap();
        assert_eq!(days(), kept[1..]);
        // One that is far behind removes nothing of its own day.
        let behind = at("1970-01-01T12:00:00Z");
        let ledger = Ledger::open(home.path(), daily(1.0), behind).unwrap();
        ledger.spent(turn(2), &session, 0.5, behind).unwrap();
        let again = Ledger::open(home.path(), daily(1.0), behind).unwrap();
        assert_eq!(again.left(&session, behind), Ok(Some(0.5)));
        Ledger::open(home.path(), daily(1.0), behind).unwrap();
        assert_eq!(days().len(), KEPT + 1);
    }

    #[test]
    fn what_a_turn_spends_counts_for_the_day_on_which_it_spends_it() {
        let home = tempfile::tempdir().unwrap();
        let one = address("a.b/c/d#1");
        let budgets = Budgets {
            zone: TimeZone::get("America/New_York").unwrap(),
            ..daily(1.0)
        };
        let (before, after) = (at("2026-01-02T04:59:59Z"), at("2026-01-02T05:00:00Z"));
        let ledger = Ledger::open(home.path(), budgets.clone(), before).unwrap();
        ledger.spent(turn(1), &one, 0.75, before).unwrap();
        assert_eq!(ledger.view(before).day, "2026-01-01".parse().unwrap());
        ledger.spent(turn(1), &one, 1.0, after).unwrap();
        assert_eq!(ledger.left(&one, after), Ok(Some(0.75)));
        assert_eq!(ledger.view(after).day, "2026-01-02".parse().unwrap());
        // Also if the daemon was started again meanwhile.
        let ledger = Ledger::open(home.path(), budgets, after).unwrap();
        ledger.spent(turn(1), &one, 1.25, after).unwrap();
        assert!(is_near(ledger.view(after).spent_usd, 0.5));
    }

    #[test]
    fn the_day_of_a_time_zone_may_have_25_hours() {
        let home = tempfile::tempdir().unwrap();
        let budgets = Budgets {
            zone: TimeZone::get("Europe/Berlin").unwrap(),
            ..daily(0.0)
        };
        let midnight = at("2026-10-24T22:00:00Z");
        let ledger = Ledger::open(home.path(), budgets, midnight).unwrap();
        let used_up = ledger.left(&address("a.b/c/d#1"), midnight).unwrap_err();
        assert_eq!(used_up.full_in, Duration::from_hours(25));
    }

    #[test]
    fn a_dead_turn_counts_if_it_was_counted_before() {
        let home = tempfile::tempdir().unwrap();
        let one = address("a.b/c/d#1");
        let now = at("2026-01-01T22:00:00Z");
        let ledger = Ledger::open(home.path(), daily(1.0), now).unwrap();
        ledger.recovered(turn(1), &one, 0.5, now).unwrap();
        assert!(is_near(ledger.view(now).spent_usd, 0.0));
        ledger.spent(turn(1), &one, 0.25, now).unwrap();
        ledger.recovered(turn(1), &one, 0.5, now).unwrap();
        assert!(is_near(ledger.view(now).spent_usd, 0.5));
    }

    #[test]
    fn what_cannot_be_written_counts_and_is_written_later() {
        let home = tempfile::tempdir().unwrap();
        let one = address("a.b/c/d#1");
        let now = at("2026-01-01T22:00:00Z");
        let ledger = Ledger::open(home.path(), daily(1.0), now).unwrap();
        let in_the_way = home.path().join("spending/2026-01-01.jsonl");
        std::fs::create_dir(&in_the_way).unwrap();
        ledger.spent(turn(1), &one, 0.25, now).unwrap_err();
        assert!(is_near(ledger.view(now).spent_usd, 0.25));
        std::fs::remove_dir(&in_the_way).unwrap();
        ledger.spent(turn(2), &one, 0.5, now).unwrap();
        let again = Ledger::open(home.path(), daily(1.0), now).unwrap();
        assert!(is_near(again.view(now).spent_usd, 0.75));
    }

    #[tokio::test]
    async fn whoever_watches_a_budget_hears_that_it_is_crossed() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) = (address("a.b/c/d#1"), address("a.b/c/e#1"));
        let ledger = Ledger::open(home.path(), daily(1.0), Timestamp::now()).unwrap();
        let ledger = std::sync::Arc::new(ledger);
        let watching = tokio::spawn({
            let ledger = std::sync::Arc::clone(&ledger);
            async move { ledger.crossed(&other).await }
        });
        ledger.spent(turn(1), &one, 1.0, Timestamp::now()).unwrap();
        tokio::task::yield_now().await;
        assert!(!watching.is_finished());
        ledger.set_budgets(daily(0.9));
        let used_up = tokio::time::timeout(Duration::from_secs(60), watching).await;
        assert!(is_near(used_up.unwrap().unwrap().spent, 1.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Reports come late, twice and after restarts: each turn counts with the most that it told.
        #[test]
        fn each_turn_counts_with_the_most_that_it_told(
            told in proptest::collection::vec((0..4_u128, 0..100_u32, any::<bool>()), 1..40)
        ) {
            let home = tempfile::tempdir().unwrap();
            let one = address("a.b/c/d#1");
            let now = at("2026-01-01T22:00:00Z");
            let mut ledger = Ledger::open(home.path(), daily(1.0), now).unwrap();
            let mut most = HashMap::<u128, u32>::new();
            for (number, cents, restart) in told {
                if restart {
                    ledger = Ledger::open(home.path(), daily(1.0), now).unwrap();
                }
                ledger.spent(turn(number), &one, f64::from(cents) / 100.0, now).unwrap();
                let most = most.entry(number).or_default();
                *most = (*most).max(cents);
            }
            let sum: u32 = most.values().sum();
            prop_assert!((ledger.view(now).spent_usd - f64::from(sum) / 100.0).abs() < 1e-6);
        }
    }
}
