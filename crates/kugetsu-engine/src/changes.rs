//! What a turn changes in its git clone: one reading before the turn, and one after it to compare with.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::git::{Git, GitError};
use kugetsu_api::{ChangedFile, Changes, Commit};

/// The most uncommitted files that a reading takes up. A clone with more of them is not compared.
const MAX_UNCOMMITTED: usize = 10_000;
/// The largest new file whose lines are counted, in bytes.
const MAX_COUNTED: u64 = 4 << 20;
/// git looks for a zero byte in this many bytes to decide whether a file is binary (`buffer_is_binary` in git's xdiff
/// interface).
const BINARY_LOOK: usize = 8000;

/// The state of a clone before a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The top folder of the clone or worktree.
    top: PathBuf,
    /// The commit that is checked out; none before the first commit.
    commit: Option<String>,
    /// The files that differ from the commit, by their path below `top`.
    uncommitted: BTreeMap<PathBuf, Uncommitted>,
}

/// A file that differs from its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Uncommitted {
    new: bool,
    /// Length and time of the last change; none if the file is gone.
    stamp: Option<(u64, i64, i64)>,
}

/// The folder that holds `.git`: the top of the clone or worktree that this folder is in.
pub(crate) fn top_of(folder: &Path) -> Option<&Path> {
    folder
        .ancestors()
        .find(|folder| folder.join(".git").symlink_metadata().is_ok())
}

impl Reading {
    /// Reads the clone that git runs in. `None` if there is no clone, or if it has too many uncommitted files.
    pub(crate) fn take(git: &Git) -> Result<Option<Self>, GitError> {
        let Some(top) = top_of(git.folder()).map(Path::to_owned) else {
            return Ok(None);
        };
        let output = git.run([
            "status",
            "--porcelain=v2",
            "-z",
            "--branch",
            "--no-renames",
            "--untracked-files=all",
            "--ignore-submodules=dirty",
        ])?;
        let Some(status) = Status::parse(&output.stdout) else {
            return Ok(None);
        };
        let uncommitted = status.files.into_iter().map(|(path, new)| {
            let stamp = stamp(&top.join(&path));
            (path, Uncommitted { new, stamp })
        });
        Ok(Some(Self {
            uncommitted: uncommitted.collect(),
            commit: status.commit,
            top,
        }))
    }

    /// A clone as it was when this commit was checked out and nothing was uncommitted. `None` outside a clone.
    pub(crate) fn of_commit(folder: &Path, commit: &str) -> Option<Self> {
        Some(Self {
            top: top_of(folder)?.to_owned(),
            commit: Some(commit.to_owned()),
            uncommitted: BTreeMap::new(),
        })
    }

    /// The commit that was checked out.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// The paths of the uncommitted files.
    pub(crate) fn uncommitted(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.uncommitted.keys().map(PathBuf::as_path)
    }

    /// Compares the clone with this reading of it.
    pub(crate) fn compare(&self, git: &Git) -> Result<Option<Changes>, GitError> {
        let Some(after) = Self::take(git)?.filter(|after| after.top == self.top) else {
            return Ok(None);
        };
        let mut changes = Changes {
            before: self.commit.clone(),
            after: after.commit.clone(),
            ..Changes::default()
        };
        if after == *self {
            return Ok(Some(changes));
        }
        if let Some(to) = after.commit.as_ref().filter(|_| after.commit != self.commit) {
            let range = self
                .commit
                .as_ref()
                .map_or_else(|| to.clone(), |from| format!("{from}..{to}"));
            (changes.commit_count, changes.commits) = commits(git, &range)?;
        }
        let mut files = self.differing_from_commit(git)?;
        for (path, uncommitted) in &after.uncommitted {
            if uncommitted.new {
                files.insert(path.clone(), (new_lines(&self.top.join(path)), Some(0)));
            }
        }
        for (path, before) in &self.uncommitted {
            if stamp(&self.top.join(path)) == before.stamp {
                files.remove(path);
            } else {
                files.entry(path.clone()).or_default();
            }
        }
        changes.file_count = files.len() as u64;
        let lines = |of: fn(&Counts) -> Option<u64>| files.values().filter_map(of).sum();
        changes.lines_added = lines(|counts| counts.0);
        changes.lines_removed = lines(|counts| counts.1);
        let kept = files.into_iter().take(Changes::FILES);
        changes.files = kept
            .map(|(path, (added, removed))| ChangedFile {
                path: path.to_string_lossy().into_owned(),
                added,
                removed,
            })
            .collect();
        Ok(Some(changes))
    }

    /// The files that differ now from the commit of this reading, except for new files that git does not know.
    fn differing_from_commit(&self, git: &Git) -> Result<BTreeMap<PathBuf, Counts>, GitError> {
        let from = match &self.commit {
            Some(commit) => commit.clone(),
            // The tree without files, in the hash function of the clone.
            None => git.run(["hash-object", "-t", "tree", "--stdin"])?.text(),
        };
        let output = git.run([
            "diff",
            "--numstat",
            "-z",
            "--no-renames",
            "--no-ext-diff",
            "--no-textconv",
            "--ignore-submodules=dirty",
            &from,
            "--",
        ])?;
        Ok(numstat(&output.stdout))
    }
}

/// Added and removed lines; `None` for what has no lines.
type Counts = (Option<u64>, Option<u64>);

