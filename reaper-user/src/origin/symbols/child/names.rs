//! Names as people write them.

use crate::origin::symbols::message::NAME;

/// Bytes of a mangled name that are looked at. What one of C++ unfolds to can be far longer.
const MANGLED: usize = 4096;

/// A name as its language writes it.
pub(super) fn demangled(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name.get(..MANGLED).unwrap_or(name));
    if let Ok(rust) = rustc_demangle::try_demangle(&name) {
        // Without the hash at its end.
        return cut(&format!("{rust:#}"));
    }
    if name.starts_with("_Z") {
        let options = cpp_demangle::DemangleOptions::new().recursion_limit(96);
        let symbol = cpp_demangle::Symbol::new(name.as_bytes()).ok();
        let mut text = Limited(String::new());
        if let Some(symbol) = symbol
            && symbol.structured_demangle(&mut text, &options).is_ok()
        {
            return text.0;
        }
    }
    cut(&name)
}

/// Not more of a text than is told.
pub(super) fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(NAME)).unwrap_or(text).to_owned()
}

/// Text that ends where it is long enough. A name of C++ can unfold to gigabytes.
struct Limited(String);

impl cpp_demangle::DemangleWrite for Limited {
    fn write_string(&mut self, text: &str) -> std::fmt::Result {
        self.0.push_str(text);
        if self.0.len() <= NAME {
            return Ok(());
        }
        self.0.truncate(self.0.floor_char_boundary(NAME));
        Err(std::fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_their_languages_write_them() {
        let cases = [
            ("_ZN4leak9leak_here17h0123456789abcdefE", "leak::leak_here"),
            ("_RNvCs1234_4leak9leak_here", "leak::leak_here"),
            ("_ZN4leak9leak_hereERKNSt6vectorIiE", "_ZN4leak9leak_hereERKNSt6vectorIiE"),
            ("_ZN4leak9leak_hereEi", "leak::leak_here(int)"),
            ("leak_here", "leak_here"),
            ("main.leakHere", "main.leakHere"),
        ];
        for (mangled, name) in cases {
            assert_eq!(demangled(mangled.as_bytes()), name);
        }
    }

    #[test]
    fn a_name_that_unfolds_without_end_is_cut() {
        // Each pair refers twice to the one before it: 2^40 in all.
        let mut name = String::from("_Z1f4pairIiiE");
        for back in ["S_", "S0_", "S1_", "S2_", "S3_", "S4_", "S5_", "S6_", "S7_", "S8_"] {
            name.push_str(&format!("4pairI{back}{back}E"));
        }
        assert!(demangled(name.as_bytes()).len() <= NAME);
        assert!(demangled(&[b'a'; 10_000]).len() <= NAME);
    }
}
