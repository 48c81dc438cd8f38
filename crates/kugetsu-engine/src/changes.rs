//! What a turn changes in its git clone: one reading before the turn, and one after it to compare with.
//!
//! A comparison writes nothing into the clone, neither into its index nor into its objects. git works on a copy of the
//! index, and the content of the files that were uncommitted before the turn is kept in an object folder of its own.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::fsx::{self, FsError};
use crate::git::{Git, GitError, top_of};
use crate::upstream::upstream;
use kugetsu_api::{ChangedFile, Changes, Commit, Worktree};

/// The most uncommitted files that a reading takes up. A clone with more of them is not compared.
const MAX_UNCOMMITTED: usize = 10_000;
/// The largest uncommitted file whose lines are counted, in bytes.
const MAX_COUNTED: u64 = 4 << 20;
/// With a split index, git would write a part of the copied index into the clone.
const WHOLE_INDEX: &str = "core.splitIndex=false";
/// git refuses to add a file whose line ends it would change, if the user's configuration asks for that.
const ANY_LINE_ENDS: &str = "core.safecrlf=false";
/// How much content of uncommitted files is kept for a comparison, in bytes.
const MAX_KEPT: u64 = 64 << 20;

/// Why a clone could not be read or compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangesError {
    /// There is nothing to read.
    #[error("{} is not in a git clone", .0.display())]
    NoClone(PathBuf),
    /// The reading was of another clone.
    #[error("the clone was {}, and is now {}", .before.display(), .now.display())]
    OtherClone { before: PathBuf, now: PathBuf },
    /// The reading would take long.
    #[error("the clone {} has more than {MAX_UNCOMMITTED} files that are not committed", .0.display())]
    TooMany(PathBuf),
    /// git failed, or did not end in time.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A temporary file could not be written.
    #[error(transparent)]
    File(#[from] FsError),
    /// A temporary folder could not be made.
    #[error("a temporary file could not be written: {0}")]
    Temporary(#[from] io::Error),
}

/// The state of a clone before a turn.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// The top folder of the clone or worktree.
    top: PathBuf,
    /// The commit that is checked out; none before the first commit.
    commit: Option<String>,
    /// The files that differ from the commit, by their path below `top`.
    uncommitted: BTreeMap<PathBuf, Uncommitted>,
    /// The tree with the content of the uncommitted files, if it is kept. It is only in a [`Scratch`].
    tree: Option<String>,
}

/// A file that differs from its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Uncommitted {
    new: bool,
    /// Whether the tree of the reading has its content.
    kept: bool,
    /// Length and time of the last change; none if the file is gone.
    stamp: Option<(u64, i64, i64)>,
}

/// A folder for the index and the objects of comparisons. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Scratch(TempDir);

impl Scratch {
    /// A folder among the system's temporary files.
    pub(crate) fn temporary() -> io::Result<Self> {
        let private = std::fs::Permissions::from_mode(0o700);
        let mut builder = tempfile::Builder::new();
        builder.prefix("kugetsu-diff-").permissions(private);
        builder.tempdir().map(Self)
    }