/// The number of commits in a range, and the newest of them.
fn commits(git: &Git, range: &str) -> Result<(u64, Vec<Commit>), GitError> {
    let count = git.run(["rev-list", "--count", range, "--"])?.text();
    let most = format!("--max-count={}", Changes::COMMITS);
    let output = git.run([
        "log",
        "--no-show-signature",
        "-z",
        "--format=%H %s",
        &most,
        range,
        "--",
    ])?;
    let lines = output.stdout.split(|byte| *byte == 0);
    let commits = lines.filter_map(|line| {
        let line = String::from_utf8_lossy(line);
        let (id, subject) = line.split_once(' ')?;
        Some(Commit {
            id: id.to_owned(),
            subject: subject.chars().take(200).collect(),
        })
    });
    Ok((count.parse().unwrap_or_default(), commits.collect()))
}

fn stamp(path: &Path) -> Option<(u64, i64, i64)> {
    let file = path.symlink_metadata().ok()?;
    Some((file.len(), file.mtime(), file.mtime_nsec()))
}

/// The number of lines of a new file, counted as git counts them; `None` for what has no lines.
fn new_lines(path: &Path) -> Option<u64> {
    let file = path.symlink_metadata().ok()?;
    if !file.is_file() || file.len() > MAX_COUNTED {
        return None;
    }
    let mut content = Vec::new();
    let reader = std::fs::File::open(path).ok()?;
    reader.take(MAX_COUNTED).read_to_end(&mut content).ok()?;
    if content[..content.len().min(BINARY_LOOK)].contains(&0) {
        return None;
    }
    // A line feed at the end begins no line.
    let text = content.strip_suffix(b"\n").unwrap_or(&content);
    let lines = text.split(|byte| *byte == b'\n').count() as u64;
    Some(if content.is_empty() { 0 } else { lines })
}

/// The output of `git status --porcelain=v2 -z --branch`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    commit: Option<String>,
    /// The files that differ from the commit; true for those that git does not know.
    files: Vec<(PathBuf, bool)>,
}

impl Status {
    /// Parses the output; `None` if it names too many files. The format is in git-status(1), "Porcelain Format Version
    /// 2".
    fn parse(output: &[u8]) -> Option<Self> {
        let mut status = Self::default();
        let mut fields = output.split(|byte| *byte == 0);
        while let Some(field) = fields.next() {
            let (kind, rest) = field.split_at(field.len().min(2));
            let known = match kind {
                b"# " => {
                    if let Some(commit) = rest.strip_prefix(b"branch.oid ")
                        && commit != b"(initial)"
                    {
                        status.commit = Some(String::from_utf8_lossy(commit).into_owned());
                    }
                    continue;
                }
                b"? " => Some(rest),
                b"1 " => after_fields(rest, 7),
                b"2 " => {
                    // The path before the rename.
                    fields.next();
                    after_fields(rest, 8)
                }
                b"u " => after_fields(rest, 9),
                _ => continue,
            };
            if let Some(path) = known {
                status.files.push((path_of(path), kind == b"? "));
            }
            if status.files.len() > MAX_UNCOMMITTED {
                return None;
            }
        }
        Some(status)
    }
}

/// What follows this many fields that end with a space.
fn after_fields(text: &[u8], fields: usize) -> Option<&[u8]> {
    text.splitn(fields + 1, |byte| *byte == b' ').nth(fields)
}

fn path_of(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

/// The output of `git diff --numstat -z --no-renames`.
fn numstat(output: &[u8]) -> BTreeMap<PathBuf, Counts> {
    let lines = output.split(|byte| *byte == 0);
    let parsed = lines.filter_map(|line| {
        let mut parts = line.splitn(3, |byte| *byte == b'\t');
        let mut count = || -> Option<Option<u64>> {
            let text = OsStr::from_bytes(parts.next()?).to_str()?;
            // `-` stands for a binary file.
            Some(text.parse().ok())
        };
        let counts = (count()?, count()?);
        Some((path_of(parts.next()?), counts))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_status_is_read_with_all_its_kinds() {
        let output = b"# branch.oid 1234\0# branch.head main\0\
            1 .M N... 100644 100644 100644 aa bb a file with spaces\0\
            2 R. N... 100644 100644 100644 aa bb R100 new\0old\0\
            u UU N... 100644 100644 100644 100644 aa bb cc both\0\
            ? dir/\xff\0! ignored\0";
        let status = Status::parse(output).unwrap();
        assert_eq!(status.commit.as_deref(), Some("1234"));
        let files: Vec<_> = status
            .files
            .iter()
            .map(|(path, new)| (path.as_os_str().as_bytes(), *new))
            .collect();
        let expected: [(&[u8], bool); 4] = [
            (b"a file with spaces", false),
            (b"new", false),
            (b"both", false),
            (b"dir/\xff", true),
        ];
        assert_eq!(files, expected);
        assert_eq!(
            Status::parse(b"# branch.oid (initial)\0").unwrap(),
            Status::default()
        );
    }

    #[test]
    fn a_binary_file_has_no_lines() {
        let parsed = numstat(b"3\t1\ta b\0-\t-\tpicture.png\0");
        let expected = [
            ("a b".into(), (Some(3), Some(1))),
            ("picture.png".into(), (None, None)),
        ];
        assert_eq!(parsed, BTreeMap::from(expected));
    }

    proptest! {
        #[test]
        fn any_output_is_read_without_a_panic(output: Vec<u8>) {
            let _ = Status::parse(&output);
            let _ = numstat(&output);
        }
    }
}
