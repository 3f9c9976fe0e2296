//! What the kernel side takes of the machine's memory.

use std::{collections::HashMap, fs};

/// Where the kernel says of each open descriptor what it is of:
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/bpf/syscall.c> (`bpf_map_show_fdinfo`)
const DESCRIPTORS: &str = "/proc/self/fdinfo";

/// Bytes that the maps take which this process has open; 0 where the kernel does not say.
pub(super) fn of_maps() -> u64 {
    let entries = fs::read_dir(DESCRIPTORS).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.filter_map(|text| map(&text)).collect::<HashMap<_, _>>().into_values().sum()
}

/// The number of a map and its bytes: it may be open more than once. `None` of what is none.
fn map(text: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some((field("map_id:")?, field("memlock:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_says_its_number_and_its_bytes_and_nothing_else_does() {
        let text = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t9\nmap_type:\t2\nkey_size:\t4\nmax_entries:\t131072\n\
                    memlock:\t8392704\nmap_id:\t71\nfrozen:\t0\n";
        assert_eq!(map(text), Some((71, 8_392_704)));
        assert_eq!(map("prog_type:\t26\nmemlock:\t4096\nprog_id:\t7\n"), None);
        assert_eq!(map(""), None);
    }
}