    /// A folder with this name. One of an earlier turn that was killed is removed.
    pub(crate) fn at(folder: &Path, name: &str) -> Result<Self, ChangesError> {
        fsx::remove_dir_all_durable(&folder.join(name))?;
        let private = std::fs::Permissions::from_mode(0o700);
        let mut builder = tempfile::Builder::new();
        builder.prefix(name).rand_bytes(0).permissions(private);
        Ok(Self(builder.tempdir_in(folder)?))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

fn objects_in(scratch: &Path) -> PathBuf {
    scratch.join("objects")
}

/// git with a copy of its index in `scratch` that names these new files as well, so that they are in differences.
pub(crate) fn naming_new_files<'a>(
    git: &Git,
    top: &Path,
    scratch: &Path,
    new_files: impl Iterator<Item = &'a Path>,
) -> Result<Git, ChangesError> {
    let own = git.run(["rev-parse", "--git-path", "index"])?;
    let own = top.join(path_of(own.stdout.strip_suffix(b"\n").unwrap_or(&own.stdout)));
    let index = scratch.join("index");
    fsx::remove_file_durable(&index)?;
    if let Ok(mut file) = std::fs::File::open(&own) {
        let modified = file.metadata()?.modified()?;
        let copy = fsx::stage(&index, |mut copy| io::copy(&mut file, &mut copy).map(drop))?;
        // git reads a file again that changed about when the index was written.
        copy.commit_as_old_as(modified)?;
    }
    let git = git.clone().with("GIT_INDEX_FILE", index).configured(WHOLE_INDEX);
    // The id only has to be valid: git compares with the file itself.
    let empty = git.run(["hash-object", "--stdin"])?.text();
    let mut names = Vec::new();
    let mut repositories = Vec::new();
    for path in new_files {
        let path = path.as_os_str().as_bytes();
        if path.ends_with(b"/") {
            repositories.push(OsStr::from_bytes(path));
        } else {
            names.extend(format!("100644 {empty}\t").bytes().chain(path.iter().copied()));
            names.push(0);
        }
    }
    if !names.is_empty() {
        git.clone()
            .reading(names)
            .run(["update-index", "--add", "--replace", "-z", "--index-info"])?;
    }
    for repository in repositories {
        // git refuses a repository without a commit, which has nothing that could be shown.
        let args = ["--literal-pathspecs", "add", "--"].map(OsStr::new);
        git.ask(args.into_iter().chain([repository]))?;
    }
    Ok(git)
}

/// The files that git does not know and does not ignore. A git repository among them ends with `/`.
pub(crate) fn new_files(git: &Git) -> Result<Vec<PathBuf>, GitError> {
    let output = git.run(["ls-files", "--others", "--exclude-standard", "-z"])?;
    let names = output.stdout.split(|byte| *byte == 0);
    Ok(names.filter(|name| !name.is_empty()).map(path_of).collect())
}

impl Reading {
    /// Reads the clone that git runs in.
    pub(crate) fn take(git: &Git) -> Result<Self, ChangesError> {
        let top = top_of(git.folder()).ok_or_else(|| ChangesError::NoClone(git.folder().to_owned()))?;
        let output = git.run([
            "status",
            "--porcelain=v2",
            "-z",
            "--branch",
            "--no-renames",
            "--untracked-files=all",
            "--ignore-submodules=dirty",
        ])?;
        let status = Status::parse(&output.stdout).ok_or_else(|| ChangesError::TooMany(top.to_owned()))?;
        let uncommitted = status.files.into_iter().map(|(path, state)| {
            // A path below a link to a folder can exist although the file is gone.
            let stamp = stamp(&top.join(&path)).filter(|_| state != State::Gone);
            let new = state == State::New;
            let kept = false;
            (path, Uncommitted { new, kept, stamp })
        });
        Ok(Self {
            uncommitted: uncommitted.collect(),
            commit: status.commit,
            tree: None,
            top: top.to_owned(),
        })
    }

    /// [`Reading::take`] that also keeps the content of the uncommitted files, in `scratch`. If that fails, the lines of
    /// these files are not counted.
    pub(crate) fn keep(git: &Git, scratch: &Path) -> Result<Self, ChangesError> {
        let mut reading = Self::take(git)?;
        if let Err(error) = reading.keep_content(git, scratch) {
            tracing::warn!("the lines of uncommitted files are not counted: {error}");
            for file in reading.uncommitted.values_mut() {
                file.kept = false;
            }
        }
        Ok(reading)
    }

