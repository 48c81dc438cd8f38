//! What turns have cost today, and what they may cost: one file of JSON lines for each day.
//!
//! A line is on disk before a turn counts as settled, unless the disk is full, so no restart forgets money that was
//! spent. A turn that is told twice counts once.

use std::collections::{HashMap, HashSet};
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
use uuid::Uuid;

/// The folder of the files, below the home.
const FOLDER: &str = kugetsu_engine::home::SPENDING;
/// How many days are kept.
const KEPT_DAYS: i64 = 90;

/// What turns may cost in a day (UTC), in US dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Budgets {
    /// All turns together.
    pub(crate) daily: Option<f64>,
    /// The turns of one repository.
    pub(crate) daily_per_repo: Option<f64>,
    /// The turns of one session.
    pub(crate) daily_per_session: Option<f64>,
}

/// A turn that has cost something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) time: Timestamp,
    pub(crate) turn: Uuid,
    #[serde(rename = "ref")]
    pub(crate) address: Address,
    pub(crate) cost_usd: f64,
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
    day: Mutex<Day>,
    /// Held while a line is written.
    writing: Mutex<()>,
}

struct Day {
    date: Date,
    turns: HashSet<Uuid>,
    total: f64,
    repos: HashMap<RepoRef, f64>,
    sessions: HashMap<Address, f64>,
}

impl Day {
    fn new(date: Date) -> Self {
        Self {
            date,
            turns: HashSet::new(),
            total: 0.0,
            repos: HashMap::new(),
            sessions: HashMap::new(),
        }
    }

    /// Counts a turn. False if it was counted before.
    fn add(&mut self, entry: &Entry) -> bool {
        if !entry.cost_usd.is_finite() || !self.turns.insert(entry.turn) {
            return false;
        }
        self.total += entry.cost_usd;
        *self.repos.entry(entry.address.repo().clone()).or_default() += entry.cost_usd;
        *self.sessions.entry(entry.address.clone()).or_default() += entry.cost_usd;
        true
    }
}

