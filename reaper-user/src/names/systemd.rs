//! systemd: what a unit says of itself, asked over the system's D-Bus.
//! <https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html>

mod bus;

use std::path::{Path, PathBuf};

use self::bus::{Bus, BusError, Call};
use super::{Answer, Engine, Key, Names, Unanswered, text::long};

/// The bus that it is on.
pub(super) struct Systemd {
    socket: PathBuf,
}

impl Systemd {
    /// Listens there.
    pub(super) const fn at(socket: PathBuf) -> Self {
        Self { socket }
    }
}

impl Engine for Systemd {
    async fn look_up(&self, key: &Key) -> Result<Option<Answer>, Unanswered> {
        let Key::Unit(unit) = key else { return Ok(None) };
        let mut bus = match Bus::connect(&self.socket).await {
            Ok(bus) => bus,
            Err(BusError::Io(error)) => return Err(Unanswered::connecting(&error)),
            Err(error) => return Err(Unanswered::failed(error)),
        };
        match description(&mut bus, unit).await {
            Ok(description) => Ok(Some(Names { description: long(&description), ..Names::default() }.into())),
            Err(BusError::Refused(name)) if is_unknown(&name) => Ok(None),
            Err(error) => Err(Unanswered::failed(error)),
        }
    }

    fn socket(&self) -> &Path {
        &self.socket
    }
}

async fn description(bus: &mut Bus, unit: &str) -> Result<String, BusError> {
    // Not LoadUnit: what is asked about is loaded, and nothing is to be loaded for a question.
    let unit = bus
        .call(Call {
            to: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "GetUnit",
            arguments: &[unit],
        })
        .await?;
    bus.call(Call {
        to: "org.freedesktop.systemd1",
        path: &unit,
        interface: "org.freedesktop.DBus.Properties",
        member: "Get",
        arguments: &["org.freedesktop.systemd1.Unit", "Description"],
    })
    .await
}

/// It has no such unit, or the bus is another system's, without it.
fn is_unknown(error: &str) -> bool {
    matches!(error, "org.freedesktop.systemd1.NoSuchUnit" | "org.freedesktop.DBus.Error.ServiceUnknown")
}

#[cfg(test)]
mod tests;