    fn keep_content(&mut self, git: &Git, scratch: &Path) -> Result<(), ChangesError> {
        if self.uncommitted.is_empty() {
            return Ok(());
        }
        let objects = objects_in(scratch);
        fsx::create_dir_all_volatile(scratch, &objects)?;
        let git = git
            .moved_to(&self.top)
            .with("GIT_OBJECT_DIRECTORY", objects)
            .with("GIT_ALTERNATE_OBJECT_DIRECTORIES", alternate(&objects_of(git)?))
            .with("GIT_INDEX_FILE", scratch.join("index"))
            .configured(WHOLE_INDEX)
            .configured(ANY_LINE_ENDS);
        if let Some(commit) = &self.commit {
            git.run(["read-tree", commit])?;
        }
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        let mut room = MAX_KEPT;
        for (path, file) in &mut self.uncommitted {
            let whole = self.top.join(path);
            let length = file.stamp.map_or(0, |(length, ..)| length);
            file.kept = length <= room
                && (file.stamp.is_none() || is_countable(&whole) || (!file.new && whole.is_dir()));
            if file.kept {
                room -= length;
                let names = if file.stamp.is_none() {
                    &mut gone
                } else {
                    &mut there
                };
                names.extend_from_slice(path.as_os_str().as_bytes());
                names.push(0);
            }
        }
        for (how, names) in [("--force-remove", gone), ("--replace", there)] {
            if !names.is_empty() {
                let args = ["update-index", "--add", "--remove", how, "-z", "--stdin"];
                git.clone().reading(names).run(args)?;
            }
        }
        self.tree = Some(git.run(["write-tree", "--missing-ok"])?.text());
        Ok(())
    }

    /// The clone with this top as it was when the commit was checked out and nothing was uncommitted.
    pub(crate) fn of_commit(top: &Path, commit: &str) -> Self {
        Self {
            top: top.to_owned(),
            commit: Some(commit.to_owned()),
            uncommitted: BTreeMap::new(),
            tree: None,
        }
    }

    /// The commit that was checked out.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// The paths of the uncommitted files.
    pub(crate) fn uncommitted(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.uncommitted.keys().map(PathBuf::as_path)
    }

    /// Compares the clone with this reading of it. `scratch` is the folder of the reading, or an empty one; `worktree`
    /// is the worktree that the session has of its own.
    pub(crate) fn compare(
        &self,
        git: &Git,
        scratch: &Path,
        worktree: Option<&Worktree>,
    ) -> Result<Changes, ChangesError> {
        let after = Self::take(git)?;
        if after.top != self.top {
            return Err(ChangesError::OtherClone {
                before: self.top.clone(),
                now: after.top,
            });
        }
        let mut changes = Changes {
            before: self.commit.clone(),
            after: after.commit.clone(),
            ..Changes::default()
        };
        if after.commit == self.commit && after.has_same_files(self) {
            return Ok(changes);
        }
        let files = self.differing_files(git, scratch, &after)?;
        if let Some(to) = after.commit.as_ref().filter(|_| after.commit != self.commit) {
            let range = self
                .commit
                .as_ref()
                .map_or_else(|| to.clone(), |from| format!("{from}..{to}"));
            let others = upstream(git, to, worktree).unwrap_or_else(|error| {
                tracing::warn!("commits of others count as the turn's: {error}");
                Vec::new()
            });
            (changes.commit_count, changes.commits) = commits(git, &range, &others)?;
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
        Ok(changes)
    }

    fn has_same_files(&self, other: &Self) -> bool {
        let same = |(one, other): ((&PathBuf, &Uncommitted), (&PathBuf, &Uncommitted))| {
            one.0 == other.0 && one.1.new == other.1.new && one.1.stamp == other.1.stamp
        };
        self.uncommitted.len() == other.uncommitted.len()
            && self.uncommitted.iter().zip(&other.uncommitted).all(same)
    }

    /// The files that differ now, at the second reading, from this one.
    fn differing_files(
        &self,
        git: &Git,
        scratch: &Path,
        after: &Self,
    ) -> Result<BTreeMap<PathBuf, Counts>, ChangesError> {
        let new = after.uncommitted.iter().filter(|(_, file)| file.new);
        let (counted, uncounted): (Vec<_>, Vec<_>) = new
            .map(|(path, _)| path.as_path())
            .partition(|path| is_countable(&self.top.join(path)));
        let git = git.moved_to(&self.top);
        let mut git = naming_new_files(&git, &self.top, scratch, counted.into_iter())?;
        let from = match (&self.tree, &self.commit) {
            (Some(tree), _) => {
                let kept = alternate(&objects_in(scratch));
                git = git.with("GIT_ALTERNATE_OBJECT_DIRECTORIES", kept);
                tree.clone()
            }
            (None, Some(commit)) => commit.clone(),
            // The tree without files, in the hash function of the clone.
            (None, None) => git.run(["hash-object", "-t", "tree", "--stdin"])?.text(),
        };
        let output = git.run([
            "diff",
            "--numstat",
            "-z",
            "--no-renames",
            "--no-ext-diff",
            "--no-textconv",
            "--submodule=short",
            "--ignore-submodules=dirty",
            &from,
            "--",
        ])?;
        let mut files = numstat(&output.stdout);
        files.extend(
            uncounted
                .into_iter()
                .map(|path| (path.to_owned(), (None, Some(0)))),
        );
        for (path, before) in &self.uncommitted {
            if stamp(&self.top.join(path)) == before.stamp {
                // git takes a new file that is ignored now for one that is gone.
                files.remove(path);
            } else if !before.kept {
                files.insert(path.clone(), Counts::default());
            }
        }
        Ok(files)
    }
}

/// The folder of the clone's objects.
fn objects_of(git: &Git) -> Result<PathBuf, GitError> {
    let output = git.run(["rev-parse", "--path-format=absolute", "--git-path", "objects"])?;
    Ok(path_of(
        output.stdout.strip_suffix(b"\n").unwrap_or(&output.stdout),
    ))
}

/// A folder as git reads it in a list of folders, where a colon would end it.
fn alternate(folder: &Path) -> OsString {
    let mut quoted = vec![b'"'];
    for byte in folder.as_os_str().as_bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', *byte]),
            b'\n' => quoted.extend(*b"\\n"),
            _ => quoted.push(*byte),
        }
    }
    quoted.push(b'"');
    OsString::from_vec(quoted)
}

