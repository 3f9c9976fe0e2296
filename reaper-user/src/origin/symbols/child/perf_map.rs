//! Where a virtual machine's compiler has put its functions: lines of a hexadecimal address, a size and a name, in a file that
//! the process itself writes and may still be writing.
//! <https://elixir.bootlin.com/linux/v6.12/source/tools/perf/Documentation/jit-interface.txt>

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
};

use super::names;

/// Bytes that are read of it: Node's grows with what is compiled, some hundred bytes a function.
const BYTES: u64 = 64 << 20;

/// The names at these addresses. Where functions overlap the one that was written last is there now.
pub(super) fn names(file: File, addresses: &[u64]) -> Vec<Option<String>> {
    let mut found: Vec<Option<Vec<u8>>> = vec![None; addresses.len()];
    let mut reader = BufReader::with_capacity(1 << 16, file.take(BYTES));
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
        // A line without an end is not all of it.
        if let Some((start, size, name)) = line.strip_suffix(b"\n").and_then(parse) {
            for (address, found) in addresses.iter().zip(&mut found) {
                if address.checked_sub(start).is_some_and(|into| into < size) {
                    *found = Some(name.to_vec());
                }
            }
        }
        line.clear();
    }
    let text = |name: Vec<u8>| names::cut(&String::from_utf8_lossy(&name));
    found.into_iter().map(|name| name.map(text)).collect()
}

fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut fields = line.splitn(3, |byte| *byte == b' ');
    let mut number = || {
        let field = std::str::from_utf8(fields.next()?).ok()?;
        u64::from_str_radix(field.trim_start_matches("0x"), 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let name = fields.next()?.trim_ascii();
    (!name.is_empty()).then_some((start, size, name))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_last_line_for_an_address_counts_and_one_without_an_end_does_not() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"1000 20 old\n0x2000 0x10 other name\nnonsense\n1010 8 new\n1010 8 unfinished")
            .unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let names = names(file, &[0x1000, 0x1010, 0x1018, 0x1020, 0x200f]);
        let names: Vec<_> = names.iter().map(Option::as_deref).collect();
        assert_eq!(names, [Some("old"), Some("new"), Some("old"), None, Some("other name")]);
    }
}
