//! State that outlives the daemon: its maps, programs and links, pinned in a BPF file system. While no daemon runs,
//! the programs go on recording; the next one finds everything as it was.
//!
//! A set lies in a folder of its own below one root. It is complete once its fingerprint is written, which is done
//! last: whatever a killed daemon left half-done is never taken for a set. A set that is not ours (another version's,
//! another configuration's) is removed only when ours is attached and has taken its census, so that there is no
//! moment in which nobody looks.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    maps::{Array, Map, MapData, MapInfo, PerCpuArray},
    pin::PinError,
    programs::{BtfTracePoint, links::PinnedLink},
};
use reaper_ebpf::{ABI, counter, meta};
use rustix::{
    fs::{FlockOperation, flock, statfs},
    io::Errno,
    mount::{MountFlags, mount},
};

use super::{KernelError, pinned_program::PinnedProgram};
use crate::trust::{self, Exposed};

/// Where a BPF file system is mounted by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// The magic number of one: `BPF_FS_MAGIC` in linux/magic.h.
const MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

/// The maps of a set, all of the object's but its constants.
pub(super) const MAPS: &[&str] = &[
    "ANCESTORS",
    "ANCESTOR_SCRATCH",
    "ARGUMENT_SCRATCH",
    "AWAITED",
    "AYA_LOGS",
    "CMDLINES",
    "CMDLINE_SCRATCH",
    "COPIED",
    "COPYING",
    "COPY_SCRATCH",
    "COUNTERS",
    "DYING",
    "EXECUTABLES",
    "EXIT_STAGES",
    "FOLLOWED",
    "FORKERS",
    "FORK_STAGES",
    "LEDGER",
    "LOST",
    "META",
    "NATIVES",
    "NOTICES",
    "ORIGINS",
    "OVERFLOW",
    "PROBATION",
    "REAP_TIMES",
    "REFUSED",
    "SEED",
    "STACK_SCRATCH",
    "WAKES",
    "WATCHED",
];

/// The folder with the sets, locked as long as this is there: daemons that know nothing of each other, because each has
/// its own runtime directory, may still have been told to pin in the same place.
#[derive(Clone)]
pub(super) struct Store {
    root: PathBuf,
    _lock: Arc<File>,
}

/// One set.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) folder: PathBuf,
}

impl Store {
    /// Opens it, and makes it where it is missing, the BPF file system included.
    pub(super) fn open(root: &Path) -> Result<Self, KernelError> {
        if !is_bpffs(root)? {
            if !root.starts_with(BPFFS) {
                return Err(KernelError::Pins {
                    path: root.to_owned(),
                    problem: "it is in no BPF file system".to_owned(),
                    remedy: format!("choose a path below {BPFFS}, mount one there, or give --no-persist"),
                });
            }
            mount("bpf", BPFFS, "bpf", MountFlags::empty(), None).map_err(|error| {
                failed(Path::new(BPFFS), "mounting a BPF file system there", error.into())
            })?;
            tracing::info!(path = BPFFS, "mounted a BPF file system");
        }
        make(root)?;
        Self::locked(root)
    }