/// Added and removed lines; `None` for what has no lines.
type Counts = (Option<u64>, Option<u64>);

/// The number of commits in a range that are not in the history of `others`, and the newest of them.
fn commits(git: &Git, range: &str, others: &[String]) -> Result<(u64, Vec<Commit>), GitError> {
    let mut wanted = vec![range, "--not"];
    wanted.extend(others.iter().map(String::as_str));
    wanted.push("--");
    let wanted = || wanted.iter().copied();
    let count = ["rev-list", "--count"].into_iter().chain(wanted());
    let count = git.run(count)?.text();
    let most = format!("--max-count={}", Changes::COMMITS);
    let log = ["log", "--no-show-signature", "-z", "--format=%H %s", &most];
    let output = git.run(log.into_iter().chain(wanted()))?;
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

/// Whether git can read the file quickly.
fn is_countable(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|file| {
        file.is_symlink()
            || (file.is_file() && file.len() <= MAX_COUNTED && std::fs::File::open(path).is_ok())
    })
}

/// The output of `git status --porcelain=v2 -z --branch`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    commit: Option<String>,
    /// The files that differ from the commit.
    files: Vec<(PathBuf, State)>,
}

/// How a file differs from the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// git does not know it.
    New,
    Gone,
    Changed,
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
                let state = match (kind, rest) {
                    (b"? ", _) => State::New,
                    (b"1 " | b"2 ", [_, b'D', ..] | [b'D', b'.', ..]) => State::Gone,
                    _ => State::Changed,
                };
                status.files.push((path_of(path), state));
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
            1 .D N... 100644 100644 000000 aa bb gone\0\
            2 R. N... 100644 100644 100644 aa bb R100 new\0old\0\
            u UU N... 100644 100644 100644 100644 aa bb cc both\0\
            ? dir/\xff\0! ignored\0";
        let status = Status::parse(output).unwrap();
        assert_eq!(status.commit.as_deref(), Some("1234"));
        let files: Vec<_> = status
            .files
            .iter()
            .map(|(path, state)| (path.as_os_str().as_bytes(), *state))
            .collect();
        let expected: [(&[u8], State); 5] = [
            (b"a file with spaces", State::Changed),
            (b"gone", State::Gone),
            (b"new", State::Changed),
            (b"both", State::Changed),
            (b"dir/\xff", State::New),
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
