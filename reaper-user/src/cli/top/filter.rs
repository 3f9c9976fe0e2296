//! Which workloads are listed: those that have what was typed in their names.

use super::key::Key;
use crate::{
    report::{HeadroomEvent, ShownWorkload},
    text::Untrusted,
};

/// Characters that can be typed.
const LONGEST: usize = 64;

/// What names have to have in them, upper or lower case; all have nothing.
#[derive(Debug, Default)]
pub(super) struct Filter {
    text: String,
    /// The same in lower case.
    sought: String,
    typing: bool,
}

impl Filter {
    /// Whether it leaves none out.
    pub(super) const fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether it is being typed.
    pub(super) const fn is_typed(&self) -> bool {
        self.typing
    }

    /// It, to be shown. It may have been pasted from anywhere.
    pub(super) fn shown(&self) -> String {
        Untrusted::new(self.text.as_bytes()).to_string()
    }

    /// What comes now is typed into it.
    pub(super) const fn begin(&mut self) {
        self.typing = true;
    }

    /// All are listed.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes in a key while it is typed.
    pub(super) fn press(&mut self, key: Key) {
        match key {
            Key::Char(character) if self.text.chars().count() < LONGEST => self.text.push(character),
            Key::Erase => {
                // Who erases more than there is wants to be out of it.
                self.typing = self.text.pop().is_some();
            }
            Key::EraseAll => self.text.clear(),
            Key::Enter => self.typing = false,
            Key::Back => self.clear(),
            _ => {}
        }
        self.sought = self.text.to_lowercase();
    }

    /// Whether a workload is listed: by what it is called there, or an id of it.
    pub(super) fn has(&self, row: &HeadroomEvent) -> bool {
        if self.is_empty() {
            return true;
        }
        let ShownWorkload { id, pod_uid, unit, .. } = &row.workload;
        let ids = [id, pod_uid, unit].into_iter().flatten().map(|text| text.as_str().to_lowercase());
        std::iter::once(row.workload.shown().to_lowercase())
            .chain(ids)
            .any(|name| name.contains(&self.sought))
    }
}