    fn locked(root: &Path) -> Result<Self, KernelError> {
        let folder = File::open(root).map_err(|error| failed(root, "opening it", error))?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: Arc::new(folder) }),
            Err(Errno::WOULDBLOCK) => Err(KernelError::Pins {
                path: root.to_owned(),
                problem: "another reaper uses what is pinned there".to_owned(),
                remedy: "stop that one, or choose another pin_path".to_owned(),
            }),
            Err(error) => Err(failed(root, "locking it", error.into())),
        }
    }

    /// The complete set that was made from the same object, for the same kernel and with the same settings.
    pub(super) fn find(&self, fingerprint: u64) -> Result<Option<Set>, KernelError> {
        for set in self.sets()? {
            check_owner(&set.folder)?;
            if set.fingerprint() == Some(fingerprint) {
                return Ok(Some(set));
            }
        }
        Ok(None)
    }

    /// A folder for a new one.
    pub(super) fn make(&self) -> Result<Set, KernelError> {
        // A BPF file system takes no name with a dot in it.
        let mut names = std::iter::once(ABI.to_string()).chain((1..).map(|number| format!("{ABI}-{number}")));
        let folder = names.find_map(|name| {
            let folder = self.root.join(name);
            (!folder.exists()).then_some(folder)
        });
        // The numbers do not end before one is free.
        let folder = folder.unwrap_or_default();
        make(&folder)?;
        Ok(Set { folder })
    }

    /// Removes what starts that were killed or failed have left.
    pub(super) fn remove_incomplete(&self) -> Result<(), KernelError> {
        for set in self.sets()?.iter().filter(|set| set.fingerprint().is_none()) {
            check_owner(&set.folder)?;
            set.remove()?;
            tracing::info!(path = %set.folder.display(), "removed what an interrupted start had pinned");
        }
        Ok(())
    }

    /// The sets beside this one.
    pub(super) fn others(&self, own: &Set) -> Result<Vec<Set>, KernelError> {
        let mut sets = self.sets()?;
        sets.retain(|set| set.folder != own.folder);
        Ok(sets)
    }

    fn sets(&self) -> Result<Vec<Set>, KernelError> {
        let folders = fs::read_dir(&self.root).map_err(|error| failed(&self.root, "listing it", error))?;
        // Somebody may have named a folder that others pin in, too: nothing of theirs is touched.
        Ok(folders.flatten().map(|entry| Set { folder: entry.path() }).filter(Set::is_ours).collect())
    }
}

impl Set {
    /// Whether its name is a set's, an ABI's number with perhaps another behind it, and there is nothing in it but
    /// what a set has. One that is empty was being made.
    fn is_ours(&self) -> bool {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let name = self.folder.file_name().and_then(|name| name.to_str());
        let named = name.is_some_and(|name| name.splitn(2, '-').all(is_number));
        named
            && fs::read_dir(&self.folder)
                .is_ok_and(|mut pins| pins.all(|pin| pin.is_ok_and(|pin| is_pin(&pin.file_name()))))
    }

