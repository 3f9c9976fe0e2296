//! What /proc says about cgroups: where the hierarchies are mounted, the number of the v1 one that counts pids, and
//! which cgroups a process is in. Pure functions over the files' text.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, path::PathBuf};

/// Where one hierarchy is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The directory that it is mounted on.
    pub point: PathBuf,
    /// What of the hierarchy is mounted there, as the reader's cgroup namespace sees it: `/` for all of it.
    pub root: Vec<u8>,
    /// Device number of the file system, as `st_dev` gives it.
    pub device: u64,
}

/// Every mount of the two hierarchies that matter here, the likeliest whole one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    /// Mounts of cgroup v2.
    pub v2: Vec<Mount>,
    /// Mounts of the v1 hierarchy with the `pids` controller.
    pub v1_pids: Vec<Mount>,
    /// Version 2, which has one set of options wherever it is mounted, has `pids_localevents`.
    /// <https://docs.kernel.org/admin-guide/cgroup-v2.html>
    pub pids_localevents: bool,
}

impl Mounts {
    /// Reads the text of /proc/self/mountinfo. Lines that do not have its form are skipped.
    #[must_use]
    pub fn parse(mountinfo: &[u8]) -> Self {
        let mut mounts = Self::default();
        for line in mountinfo.split(|&byte| byte == b'\n') {
            if let Some((kind, mount)) = parse_line(line) {
                match kind {
                    Kind::V2 { pids_localevents } => {
                        mounts.v2.push(mount);
                        mounts.pids_localevents |= pids_localevents;
                    }
                    Kind::V1Pids => mounts.v1_pids.push(mount),
                }
            }
        }
        // A bind mount of a part shows that part as its root. From inside a cgroup namespace the whole hierarchy
        // has a root like `/../..`. The latest mount of a kind comes first: it may cover the ones before it.
        for list in [&mut mounts.v2, &mut mounts.v1_pids] {
            list.reverse();
            list.sort_by_key(|mount| match &mount.root[..] {
                b"/" => 0,
                root if root.split(|&byte| byte == b'/').all(|name| name.is_empty() || name == b"..") => 1,
                _ => 2,
            });
        }
        mounts
    }
}

enum Kind {
    V2 { pids_localevents: bool },
    V1Pids,
}

/// `36 35 98:0 /root /point options optional… - type source super-options`, proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<(Kind, Mount)> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.nth(2)?;
    let (root, point) = (fields.next()?, fields.next()?);
    fields.find(|field| *field == b"-")?;
    let (file_system, options) = (fields.next()?, fields.nth(1)?);
    let has = |name: &[u8]| options.split(|&byte| byte == b',').any(|option| option == name);
    let kind = match file_system {
        b"cgroup2" => Kind::V2 { pids_localevents: has(b"pids_localevents") },
        b"cgroup" if has(b"pids") => Kind::V1Pids,
        _ => return None,
    };
    let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    let device = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
    let point = PathBuf::from(OsString::from_vec(unescape(point)));
    Some((kind, Mount { point, root: unescape(root), device }))
}

/// Undoes the `\NNN` (octal) that mountinfo writes for blanks, newlines, `\` and `#`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] = rest {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = &rest[4..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

/// The number of the v1 hierarchy with the `pids` controller, from the text of /proc/cgroups. `None` where `pids`
/// is on v2 (number 0) or unknown.
#[must_use]
pub fn v1_pids_hierarchy(proc_cgroups: &str) -> Option<u32> {
    proc_cgroups.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let number = (fields.next()? == "pids").then(|| fields.next())??;
        number.parse().ok().filter(|&number| number != 0)
    })
}

/// The cgroups of one process, from the text of /proc/PID/cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcCgroups<'a> {
    /// Its path on v2, without the ` (deleted)` that the kernel adds to one that was removed.
    pub v2: Option<&'a [u8]>,
    /// True where the v2 cgroup was removed (or is called so: the text alone cannot tell).
    pub v2_deleted: bool,
    /// Its path in the v1 hierarchy with the `pids` controller. The kernel moves what has exited to the root of
    /// every v1 hierarchy, so this is `/` for every zombie: ask for its holder's.
    pub v1_pids: Option<&'a [u8]>,
}

