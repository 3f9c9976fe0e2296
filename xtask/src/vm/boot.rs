//! One boot: qemu from start to power-off, with the tests' output on one serial port and the kernel's messages on another.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{arch::Arch, program::Found};

/// What qemu runs the guest with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Accelerator {
    /// Software emulation: works everywhere.
    #[default]
    Tcg,
    /// The processor's own virtualisation, where /dev/kvm works.
    Kvm,
}

/// A machine to boot.
pub(crate) struct Machine<'a> {
    pub(crate) arch: Arch,
    pub(crate) qemu: &'a Found,
    pub(crate) image: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// Further kernel parameters.
    pub(crate) append: String,
    pub(crate) accelerator: Accelerator,
    /// Holds `tests.log` and `console.log` afterwards.
    pub(crate) logs: &'a Path,
    /// From power-on to power-off.
    pub(crate) timeout: Duration,
}

/// What a boot left behind.
pub(crate) struct Booted {
    /// The tests' output, without carriage returns.
    pub(crate) tests: String,
    /// The kernel's messages.
    pub(crate) console: String,
    /// Whether it had to be switched off.
    pub(crate) late: bool,
    pub(crate) took: Duration,
}

impl Machine<'_> {
    /// Boots and waits for the power-off; calls `progress` with each line of the tests' output.
    pub(crate) fn boot(&self, mut progress: impl FnMut(&str)) -> Result<Booted> {
        let console_path = self.logs.join("console.log");
        // A socket's path may have 108 bytes, which is less than what a checkout may have.
        let monitor = tempfile::Builder::new().prefix("reaper-vm").tempdir()?;
        let monitor_path = monitor.path().join("monitor");
        let started = Instant::now();
        let mut qemu = Switch(
            self.command(&console_path, &monitor_path)?
                .spawn()
                .with_context(|| format!("could not start {}", self.arch.qemu().name))?,
        );
        let output = qemu.0.stdout.take().context("qemu has no output")?;

        let (sender, lines) = mpsc::channel();
        let reader = thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            // A test may print bytes that are not UTF-8.
            while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).replace('\r', "");
                line.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });

        let deadline = started + self.timeout;
        let mut tests = String::new();
        let late = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    progress(line.trim_end());
                    tests += &line;
                }
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => break true,
            }
        };
        if late {
            self.ask(&monitor_path);
            qemu.0.kill().context("could not end qemu")?;
        }
        let status = qemu.0.wait().context("could not wait for qemu")?;
        let _ = reader.join();
        if !late && !status.success() {
            bail!("{} failed: {status}; its own message is above", self.arch.qemu().name);
        }
        fs::write(self.logs.join("tests.log"), &tests)?;
        let console = fs::read(&console_path).with_context(|| console_path.display().to_string())?;
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        Ok(Booted { tests, console, late, took: started.elapsed() })
    }

    /// Asks a machine that is late what its processors do, into `registers.log`, and has its kernel say where it is, on
    /// the console, by the interrupt that is not masked. A kernel that stands still says nothing of itself.
    fn ask(&self, monitor: &Path) {
        let asked = (|| {
            let mut monitor = UnixStream::connect(monitor)?;
            monitor.set_read_timeout(Some(Duration::from_secs(2)))?;
            let mut said = Vec::new();
            for command in ["info registers -a", "nmi"] {
                writeln!(monitor, "{command}")?;
                // It has said all when it is silent.
                let _ = monitor.read_to_end(&mut said);
            }
            fs::write(self.logs.join("registers.log"), said)
        })();
        if let Err(error) = asked {
            println!("vm: {}: the machine could not be asked what it does: {error}", self.logs.display());
        }
    }

    fn command(&self, console: &Path, monitor: &Path) -> Result<Command> {
        let Self { arch, qemu, image, initramfs, append, accelerator, logs: _, timeout: _ } = self;
        let accelerator = match accelerator {
            // One thread for both processors. With one for each, a processor now and then goes on with a breakpoint that
            // another one has long taken out of the kernel's text (static branches and tracepoints are patched so), and
            // stands in int3's handler for ever, or dies of it during the boot. No slower: 52 and 55 s beside 50 and 58.
            Accelerator::Tcg if *arch == Arch::X86 => ["-accel", "tcg,thread=single", "-cpu", "max"],
            // It patches no breakpoints into its text. Its pointers are authenticated, which takes an emulator most of its time
            // where it does that as processors do.
            Accelerator::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,pauth-impdef=on"],
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
        };
        let mut command = qemu.command()?;
        command
            .args(accelerator)
            .args(["-m", "1024", "-smp", "2", "-nodefaults", "-no-user-config", "-display", "none"])
            // A panic reboots (panic=-1), and a reboot ends qemu.
            .arg("-no-reboot")
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(initramfs)
            .arg("-append")
            // Whether the timer works is not looked at: it is not found to where the host is busy just then.
            .arg(format!(
                "console={} quiet panic=-1 oops=panic unknown_nmi_panic no_timer_check {append}",
                arch.console()
            ))
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(arch.machine())
            .arg("-monitor")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Ok(command)
    }
}

/// A child that does not outlive an error on the way.
struct Switch(Child);

impl Drop for Switch {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
