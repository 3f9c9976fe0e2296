//! Notices to userspace. Rare by design: a healthy child never causes one.

use reaper_ebpf::Notice;

use crate::maps::{NOTICES, count};

/// Sends a notice, or counts it as lost where the ring buffer is full. True where it was sent.
#[inline(always)]
pub(crate) fn send(notice: Notice, lost: u32) -> bool {
    let Notice { kind, number, id, time, words } = notice;
    let Some(mut room) = NOTICES.reserve::<Notice>(0) else {
        count(lost);
        return false;
    };
    let notice = room.as_mut_ptr();
    // SAFETY: the reservation is exactly one notice. Field by field: a ring buffer's memory is not cleared, and
    // an assignment of the whole may become a loop over bytes.
    unsafe {
        (&raw mut (*notice).kind).write_volatile(kind);
        (&raw mut (*notice).number).write_volatile(number);
        (&raw mut (*notice).id).write_volatile(id);
        (&raw mut (*notice).time).write_volatile(time);
        for (place, word) in words.into_iter().enumerate() {
            (&raw mut (*notice).words).cast::<u64>().add(place).write_volatile(word);
        }
    }
    room.submit(0);
    true
}
