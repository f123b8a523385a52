//! SeaweedFS, an S3 server that is not our own: `weed server -s3` with its data in a temporary folder.
//!
//! Invariant: the process ends with its [`Seaweed`], or with the process that started it if `setpriv` is installed. It
//! listens only on loopback and sends no reports.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::bucket::{Bucket, S3Endpoint};

/// The environment variable that names the program.
const PROGRAM_VARIABLE: &str = "WEED";

/// How long the server may take to answer its first signed request.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The pause between two checks whether it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How often other ports are tried if the server ends at once: another program may have taken one.
const START_ATTEMPTS: u32 = 3;

/// The server's services. Each has a port, and one more for gRPC.
const SERVICES: [&str; 4] = ["master", "volume", "filer", "s3"];

/// Read from the working directory. By default a key may have 255 bytes between two slashes, but S3 allows 1,024 in
/// all. Any setting requires naming the store too.
const FILER_SETTINGS: &str = r#"
[filer.options]
max_file_name_length = 1024
[leveldb2]
enabled = true
dir = "./data/filer"
"#;

/// Whom the server tells of changes: the URL of a webhook, and the token for it.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The webhook's URL.
    pub url: String,
    /// What is sent as `Authorization: Bearer`.
    pub token: String,
}

impl Listener {
    /// The settings of the filer's notifications, as docs/consumer.md has them.
    fn settings(&self) -> String {
        let Self { url, token } = self;
        format!(
            "[notification.webhook]\nenabled = true\nendpoint = \"{url}\"\nbearer_token = \"{token}\"\n\
             event_types = [\"create\", \"update\"]\npath_prefixes = [\"/buckets/{BUCKET}/\"]\n"
        )
    }
}

const ACCESS_KEY: &str = "AKIATESTBEDSEAWEED00";
const SECRET_KEY: &str = "seaweed-secret-key-41f8";
const BUCKET: &str = "git-sync";

/// A running SeaweedFS with one empty bucket.
pub struct Seaweed {
    endpoint: S3Endpoint,
    keeper: Keeper,
    ports: Vec<u16>,
    folder: TempDir,
}

impl Seaweed {
    /// Whether the program is installed: the path in `WEED`, or `target/seaweed/bin/weed` in the workspace.
    pub fn is_installed() -> bool {
        program().is_ok()
    }

    /// Starts the server, waits until it answers, and makes the bucket. It tells `listener` of changes.
    pub fn start(listener: Option<&Listener>) -> Result<Self> {
        let program = program()?;
        let mut attempt = 1;
        loop {
            match Self::try_start(&program, listener) {
                Err(error) if attempt < START_ATTEMPTS => {
                    tracing::warn!(%error, attempt, "SeaweedFS did not start; trying other ports");
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn try_start(program: &Path, listener: Option<&Listener>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("testbed-seaweed-").tempdir()?;
        let ports = free_ports(2 * SERVICES.len())?;
        let command = command(program, folder.path(), &ports)?;
        if let Some(listener) = listener {
            std::fs::write(folder.path().join("notification.toml"), listener.settings())?;
        }
        let s3_port = ports[2 * (SERVICES.len() - 1)];
        let keeper = Keeper::start(command)?;
        let endpoint = S3Endpoint {
            endpoint: format!("http://127.0.0.1:{s3_port}"),
            region: "us-east-1".to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            bucket: BUCKET.to_owned(),
        };
        let server = Self { endpoint, keeper, ports, folder };
        server.wait_until_ready(s3_port)?;
        Ok(server)
    }

    /// Everything a client needs.
    pub fn endpoint(&self) -> S3Endpoint {
        self.endpoint.clone()
    }

    fn wait_until_ready(&self, port: u16) -> Result<()> {
        let bucket = Bucket::new(&self.endpoint)?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            // Connect first: the client's own retries are slow while nothing listens.
            let answered = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() && bucket.list_buckets().is_ok();
            if answered {
                return bucket.create();
            }
            if self.keeper.has_ended() {
                bail!("SeaweedFS ended at once; its log: {}", self.log());
            }
            if Instant::now() > deadline {
                bail!("SeaweedFS is not ready after {START_TIMEOUT:?}; its log: {}", self.log());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        self.keeper.stop();
        // The only files it writes outside its folder, at paths that cannot be configured.
        for service in SERVICES {
            for port in &self.ports {
                let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{service}-grpc-{port}.sock"));
            }
        }
    }
}

/// A thread that starts the process, and kills it when told. The kernel kills the process when the *thread* that
/// started it ends, so that thread must live as long as the server; the first test's thread does not.
struct Keeper {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn start(mut command: Command) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let (started, start) = mpsc::channel();
        let thread = std::thread::Builder::new().name("seaweed".to_owned()).spawn(move || match command.spawn() {
            Ok(child) => {
                let _ = started.send(Ok(()));
                keep(child, &stopped);
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        })?;
        start.recv().context("the thread that starts SeaweedFS ended")?.context("starting SeaweedFS")?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until the process ends or the sender is dropped, and leaves no process behind.
fn keep(mut child: Child, stopped: &mpsc::Receiver<()>) {
    while stopped.recv_timeout(POLL_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn program() -> Result<PathBuf> {
    let program = match std::env::var_os(PROGRAM_VARIABLE) {
        Some(named) => PathBuf::from(named),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/seaweed/bin/weed"),
    };
    if !program.is_file() {
        bail!(
            "{} is missing: `make test` installs SeaweedFS, or set its path in {PROGRAM_VARIABLE}",
            program.display()
        );
    }
    Ok(program)
}

/// Ports that were free a moment ago.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    Ok(listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()?)
}

fn command(program: &Path, folder: &Path, ports: &[u16]) -> Result<Command> {
    let identities = serde_json::json!({ "identities": [{
        "name": "testbed",
        "credentials": [{ "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY }],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }]});
    let config = folder.join("s3.json");
    std::fs::write(&config, identities.to_string())?;
    let data = folder.join("data");
    let logs = folder.join("logs");
    for folder in [&data, &logs] {
        std::fs::create_dir(folder)?;
    }
    std::fs::write(folder.join("filer.toml"), FILER_SETTINGS)?;
    let log = std::fs::File::create(folder.join("log"))?;

    let mut command = tied_to_this_process(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // By default its log files go to /tmp and stay there.
        .arg(format!("-logdir={}", logs.display()))
        .args(["server", "-s3", "-iam=false", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
        .args([
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=256",
            "-volume.max=200",
            "-volume.preStopSeconds=0",
        ])
        .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg(format!("-dir={}", data.display()))
        .arg(format!("-s3.config={}", config.display()))
        .arg(format!("-filer.localSocket={}", folder.join("filer.sock").display()))
        .arg(format!("-s3.localSocket={}", folder.join("s3.sock").display()));
    for (service, pair) in SERVICES.iter().zip(ports.chunks(2)) {
        command.arg(format!("-{service}.port={}", pair[0])).arg(format!("-{service}.port.grpc={}", pair[1]));
    }
    Ok(command)
}

/// The program under `setpriv --pdeathsig`, if that is installed: a killed test run drops nothing.
fn tied_to_this_process(program: &Path) -> Command {
    let installed = Command::new("setpriv").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if installed.is_ok_and(|status| status.success()) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}