impl<'a> ProcCgroups<'a> {
    /// Reads lines of the form `number:controllers:path`. A path may hold any byte but a newline: `cgroup_mkdir`
    /// refuses that in names. <https://elixir.bootlin.com/linux/v6.12/source/kernel/cgroup/cgroup.c>
    #[must_use]
    pub fn parse(text: &'a [u8]) -> Self {
        let mut this = Self::default();
        for line in text.split(|&byte| byte == b'\n') {
            let mut fields = line.splitn(3, |&byte| byte == b':');
            let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if number == b"0" && controllers.is_empty() {
                let kept = path.strip_suffix(b" (deleted)");
                this.v2 = Some(kept.unwrap_or(path));
                this.v2_deleted = kept.is_some();
            } else if controllers.split(|&byte| byte == b',').any(|name| name == b"pids") {
                this.v1_pids = Some(path);
            }
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(mounts: &[Mount]) -> Vec<&str> {
        mounts.iter().map(|mount| mount.point.to_str().unwrap()).collect()
    }

    #[test]
    fn both_hierarchies_are_found_on_a_hybrid_machine() {
        let mounts = Mounts::parse(
            b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
              32 31 0:29 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
              39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:9 master:1 - cgroup cgroup rw,pids\n\
              41 31 8:262 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert_eq!(points(&mounts.v1_pids), ["/sys/fs/cgroup/pids"]);
        assert_eq!(points(&mounts.v2), ["/sys/fs/cgroup/unified"]);
        assert_eq!(mounts.v2[0].device, libc::makedev(8, 262));
    }

    #[test]
    fn a_mount_of_the_whole_hierarchy_is_preferred_to_a_bind_mount_of_a_part() {
        let mounts = Mounts::parse(
            b"1 0 0:30 /docker/abc /var/lib/x rw - cgroup2 cgroup rw\n\
              2 0 0:30 /../.. /host/cgroup rw - cgroup2 cgroup rw\n\
              3 0 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n\
              4 0 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n\
              5 0 0:30 /a /b rw - cgroup2 cgroup rw\n",
        );
        assert_eq!(
            points(&mounts.v2),
            ["/sys/fs/cgroup", "/sys/fs/cgroup", "/host/cgroup", "/b", "/var/lib/x"]
        );
    }

    #[test]
    fn that_version_2_counts_refused_forks_at_the_forker_is_read_from_its_options() {
        for (options, is_set) in [("rw,nsdelegate,pids_localevents", true), ("rw,memory_localevents", false)]
        {
            let line = format!("3 0 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup {options}\n");
            assert_eq!(Mounts::parse(line.as_bytes()).pids_localevents, is_set, "{options}");
        }
    }

    #[test]
    fn blanks_and_other_bytes_in_a_mount_point_are_unescaped() {
        let mounts = Mounts::parse(br"1 0 0:30 /a\134b /mnt/my\040cgroups\011x\012 rw - cgroup2 none rw");
        assert_eq!(points(&mounts.v2), ["/mnt/my cgroups\tx\n"]);
        assert_eq!(mounts.v2[0].root, br"/a\b");
        assert_eq!(unescape(br"\0\04\400"), br"\0\04\400");
    }

    #[test]
    fn lines_of_another_form_are_skipped() {
        for text in
            [&b""[..], b"\n\n", b"1 2", b"1 0 x:y / /a rw - cgroup2 c rw", b"1 0 0:1 / /a rw cgroup2 c rw"]
        {
            assert_eq!(Mounts::parse(text), Mounts::default());
        }
        // A v1 hierarchy without pids, and a name that only begins like it.
        assert_eq!(Mounts::parse(b"1 0 0:1 / /a rw - cgroup c rw,pidsx,name=pids"), Mounts::default());
    }

    #[test]
    fn the_number_of_the_v1_pids_hierarchy_is_read() {
        let header = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n";
        assert_eq!(v1_pids_hierarchy(&format!("{header}cpu\t1\t1\t1\npids\t8\t1\t1\n")), Some(8));
        assert_eq!(v1_pids_hierarchy(&format!("{header}pids\t0\t90\t1\n")), None);
        assert_eq!(v1_pids_hierarchy(header), None);
        assert_eq!(v1_pids_hierarchy("pids\nx"), None);
    }

    #[test]
    fn the_cgroups_of_a_process_are_read() {
        let text = b"9:name=systemd:/\n8:pids:/a:b\n4:cpu,cpuacct:/c\n0::/x y (deleted)\n";
        assert_eq!(
            ProcCgroups::parse(text),
            ProcCgroups { v2: Some(b"/x y"), v2_deleted: true, v1_pids: Some(b"/a:b") }
        );
        assert_eq!(
            ProcCgroups::parse(b"0::/"),
            ProcCgroups { v2: Some(b"/"), v2_deleted: false, v1_pids: None }
        );
        assert_eq!(ProcCgroups::parse(b"junk\n:\n"), ProcCgroups::default());
    }
}
