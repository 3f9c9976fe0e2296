//! Id of a cgroup → its path, still right after the cgroup was removed.
//!
//! A removed cgroup's id resolves no more, though its zombies stand. So ids are resolved when the kernel announces a
//! new cgroup and once for all at start, and are kept. What is kept is the path as it was then: a v1 cgroup that is
//! renamed later (v2 has no renaming) keeps its old name here.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    ops::Bound,
    os::{
        fd::AsFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirEntryExt as _, MetadataExt as _},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    handle,
    mounts::{Mount, Mounts, v1_pids_hierarchy},
    tree::Tree,
};

/// A tree of cgroups that numbers its own: an id means nothing without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hierarchy {
    /// cgroup v2 (hierarchy number 0).
    V2,
    /// The v1 hierarchy that the `pids` controller is on.
    V1Pids,
}

impl std::fmt::Display for Hierarchy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::V2 => "cgroup v2",
            Self::V1Pids => "cgroup v1 with pids",
        })
    }
}

/// One cgroup: its id is the inode number of its directory. Ids are not reused while the machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupId {
    /// Where it is.
    pub hierarchy: Hierarchy,
    /// Its number there.
    pub id: u64,
}

/// The root of every hierarchy: kernfs numbers from 1 and makes the root first.
/// <https://elixir.bootlin.com/linux/v6.12/source/fs/kernfs/dir.c> (`kernfs_create_root`)
pub(super) const ROOT: u64 = 1;

/// Bounds of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Cgroups that are kept at most.
    pub entries: usize,
    /// How long a cgroup is kept after it was first found to be gone. It must outlast the time from a death to its
    /// report.
    pub keep_gone: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 16_384, keep_gone: Duration::from_secs(600) }
    }
}

/// What was lost or let go, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ids that were asked for and neither kept nor to be resolved.
    pub unresolved: u64,
    /// Cgroups that were resolved but not kept, because [`Limits::entries`] were.
    pub turned_away: u64,
    /// Gone cgroups that were let go.
    pub evicted: u64,
}

/// What came of the announcement of a new cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Its path is known.
    Known,
    /// The kernel does not show it yet: call again with the next attempt's number after this long.
    Again(Duration),
    /// It was removed before it was seen, or ids cannot be resolved here.
    Unknown,
}

/// The kernel announces a cgroup right before it lets it be found, under a lock that may be held for longer.
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/cgroup/cgroup.c> (`cgroup_mkdir`)
const RETRIES: [Duration; 3] =
    [Duration::from_millis(1), Duration::from_millis(5), Duration::from_millis(20)];

