//! Looking at what is asked for: a holder once for a whole batch of its zombies, a zombie once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{Answer, AtWork, Avoided, Neighbour, Request, Scene};
use crate::{
    identity::Identity,
    kernel::boot_now,
    proc::{Proc, ReadError, Seen, ticks},
    remedy::{self, Ancestry, Sight},
    text::Untrusted,
};

/// How long the zombies of a batch wait for the names of the functions that they were forked by; they are told of without
/// them after that.
const NAMED: Duration = Duration::from_secs(1);

/// The processes seen during one batch.
pub(super) struct Around<'a> {
    proc: &'a Proc,
    at_work: &'a AtWork,
    avoided: &'a Mutex<Avoided>,
    states: HashMap<u32, Option<Seen>>,
    whole: HashMap<u32, Option<(Seen, Option<Untrusted>)>>,
    sights: HashMap<u32, Option<Arc<Sight>>>,
    /// Who is above the first processes of pid namespaces.
    ancestry: Option<Ancestry<'a>>,
    /// No zombie waits longer for names.
    named_by: Instant,
    /// It has been said that something could not be read.
    complained: bool,
}

/// Why there is nothing to say of a zombie.
enum NoScene {
    /// It is gone.
    Absent,
    /// It is not a zombie yet, or could not be read now.
    NotNow,
}

impl<'a> Around<'a> {
    pub(super) fn new(proc: &'a Proc, at_work: &'a AtWork, avoided: &'a Mutex<Avoided>) -> Self {
        let (states, whole, sights) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self {
            proc,
            at_work,
            avoided,
            states,
            whole,
            sights,
            ancestry: None,
            named_by: Instant::now() + NAMED,
            complained: false,
        }
    }

    pub(super) fn look(&mut self, request: &'a Request) -> Answer {
        match *request {
            Request::Probation { id, zombie, holder } => {
                let holder = holder.or_else(|| self.zombie(zombie).ok().map(|seen| seen.parent));
                Answer::Probation { id, holder: holder.and_then(|pid| self.state(pid)) }
            }
            Request::Report { id, zombie, forker, ref ancestors, ref naming } => {
                if let Some(naming) = naming {
                    let left = self.named_by.saturating_duration_since(Instant::now());
                    naming.wait(left);
                }
                match self.scene(zombie, forker, ancestors) {
                    Ok(scene) => Answer::Zombie { id, scene: Box::new(scene), sight: None },
                    Err(NoScene::Absent) => Answer::NotAZombie { id, absent: true },
                    Err(NoScene::NotNow) => Answer::NotAZombie { id, absent: false },
                }
            }
            Request::Remedy { id, zombie, forker, ref inits } => match self.scene(zombie, forker, &[]) {
                Ok(scene) => {
                    let sight = self.sight(scene.holder.pid, inits);
                    Answer::Zombie { id, scene: Box::new(scene), sight }
                }
                Err(NoScene::Absent) => Answer::NotAZombie { id, absent: true },
                Err(NoScene::NotNow) => Answer::NotAZombie { id, absent: false },
            },
        }
    }

    /// What decides whether a holder may be touched, once for all of its zombies in a batch. A process that hangs in the
    /// kernel is not looked at: what is not known of it is a no.
    fn sight(&mut self, pid: u32, inits: &'a [Identity]) -> Option<Arc<Sight>> {
        if let Some(known) = self.sights.get(&pid) {
            return known.clone();
        }
        let sight = if Avoided::has(self.avoided, pid) {
            None
        } else {
            let proc = self.proc;
            self.at_work.pid.store(pid, Ordering::Relaxed);
            self.at_work.since.store(boot_now().0, Ordering::Relaxed);
            let ancestry = self.ancestry.get_or_insert_with(|| Ancestry::of(proc, inits));
            let sight = remedy::look(proc, pid, ancestry).map(Arc::new);
            self.at_work.since.store(0, Ordering::Relaxed);
            sight
        };
        self.sights.insert(pid, sight.clone());
        sight
    }

    fn scene(
        &mut self,
        zombie: Identity,
        forker: Option<Identity>,
        ancestors: &[Identity],
    ) -> Result<Scene, NoScene> {
        let zombie = self.zombie(zombie)?;
        let holder = self.neighbour(zombie.parent)?;
        let tracer = zombie.tracer.map(|tracer| self.tracer(tracer)).transpose()?;
        let forker = match forker.filter(|forker| forker.pid != zombie.parent) {
            Some(forker) => Some(self.same(forker)?),
            None => None,
        };
        let ancestors = ancestors.iter().map(|ancestor| self.same(*ancestor)).collect::<Result<_, _>>()?;
        Ok(Scene { zombie, holder, forker, ancestors, tracer })
    }

    /// A process that has this pid and this start: the pid may be somebody else's by now.
    fn same(&mut self, process: Identity) -> Result<Neighbour, NoScene> {
        let mut neighbour = self.neighbour(process.pid)?;
        neighbour.seen = neighbour.seen.filter(|(seen, _)| seen.start_ticks == ticks(process.start));
        Ok(neighbour)
    }

    fn zombie(&mut self, identity: Identity) -> Result<Seen, NoScene> {
        match self.see(identity.pid, Proc::see) {
            Ok(seen) if seen.start_ticks != ticks(identity.start) || seen.tgid != identity.pid => {
                Err(NoScene::Absent)
            }
            Ok(seen) if seen.state == 'Z' => Ok(seen),
            Ok(_) => Err(NoScene::NotNow),
            Err(ReadError::Gone(_)) => Err(NoScene::Absent),
            Err(error @ ReadError::Unreadable { .. }) => {
                self.complain(&error);
                Err(NoScene::NotNow)
            }
        }
    }

    fn state(&mut self, pid: u32) -> Option<Seen> {
        if let Some(known) = self.states.get(&pid) {
            return known.clone();
        }
        let seen = self.see(pid, Proc::see).ok();
        self.states.insert(pid, seen.clone());
        seen
    }

    fn neighbour(&mut self, pid: u32) -> Result<Neighbour, NoScene> {
        if let Some(seen) = self.whole.get(&pid) {
            return Ok(Neighbour { pid, seen: seen.clone() });
        }
        let seen = if Avoided::has(self.avoided, pid) {
            self.see(pid, Proc::see).map(|seen| (seen, None))
        } else {
            self.see(pid, Proc::see_with_cmdline)
        };
        let seen = match seen {
            Err(error) if error.is_shortage() => {
                self.complain(&error);
                return Err(NoScene::NotNow);
            }
            seen => seen.ok(),
        };
        self.whole.insert(pid, seen.clone());
        Ok(Neighbour { pid, seen })
    }

    /// The tracer is named by its thread; what is wanted is its process.
    fn tracer(&mut self, thread: u32) -> Result<Neighbour, NoScene> {
        let neighbour = self.neighbour(thread)?;
        match &neighbour.seen {
            Some((seen, _)) if seen.tgid != thread => self.neighbour(seen.tgid),
            _ => Ok(neighbour),
        }
    }

    fn see<T>(&self, pid: u32, how: impl Fn(&Proc, u32) -> Result<T, ReadError>) -> Result<T, ReadError> {
        self.at_work.pid.store(pid, Ordering::Relaxed);
        self.at_work.since.store(boot_now().0, Ordering::Relaxed);
        let seen = how(self.proc, pid);
        self.at_work.since.store(0, Ordering::Relaxed);
        seen
    }

    fn complain(&mut self, error: &ReadError) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(%error, "a zombie could not be looked at; it is tried again");
        }
    }
}