    /// Where something of it is pinned.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.path(&format!("prog_{name}"))
    }

    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.path(&format!("link_{name}"))
    }

    /// What tells its maps from others; `None` where one is missing.
    pub(super) fn maps(&self) -> Option<u64> {
        let ids = MAPS.iter().map(|name| Some(MapInfo::from_pin(self.path(name)).ok()?.id().to_le_bytes()));
        let ids: Vec<_> = ids.collect::<Option<_>>()?;
        Some(fingerprint(&[&ids.concat()]))
    }

    /// Its programs, where they are the same as `ours` (by their tags), and its links.
    pub(super) fn adopt<'a>(
        &self,
        ours: impl IntoIterator<Item = (&'static str, &'a BtfTracePoint)>,
    ) -> Option<(Vec<PinnedProgram>, Vec<PinnedLink>)> {
        let (mut programs, mut links) = (Vec::new(), Vec::new());
        for (name, ours) in ours {
            let theirs = PinnedProgram::open(&self.program(name)).ok()?;
            if theirs.info().ok()?.tag() != ours.info().ok()?.tag() {
                return None;
            }
            programs.push(theirs);
            links.push(PinnedLink::from_pin(self.link(name)).ok()?);
        }
        Some((programs, links))
    }

    /// What it was made from; `None` where it is not complete or no set at all.
    fn fingerprint(&self) -> Option<u64> {
        let whose = Map::Array(MapData::from_pin(self.path("META")).ok()?);
        let whose: Array<_, u64> = whose.try_into().ok()?;
        whose.get(&meta::FINGERPRINT, 0).ok().filter(|fingerprint| *fingerprint != 0)
    }

    /// Whether its pins are still there: somebody may have unmounted the file system.
    pub(super) fn is_there(&self) -> bool {
        self.path("META").exists()
    }

    /// How often each thing was counted there that nobody has reported; `None` where its counters are not laid out as ours.
    fn unsaid(&self) -> Option<impl FnOnce() -> Option<Vec<u64>> + use<>> {
        let name = self.folder.file_name()?.to_str()?;
        if name.split('-').next() != Some(&ABI.to_string()) {
            return None;
        }
        let meta: Array<_, u64> = Map::Array(MapData::from_pin(self.path("META")).ok()?).try_into().ok()?;
        let counters = Map::PerCpuArray(MapData::from_pin(self.path("COUNTERS")).ok()?);
        let counters: PerCpuArray<_, u64> = counters.try_into().ok()?;
        Some(move || {
            let unsaid = (0..counter::COUNT).map(|place| {
                let said = meta.get(&(meta::SAID + place), 0).ok()?;
                let carried = meta.get(&(meta::CARRIED + place), 0).ok()?;
                let counted: u64 = counters.get(&place, 0).ok()?.iter().sum();
                Some((counted + carried).saturating_sub(said))
            });
            unsaid.collect()
        })
    }

    /// Removes it, links first, so that nothing is recorded into maps that are gone; says what, and how often each thing was
    /// counted there that nobody has reported, where that can be read.
    pub(super) fn remove(&self) -> Result<(Vec<String>, Option<Vec<u64>>), KernelError> {
        let unsaid = self.unsaid();
        let listed = fs::read_dir(&self.folder).map_err(|error| failed(&self.folder, "listing it", error))?;
        let mut pins: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
        let is_link = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"link_"))
        };
        pins.sort_by_key(|path| (!is_link(path), path.clone()));
        let mut removed = Vec::new();
        for pin in pins {
            fs::remove_file(&pin).map_err(|error| failed(&pin, "removing it", error))?;
            removed.push(pin.display().to_string());
        }
        fs::remove_dir(&self.folder).map_err(|error| failed(&self.folder, "removing it", error))?;
        removed.push(self.folder.display().to_string());
        Ok((removed, unsaid.and_then(|unsaid| unsaid())))
    }
}

/// Whether this is the name of something in a set, of whichever ABI: a map's, or a program's or a link's.
fn is_pin(name: &OsStr) -> bool {
    let is_map = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let name = name.as_encoded_bytes();
    name.starts_with(b"prog_") || name.starts_with(b"link_") || name.iter().copied().all(is_map)
}

/// Removes every set below `root`, which ends the recording; says what. The caller has made sure that
/// no daemon uses it.
pub fn unload(root: &Path) -> Result<Vec<String>, KernelError> {
    let mut removed = Vec::new();
    if !root.exists() {
        return Ok(removed);
    }
    let store = Store::locked(root)?;
    for set in store.sets()? {
        check_owner(&set.folder)?;
        removed.extend(set.remove()?.0);
    }
    // It stays where it is somebody else's, too.
    if !removed.is_empty() && fs::remove_dir(root).is_ok() {
        removed.push(root.display().to_string());
    }
    Ok(removed)
}

/// Of everything that decides what the programs do. Not against an adversary: only root can write a set.
pub(super) fn fingerprint(parts: &[&[u8]]) -> u64 {
    // FNV-1a, 64 bits.
    let bytes = parts.iter().flat_map(|part| [&part.len().to_le_bytes()[..], part].concat());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

/// Whether a path is in a BPF file system, or would be if it were made.
fn is_bpffs(path: &Path) -> Result<bool, KernelError> {
    for path in path.ancestors() {
        match statfs(path) {
            Ok(found) => return Ok(found.f_type == MAGIC),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(path, "looking at its file system", error.into())),
        }
    }
    Ok(false)
}

fn make(folder: &Path) -> Result<(), KernelError> {
    let mut make = fs::DirBuilder::new();
    make.mode(0o700).recursive(true);
    make.create(folder).map_err(|error| failed(folder, "making it", error))?;
    check_owner(folder)
}