fn date_of(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

/// How long the day of this time still lasts.
fn rest_of_day(now: Timestamp) -> Duration {
    let midnight = date_of(now).saturating_add(1.day()).to_zoned(TimeZone::UTC);
    let rest = midnight.map(|midnight| midnight.timestamp().duration_since(now));
    rest.ok()
        .and_then(|rest| Duration::try_from(rest).ok())
        .unwrap_or_default()
}

impl Ledger {
    /// Reads what was spent today. Removes the files of days long ago.
    pub(crate) fn open(home: &Path, now: Timestamp) -> std::io::Result<Self> {
        let folder = home.join(FOLDER);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let date = date_of(now);
        let this = Self {
            day: Mutex::new(Day::new(date)),
            writing: Mutex::default(),
            folder,
        };
        this.read(&mut this.day(), date)?;
        let oldest = date.saturating_sub(KEPT_DAYS.days());
        for file in std::fs::read_dir(&this.folder)?.flatten() {
            let name = file.file_name();
            let of = name
                .to_str()
                .and_then(|name| name.strip_suffix(".jsonl")?.parse::<Date>().ok());
            if of.is_some_and(|of| of < oldest) {
                let _ = std::fs::remove_file(file.path());
            }
        }
        Ok(this)
    }

    fn day(&self) -> MutexGuard<'_, Day> {
        self.day.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, date: Date) -> PathBuf {
        self.folder.join(format!("{date}.jsonl"))
    }

    /// A line that was cut by a crash is left out: its turn is told again.
    fn read(&self, day: &mut Day, date: Date) -> std::io::Result<()> {
        let file = match File::open(self.file(date)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        for line in BufReader::new(file).lines() {
            if let Ok(entry) = serde_json::from_str::<Entry>(&line?) {
                day.add(&entry);
            }
        }
        Ok(())
    }

    /// The day of this time. A clock that was set back does not bring an old day back.
    fn today(&self, now: Timestamp) -> MutexGuard<'_, Day> {
        let mut day = self.day();
        let date = date_of(now);
        if date > day.date {
            *day = Day::new(date);
        }
        day
    }

    /// Counts what a turn has cost. It is on disk when this returns without an error; it counts in any case until the
    /// daemon ends.
    pub(crate) fn add(&self, entry: &Entry) -> std::io::Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let date = {
            let mut day = self.today(entry.time);
            // The turn of a day that is over counts for today, where a limit still holds something up.
            if entry.cost_usd <= 0.0 || !day.add(entry) {
                return Ok(());
            }
            day.date
        };
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let path = self.file(date);
        let mut file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(crate::place::NOFOLLOW)
            .open(&path)?;
        // What a crash has cut must not spoil the line after it.
        let length = file.metadata()?.len();
        if length > 0 && !ends_a_line(&path, length)? {
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        file.sync_data()
    }

    /// What a turn of this session may still cost today; `None` without a limit. The error names a budget that is used
    /// up.
    pub(crate) fn left(
        &self,
        budgets: Budgets,
        address: &Address,
        now: Timestamp,
    ) -> Result<Option<f64>, UsedUp> {
        let day = self.today(now);
        let of_repo = day.repos.get(address.repo()).copied().unwrap_or_default();
        let of_session = day.sessions.get(address).copied().unwrap_or_default();
        let mut left: Option<f64> = None;
        for (budget, spent, whose) in [
            (budgets.daily, day.total, "all turns".to_owned()),
            (budgets.daily_per_repo, of_repo, address.repo().to_string()),
            (budgets.daily_per_session, of_session, address.to_string()),
        ] {
            let Some(budget) = budget else {
                continue;
            };
            // A millionth of a dollar is less than anything costs, and a sum of fractions is longer than that.
            let rest = ((budget - spent) * 1e6).round() / 1e6;
            if rest <= 0.0 {
                return Err(UsedUp {
                    whose,
                    spent,
                    budget,
                    full_in: rest_of_day(now),
                });
            }
            left = Some(left.map_or(rest, |left| left.min(rest)));
        }
        Ok(left)
    }

    /// What was spent today.
    pub(crate) fn view(&self, budgets: Budgets, now: Timestamp) -> BudgetView {
        let day = self.today(now);
        BudgetView {
            day: day.date,
            spent_usd: day.total,
            daily_usd: budgets.daily,
            daily_per_repo_usd: budgets.daily_per_repo,
            daily_per_session_usd: budgets.daily_per_session,
        }
    }
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

    fn address(text: &str) -> Address {
        Address::parse(text, &RefContext::default()).unwrap()
    }

    fn entry(time: &str, number: u128, address: &Address, cost_usd: f64) -> Entry {
        Entry {
            time: time.parse().unwrap(),
            turn: Uuid::from_u128(number),
            address: address.clone(),
            cost_usd,
        }
    }

    #[test]
    fn money_is_counted_once_by_day_repository_and_session() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (address("a.b/c/d#1"), address("a.b/c/e#1"));
        let now: Timestamp = "2026-01-01T22:00:00Z".parse().unwrap();
        let budgets = Budgets {
            daily: Some(1.0),
            daily_per_repo: Some(0.6),
            daily_per_session: None,
        };
        let ledger = Ledger::open(home.path(), now).unwrap();
        ledger.add(&entry("2026-01-01T22:00:00Z", 1, &one, 0.5)).unwrap();
        ledger.add(&entry("2026-01-01T22:00:00Z", 1, &one, 0.5)).unwrap();
        assert_eq!(ledger.left(budgets, &one, now), Ok(Some(0.1)));
        assert_eq!(ledger.left(budgets, &two, now), Ok(Some(0.5)));
        ledger.add(&entry("2026-01-01T22:00:01Z", 2, &two, 0.5)).unwrap();
        let used_up = ledger.left(budgets, &two, now).unwrap_err();
        assert_eq!(used_up.full_in, Duration::from_hours(2));
        // A restart resets nothing, and a line that a crash has cut spoils nothing.
        let file = home.path().join("spending/2026-01-01.jsonl");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.extend_from_slice(b"{\"time\":\"2026-");
        #[expect(clippy::disallowed_methods, reason = "a test damages a file")]
        std::fs::write(&file, bytes).unwrap();
        let again = Ledger::open(home.path(), now).unwrap();
        assert!(again.left(budgets, &one, now).is_err());
        again.add(&entry("2026-01-01T23:00:00Z", 3, &one, 0.25)).unwrap();
        let once_more = Ledger::open(home.path(), now).unwrap();
        assert!((once_more.view(budgets, now).spent_usd - 1.25).abs() < 1e-9);
        // The next day begins with nothing spent, and a clock that goes back changes that not.
        let tomorrow = "2026-01-02T00:00:01Z".parse().unwrap();
        assert_eq!(once_more.left(budgets, &one, tomorrow), Ok(Some(0.6)));
        assert_eq!(once_more.left(budgets, &one, now), Ok(Some(0.6)));
    }
}
