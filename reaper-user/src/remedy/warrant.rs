//! Whether an order stands: it may wait, and what it was given for may be over by then.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::policy::Refusal;

/// That an order may be carried out. Clones are one warrant: whoever gives the order keeps one, and whoever carries it out asks the
/// other right before acting.
#[derive(Clone, Debug, Default)]
pub struct Warrant(Arc<AtomicBool>);

impl Warrant {
    /// Takes it back. What was begun by then is done.
    pub fn withdraw(&self) {
        // Nothing else is published by it.
        self.0.store(true, Relaxed);
    }

    /// Refused where it was taken back.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.0.load(Relaxed) { Err(Refusal::Withdrawn) } else { Ok(()) }
    }
}
