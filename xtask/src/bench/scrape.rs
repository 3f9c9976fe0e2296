//! How long the metrics take, and how much memory the daemon, while many workloads have zombies.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    Bench,
    cgroups::{Cgroups, LEAVE, v2_mount},
    daemon::{self, Daemon},
    instrument::Instrument,
    numbers::Spread,
    table::verdict,
};
use crate::setup;

const WORKLOADS: usize = 500;
const SCRAPES: usize = 31;

/// The daemon serves what it has measured for a quarter of a second.
const APART: Duration = Duration::from_millis(300);

/// Leaves one zombie in each of the cgroups it is told, then answers as Docker does: each container has a pod's names, and as
/// many labels as Kubernetes and a chart give one.
const SPREAD: &str = r#"
import http.server, json, socketserver, sys, threading

class Docker(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        container = self.path.split('/')[2]
        name = 'fetcher-' + container[:10]
        labels = {f'example.com/{key}-{name}': f'{container[:24]}-{key}' for key in range(14)}
        labels |= {f'io.kubernetes.{key}': value for key, value in {
            'pod.namespace': f'namespace-{container[:6]}', 'pod.name': name, 'container.name': 'fetcher'}.items()}
        body = {'Id': container, 'Name': '/' + name, 'Config': {
            'Image': f'registry.example.com/crawlers/fetcher@sha256:{container}', 'Labels': labels}}
        answer = json.dumps(body).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def address_string(self):
        return 'local'

    def log_message(self, *arguments):
        pass

for cgroup in sys.argv[2:]:
    leave(cgroup)
server = socketserver.ThreadingUnixStreamServer(sys.argv[1], Docker)
threading.Thread(target=server.serve_forever, daemon=True).start()
print('{"event": "ready"}', flush=True)
sys.stdin.read()
"#;

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let names = (0..WORKLOADS).map(|number| format!("docker-{:064x}.scope", (number + 1) * 0x9e37_79b9));
    let cgroups = Cgroups::make(&v2_mount()?, names)?;
    // Free a moment ago; somebody else would have to take it in between.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let folder = tempfile::tempdir()?;
    let (socket, configuration) = (folder.path().join("docker.sock"), folder.path().join("reaper.toml"));
    fs::write(&configuration, format!("names = {{ docker = {socket:?}, cri = 'off', systemd = 'off' }}\n"))?;
    let configuration = configuration.to_str().context("a temporary folder")?;
    let options = ["--age", "1s", "--metrics-listen", &address, "--config", configuration];
    let daemon = Daemon::start(bench.workspace, &options)?;
    let python = setup::program("python3").context("no python3: `cargo xtask setup bench`")?;
    let script = format!("{LEAVE}{SPREAD}");
    let mut holder = Command::new(python);
    let _holder = Instrument::start(holder.args(["-c", &script]).arg(&socket).args(cgroups.paths()))?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while named(&scrape(&address)?.1) < WORKLOADS {
        ensure!(Instant::now() < deadline, "the zombies are not reported, or not by name");
        thread::sleep(APART);
    }
    daemon::wait_until_calm(daemon.pid())?;
    let (mut times, mut bytes) = (Vec::new(), 0);
    let before = daemon::cpu(daemon.pid())?;
    for _ in 0..SCRAPES {
        thread::sleep(APART);
        let (took, page) = scrape(&address)?;
        times.push(took.as_secs_f64() * 1e3);
        bytes = page.len();
    }
    let used = (daemon::cpu(daemon.pid())? - before) / u32::try_from(SCRAPES)?;
    let Spread { median, least, greatest } = Spread::of(&times);
    let resident = daemon::resident(daemon.pid())?;
    println!(
        "\nmetrics with zombies in {WORKLOADS} workloads, each with its names and 17 labels: {SCRAPES} scrapes of {} KiB; from the connection to the last byte\n\
         {median:.1} ms ({least:.1}..{greatest:.1}), {:.1} ms of a CPU each",
        bytes / 1024,
        used.as_secs_f64() * 1e3
    );
    verdict("scrape, ms", median, 50.0);
    verdict("RSS, MiB", resident, 40.0);
    Ok(())
}

/// How long the metrics took, from the connection to the last byte, and the whole answer.
pub(super) fn scrape(address: &str) -> anyhow::Result<(Duration, String)> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let took = began.elapsed();
    ensure!(answer.starts_with("HTTP/1.1 200"), "{address} answered {answer:.60}");
    Ok((took, answer))
}

/// How many workloads are known by the names that the engine gives.
fn named(page: &str) -> usize {
    page.lines().filter(|line| line.starts_with("reaper_workload_info{")).count()
}