/// What others can change is not taken for our own.
fn check_owner(folder: &Path) -> Result<(), KernelError> {
    let metadata = fs::symlink_metadata(folder).map_err(|error| failed(folder, "looking at it", error))?;
    let problem = match trust::check(&metadata) {
        Ok(()) if metadata.is_dir() => return Ok(()),
        Ok(()) => "it is no folder".to_owned(),
        Err(Exposed { owner, mode }) => {
            format!("it belongs to uid {owner} with mode {mode:04o}: others may change it")
        }
    };
    Err(KernelError::Pins {
        path: folder.to_owned(),
        problem,
        remedy: "remove it, or choose another pin_path".to_owned(),
    })
}

pub(super) fn failed(path: &Path, what: &str, error: io::Error) -> KernelError {
    if matches!(error.kind(), io::ErrorKind::PermissionDenied) {
        return KernelError::Privilege {
            what: format!("the right to pin below {} ({what})", path.display()),
            grant: "CAP_SYS_ADMIN, or give --no-persist",
        };
    }
    KernelError::system(format!("{}: {what}", path.display()), error)
}

/// An error of pinning something at `path`.
pub(super) fn refused(path: &Path, error: PinError) -> KernelError {
    match error {
        PinError::SyscallError(error) => failed(path, "pinning it", error.io_error),
        other => KernelError::system(format!("pinning {}", path.display()), io::Error::other(other)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

    use super::*;

    #[test]
    fn every_map_of_the_object_is_pinned_but_its_constants() {
        let object = object::File::parse(super::super::OBJECT).unwrap();
        let maps = object.section_by_name("maps").unwrap().index();
        let mut names: Vec<_> = object
            .symbols()
            .filter(|symbol| symbol.section_index() == Some(maps) && symbol.is_global())
            .map(|symbol| symbol.name().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, MAPS);
    }

    #[test]
    fn what_others_have_pinned_in_the_same_folder_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let put = |folder: &str, file: &str| {
            fs::create_dir_all(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join(file), "").unwrap();
        };
        let ours =
            [("1", "LEDGER"), ("1", "prog_fork"), ("1", "link_fork"), ("1-2", "META"), ("0", "OLD_MAP")];
        let others =
            [("cilium", "MAP"), ("7", "tc_filter"), ("1-x", "META"), ("1-2-3", "META"), ("", "loose")];
        for (folder, file) in ours.into_iter().chain(others) {
            put(folder, file);
        }
        let removed = unload(root.path()).unwrap();
        assert_eq!(removed.len(), ours.len() + 3, "{removed:?}");
        for (folder, file) in others {
            assert!(root.path().join(folder).join(file).exists(), "{folder}/{file}");
        }
        for (folder, _) in ours {
            assert!(!root.path().join(folder).exists(), "{folder}");
        }
        fs::remove_file(root.path().join("loose")).unwrap();
        assert_eq!(unload(root.path()).unwrap(), Vec::<String>::new(), "there is nothing of ours any more");
        assert!(root.path().exists());
    }

    #[test]
    fn what_another_one_uses_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let other = Store::locked(root.path()).unwrap();
        let refused = unload(root.path()).unwrap_err().to_string();
        assert!(refused.contains("another reaper"), "{refused}");
        drop(other);
        assert_eq!(unload(root.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_fingerprint_tells_parts_apart() {
        assert_ne!(fingerprint(&[b"ab", b"c"]), fingerprint(&[b"a", b"bc"]));
        assert_ne!(fingerprint(&[b"a"]), fingerprint(&[b"b"]));
        assert_ne!(fingerprint(&[]), 0);
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        check_owner(folder.path()).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(check_owner(folder.path()).unwrap_err().to_string().contains("mode 0777"));
    }

    #[test]
    fn a_path_outside_of_a_bpf_file_system_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reaper");
        let Err(refused) = Store::open(&path) else { panic!("accepted") };
        assert!(refused.to_string().contains("no BPF file system"), "{refused}");
        assert!(!path.exists());
    }
}
