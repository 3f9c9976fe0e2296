//! The words that cgroup names are made of: container ids, pod UIDs, unit names and their escapes. Everything here
//! is strict, because a wrong claim about whose a process is does more harm than none.

/// True for the id that Docker, Podman, containerd's CRI plugin, nerdctl and CRI-O give a container: 64 hex digits.
pub(super) fn is_container_id(name: &[u8]) -> bool {
    name.len() == 64 && is_hex(name)
}

/// True for BuildKit's ids: 25 digits in base 36.
pub(super) fn is_buildkit_id(name: &[u8]) -> bool {
    name.len() == 25 && name.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

/// True for a name that runc and crun accept as a container's id.
pub(super) fn is_oci_id(name: &[u8]) -> bool {
    !name.is_empty()
        && name != b"."
        && name != b".."
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(byte))
}

/// The canonical form of a pod's UID: a UUID (the systemd driver writes `_` for `-`, because `-` separates slices),
/// or 32 hex digits, the hash of its manifest, for a static pod.
pub(super) fn pod_uid(text: &[u8]) -> Option<String> {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let well_formed = match text.len() {
        32 => is_hex(text),
        36 => {
            let dash = text[DASHES[0]];
            (dash == b'-' || dash == b'_')
                && text
                    .iter()
                    .enumerate()
                    .all(|(at, &byte)| if DASHES.contains(&at) { byte == dash } else { is_hex(&[byte]) })
        }
        _ => false,
    };
    well_formed.then(|| String::from_utf8_lossy(text).replace('_', "-"))
}

/// A kubelet's slice for one pod, `[root-]kubepods[-qos]-pod<uid>.slice`: the slice it must be in, without
/// `.slice`, and the pod's UID.
pub(super) fn pod_slice(name: &[u8]) -> Option<(&[u8], String)> {
    let stem = name.strip_suffix(b".slice")?;
    let at = stem.windows(4).rposition(|window| window == b"-pod")?;
    let (base, uid) = (&stem[..at], pod_uid(&stem[at + 4..])?);
    let root = QOS.iter().find_map(|qos| base.strip_suffix(*qos)?.strip_suffix(b"-")).unwrap_or(base);
    (root == b"kubepods" || root.ends_with(b"-kubepods")).then_some((base, uid))
}

/// Kubernetes' classes of service, as cgroup names. Pods of the class `guaranteed` have no level of their own today.
pub(super) const QOS: [&[u8]; 3] = [b"besteffort", b"burstable", b"guaranteed"];

/// The systemd unit that a cgroup is named after, if it is: only these kinds of unit have cgroups. systemd puts a
/// `_` before names that would clash with the kernel's own files.
/// <https://github.com/systemd/systemd/blob/v257/src/basic/cgroup-util.c> (`cg_escape`)
pub(super) fn unit(name: &[u8]) -> Option<&[u8]> {
    const SUFFIXES: [&[u8]; 6] = [b".service", b".scope", b".slice", b".socket", b".mount", b".swap"];
    let name = name.strip_prefix(b"_").unwrap_or(name);
    let stem = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(*suffix))?;
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(byte);
    (!stem.is_empty() && name.len() < 256 && stem.iter().all(valid)).then_some(name)
}

/// A name with systemd's `\xNN` escapes undone. (`-` stands for `/` there; a machine's name has none, so it stays.)
pub(super) fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(value) = escaped(rest) {
            out.push(value);
            rest = &rest[4..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

fn escaped(text: &[u8]) -> Option<u8> {
    let digits = text.get(2..4).filter(|digits| is_hex(digits) && text.starts_with(b"\\x"))?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn is_hex(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_uid_is_a_uuid_or_a_manifest_hash_and_nothing_else() {
        let uuid = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";
        assert_eq!(pod_uid(uuid.as_bytes()).unwrap(), uuid);
        assert_eq!(pod_uid(uuid.replace('-', "_").as_bytes()).unwrap(), uuid);
        assert_eq!(pod_uid(&[b'a'; 32]).unwrap(), "a".repeat(32));
        for other in ["", "foo", "8dbc5577-d0e2_4706-8787-57d52c03ddf2", &uuid[1..], &uuid.to_uppercase()] {
            assert_eq!(pod_uid(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_unit_needs_a_suffix_a_stem_and_units_characters() {
        assert_eq!(unit(b"getty@tty1.service"), Some(&b"getty@tty1.service"[..]));
        assert_eq!(unit(b"_cpu.service"), Some(&b"cpu.service"[..]));
        assert_eq!(unit(br"dev-disk-by\x2duuid-1.swap"), Some(&br"dev-disk-by\x2duuid-1.swap"[..]));
        for other in [&b".service"[..], b"a.timer", b"a b.service", b"a\x1b.service", b"service", b""] {
            assert_eq!(unit(other), None, "{other:?}");
        }
    }

    #[test]
    fn escapes_are_undone_and_broken_ones_are_kept() {
        assert_eq!(unescape(br"my\x2dbox"), b"my-box");
        assert_eq!(unescape(br"a\x2"), br"a\x2");
        assert_eq!(unescape(br"a\xzz\x41"), br"a\xzzA");
    }
}
