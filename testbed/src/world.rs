//! Everything around the program, for one test: two Git servers, GraphQL, S3, a key pair, a working directory.
//!
//! Invariant: worlds share nothing, so tests run side by side.

mod far;

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::bucket::{Bucket, S3Endpoint};
use crate::consumer::Consumer;
use crate::git::{GitOptions, GitServer};
use crate::graphql::{GraphqlOptions, GraphqlServer, SyncTarget};
use crate::repo::Repo;
use crate::s3::{MemoryS3, S3Options};
use crate::seaweed::{Listener, Seaweed};

/// The password for GraphQL. Like all secrets of the testbed it is easy to find if it leaks.
const GRAPHQL_PASSWORD: &str = "graphql-secret-password-9b3a";

/// The session token of a temporary AWS key.
const AWS_SESSION_TOKEN: &str = "aws-session-secret-c41d";

/// Settings whose values are secrets, if a test sets them.
const SECRET_SETTINGS: [&str; 2] = ["AWS_SESSION_TOKEN", "WEBHOOK_SECRET"];

/// The token for the far GitLab, which the producer never gets.
const DESTINATION_TOKEN: &str = "glpat-far-side-secret-e07b";

/// The file in a world's folder that holds all identities.
const IDENTITIES_FILE: &str = "identities.txt";

/// Chooses what a [`World`] is made of.
#[derive(Debug, Clone)]
pub struct WorldBuilder {
    source: GitOptions,
    destination: GitOptions,
    graphql: GraphqlOptions,
    s3: S3Options,
    seaweed: bool,
    listener: Option<Listener>,
    identities: usize,
    sleep: String,
    settings: Vec<(String, String)>,
    consumer_settings: Vec<(String, String)>,
    identities_in_file: bool,
}

impl WorldBuilder {
    /// Uses SeaweedFS for S3 instead of the server in memory.
    #[must_use]
    pub fn seaweed(mut self) -> Self {
        self.seaweed = true;
        self
    }

