//! The records in memory, for a process that asks for all of them again and again.
//!
//! The system tells what has changed in the folders of the records (inotify, on Linux). Where a file was written, the file
//! is read again; where a name has come or gone, the walk of [`super::listing`] is made again, and only files that are
//! new are read. A folder is watched before it is walked and a file before it is read, so no change is missed. Where
//! that cannot be relied on, there is no cache: on other systems, on file systems that other machines write to, and when
//! there are more folders than the system lets a user watch.

use super::Store;
#[cfg(target_os = "linux")]
pub(crate) use inotify::RecordCache;
#[cfg(not(target_os = "linux"))]
pub(crate) use none::RecordCache;

#[cfg(not(target_os = "linux"))]
mod none {
    use super::super::listing::Broken;
    use super::Store;
    use crate::store::StoreError;
    use kugetsu_api::SessionRecord;

    /// Nothing: the files are read each time.
    pub(crate) struct RecordCache<K, T>(std::marker::PhantomData<(K, T)>);

    impl<K, T> Default for RecordCache<K, T> {
        fn default() -> Self {
            Self(std::marker::PhantomData)
        }
    }

    impl<K, T> RecordCache<K, T> {
        pub(crate) fn fold(
            &mut self,
            _: &Store,
            _: impl Fn(SessionRecord) -> K + Sync,
            _: impl Fn(&mut T, &K) -> bool,
            _: impl FnMut(&T),
        ) -> Result<Option<Vec<Broken>>, StoreError> {
            Ok(None)
        }
    }
}

#[cfg(target_os = "linux")]
mod inotify {
    use std::collections::{BTreeSet, HashMap, HashSet};
    use std::ffi::OsStr;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
    use rustix::io::Errno;

    use super::super::layout::{Entry, ROLES, RoleEntry, Slot};
    use super::super::listing::{BLOCK, Broken, Walk, WalkedKind, read_file};
    use super::Store;
    use crate::store::StoreError;
    use kugetsu_api::{BaseRecord, RepoRef, SessionRecord};

    /// What changes the names in a folder or the content of its files.
    const WATCHED: WatchFlags = WatchFlags::CREATE
        .union(WatchFlags::DELETE)
        .union(WatchFlags::MOVED_FROM)
        .union(WatchFlags::MOVED_TO)
        .union(WatchFlags::MODIFY)
        .union(WatchFlags::ATTRIB)
        .union(WatchFlags::MOVE_SELF)
        .union(WatchFlags::ONLYDIR)
        .union(WatchFlags::DONT_FOLLOW);
    /// How often the names may change while they are read.
    const WALKS: usize = 5;
    /// The file systems that only this machine writes to, as `statfs` calls them: ext4, XFS, Btrfs, tmpfs, ramfs,
    /// overlayfs, ZFS, F2FS and bcachefs.
    const LOCAL: [u32; 9] = [
        0xef53,
        0x5846_5342,
        0x9123_683e,
        0x0102_1994,
        0x8584_58f6,
        0x794c_7630,
        0x2fc1_2fc1,
        0xf2f5_2010,
        0xca45_1a4e,
    ];

    /// Of each record a `K`, and of each block of records the `T` to which they were added.
    #[derive(Default)]
    pub(crate) enum RecordCache<K, T> {
        /// Nothing was asked yet.
        #[default]
        Empty,
        /// It cannot be relied on here.
        Unusable,
        Filled(Box<Watched<K, T>>),
    }

    pub(crate) struct Watched<K, T> {
        inotify: OwnedFd,
        /// The folder of all records.
        root: Option<Identity>,
        watches: HashMap<i32, Dir>,
        numbers: HashMap<PathBuf, i32>,
        /// Whether other files or folders may be there than at the last walk.
        names_changed: bool,
        /// Whether the system has not told everything.
        has_lost_track: bool,
        /// The sessions in their order, and the bases.
        sessions: Vec<Kept<K>>,
        bases: Vec<Kept<()>>,
        places: HashMap<PathBuf, Place>,
        /// Files that are to be read.
        unread: BTreeSet<Place>,
        /// What the walk could not read.
        broken: Vec<Broken>,
        /// The sum of each block of sessions, if it is still right.
        sums: Vec<Option<T>>,
    }