/// Something about the cgroup hierarchies that keeps workloads from being named.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A file of /proc could not be read.
    #[error("{path}: {source}; processes cannot be told apart by their cgroups")]
    Proc {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No mount shows the whole hierarchy.
    #[error(
        "no mount shows the whole hierarchy of {0}, only a part of it; in a container, mount the host's /sys/fs/cgroup"
    )]
    OnlyPart(Hierarchy),
    /// Nothing is mounted.
    #[error(
        "neither cgroup v2 nor cgroup v1 with pids is mounted; mount one, e.g. mount -t cgroup2 none /sys/fs/cgroup"
    )]
    NotMounted,
    /// Ids do not resolve.
    #[error(
        "cgroup ids of {hierarchy} cannot be resolved ({source}): cgroups made from now on are only known by what \
         /proc says of them; grant CAP_DAC_READ_SEARCH"
    )]
    NoHandles {
        /// Where.
        hierarchy: Hierarchy,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Counts of one [`Cgroups::walk`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Cgroups that are known after it.
    pub known: usize,
    /// True where [`Limits::entries`] cut it short: the deepest cgroups are missing.
    pub cut: bool,
}

/// The cgroups of this machine.
#[derive(Debug)]
pub struct Cgroups {
    trees: Vec<Tree>,
    v1_pids_number: Option<u32>,
    pids_localevents: bool,
    known: BTreeMap<CgroupId, Entry>,
    /// Where the next [`Self::prune`] goes on.
    cursor: Option<CgroupId>,
    limits: Limits,
    counts: Counts,
    troubles: Vec<Trouble>,
}

#[derive(Debug)]
struct Entry {
    path: Arc<[u8]>,
    gone_since: Option<Instant>,
}

impl Cgroups {
    /// Finds the hierarchies that `proc` (usually /proc) shows. What is wrong is kept in [`Self::troubles`] and does
    /// not stop it: unnamed workloads are better than no zombies.
    #[must_use]
    pub fn open(proc: &Path, limits: Limits) -> Self {
        let mut this = Self::empty(limits);
        match fs::read_to_string(proc.join("cgroups")) {
            Ok(text) => this.v1_pids_number = v1_pids_hierarchy(&text),
            // A kernel without any v1 controller has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => this.troubles.push(Trouble::Proc { path: proc.join("cgroups"), source }),
        }
        let path = proc.join("self/mountinfo");
        let mounts = match fs::read(&path) {
            Ok(text) => Mounts::parse(&text),
            Err(source) => {
                this.troubles.push(Trouble::Proc { path, source });
                return this;
            }
        };
        this.pids_localevents = mounts.pids_localevents;
        this.open_whole(Hierarchy::V2, &mounts.v2);
        this.open_whole(Hierarchy::V1Pids, &mounts.v1_pids);
        if mounts == Mounts::default() {
            this.troubles.push(Trouble::NotMounted);
        }
        this
    }

    /// The hierarchies at these directories, taken as they are.
    ///
    /// # Errors
    /// A directory that cannot be opened.
    pub fn at(v2: Option<&Path>, v1_pids: Option<&Path>, limits: Limits) -> io::Result<Self> {
        let mut this = Self::empty(limits);
        for (hierarchy, point) in [(Hierarchy::V2, v2), (Hierarchy::V1Pids, v1_pids)] {
            if let Some(point) = point {
                this.trees.push(Tree::open(hierarchy, point)?);
            }
        }
        Ok(this)
    }

    const fn empty(limits: Limits) -> Self {
        Self {
            trees: Vec::new(),
            v1_pids_number: None,
            pids_localevents: false,
            known: BTreeMap::new(),
            cursor: None,
            limits,
            counts: Counts { unresolved: 0, turned_away: 0, evicted: 0 },
            troubles: Vec::new(),
        }
    }

    fn open_whole(&mut self, hierarchy: Hierarchy, mounts: &[Mount]) {
        let whole = mounts.iter().find_map(|mount| {
            let mut tree = Tree::open(hierarchy, &mount.point).ok()?;
            // A later mount may cover this one, and another cgroup namespace may call a part of it `/`.
            let metadata = tree.directory.metadata().ok()?;
            let whole = metadata.dev() == mount.device && metadata.ino() == ROOT;
            whole.then(|| {
                let error = handle::open_by_id(tree.directory.as_fd(), ROOT).err();
                tree.by_handle = error.is_none();
                (tree, error)
            })
        });
        match whole {
            Some((tree, error)) => {
                self.trees.push(tree);
                self.troubles.extend(error.map(|source| Trouble::NoHandles { hierarchy, source }));
            }
            None if mounts.is_empty() => {}
            None => self.troubles.push(Trouble::OnlyPart(hierarchy)),
        }
    }

    /// What is wrong with the hierarchies, to be reported once.
    #[must_use]
    pub fn troubles(&self) -> &[Trouble] {
        &self.troubles
    }

    /// The number of the v1 hierarchy that is read, as the kernel's tracepoints give it; v2's is 0. `None` where
    /// `pids` is on v2.
    #[must_use]
    pub const fn v1_pids_number(&self) -> Option<u32> {
        self.v1_pids_number
    }

    /// The hierarchy that the `pids` controller is on, and where it is mounted; `None` where no mount shows it whole.
    #[must_use]
    pub fn pids(&self) -> Option<(Hierarchy, &Path)> {
        let hierarchy = if self.v1_pids_number.is_some() { Hierarchy::V1Pids } else { Hierarchy::V2 };
        self.tree(hierarchy).map(|tree| (hierarchy, &*tree.point))
    }

    /// Whether version 2 counts refused forks at the cgroup of the forker, as it is mounted with `pids_localevents`.
    #[must_use]
    pub const fn pids_localevents(&self) -> bool {
        self.pids_localevents
    }

    /// The path in that hierarchy, of ids in v2 and in v1's `pids` (0 where there is none); see [`Self::path`].
    pub fn pids_path(&mut self, [v2, v1]: [u64; 2]) -> Option<Arc<[u8]>> {
        let id = match self.v1_pids_number {
            Some(_) => CgroupId { hierarchy: Hierarchy::V1Pids, id: v1 },
            None => CgroupId { hierarchy: Hierarchy::V2, id: v2 },
        };
        if id.id == 0 { None } else { self.path(id) }
    }

    /// The paths of all cgroups of a hierarchy that are kept; some may be gone.
    pub fn paths(&self, hierarchy: Hierarchy) -> impl Iterator<Item = (CgroupId, &Arc<[u8]>)> {
        let own = self.known.iter().filter(move |(id, _)| id.hierarchy == hierarchy);
        own.map(|(id, entry)| (*id, &entry.path))
    }

    /// What was lost or let go.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// How many cgroups are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// True where none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Keeps what is gone for longer than a zombie takes to be reported at this age.
    pub fn outlast(&mut self, age: Duration) {
        self.limits.keep_gone = Limits::default().keep_gone.max(age * 2);
    }

    /// True where so many are kept that it is time to [`Self::prune`].
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.known.len() >= self.limits.entries - self.limits.entries / 8
    }

    /// Learns every cgroup there is, the shallow ones first. Blocks: some 15 µs a cgroup.
    pub fn walk(&mut self) -> Walked {
        let mut queue: VecDeque<(Hierarchy, PathBuf, Vec<u8>)> =
            self.trees.iter().map(|tree| (tree.hierarchy, tree.point.clone(), Vec::new())).collect();
        let mut cut = false;
        while let Some((hierarchy, directory, path)) = queue.pop_front() {
            // It may vanish at any moment, and a path can be too long to be opened: then what is below is unknown.
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.map_while(Result::ok) {
                // The type is the directory entry's own: a symbolic link is none and is not followed.
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let mut path = path.clone();
                path.push(b'/');
                path.extend_from_slice(entry.file_name().as_bytes());
                if self.keep(CgroupId { hierarchy, id: entry.ino() }, Arc::from(&path[..])) {
                    queue.push_back((hierarchy, entry.path(), path));
                } else {
                    cut = true;
                    queue.clear();
                    break;
                }
            }
        }
        Walked { known: self.known.len(), cut }
    }

    /// Learns a cgroup that the kernel announced. `attempt` counts from 0; see [`Made::Again`].
    pub fn made(&mut self, id: CgroupId, attempt: usize) -> Made {
        if self.known.contains_key(&id) {
            return Made::Known;
        }
        let Some(tree) = self.tree(id.hierarchy).filter(|tree| tree.by_handle) else { return Made::Unknown };
        match tree.resolve(id.id) {
            Ok(path) => {
                self.keep(id, path.into());
                Made::Known
            }
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                RETRIES.get(attempt).map_or(Made::Unknown, |&after| Made::Again(after))
            }
            Err(_) => Made::Unknown,
        }
    }

    /// The path of a cgroup from the root of its hierarchy, from what is kept or else from the kernel. `None` where
    /// it was removed before it was known.
    pub fn path(&mut self, id: CgroupId) -> Option<Arc<[u8]>> {
        if id.id == ROOT {
            return Some(Arc::from(&b"/"[..]));
        }
        if let Some(entry) = self.known.get(&id) {
            return Some(Arc::clone(&entry.path));
        }
        let found = self.tree(id.hierarchy).filter(|tree| tree.by_handle).map(|tree| tree.resolve(id.id));
        let Some(Ok(path)) = found else {
            self.counts.unresolved += 1;
            return None;
        };
        let path: Arc<[u8]> = path.into();
        self.keep(id, Arc::clone(&path));
        Some(path)
    }

    /// True where the cgroup's path is kept.
    #[must_use]
    pub fn knows(&self, id: CgroupId) -> bool {
        id.id == ROOT || self.known.contains_key(&id)
    }

    /// True where the cgroup was removed. Where nobody can tell, it is there.
    #[must_use]
    pub fn is_gone(&self, id: CgroupId) -> bool {
        self.tree(id.hierarchy).is_some_and(|tree| tree.by_handle && tree.is_gone(id.id))
    }

    /// Looks at a sixteenth of what is kept (at all of it when crowded; some 3 µs each), and lets go what has been
    /// gone for [`Limits::keep_gone`] and is not `in_use` by a zombie that stands.
    pub fn prune(&mut self, now: Instant, in_use: impl Fn(CgroupId) -> bool) {
        let (share, cursor) = if self.is_crowded() {
            (self.known.len(), None)
        } else {
            (self.known.len().div_ceil(16), self.cursor)
        };
        let from = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let mut drop = Vec::new();
        let mut seen = 0;
        for (&id, entry) in self.known.range_mut((from, Bound::Unbounded)).take(share) {
            self.cursor = Some(id);
            seen += 1;
            // Without handles nobody can tell: then all is kept, and what is new is turned away.
            let tree = self.trees.iter().find(|tree| tree.hierarchy == id.hierarchy && tree.by_handle);
            if entry.gone_since.is_none() && tree.is_some_and(|tree| tree.is_gone(id.id)) {
                entry.gone_since = Some(now);
            }
            let long_gone =
                entry.gone_since.is_some_and(|since| now.duration_since(since) >= self.limits.keep_gone);
            if long_gone && !in_use(id) {
                drop.push(id);
            }
        }
        if seen < share {
            self.cursor = None;
        }
        for id in drop {
            self.known.remove(&id);
            self.counts.evicted += 1;
        }
    }

    fn tree(&self, hierarchy: Hierarchy) -> Option<&Tree> {
        self.trees.iter().find(|tree| tree.hierarchy == hierarchy)
    }

    /// False where there is no room for it.
    fn keep(&mut self, id: CgroupId, path: Arc<[u8]>) -> bool {
        if self.known.len() >= self.limits.entries && !self.known.contains_key(&id) {
            self.counts.turned_away += 1;
            return false;
        }
        self.known.insert(id, Entry { path, gone_since: None });
        true
    }
}

#[cfg(test)]
mod tests;
