//! How many there are of something, as people write it: `1 zombie`, `2 zombies`.

use std::fmt::Display;

/// So many of what is called like this where there is one, and like that where there are many.
#[must_use]
pub fn numbered<N: Copy + Display + PartialEq + From<u8>>(number: N, one: &str, many: &str) -> String {
    let is_one = number == N::from(1);
    format!("{number} {}", if is_one { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many_and_none_is() {
        let shown = [0_u64, 1, 2].map(|number| numbered(number, "process", "processes"));
        assert_eq!(shown, ["0 processes", "1 process", "2 processes"]);
        assert_eq!(numbered(1_usize, "fork was refused", "forks were refused"), "1 fork was refused");
    }
}