    /// Whom SeaweedFS tells of changes.
    #[must_use]
    pub fn listener(mut self, listener: Listener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// How the S3 server in memory starts.
    #[must_use]
    pub fn s3(mut self, options: S3Options) -> Self {
        self.s3 = options;
        self
    }

    /// How the Git server starts that the program fetches from.
    #[must_use]
    pub fn source(mut self, options: GitOptions) -> Self {
        self.source = options;
        self
    }

    /// Changes how the far GitLab starts.
    #[must_use]
    pub fn far(mut self, change: impl FnOnce(&mut GitOptions)) -> Self {
        change(&mut self.destination);
        self
    }

    /// Lets anyone query GraphQL; no user or password is set.
    #[must_use]
    pub fn open_graphql(mut self) -> Self {
        self.graphql.basic = None;
        self
    }

    /// How many recipients there are, each with its own identity; one by default.
    #[must_use]
    pub fn recipients(mut self, count: usize) -> Self {
        self.identities = count;
        self
    }

    /// `RECONCILE_SLEEP_TIME`, `1s` by default.
    #[must_use]
    pub fn sleep(mut self, duration: &str) -> Self {
        self.sleep = duration.to_owned();
        self
    }

    /// One more variable of the producer's environment; it replaces one of the same name.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same for the consumer's environment.
    #[must_use]
    pub fn consumer_setting(mut self, name: &str, value: &str) -> Self {
        self.consumer_settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives the consumer all identities in a file, instead of the first one's text.
    #[must_use]
    pub fn identities_in_file(mut self) -> Self {
        self.identities_in_file = true;
        self
    }

    /// Starts all servers.
    pub fn start(self) -> Result<World> {
        ensure!(self.identities > 0, "a world needs at least one recipient");
        let folder = tempfile::Builder::new().prefix("testbed-world-").tempdir()?;
        let keys: Vec<Key> =
            (0..self.identities).map(|index| Key::generate(folder.path(), index)).collect::<Result<_>>()?;
        far::write_identities(folder.path(), &keys.iter().map(|key| key.identity.as_str()).collect::<Vec<_>>())?;
        let s3 = if self.seaweed {
            S3Server::Seaweed(Seaweed::start(self.listener.as_ref())?)
        } else {
            S3Server::Memory(MemoryS3::start(self.s3)?)
        };
        Ok(World {
            source: GitServer::start(self.source)?,
            destination: GitServer::start(self.destination)?,
            graphql: GraphqlServer::start(self.graphql)?,
            s3,
            keys,
            sleep: self.sleep,
            settings: self.settings,
            consumer_settings: self.consumer_settings,
            identities_in_file: self.identities_in_file,
            consumers: Cell::new(0),
            folder,
        })
    }
}

/// All servers of one test. Dropping it stops them and removes their data.
pub struct World {
    /// What the producer fetches from.
    pub source: GitServer,
    /// The far GitLab, which the consumer pushes to.
    pub destination: GitServer,
    /// Where the program learns what is wanted.
    pub graphql: GraphqlServer,
    s3: S3Server,
    keys: Vec<Key>,
    sleep: String,
    settings: Vec<(String, String)>,
    consumer_settings: Vec<(String, String)>,
    identities_in_file: bool,
    consumers: Cell<usize>,
    folder: TempDir,
}

enum S3Server {
    Memory(MemoryS3),
    Seaweed(Seaweed),
}

/// One recipient, its identity and the file that holds it.
struct Key {
    recipient: String,
    identity: String,
    identity_file: PathBuf,
}

impl Key {
    fn generate(folder: &Path, index: usize) -> Result<Self> {
        let pair = Identity::generate();
        let identity = pair.to_string().expose_secret().to_owned();
        let identity_file = folder.join(format!("identity-{index}.txt"));
        fs::write(&identity_file, format!("{identity}\n"))?;
        Ok(Self { recipient: pair.to_public().to_string(), identity, identity_file })
    }
}

impl World {
    /// Configures a world before it starts.
    pub fn builder() -> WorldBuilder {
        WorldBuilder {
            source: GitOptions::default(),
            destination: GitOptions {
                user: "far-side-user".to_owned(),
                password: DESTINATION_TOKEN.to_owned(),
                allow_push: true,
                fsck_objects: true,
                create_projects: true,
                ..GitOptions::default()
            },
            graphql: GraphqlOptions {
                basic: Some(("graphql-user".to_owned(), GRAPHQL_PASSWORD.to_owned())),
                ..GraphqlOptions::default()
            },
            s3: S3Options::default(),
            seaweed: false,
            listener: None,
            identities: 1,
            sleep: "1s".to_owned(),
            settings: Vec::new(),
            consumer_settings: Vec::new(),
            identities_in_file: false,
        }
    }

    /// A world as it is by default: S3 in memory, Basic auth everywhere, one recipient.
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// Makes a project at the source (`group/name`) with twenty commits on `main`, different for each name; an existing
    /// one is kept as it is.
    pub fn project(&self, path: &str) -> Result<Repo> {
        let repo = self.source.repo(path)?;
        if repo.head("main").is_none() {
            let mut seed = DefaultHasher::new();
            path.hash(&mut seed);
            repo.fill_small(seed.finish())?;
        }
        Ok(repo)
    }

    /// Adds a target to GraphQL and makes the destination's (empty) repository, which is returned.
    pub fn sync(&self, source: &str, branch: &str, destination: &str, destination_branch: &str) -> Result<Repo> {
        let mut targets = self.graphql.targets();
        targets.push(SyncTarget::new(source, branch, destination, destination_branch));
        self.graphql.set_targets(targets);
        self.destination.repo(destination)
    }

    /// Removes every target with this destination from GraphQL.
    pub fn unsync(&self, destination: &str, destination_branch: &str) {
        let mut targets = self.graphql.targets();
        targets.retain(|target| {
            target.destination.path() != destination || target.destination.branch != destination_branch
        });
        self.graphql.set_targets(targets);
    }

    /// The S3 server in memory.
    ///
    /// # Panics
    ///If the world was built with SeaweedFS; use [`World::bucket`] then.
    pub fn s3(&self) -> &MemoryS3 {
        match &self.s3 {
            S3Server::Memory(server) => server,
            S3Server::Seaweed(_) => panic!("this world's S3 is SeaweedFS, not the one in memory"),
        }
    }

    /// Where the bucket is, on either server.
    pub fn s3_endpoint(&self) -> S3Endpoint {
        match &self.s3 {
            S3Server::Memory(server) => server.endpoint(),
            S3Server::Seaweed(server) => server.endpoint(),
        }
    }

    /// A client of the bucket, on either server.
    pub fn bucket(&self) -> Result<Bucket> {
        Bucket::new(&self.s3_endpoint())
    }

    /// A new far side, which has seen nothing yet.
    pub fn consumer(&self) -> Result<Consumer> {
        let number = self.consumers.get();
        self.consumers.set(number + 1);
        let workdir = self.folder.path().join(format!("far-side-{number}"));
        Consumer::new(self.identity_file(), &self.s3_endpoint(), &self.destination, workdir)
    }

    /// The program's working directory; it is not created.
    pub fn workdir(&self) -> PathBuf {
        self.folder.path().join("working")
    }

    /// A folder for the test itself, beside the program's.
    pub fn scratch(&self) -> Result<PathBuf> {
        let scratch = self.folder.path().join("scratch");
        fs::create_dir_all(&scratch)?;
        Ok(scratch)
    }

    /// The first recipient's identity, as `age -i` takes it.
    pub fn identity_file(&self) -> &Path {
        &self.keys[0].identity_file
    }

    /// All recipients' identities.
    pub fn identity_files(&self) -> Vec<&Path> {
        self.keys.iter().map(|key| key.identity_file.as_path()).collect()
    }

    /// All recipients.
    pub fn recipients(&self) -> Vec<&str> {
        self.keys.iter().map(|key| key.recipient.as_str()).collect()
    }

    /// Every value that must not appear in logs, files or archives.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets = vec![
            self.source.password().to_owned(),
            self.destination.password().to_owned(),
            self.s3_endpoint().secret_key,
        ];
        secrets.extend(self.keys.iter().map(|key| key.identity.clone()));
        secrets.extend(self.graphql.basic().map(|(_, password)| password.to_owned()));
        let settings = self.env().into_iter().chain(self.consumer_env());
        let settings = settings.filter(|(name, _)| SECRET_SETTINGS.contains(&name.as_str()));
        secrets.extend(settings.map(|(_, value)| value));
        secrets
    }