    /// The place of a file in one of the lists.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Place {
        Base(usize),
        Session(usize),
    }

    /// What tells two folders at the same path apart: device and number.
    type Identity = (u64, u64);

    /// Of the uppermost folder, no watched folder tells that another one has taken its place.
    fn root_of(store: &Store) -> Option<Identity> {
        let found = std::fs::symlink_metadata(store.sessions()).ok()?;
        Some((found.dev(), found.ino()))
    }

    struct Dir {
        path: PathBuf,
        kind: WalkedKind,
    }

    struct Kept<K> {
        of: Arc<(PathBuf, RepoRef)>,
        slot: Slot,
        content: Content<K>,
    }

    enum Content<K> {
        Record(K),
        Broken(Broken),
        /// It was removed after the walk.
        Gone,
        Unread,
    }

    /// The cache cannot be relied on. Why.
    struct Unusable(String);

    impl From<Errno> for Unusable {
        fn from(errno: Errno) -> Self {
            Self(std::io::Error::from(errno).to_string())
        }
    }

    /// Why the cache could not be brought up to date.
    enum Failed {
        Unusable(Unusable),
        Store(StoreError),
        /// The names change all the time.
        Restless,
    }

    impl<K: Send, T: Default> RecordCache<K, T> {
        /// Folds what is kept of each session's record, in the order and in the blocks of [`Store::fold_sessions`].
        /// `add` says whether what it has added stays right until a file changes. Returns the files and folders that
        /// could not be read, or `None` if there is no cache.
        pub(crate) fn fold(
            &mut self,
            store: &Store,
            keep: impl Fn(SessionRecord) -> K + Sync,
            add: impl Fn(&mut T, &K) -> bool,
            mut take: impl FnMut(&T),
        ) -> Result<Option<Vec<Broken>>, StoreError> {
            if let Self::Filled(watched) = self {
                watched.listen();
                if watched.has_lost_track || watched.root != root_of(store) {
                    *self = Self::Empty;
                }
            }
            if matches!(self, Self::Empty) {
                match Watched::new(store) {
                    Ok(watched) => *self = Self::Filled(Box::new(watched)),
                    Err(Unusable(why)) => self.give_up(&why),
                }
            }
            let Self::Filled(watched) = self else {
                return Ok(None);
            };
            match watched.refresh(store, &keep) {
                Ok(()) => {}
                Err(Failed::Unusable(Unusable(why))) => {
                    self.give_up(&why);
                    return Ok(None);
                }
                Err(Failed::Restless) => return Ok(None),
                Err(Failed::Store(error)) => return Err(error),
            }
            for (block, sum) in watched.sessions.chunks(BLOCK).zip(&mut watched.sums) {
                if let Some(sum) = sum {
                    take(sum);
                    continue;
                }
                let (mut made, mut is_lasting) = (T::default(), true);
                for kept in block {
                    if let Content::Record(kept) = &kept.content {
                        is_lasting &= add(&mut made, kept);
                    }
                }
                take(&made);
                *sum = Some(made).filter(|_| is_lasting);
            }
            Ok(Some(watched.all_broken()))
        }

        fn give_up(&mut self, why: &str) {
            tracing::warn!("records are read for every query: their folders cannot be watched: {why}");
            *self = Self::Unusable;
        }
    }

    impl<K: Send, T: Default> Watched<K, T> {
        fn new(store: &Store) -> Result<Self, Unusable> {
            let found = rustix::fs::statfs(store.home())?;
            if !u32::try_from(found.f_type).is_ok_and(|kind| LOCAL.contains(&kind)) {
                return Err(Unusable(format!(
                    "another machine may write to this file system (type {:#x})",
                    found.f_type
                )));
            }
            Ok(Self {
                root: root_of(store),
                inotify: inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?,
                watches: HashMap::new(),
                numbers: HashMap::new(),
                names_changed: true,
                has_lost_track: false,
                sessions: Vec::new(),
                bases: Vec::new(),
                places: HashMap::new(),
                unread: BTreeSet::new(),
                broken: Vec::new(),
                sums: Vec::new(),
            })
        }

        /// Takes note of what has happened since the last time.
        fn listen(&mut self) {
            let mut buffer = [MaybeUninit::uninit(); 16 << 10];
            let events: Vec<(i32, ReadFlags, Option<PathBuf>)> = {
                let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
                std::iter::from_fn(|| {
                    loop {
                        match reader.next() {
                            Ok(event) => {
                                let name = event.file_name();
                                let name = name.map(|name| OsStr::from_bytes(name.to_bytes()).into());
                                return Some((event.wd(), event.events(), name));
                            }
                            Err(Errno::INTR) => {}
                            Err(Errno::AGAIN) => return None,
                            Err(_) => return Some((-1, ReadFlags::QUEUE_OVERFLOW, None)),
                        }
                    }
                })
                .take(1 << 20)
                .collect()
            };
            for (watch, what, name) in events {
                self.happened(watch, what, name.as_deref());
            }
        }

        fn happened(&mut self, watch: i32, what: ReadFlags, name: Option<&Path>) {
            if what.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT) {
                self.has_lost_track = true;
                return;
            }
            let Some(dir) = self.watches.get(&watch) else {
                return;
            };
            let (Some(name), false) = (name, what.intersects(ReadFlags::MOVE_SELF | ReadFlags::IGNORED))
            else {
                let path = dir.path.clone();
                self.forget_below(&path);
                return;
            };
            if dir.kind == WalkedKind::Issue && name != Path::new(ROLES) {
                return;
            }
            let path = dir.path.join(name);
            let has_gone = what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
            if what.contains(ReadFlags::ISDIR) {
                if has_gone || what.contains(ReadFlags::MOVED_TO) {
                    self.forget_below(&path);
                }
                self.names_changed = true;
                return;
            }
            let shape = match (name.to_str(), dir.kind) {
                (None, _) => None,
                (Some(name), WalkedKind::Records) => Some(Entry::of(name) == Entry::Other),
                (Some(name), WalkedKind::Roles) => Some(RoleEntry::of(name) == RoleEntry::Other),
                (Some(_), WalkedKind::Upper) => Some(true),
                (Some(_), WalkedKind::Issue) => Some(false),
            };
            let is_plain_or_missing = || match std::fs::symlink_metadata(&path) {
                Ok(found) => found.is_file(),
                Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            };
            if let Some(place) = self.places.get(&path) {
                self.unread.insert(*place);
                self.names_changed |= has_gone || !is_plain_or_missing();
                return;
            }
            // A file that is not named like a record, such as a temporary one, is none of the walk's business.
            let is_nothing = shape == Some(true)
                && is_plain_or_missing()
                && !self.broken.iter().any(|(broken, _)| *broken == path);
            self.names_changed |= !is_nothing;
        }

        /// Watches and keeps nothing any more of a folder that is no longer what it was.
        fn forget_below(&mut self, folder: &Path) {
            self.names_changed = true;
            let inotify = &self.inotify;
            self.numbers.retain(|path, watch| {
                let is_below = path.starts_with(folder);
                if is_below {
                    self.watches.remove(watch);
                    let _ = inotify::remove_watch(inotify, *watch);
                }
                !is_below
            });
            let below = self.places.iter().filter(|(path, _)| path.starts_with(folder));
            self.unread.extend(below.map(|(_, place)| *place));
        }

        /// Watches a folder as long as it has this path. Returns whether something may have come that the walk has not
        /// seen, because the folder was not watched before.
        fn watch(&mut self, path: PathBuf, kind: WalkedKind) -> Result<bool, Unusable> {
            if self.numbers.contains_key(&path) {
                return Ok(false);
            }
            let watch = match inotify::add_watch(&self.inotify, &path, WATCHED) {
                Ok(watch) => watch,
                // It has gone, or something else is there: the next walk sees it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(true),
                Err(errno) => return Err(errno.into()),
            };
            let dir = Dir {
                path: path.clone(),
                kind,
            };
            if let Some(before) = self.watches.insert(watch, dir) {
                self.numbers.remove(&before.path);
            }
            // Of the folder of an issue, only one name is of interest.
            let may_hold_more = kind != WalkedKind::Issue || path.join(ROLES).symlink_metadata().is_ok();
            self.numbers.insert(path, watch);
            Ok(may_hold_more)
        }

        /// Reads what has changed.
        fn refresh(
            &mut self,
            store: &Store,
            keep: &(impl Fn(SessionRecord) -> K + Sync),
        ) -> Result<(), Failed> {
            if self.names_changed {
                self.walk(store)?;
            }
            let broken = |place: &Place| match place {
                Place::Base(at) => self.bases[*at].content.broken().is_some(),
                Place::Session(at) => self.sessions[*at].content.broken().is_some(),
            };
            // What hinders the reading of a file need not be in its folder.
            self.unread.extend(self.places.values().copied().filter(broken));
            self.read(keep);
            Ok(())
        }

        fn walk(&mut self, store: &Store) -> Result<(), Failed> {
            for _ in 0..WALKS {
                let mut walk = store.walk_for_watching().map_err(Failed::Store)?;
                let mut has_new = false;
                for (path, kind) in std::mem::take(&mut walk.dirs) {
                    has_new |= self.watch(path, kind).map_err(Failed::Unusable)?;
                }
                // What happened before a folder was watched is seen by a second walk only.
                if !has_new {
                    self.names_changed = false;
                    self.take_names(walk);
                    return Ok(());
                }
            }
            Err(Failed::Restless)
        }

        /// Keeps what is known of the files that the walk has found.
        fn take_names(&mut self, walk: Walk) {
            let unread = std::mem::take(&mut self.unread);
            let mut known = (
                std::mem::take(&mut self.bases),
                std::mem::take(&mut self.sessions),
            );
            let mut places = std::mem::take(&mut self.places);
            let mut contents = |path: &Path| {
                let place = places.remove(path).filter(|place| !unread.contains(place));
                match place {
                    Some(Place::Base(at)) => (Some(known.0[at].content.take()), None),
                    Some(Place::Session(at)) => (None, Some(known.1[at].content.take())),
                    None => (None, None),
                }
            };
            for folder in &walk.folders {
                let of = Arc::new((folder.path().to_owned(), folder.repo().clone()));
                for slot in folder.slots() {
                    let path = of.0.join(slot.record());
                    let (base, session) = contents(&path);
                    let (of, slot) = (Arc::clone(&of), slot.clone());
                    let place = if slot == Slot::Base {
                        let content = base.unwrap_or(Content::Unread);
                        self.bases.push(Kept { of, slot, content });
                        Place::Base(self.bases.len() - 1)
                    } else {
                        let content = session.unwrap_or(Content::Unread);
                        self.sessions.push(Kept { of, slot, content });
                        Place::Session(self.sessions.len() - 1)
                    };
                    self.places.insert(path, place);
                }
            }
            let bases = self.bases.iter().enumerate();
            let bases = bases.filter(|(_, kept)| matches!(kept.content, Content::Unread));
            self.unread.extend(bases.map(|(at, _)| Place::Base(at)));
            let sessions = self.sessions.iter().enumerate();
            let sessions = sessions.filter(|(_, kept)| matches!(kept.content, Content::Unread));
            self.unread.extend(sessions.map(|(at, _)| Place::Session(at)));
            self.broken = walk.all_broken();
            self.sums.clear();
            self.sums
                .resize_with(self.sessions.len().div_ceil(BLOCK), || None);
        }

        /// Reads all files that are to be read.
        fn read(&mut self, keep: &(impl Fn(SessionRecord) -> K + Sync)) {
            let mut sessions = HashSet::new();
            for place in std::mem::take(&mut self.unread) {
                match place {
                    Place::Base(at) => {
                        let kept = &mut self.bases[at];
                        kept.content = content::<BaseRecord, _>(&kept.of, &kept.slot, |_| ());
                    }
                    Place::Session(at) => {
                        self.sums[at / BLOCK] = None;
                        sessions.insert(at);
                    }
                }
            }
            let wanted = self.sessions.iter_mut().enumerate();
            let mut wanted: Vec<_> = wanted
                .filter_map(|(at, kept)| sessions.contains(&at).then_some(kept))
                .collect();
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let share = wanted.len().div_ceil(threads.clamp(1, 8)).max(BLOCK);
            let read = |share: &mut [&mut Kept<K>]| {
                for kept in share {
                    kept.content = content(&kept.of, &kept.slot, keep);
                }
            };
            if wanted.len() <= BLOCK {
                read(&mut wanted);
                return;
            }
            std::thread::scope(|scope| {
                for share in wanted.chunks_mut(share) {
                    scope.spawn(move || read(share));
                }
            });
        }

        fn all_broken(&self) -> Vec<Broken> {
            let sessions = self.sessions.iter().filter_map(|kept| kept.content.broken());
            let bases = self.bases.iter().filter_map(|kept| kept.content.broken());
            let mut broken: Vec<Broken> = sessions.chain(bases).chain(&self.broken).cloned().collect();
            broken.sort();
            broken
        }
    }

    impl<K> Content<K> {
        fn take(&mut self) -> Self {
            std::mem::replace(self, Self::Unread)
        }

        fn broken(&self) -> Option<&Broken> {
            match self {
                Self::Broken(broken) => Some(broken),
                Self::Record(_) | Self::Gone | Self::Unread => None,
            }
        }
    }

    fn content<R: super::super::records::Record, K>(
        of: &(PathBuf, RepoRef),
        slot: &Slot,
        keep: impl Fn(R) -> K,
    ) -> Content<K> {
        match read_file::<R>(&of.0, &of.1, slot) {
            Ok(Some(record)) => Content::Record(keep(record)),
            Ok(None) => Content::Gone,
            Err(broken) => Content::Broken(broken),
        }
    }
}
