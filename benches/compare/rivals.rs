//! What else could do the job: this program's release build, a shell pipeline, the bare minimum, another producer.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use testbed::world::World;

/// How many repositories the shell pipeline works on at the same time.
const PIPELINE_PARALLEL: usize = 4;

/// This producer.
pub const PRODUCER: &str = env!("CARGO_BIN_EXE_git-partition-sync-producer");

/// This consumer.
pub const CONSUMER: &str = env!("CARGO_BIN_EXE_git-partition-sync-consumer");

/// One pass of this producer.
pub fn ours(world: &World, extra: &[(&str, &str)]) -> Command {
    let mut command = world.command(PRODUCER);
    command.arg("-run-once").envs(extra.iter().copied());
    command
}

/// This producer as a daemon, after its first pass. It is killed when this is dropped.
pub struct Daemon {
    process: Child,
    address: String,
}

impl Daemon {
    pub fn start(world: &World) -> Self {
        Self::of(world.command(PRODUCER))
    }

    /// Another one.
    pub fn of(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut address, mut log) = (None, BufReader::new(process.stderr.take().unwrap()).lines());
        for line in log.by_ref().map(Result::unwrap) {
            if let Some((_, rest)) = line.split_once("status page on http://") {
                address = rest.split_once('/').map(|(address, _)| address.to_owned());
            }
            if line.contains("pass done") {
                break;
            }
        }
        // Whatever it logs from here on has to go somewhere.
        std::thread::spawn(move || log.for_each(drop));
        Self { process, address: address.expect("the daemon says where it listens") }
    }

    /// What GitLab sends when somebody pushes.
    pub fn push(&self, secret: &str, body: &str) {
        self.post("/hooks/gitlab", &format!("X-Gitlab-Token: {secret}\r\nX-Gitlab-Event: Push Hook"), body);
    }

    /// What MinIO sends when an object was written.
    pub fn written(&self, secret: &str, key: &str) {
        let body = format!(r#"{{"EventName":"s3:ObjectCreated:Put","Key":"git-sync/{key}"}}"#);
        self.post("/webhook", &format!("Authorization: Bearer {secret}"), &body);
    }

    fn post(&self, path: &str, headers: &str, body: &str) {
        let mut connection = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{headers}\r\n\r\n",
            self.address,
            body.len()
        );
        connection.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 202 "), "{answer}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One pass of the producer that `BENCH_RIVAL` names.
pub fn other_producer(world: &World) -> Option<Command> {
    let mut command = world.command(std::env::var_os("BENCH_RIVAL").filter(|path| !path.is_empty())?);
    command.args(["-dry-run=false", "-run-once=true"]);
    Some(command)
}

/// `git clone | tar | gzip | age`, then rclone, four at a time.
pub fn pipeline(world: &World, projects: &[String], dir: &Path) -> Command {
    let list = dir.join("projects");
    fs::write(&list, projects.join("\n")).unwrap();
    let s3 = world.s3_endpoint();
    let one = format!(
        "set -e; d={dir}/$(echo {{}} | tr / _); git clone -q --bare --single-branch --branch main {url}/{{}}.git $d; \
         tar -C $d -cf - . | gzip -1 | age -r {recipient} > $d.age; rclone copyto $d.age s3:{bucket}/$(basename $d).age; rm -rf $d $d.age",
        dir = dir.display(),
        url = world.source.url(),
        recipient = world.recipients()[0],
        bucket = s3.bucket,
    );
    let script = format!("xargs -P {PIPELINE_PARALLEL} -I{{}} sh -c '{one}' < {}", list.display());
    let mut command = shell(world, &script);
    command
        .env("RCLONE_CONFIG_S3_TYPE", "s3")
        .env("RCLONE_CONFIG_S3_PROVIDER", "Other")
        .env("RCLONE_CONFIG", "/dev/null")
        .env("RCLONE_CONFIG_S3_ENDPOINT", s3.endpoint)
        .env("RCLONE_CONFIG_S3_ACCESS_KEY_ID", s3.access_key)
        .env("RCLONE_CONFIG_S3_SECRET_ACCESS_KEY", s3.secret_key)
        .env("RCLONE_CONFIG_S3_REGION", s3.region)
        .env("RCLONE_S3_NO_CHECK_BUCKET", "true");
    command
}

/// `git clone` alone, then as many bytes to S3 as the encrypted object has.
pub fn floor(world: &World, project: &str, bytes: u64, dir: &Path) -> Command {
    let clone = format!(
        "git clone -q --bare --single-branch --branch main {}/{project}.git {}/clone",
        world.source.url(),
        dir.display()
    );
    shell(world, &format!("set -e; {clone}; {}", upload_script(world, bytes, dir)))
}

/// `git fetch` of what a clone lacks, from the near GitLab.
pub fn fetch(world: &World, project: &str, clone: &Path) -> Command {
    shell(world, &format!("git --git-dir {} fetch -q {} main", clone.display(), world.source.clone_url(project)))
}

/// As many bytes to S3, and nothing else.
pub fn upload(world: &World, bytes: u64, dir: &Path) -> Command {
    shell(world, &upload_script(world, bytes, dir))
}

/// The file is made before the clock starts.
fn upload_script(world: &World, bytes: u64, dir: &Path) -> String {
    let (s3, file) = (world.s3_endpoint(), dir.join("bytes"));
    fs::File::create(&file).unwrap().set_len(bytes).unwrap();
    format!(
        "curl -sSf --aws-sigv4 aws:amz:{}:s3 -u {}:{} -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' -T {} {}/{}/floor",
        s3.region,
        s3.access_key,
        s3.secret_key,
        file.display(),
        s3.endpoint,
        s3.bucket
    )
}

/// The same `ls-refs` requests that a quiet pass sends, by curl.
pub fn probes(world: &World, projects: &[String], parallel: usize, dir: &Path) -> Command {
    let body = "0014command=ls-refs\n0016agent=curl/xxxxx\n0001001fref-prefix refs/heads/main\n0000";
    let (request, config) = (dir.join("request"), dir.join("curl"));
    fs::write(&request, body).unwrap();
    let urls: String = projects
        .iter()
        .map(|project| format!("url = \"{}/{project}.git/git-upload-pack\"\noutput = /dev/null\n", world.source.url()))
        .collect();
    fs::write(&config, urls).unwrap();
    let user = format!("{}:{}", world.source.user(), world.source.password());
    let mut command = Command::new("curl");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
        .args(["-sSf", "--parallel", "--parallel-max", &parallel.to_string(), "-u", &user])
        .args(["-H", "Git-Protocol: version=2", "-H", "Content-Type: application/x-git-upload-pack-request"])
        .arg("--data-binary")
        .arg(format!("@{}", request.display()))
        .arg("-K")
        .arg(config);
    command
}

/// A shell whose Git logs in as the program does.
fn shell(world: &World, script: &str) -> Command {
    let login = BASE64_STANDARD.encode(format!("{}:{}", world.source.user(), world.source.password()));
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "http.extraHeader")
        .env("GIT_CONFIG_VALUE_0", format!("Authorization: Basic {login}"));
    command
}