    /// The producer's whole environment: its settings, and the search path.
    pub fn env(&self) -> Vec<(String, String)> {
        let mut variables = self.s3_env();
        variables.extend([
            ("GITLAB_BASE_URL", self.source.url()),
            ("GITLAB_USERNAME", self.source.user().to_owned()),
            ("GITLAB_TOKEN", self.source.password().to_owned()),
            ("GRAPHQL_SERVER", self.graphql.url()),
            ("PUBLIC_KEY", self.recipients().join(",")),
            ("WORKDIR", self.workdir().to_string_lossy().into_owned()),
        ]);
        variables.extend(self.common_env());
        if let Some((user, password)) = self.graphql.basic() {
            variables.push(("GRAPHQL_USERNAME", user.to_owned()));
            variables.push(("GRAPHQL_PASSWORD", password.to_owned()));
        }
        far::overridden(variables, &self.settings)
    }

    /// Where the bucket is, and the key for it.
    fn s3_env(&self) -> Vec<(&'static str, String)> {
        let s3 = self.s3_endpoint();
        let mut variables = vec![
            ("AWS_ACCESS_KEY_ID", s3.access_key),
            ("AWS_SECRET_ACCESS_KEY", s3.secret_key),
            ("AWS_REGION", s3.region),
            ("AWS_S3_BUCKET", s3.bucket),
            ("AWS_ENDPOINT_URL_S3", s3.endpoint),
        ];
        if matches!(self.s3, S3Server::Memory(_)) {
            // SeaweedFS would look it up.
            variables.push(("AWS_SESSION_TOKEN", AWS_SESSION_TOKEN.to_owned()));
        }
        variables
    }

    /// What both programs are started with.
    fn common_env(&self) -> [(&'static str, String); 4] {
        [
            ("RECONCILE_SLEEP_TIME", self.sleep.clone()),
            ("METRICS_SERVER_ADDRESS", "127.0.0.1".to_owned()),
            ("METRICS_SERVER_PORT", "0".to_owned()),
            ("PATH", std::env::var("PATH").unwrap_or_default()),
        ]
    }

    /// A command with [`World::env`] as its whole environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.env());
        command
    }

    /// Decrypts and unpacks the artifact under this key with the outside programs; returns the folder that
    /// holds `.git`.
    pub fn unpack(&self, key: &str) -> Result<PathBuf> {
        self.unpack_bytes(&self.bucket()?.get(key)?).with_context(|| format!("object {key}"))
    }

    /// The same with an artifact in memory.
    pub fn unpack_bytes(&self, encrypted: &[u8]) -> Result<PathBuf> {
        let folder = tempfile::Builder::new().prefix("unpacked-").tempdir_in(self.folder.path())?.keep();
        let (encrypted_file, archive, content) =
            (folder.join("artifact.age"), folder.join("artifact"), folder.join("content"));
        fs::write(&encrypted_file, encrypted)?;
        crate::judge::age_decrypt_file(&encrypted_file, &archive, self.identity_file())?;
        crate::judge::unpack(&archive, &content)?;
        Ok(content)
    }
}
