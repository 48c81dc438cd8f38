//! Test results: counted while tests run, reported at the end.

use std::collections::{BTreeMap, BTreeSet};

use kugetsu_testing::Version;

/// How many of the slowest tests the report lists.
const SLOWEST: usize = 10;

/// The outstanding tests of one program's run, and the results of all others.
#[derive(Default)]
pub(super) struct Results {
    /// Passed tests, each with its program.
    passed: Vec<Passed>,
    /// Failed tests.
    failed: Vec<String>,
    /// The running program, and those of its tests without a result.
    program: String,
    awaited: BTreeSet<String>,
}

struct Passed {
    program: String,
    name: String,
    seconds: f64,
}

impl Results {
    /// Sets the running program and its tests.
    pub(super) fn expect(&mut self, program: &str, tests: &[String]) {
        program.clone_into(&mut self.program);
        self.awaited = tests.iter().cloned().collect();
    }

    /// Parses a line such as `test resumes::v1_3_2 ... ok <0.5s>`. A test that starts itself again as another process
    /// may print one too, so only the first line of an outstanding test counts.
    pub(super) fn line(&mut self, line: &str) {
        let Some((name, outcome)) = line
            .trim_end()
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "))
        else {
            return;
        };
        let name = name.trim_end_matches(" - should panic");
        let (outcome, time) = outcome.split_once(" <").unwrap_or((outcome, ""));
        if !["ok", "FAILED"].contains(&outcome) || !self.awaited.remove(name) {
            return;
        }
        if outcome == "ok" {
            self.passed.push(Passed {
                program: self.program.clone(),
                name: name.to_owned(),
                seconds: time.trim_end_matches("s>").parse().unwrap_or_default(),
            });
        } else {
            self.failed.push(format!("{} {name}", self.program));
        }
    }

    /// Handles the end of the program: tests without a result have not passed.
    pub(super) fn ended(&mut self, success: bool) {
        let untold = std::mem::take(&mut self.awaited);
        if !success && untold.is_empty() && self.failed.iter().all(|name| !name.starts_with(&self.program)) {
            self.failed.push(format!("{} itself", self.program));
        }
        self.failed.extend(
            untold
                .into_iter()
                .map(|name| format!("{} {name} (not run to its end)", self.program)),
        );
    }

    /// How many tests passed.
    pub(super) fn passed(&self) -> usize {
        self.passed.len()
    }

    /// How many tests passed on a version of the real opencode.
    pub(super) fn passed_on(&self, version: Version) -> usize {
        let module = format!("v{}", version.as_str().replace('.', "_"));
        let of_version = |test: &&Passed| test.name.split("::").any(|part| part == module);
        self.passed.iter().filter(of_version).count()
    }

    /// The tests that did not pass.
    pub(super) fn failed(&self) -> &[String] {
        &self.failed
    }

    /// A table of the attacks: a line for each, and a column for what opencode it was tried on.
    pub(super) fn attacks(&self) -> String {
        let failed = self.failed.iter().filter_map(|failed| failed.split_once(' '));
        let failed = failed.map(|(_, name)| (name.split(' ').next().unwrap_or(name), "**succeeded**"));
        let passed = self.passed.iter().map(|test| (test.name.as_str(), "fails"));
        let mut rows: BTreeMap<&str, [&str; 3]> = BTreeMap::new();
        for (name, outcome) in failed.chain(passed) {
            let (attack, place) = match name.rsplit_once("::") {
                Some((attack, "v1_3_2")) => (attack, 0),
                Some((attack, "v1_18_33")) => (attack, 1),
                _ => (name, 2),
            };
            let attack = attack.split_once("attack::").map_or(attack, |(_, attack)| attack);
            rows.entry(attack).or_insert(["-"; 3])[place] = outcome;
        }
        let mut text =
            "| attack | opencode 1.3.2 | opencode 1.18.33 | without opencode |\n|---|---|---|---|\n"
                .to_owned();
        for (attack, cells) in rows {
            text += &format!("| `{attack}` | {} |\n", cells.join(" | "));
        }
        text
    }

    /// The slowest tests, one per line, slowest first.
    pub(super) fn slowest(&self) -> String {
        let mut tests: Vec<_> = self.passed.iter().collect();
        tests.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        tests.truncate(SLOWEST);
        let mut text = String::new();
        for test in tests {
            text += &format!("{:7.1} s  {} {}\n", test.seconds, test.program, test.name);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_once_and_on_their_version() {
        let mut results = Results::default();
        let tests = [
            "starts::v1_3_2",
            "starts::v1_18_33",
            "other",
            "v1_18_33_is_no_module",
            "killed",
        ];
        results.expect("real", &tests.map(str::to_owned));
        for line in [
            "test starts::v1_3_2 ... ok <12.500s>\n",
            "test starts::v1_18_33 ... FAILED <1.000s>\n",
            "test other ... ok <0.250s>\n",
            "test other ... ok\n",
            "test of_another_program ... ok <9.000s>\n",
            "test v1_18_33_is_no_module ... ok <0.001s>\n",
            "test killed ... \n",
            "test result: ok. 3 passed; 0 failed\n",
        ] {
            results.line(line);
        }
        results.ended(false);
        assert_eq!(results.passed(), 3);
        assert_eq!(results.passed_on(Version::V1_3_2), 1);
        assert_eq!(results.passed_on(Version::V1_18_33), 0);
        assert_eq!(
            results.failed(),
            ["real starts::v1_18_33", "real killed (not run to its end)"]
        );
        let slowest = results.slowest();
        assert!(
            slowest.starts_with("   12.5 s  real starts::v1_3_2\n    0.2 s  real other\n"),
            "{slowest}"
        );
    }
}
